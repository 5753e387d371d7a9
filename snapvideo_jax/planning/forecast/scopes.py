"""The part of the network and the pass of a step that an instruction belongs to.

Both follow from its ``op_name``, the path of scopes in which JAX traced the operation.
"""

import re

from snapvideo_jax.models import MODELS

NETWORKS = "(?:" + "|".join(kind.__name__ for kind in MODELS.values()) + ")"
"""Names of networks in scopes."""

# Parts by the names of submodules and scopes; the first match counts.
_PARTS = (
    ("spatial attention", r"\w+_space"),
    ("temporal attention", r"\w+_time"),
    ("resampling blocks", r"(?:halve|double)_\d+"),
    ("residual blocks", r"(?:down|up)_\d+_\d+|middle_\d+"),
    ("context read", "context_read"),
    ("read", "read"),
    ("global", r"global_\d+"),
    ("write attention", r"write/(?:[^/]+/)*?(?:attention|norm|source_norm)"),
    ("write feed-forward", "write"),
    ("self-conditioning", r"self_conditioning(?:_norm)?"),
    ("context tokens", "context|numbers|text"),
    (
        "patches and pixels",
        rf"{NETWORKS}\._(?:embed|pixels)|patch_\w+|pixels|output_norm|stem",
    ),
    ("optimizer", "optimizer"),
    ("attention to text", r"text_(?:attention|norm)"),
    ("self-attention", r"blocks/(?:[^/]+/)*?attention"),
    ("feed-forward", "feed_forward"),
    ("scales, shifts and gates", "modulation"),
    ("scan over blocks", rf"{NETWORKS}(?:\.\w+)?"),
)
_PATTERNS = tuple(
    (part, re.compile(rf"(?:^|[/(])(?:{pattern})(?:$|[/)])"))
    for part, pattern in _PARTS
)
OTHER = "noise, loss and the rest"
UNNAMED = "unnamed by the compiler"


def part_of(op_name: str) -> str:
    """The part of the network that an ``op_name`` belongs to."""
    if not op_name:
        return UNNAMED
    for part, pattern in _PATTERNS:
        if pattern.search(op_name):
            return part
    return OTHER


def pass_of(op_name: str) -> str:
    """The pass of a step that an ``op_name`` belongs to."""
    if "first_pass" in op_name:
        return "self-conditioning"
    if "transpose(" in op_name:
        return "backward"
    if re.search(rf"\b{NETWORKS}\b", op_name):
        return "forward"
    return "outside of the network"
