"""FIT 3.9B Up, second stage: 16 frames of 512x288 px from 64x36 (Tab. 8 and 9).

    snapvideo train --config configs/fit_upsampler.py --dry-run

The network and its recipe; training it needs the low-resolution input that the
cascade will bring, so this config is for sizes and plans until then.
"""

import fit  # a config may import its neighbours


def get_config(arg=None):
    config = fit.get_config(arg or "size=3p9b")
    config.model.update(pad_height=(0, 0), group=(18, 16), in_channels=6)
    config.diffusion.sigma_in = 32.0
    config.optimizer.steps = 370_000
    config.data.update(
        height=288, width=512, videos_per_batch=160, images_per_batch=160
    )
    config.training.self_conditioning_period = 10
    config.sampler.steps = 40
    return config
