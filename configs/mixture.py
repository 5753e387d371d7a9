"""The FIT of clips.py on two data sets, in batches of two sizes.

    snapvideo train --config configs/mixture.py --workdir DIR \
        --config.data.mixture.films.root=OUT/base --config.data.mixture.web.root=FOLDER

``films`` are records from `snapvideo prepare` and provide three of four videos; ``web``
is a folder with captions.jsonl and provides one of four videos and all images, with
separate frame rates, and only files at least 144 px high. Of three batches two are wide
and one is nearly square; each file goes to the nearer shape.
"""

import clips  # a config may import its neighbours

from snapvideo_jax import config as configs
from snapvideo_jax.data import Part


def get_config(arg=None):
    config = clips.get_config(arg)
    # Groups of 2x2 patches: 40 in frames of 36x64, 30 in frames of 44x40.
    config.model.latents = 120
    config.data.update(source="mixture", root="", min_fps=1.0)
    config.data.update(buckets=((16, 44, 40),), bucket_weights=(2.0, 1.0))
    config.data.mixture.films = configs.section(
        Part, source="records", root="OUT/base", video_weight=3.0, min_fps=4.0
    )
    config.data.mixture.web = configs.section(
        Part,
        source="folder",
        root="FOLDER",
        video_weight=1.0,
        image_weight=1.0,
        min_fps=4.0,
        max_fps=12.0,
        filters="height>=144",
    )
    return config
