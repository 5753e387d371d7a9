"""Captioned videos and images, cut and reduced for both stages of the paper's cascade.

    snapvideo prepare --config configs/prepare.py --config.source=FOLDER --out OUT
    snapvideo train --config configs/clips.py --config.data.source=records \\
      --config.data.root=OUT/base --workdir DIR

FOLDER holds captions.jsonl, as for training. ``base`` has twice the 64x36 px of the
first stage, so that colours, which H.264 stores at half the resolution, have the full
one; ``upsampler`` has the paper's 512x288. ``filters`` selects by fields of
captions.jsonl, such as an aesthetic score: "aesthetic>=4.5, blur<0.2".
"""

import ml_collections

from snapvideo_jax import config as configs
from snapvideo_jax.data.prepare import Rules, Stage


def get_config(arg=None):
    configs.parse_arg(arg)
    config = ml_collections.ConfigDict()
    config.source = ""

    config.rules = configs.section(Rules)
    config.filters = ""

    config.clip_frames = 240
    config.stages = ml_collections.ConfigDict()
    config.stages.base = configs.section(Stage, height=72, width=128)
    config.stages.upsampler = configs.section(Stage, height=288, width=512)

    config.video_shards = 64
    config.image_shards = 16
    return config
