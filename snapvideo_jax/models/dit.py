"""DiT for video: every patch attends to every other, the cost that FIT avoids.

The same patches of 1 x 4 x 4 px as FIT's, in blocks of full self-attention, attention
to the text and a feed-forward. Self-attention and feed-forward are scaled, shifted and
gated by the numbers, with gates that start at zero (adaLN-Zero, arXiv 2212.09748). Text
is read by cross-attention [C], whose output starts at zero: as tokens among the patches
it would need a mask, which the kernel for attention among many patches (splash) does
not support here. There are no latents: the carry is empty.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from snapvideo_jax.models import flops, resource_estimates
from snapvideo_jax.models.context import NumbersVector, null_where_dropped
from snapvideo_jax.models.layers import (
    KERNEL_INIT,
    Attention,
    Dense,
    FeedForward,
    grid_waves,
    layer_norm,
    pad_rows,
    patchify,
    unpatchify,
)
from snapvideo_jax.models.network import FirstStage, ResourceEstimate
from snapvideo_jax.models.remat import REMAT, check_known, scanned
from snapvideo_jax.parallel.sharding import constrain
from snapvideo_jax.types import CLIP_AXES, Context


class Block(nn.Module):
    """Self-attention, attention to the text, feed-forward; a step of a scan.

    Attributes:
      heads: of both attentions.
      dropout: on the hidden units of the feed-forward.
      dtype: of the computation.
      remat: policy for each of its layers.
    """

    heads: int
    dropout: float
    dtype: str
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "b p d"],
        numbers: Float[Array, "b e"],
        text: Float[Array, "b n f"],
        text_mask: Bool[Array, "b n"],
        train: bool,
    ):
        width = tokens.shape[-1]
        tokens = constrain(tokens, "batch", "latents", None)
        shift, scale, gate, ff_shift, ff_scale, ff_gate = modulation(
            numbers, 6, width, self.dtype
        )
        attention, feed_forward = Attention, FeedForward
        if self.remat in ("layer", "latent_dots", "dots"):
            options = dict(prevent_cse=False, policy=REMAT[self.remat])
            attention = nn.remat(Attention, **options)
            feed_forward = nn.remat(FeedForward, static_argnums=(2,), **options)
        sizes = (width, self.heads, self.dtype)

        seen = plain_norm(tokens, self.dtype) * (1 + scale) + shift
        layer = attention(*sizes, query_init=KERNEL_INIT, name="attention")
        tokens = tokens + gate * layer(seen, seen, None)
        seen = layer_norm("text_norm", dtype=self.dtype)(tokens)
        zeros = nn.initializers.zeros
        layer = attention(*sizes, KERNEL_INIT, out_init=zeros, name="text_attention")
        tokens = tokens + layer(seen, text, text_mask)
        seen = plain_norm(tokens, self.dtype) * (1 + ff_scale) + ff_shift
        layer = feed_forward(self.dropout, self.dtype, name="feed_forward")
        return tokens + ff_gate * layer(seen, train), None


def modulation(
    numbers: Float[Array, "b e"], count: int, width: int, dtype: str
) -> list[Float[Array, "b 1 d"]]:
    """Shifts, scales and gates of a block, all of which start at zero."""
    made = Dense(
        count * width,
        ("embed", "to_embed"),
        dtype,
        init=nn.initializers.zeros,
        name="modulation",
    )(nn.silu(numbers))
    return list(rearrange(made, "b (s d) -> s b 1 d", s=count))


def plain_norm(tokens: Float[Array, "b p d"], dtype: str) -> Float[Array, "b p d"]:
    """LayerNorm without parameters."""
    return nn.LayerNorm(use_scale=False, use_bias=False, dtype=dtype)(tokens)


class DiT(FirstStage):
    """``F`` of the denoiser: a video of the input's size, and an empty carry.

    Attributes:
      frames, height, width: the largest video it takes, before padding.
      in_channels, out_channels: colour channels, 3 and 3.
      pad_height: rows of zeros added above and below, as FIT's.
      patch: pixels of a patch in time, height, width, as FIT's.
      patch_width, patch_head_width: channels of a patch token and of a head.
      context_width: channels that text is projected to.
      number_width: channels of a number's sines and cosines. 256, as published.
      blocks: of self-attention, attention to the text and feed-forward.
      dropout: on hidden units.
      dtype: of the computation; parameters are float32.
      remat: what the backward pass recomputes; see `REMAT`.
      unroll: blocks per iteration of the scan over blocks.
    """

    frames: int = 16
    height: int = 36
    width: int = 64
    in_channels: int = 3
    out_channels: int = 3
    pad_height: tuple[int, int] = (2, 2)
    patch: tuple[int, int, int] = (1, 4, 4)
    patch_width: int = 1024
    patch_head_width: int = 64
    context_width: int = 768
    number_width: int = 256
    blocks: int = 22
    dropout: float = 0.1
    dtype: str = "bfloat16"
    remat: str = "none"
    unroll: int = 1

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches in time, height and width."""
        sizes = (self.frames, self.padded_height, self.width)
        time, rows, columns = (s // p for s, p in zip(sizes, self.patch, strict=True))
        return time, rows, columns

    @property
    def patches(self) -> int:
        return math.prod(self.grid)

    def validate(self) -> None:
        """Raises ValueError, naming the field and a cure, where sizes do not divide."""
        check_known(self)
        self.check_channels()
        sizes = {
            "frames": self.frames,
            "height + pad_height": self.padded_height,
            "width": self.width,
        }
        for axis, (name, size) in enumerate(sizes.items()):
            if size % self.patch[axis]:
                raise ValueError(
                    f"model.{name}={size} is not a multiple of "
                    f"model.patch[{axis}]={self.patch[axis]}."
                )
        if self.patch_width % self.patch_head_width:
            raise ValueError(
                f"model.patch_width={self.patch_width} is not a multiple of "
                f"model.patch_head_width={self.patch_head_width}."
            )

    def tokens(self, text_tokens: int) -> dict[str, int]:
        """Numbers of patches and of text tokens."""
        return {"patches": self.patches, "text": text_tokens}

    def forward_flops(self, text_tokens: int, text_width: int) -> dict[str, float]:
        """See `flops.dit_forward`."""
        return flops.dit_forward(self, text_tokens, text_width)

    def resource_estimate(self) -> ResourceEstimate:
        """See `resource_estimates.dit`."""
        return resource_estimates.dit(self)

    @nn.compact
    def __call__(
        self,
        noisy: Float[Array, "b t h w c"],
        c_noise: Float[Array, "b"],
        context: Context,
        previous: tuple[()] = (),
        train: bool = False,
    ) -> tuple[Float[Array, "b t h w c"], tuple[()]]:
        """Predicts ``F`` in float32; arguments as those of `UNet`."""
        numbers = NumbersVector(self.number_width, self.patch_width, name="numbers")(
            c_noise, context
        )
        text, mask = null_where_dropped(context)
        axes = ("text", "to_embed")
        text = Dense(self.context_width, axes, self.dtype, name="text")(text)
        tokens, _ = scanned(Block, self, inputs=4)(
            heads=self.patch_width // self.patch_head_width,
            dropout=self.dropout,
            dtype=self.dtype,
            remat=self.remat,
            name="blocks",
        )(self._embed(noisy), numbers, text, mask, train)
        return self._pixels(tokens, numbers, noisy.shape[1]), ()

    def _embed(self, noisy):
        """Patches -> linear, + sines and cosines of their positions."""
        noisy = constrain(pad_rows(noisy, self.pad_height), *CLIP_AXES)
        patches = patchify(noisy.astype(self.dtype), self.patch, self.grid[1:])
        patches = rearrange(patches, "b 1 p d -> b p d")
        axes = ("patch", "embed")
        patches = Dense(self.patch_width, axes, self.dtype, name="patch_embed")(patches)
        position = rearrange(
            grid_waves(self.grid, self.patch_width), "t h w d -> 1 (t h w) d"
        )
        return patches + position[:, : patches.shape[1]].astype(self.dtype)

    def _pixels(self, tokens, numbers, frames):
        """Scaled and shifted LayerNorm -> linear, zero at init -> pixels."""
        shift, scale = modulation(numbers, 2, self.patch_width, self.dtype)
        tokens = plain_norm(tokens, self.dtype) * (1 + scale) + shift
        pixels = Dense(
            math.prod(self.patch) * self.out_channels,
            ("embed", "patch"),
            self.dtype,
            init=nn.initializers.zeros,
            name="pixels",
        )(tokens)
        pixels = rearrange(pixels, "b p d -> b 1 p d")
        video = unpatchify(
            pixels, self.patch, self.grid[1:], frames, self.padded_height
        )
        above = self.pad_height[0]
        return video[:, :, above : above + self.height].astype(jnp.float32)
