"""The demo for long videos: its clips at 7.5 to 24 frames a second, and smooth motion.

    ./launch/demo.sh
    snapvideo train --config configs/demo_long.py --workdir runs/demo-long \
        --config.run.init_from=runs/demo
    snapvideo extend --workdir runs/demo-long --frames 64 --rates 8,24 --overlap 3 \
        --prompt "a red cross moving left slowly" --out OUT

Training starts from the demo's weights. ``benchmarks/long_video.py`` judges its videos.
``quick`` only tests that it runs.
"""

import demo  # a config may import its neighbours

from snapvideo_jax import config as configs


def get_config(arg=None):
    arg = configs.parse_arg(arg, quick=False)
    steps = 20 if arg.quick else 5000
    config = demo.get_config()
    # The position of a shape to a tenth of a pixel is decided at lower noise levels
    # than its kind.
    config.diffusion.update(p_mean=0.5, p_std=1.3)
    config.optimizer.update(
        learning_rate=5e-3,
        steps=steps,
        warmup_steps=max(steps // 50, 1),
        ema_half_life=100.0,
    )
    config.data.update(min_fps=7.5, max_fps=0.0)
    # Both guidance and solvers of higher order make motion less even.
    config.sampler.update(solver="euler")
    config.sheets.update(guidance=0.5, fps=8.0, every_steps=max(steps // 10, 1))
    return config
