"""U-Net 85M and 284M, the baselines of Tab. 2: 16 frames of 64x36 px (Tab. 7 and 9).

    snapvideo train --config configs/unet.py:size=284m --workdir DIR \
        --config.data.source=tfds --config.data.root=... \
        --config.data.tfds_videos=... --config.data.tfds_images=...

``size`` is 85m or 284m; ``pod`` sets mesh and memory policy for a topology, as
pod=v5p:4x4x8. Everything but network and optimizer is as in `fit.py`. Not yet run at
full size; the paper used 550,000 steps of 4,096 samples.
"""

import fit

from snapvideo_jax import config as configs
from snapvideo_jax.optim import Optimizer
from snapvideo_jax.parallel.sharding import MeshConfig

# Tab. 7.
SIZES = {
    "85m": dict(channels=128, multiples=(1, 2, 2, 3)),
    "284m": dict(channels=192, multiples=(1, 2, 3, 4)),
}

# Mesh and memory policy by topology; a first choice, not yet compiled.
PODS = {
    "none": dict(),
    "v5p:4x4x8": dict(remat="dots"),
}


def get_config(arg=None):
    arg = configs.parse_arg(arg, size="284m", pod="none")
    pod = configs.choose(PODS, "pod", arg.pod)
    config = fit.get_config()
    config.model = configs.model_section(
        "unet",
        **configs.choose(SIZES, "size", arg.size),
        pad_height=(2, 2),
        dropout=0.1,
        dtype="bfloat16",
        remat=pod.get("remat", "layer"),
    )
    config.optimizer = configs.section(
        Optimizer,
        name="adam",
        learning_rate=1e-4,
        steps=550_000,
        warmup_steps=10_000,
        betas=(0.9, 0.999),
        weight_decay=0.01,
        ema_half_life=6_000.0,
    )
    config.training.update(self_conditioning=0.0, self_conditioning_period=2)
    config.mesh = configs.section(MeshConfig, fsdp=pod.get("fsdp", 1))
    return config
