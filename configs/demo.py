"""The demo: a FIT with all mechanisms of the paper, small enough for 2 CPU cores.

    ./launch/demo.sh            trains it, samples held-out prompts and judges them
    ./launch/demo.sh --quick    the same with a short training

8 frames of 16x16 px of the generated shapes.
"""

import ml_collections

from snapvideo_jax import config as configs
from snapvideo_jax.data import DataConfig
from snapvideo_jax.diffusion import EDM, Guidance, Sampler
from snapvideo_jax.optim import Optimizer
from snapvideo_jax.parallel.sharding import MeshConfig
from snapvideo_jax.step import Training


def get_config(arg=None):
    arg = configs.parse_arg(arg, quick=False)
    steps = 120 if arg.quick else 1700
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.model = configs.model_section(
        "fit",
        pad_height=(0, 0),
        patch=(1, 4, 4),
        group=(1, 1),
        patch_width=128,
        patch_head_width=16,
        latents=32,
        latent_width=128,
        latent_head_width=32,
        context_width=64,
        blocks=2,
        global_layers=2,
        dropout=0.0,
        dtype="float32",
        unroll=2,
    )
    # By the rule of Sec. 3.2, s = 16 / 64 and T = 8 give sigma_in = s sqrt(T) = 0.7.
    # One flat shape is far more redundant than a natural video: it is still visible at
    # noise levels of 10 to 20, so training uses higher levels.
    config.diffusion = configs.section(EDM, sigma_in=1.0, p_mean=1.4, p_std=1.4)
    config.optimizer = configs.section(
        Optimizer,
        name="muon",
        learning_rate=6e-3,
        steps=steps,
        warmup_steps=steps // 50,
        betas=(0.95, 0.99),
        ema_half_life=60.0,
    )
    config.training = configs.section(
        Training,
        self_conditioning=0.5,
        self_conditioning_period=16,
        label_dropout=0.1,
    )
    # At 4 frames a second, 8 frames span nearly all of a clip's 2 seconds.
    config.data = configs.section(
        DataConfig,
        source="shapes",
        frames=8,
        height=16,
        width=16,
        videos_per_batch=56,
        images_per_batch=8,
        min_fps=3.6,
        max_fps=6.0,
        num_threads=2,
        cache_decoded_mb=1500,
    )
    config.text = configs.section(configs.Text, tokens=16, width=64)
    config.mesh = configs.section(MeshConfig, data=-1, fsdp=1)
    config.sampler = configs.section(Sampler, steps=24)
    config.guidance = configs.section(Guidance)
    config.sheets = configs.section(
        configs.Sheets,
        prompts=(
            "a red cross moving left",
            "a green square moving right",
            "a blue triangle moving up",
            "a yellow cross moving down on a black background",
            "a small cyan square moving up slowly",
            "a large magenta triangle moving right fast",
            "a green cross moving down on a white background",
            "a red triangle moving left on a grey background",
        ),
        guidance=2.0,
        fps=4.0,
        resolution=(64, 64),
        every_steps=max(steps // 10, 1),
        scale=6,
    )
    config.run = configs.section(
        configs.Run, log_every_steps=50, checkpoint_every_steps=200, keep=2
    )
    return config
