"""The smallest run with every mechanism on: seconds on one CPU core.

``model`` is fit, unet or dit. Its data are ArrayRecord files of moving shapes in
``data.root``, which has to be given.
Every size that is divided over devices is a multiple of 8.
"""

import ml_collections

from snapvideo_jax import config as configs
from snapvideo_jax.data import DataConfig
from snapvideo_jax.diffusion import EDM, Guidance, Sampler
from snapvideo_jax.optim import Optimizer
from snapvideo_jax.parallel.sharding import MeshConfig
from snapvideo_jax.step import Training

# 14 rows are padded to 16 px.
MODELS = {
    # 4 groups of 2x2 patches in 2 frames.
    "fit": dict(
        group=(2, 2),
        patch_width=8,
        patch_head_width=4,
        latents=8,
        latent_width=16,
        latent_head_width=8,
        context_width=8,
        blocks=2,
        global_layers=1,
    ),
    "unet": dict(
        channels=8,
        multiples=(1, 2),
        blocks=1,
        head_width=8,
        context_width=8,
        norm_groups=4,
    ),
    "dit": dict(
        patch_width=16,
        patch_head_width=8,
        context_width=8,
        number_width=8,
        blocks=2,
    ),
}


def get_config(arg=None):
    arg = configs.parse_arg(arg, steps=12, model="fit")
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.model = configs.model_section(
        arg.model, dtype="float32", dropout=0.1, pad_height=(1, 1), **MODELS[arg.model]
    )
    config.diffusion = configs.section(EDM)
    config.optimizer = configs.section(
        Optimizer,
        name="adam",
        learning_rate=1e-2,
        steps=arg.steps,
        warmup_steps=2,
        ema_half_life=4.0,
    )
    config.training = configs.section(
        Training,
        self_conditioning=0.5 if arg.model == "fit" else 0.0,
        self_conditioning_period=8,
    )
    config.data = configs.section(
        DataConfig,
        source="records",
        root="given on the command line",
        frames=2,
        height=14,
        width=16,
        videos_per_batch=6,
        images_per_batch=2,
        num_threads=1,
    )
    config.text = configs.section(configs.Text, tokens=4, width=8)
    config.mesh = configs.section(MeshConfig)
    config.sampler = configs.section(Sampler, steps=2)
    config.guidance = configs.section(Guidance, after=1)
    config.sheets = configs.section(
        configs.Sheets,
        prompts=("a red cross moving left", "a green square"),
        guidance=1.0,
        fps=8.0,
        resolution=(64, 64),
    )
    config.run = configs.section(
        configs.Run, log_every_steps=1, checkpoint_every_steps=2
    )
    return config
