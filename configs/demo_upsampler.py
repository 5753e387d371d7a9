"""An upsampler for the demo: 8 frames of 64x64 px of the shapes from its 16x16.

    ./launch/demo.sh
    snapvideo train --config configs/demo_upsampler.py --workdir runs/demo-upsampler \
        --config.run.init_from=runs/demo

It is the demo's network with four times as many patches along each side, and starts
from its weights. ``benchmarks/cascade_shapes.py`` measures both. ``quick`` only tests
that it runs.
"""

import demo  # a config may import its neighbours

from snapvideo_jax import config as configs


def get_config(arg=None):
    arg = configs.parse_arg(arg, quick=False)
    steps = 20 if arg.quick else 1000
    config = demo.get_config()
    # 16 groups of 4x4 patches in 8 frames, with two latents each, as in the demo.
    config.model.update(in_channels=6, group=(4, 4))
    # By the rule of Sec. 3.2, s = 64 / 64 and T = 8 give sigma_in = 2.8. At high noise
    # levels the small clip determines the result, so training uses lower levels than
    # the demo.
    config.diffusion.update(sigma_in=2.8, p_mean=-0.4, p_std=1.4)
    config.optimizer.update(steps=steps, warmup_steps=max(steps // 50, 1))
    # With little noise in the small clip the task is mostly sharpening, which is enough
    # for a demo that obeys its prompts.
    config.training.update(
        self_conditioning_period=8,
        low_resolution=(16, 16),
        low_resolution_noise=0.1,
    )
    config.data.update(
        height=64, width=64, videos_per_batch=7, images_per_batch=1, subset=2000
    )
    # Few steps of first order stay near the mean of the possible results, which has the
    # smallest error.
    config.sampler.update(solver="euler", steps=16)
    # An upsampler cannot make sheets from prompts alone, and needs no guidance.
    config.sheets.update(guidance=0.0, every_steps=0)
    return config
