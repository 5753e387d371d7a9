"""FIT 500M and 3.9B, first stage: 16 frames of 64x36 px (Tab. 8 and 9, Sec. 3.5).

    snapvideo train --config configs/fit.py:size=500m --workdir DIR \
        --config.data.source=tfds --config.data.root=... \
        --config.data.tfds_videos=... --config.data.tfds_images=...

``size`` is 500m or 3p9b. ``ablation`` selects a row of Tab. 3, trained at 500m: edm
(the original framework), ii (sigma_data 0.5), iii (sigma_in 2), iv (images are not
videos). ``pod`` sets mesh and memory policy for a topology, such as pod=v5p:4x4x8. Not
yet run at full size; the paper used 550,000 steps of 4,096 samples.
"""

import ml_collections

from snapvideo_jax import config as configs
from snapvideo_jax.data import DataConfig
from snapvideo_jax.diffusion import EDM, Guidance, Sampler
from snapvideo_jax.optim import Optimizer
from snapvideo_jax.parallel.sharding import MeshConfig
from snapvideo_jax.step import Training

# Tab. 8.
SIZES = {
    "500m": dict(
        patch_width=768, patch_head_width=48, latents=512, latent_width=1024,
        latent_head_width=64, context_width=768,
    ),
    "3p9b": dict(
        patch_width=1024, patch_head_width=64, latents=768, latent_width=3072,
        latent_head_width=128, context_width=1024,
    ),
}  # fmt: skip

# Mesh and memory policy by topology, as compiled by `snapvideo plan`. fsdp is at most
# 64: widths of 1024 and 3072 then divide into whole tiles, 16 rows of bfloat16;
# otherwise every gather becomes an all-reduce of twice the bytes.
PODS = {
    "none": dict(),
    "v5p:4x4x8": dict(fsdp=64, remat="dots", period=32),
    "v6e:16x16": dict(fsdp=64, remat="layer", period=16),
    "v5e:16x16": dict(fsdp=64, remat="layer", period=16),
}

# Tab. 3.
ABLATIONS = {
    "none": dict(),
    "edm": dict(sigma_data=0.5, sigma_in=1.0),
    "ii": dict(sigma_data=0.5, sigma_in=4.0),
    "iii": dict(sigma_data=1.0, sigma_in=2.0),
    "iv": dict(images_as_videos=False, image_sigma_in=1.0),
}


def get_config(arg=None):
    arg = configs.parse_arg(arg, size="500m", ablation="none", pod="none")
    pod = configs.choose(PODS, "pod", arg.pod)
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.model = configs.model_section(
        "fit",
        **configs.choose(SIZES, "size", arg.size),
        pad_height=(2, 2),
        group=(5, 4),
        blocks=6,
        global_layers=4,
        dropout=0.1,
        dtype="bfloat16",
        remat=pod.get("remat", "block"),
    )
    config.diffusion = configs.section(
        EDM,
        **(
            dict(sigma_in=4.0, sigma_data=1.0)
            | configs.choose(ABLATIONS, "ablation", arg.ablation)
        ),
    )
    config.optimizer = configs.section(
        Optimizer,
        name="lamb",
        learning_rate=5e-3,
        steps=550_000,
        warmup_steps=10_000,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        ema_half_life=6_000.0,
    )
    config.training = configs.section(
        Training,
        self_conditioning=0.9,
        self_conditioning_period=pod.get("period", 32),
        label_dropout=0.1,
    )
    config.data = configs.section(
        DataConfig,
        source="shapes",
        frames=16,
        height=36,
        width=64,
        videos_per_batch=2048,
        images_per_batch=2048,
        min_fps=1.0,
        num_threads=16,
    )
    config.text = configs.section(configs.Text, tokens=128, width=1024)
    config.mesh = configs.section(MeshConfig, data=-1, fsdp=pod.get("fsdp", 1))
    config.sampler = configs.section(Sampler, steps=256, solver="heun")
    config.guidance = configs.section(Guidance)
    config.sheets = configs.section(configs.Sheets, guidance=0.0, fps=24.0, scale=2)
    config.run = configs.section(
        configs.Run, checkpoint_every_steps=1000, keep=3, keep_every_steps=50_000
    )
    return config
