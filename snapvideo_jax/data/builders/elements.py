"""The features and elements of all builders."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from snapvideo_jax.io.captions import Kind


def element_spec(kind: Kind) -> tfds.features.FeaturesDict:
    """Features of a captioned video or image.

    ``video`` or ``image`` is the content of the file; ``caption`` the first of
    ``captions``; ``name`` its origin; ``label`` a class or category, empty where the
    data set has none.
    """
    return tfds.features.FeaturesDict(
        {
            kind: tfds.features.Tensor(shape=(), dtype=np.object_),
            "caption": tfds.features.Text(),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "name": tfds.features.Text(),
            "label": tfds.features.Text(),
        }
    )


def element(
    kind: Kind, data: bytes, captions: Sequence[str], name: str, label: str = ""
) -> dict[str, Any]:
    """One element of `element_spec`.

    Args:
        kind: of the file.
        data: its content.
        captions: at least one.
        name: its origin.
        label: its class or category.
    """
    return {
        kind: data,
        "caption": captions[0],
        "captions": list(captions),
        "name": name,
        "label": label,
    }
