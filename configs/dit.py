"""A DiT on all patches of a video at once, a baseline for FIT's latents.

    snapvideo train --config configs/dit.py:match=flops --workdir DIR \
        --config.data.source=tfds --config.data.root=... \
        --config.data.tfds_videos=... --config.data.tfds_images=...

``match`` is parameters (equal to FIT 500M's) or flops (of the forward pass); ``pod``
sets mesh and memory policy for a topology, such as pod=v5p:4x4x8. Not part of the
paper: arXiv 2212.09748 with the patches, padding, text, data and sampler of `fit.py`,
and with the U-Nets' optimizer, Adam. Not yet run at full size.
"""

import unet

from snapvideo_jax import config as configs
from snapvideo_jax.parallel.sharding import MeshConfig

SIZES = {
    "parameters": dict(patch_width=1024, blocks=22),
    "flops": dict(patch_width=768, blocks=11),
}

# Mesh and memory policy by topology; a first choice, not yet compiled.
PODS = {
    "none": dict(),
    "v5p:4x4x8": dict(fsdp=64, remat="dots"),
}


def get_config(arg=None):
    arg = configs.parse_arg(arg, match="parameters", pod="none")
    pod = configs.choose(PODS, "pod", arg.pod)
    config = unet.get_config()
    config.model = configs.model_section(
        "dit",
        **configs.choose(SIZES, "match", arg.match),
        pad_height=(2, 2),
        patch_head_width=64,
        dropout=0.1,
        dtype="bfloat16",
        remat=pod.get("remat", "block"),
    )
    config.mesh = configs.section(MeshConfig, fsdp=pod.get("fsdp", 1))
    return config
