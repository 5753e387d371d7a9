"""A base config for `snapvideo scaling` on 2 CPU cores, much smaller than the demo.

    snapvideo scaling generate --config configs/scaling.py --out sweep \
        --width 0.5,2 --budgets 5e11,1e12,2e12
    snapvideo scaling run --out sweep
    snapvideo scaling fit --out sweep --flops 1e15
    snapvideo scaling plot --out sweep

8 frames of 16x16 px of the generated shapes; 9 runs.
"""

import demo

from snapvideo_jax import config as configs


def get_config(arg=None):
    configs.parse_arg(arg)
    config = demo.get_config()
    config.model.update(
        patch_width=64,
        latents=16,
        latent_width=64,
        context_width=32,
        blocks=1,
        unroll=1,
    )
    config.training.self_conditioning_period = 8
    config.data.update(videos_per_batch=28, images_per_batch=4)
    return config
