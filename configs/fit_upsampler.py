"""FIT 3.9B Up, second stage: 16 frames of 512x288 px from 64x36 (Tab. 8 and 9).

    snapvideo train --config configs/fit_upsampler.py --workdir DIR \
        --config.data.source=tfds --config.data.root=... \
        --config.data.tfds_videos=... --config.data.tfds_images=...

The low-resolution clip is the target shrunk, with noise of up to 0.5 (Sec. 3.5).
``pod`` sets mesh and memory policy for a topology, such as pod=v5p:4x4x8. Not yet run
at full size; the paper used 370,000 steps of 320 samples, and started from the weights
of the first stage: --config.run.init_from=WORKDIR.
"""

import fit  # a config may import its neighbours

from snapvideo_jax import config as configs

# As compiled for each topology by `snapvideo plan`. Four devices share each clip. On
# v5p they hold 10 samples, of which 9 are self-conditioned; on v6e 5, which all run the
# first pass, as 4.5 samples cannot.
PODS = {
    "none": dict(),
    "v5p:4x4x8": dict(fsdp=32, context=4, remat="dots"),
    "v6e:16x16": dict(fsdp=64, context=4, remat="latent_dots"),
}


def get_config(arg=None):
    arg = configs.parse_arg(arg, pod="none")
    pod = configs.choose(PODS, "pod", arg.pod)
    config = fit.get_config("size=3p9b")
    config.model.update(
        pad_height=(0, 0),
        group=(18, 16),
        in_channels=6,
        remat=pod.get("remat", "block"),
    )
    config.diffusion.sigma_in = 32.0
    config.optimizer.steps = 370_000
    config.data.update(
        height=288, width=512, videos_per_batch=160, images_per_batch=160
    )
    config.training.update(self_conditioning_period=10, low_resolution=(36, 64))
    config.mesh.update(fsdp=pod.get("fsdp", 1), context=pod.get("context", 1))
    config.sampler.steps = 40
    return config
