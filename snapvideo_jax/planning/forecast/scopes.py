"""Which part of a network, and which pass of a step, an instruction belongs to.

Compilers keep the path of scopes that an operation was traced in, its ``op_name``.
"""

import re

from snapvideo_jax.models import MODELS

NETWORKS = "(?:" + "|".join(kind.__name__ for kind in MODELS.values()) + ")"
"""As scopes name them."""

# Names of submodules of networks' blocks, and what of the rest has a name of its own.
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
    """The part of the network in an instruction's ``op_name``, a path of scopes."""
    if not op_name:
        return UNNAMED
    for part, pattern in _PATTERNS:
        if pattern.search(op_name):
            return part
    return OTHER


def pass_of(op_name: str) -> str:
    """Which of a step's passes through the network an ``op_name`` belongs to."""
    if "first_pass" in op_name:
        return "self-conditioning"
    if "transpose(" in op_name:
        return "backward"
    if re.search(rf"\b{NETWORKS}\b", op_name):
        return "forward"
    return "outside of the network"
