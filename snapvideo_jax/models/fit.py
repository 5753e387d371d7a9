"""FIT: the transformer of Snap Video (Sec. 3.4, App. A, Fig. 3b).

Videos are cut into many patch tokens, which are cheap, and read into few latent
tokens, which do most of the computation. Patches are divided into groups that span all
frames; a group's patches exchange information only with that group's latents, and
all latents attend to each other, so groups see each other only through latents.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from snapvideo_jax.models import flops, resource_estimates
from snapvideo_jax.models.context import NUMBERS, UPSAMPLER_NUMBERS, ContextTokens
from snapvideo_jax.models.fit_sizes import check_sizes
from snapvideo_jax.models.layers import (
    Attention,
    Dense,
    FeedForward,
    grid_waves,
    layer_norm,
    pad_rows,
    param_init,
    patchify,
    unpatchify,
)
from snapvideo_jax.models.network import ResourceEstimate
from snapvideo_jax.models.remat import REMAT, check_known, scanned
from snapvideo_jax.parallel.sharding import (
    broadcast_over_batch,
    constrain,
    devices_along,
)
from snapvideo_jax.types import CLIP_AXES, Context, Latents

PER_SUBLAYER = ("layer", "latent_dots", "dots")
"""Policies of `REMAT` that apply to each pair of attention and feed-forward."""


class Sublayers(nn.Module):
    """Attention then feed-forward, both pre-norm residual, on ``tokens``.

    Attributes:
      width: inner width of the attention.
      heads: of the attention.
      dropout: on the hidden units of the feed-forward.
      dtype: of the computation.
    """

    width: int
    heads: int
    dropout: float
    dtype: str

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "*b q d"],
        source: Float[Array, "*b k f"] | None,
        mask: Bool[Array, "*b k"] | None,
        train: bool,
    ) -> Float[Array, "*b q d"]:
        """``tokens`` attend to ``source``, or to themselves where it is None."""

        def norm(name):
            return layer_norm(name, dtype=self.dtype)

        queries = norm("norm")(tokens)
        keys = queries if source is None else norm("source_norm")(source)
        attention = Attention(self.width, self.heads, self.dtype, name="attention")
        tokens = tokens + attention(queries, keys, mask)
        feed_forward = FeedForward(self.dropout, self.dtype, name="feed_forward")
        return tokens + feed_forward(norm("feed_forward_norm")(tokens), train)


class Block(nn.Module):
    """One FIT block: context read, read, global layers, write (Fig. 3b).

    It takes and returns ``(patches, latents)``, as a step of a scan over blocks.
    """

    patch_heads: int
    latent_heads: int
    global_layers: int
    dropout: float
    dtype: str
    remat: str = "none"
    group_chunks: int = 1

    @nn.compact
    def __call__(self, state, context, context_mask, train: bool):
        patches, latents = state
        patches = constrain(patches, "batch", "groups", None, None)
        latents = constrain(latents, "batch", "latents", None)
        patches = checkpoint_name(patches, "block_input")
        latents = checkpoint_name(latents, "block_input")
        groups = patches.shape[1]
        cross = min(patches.shape[-1], latents.shape[-1])
        read_context = min(context.shape[-1], latents.shape[-1])

        # Context read: latents attend to the conditioning.
        latents = self._sublayers(read_context, self.patch_heads, "context_read")(
            latents, context, context_mask, train
        )
        # Read: latents gather from their group's patches.
        latents = rearrange(latents, "b (g m) e -> b g m e", g=groups)
        latents = self._within_groups(cross, "read", latents, patches)
        latents = rearrange(latents, "b g m e -> b (g m) e")
        # Global layers: all latents attend to each other.
        for layer in range(self.global_layers):
            latents = self._sublayers(
                latents.shape[-1], self.latent_heads, f"global_{layer}", self.dropout
            )(latents, None, None, train)
        # Write: patches fetch from their group's latents.
        grouped = rearrange(latents, "b (g m) e -> b g m e", g=groups)
        patches = self._within_groups(cross, "write", patches, grouped)
        return (patches, latents), None

    def _within_groups(self, width, name, tokens, source):
        """Tokens attend to the source of their group, in chunks of groups."""
        chunks = self.group_chunks
        layers = self._sublayers(width, self.patch_heads, name, within_groups=True)
        if chunks == 1:
            return layers(tokens, source, None, False)
        # Every device cuts its own groups into chunks.
        parts = devices_along("groups", tokens.shape[1] // chunks)

        def split(tokens):
            axes = "b (s k g) m e -> k b (s g) m e"
            return rearrange(tokens, axes, s=parts, k=chunks)

        def some(layers, carry, inputs):
            return carry, layers(*inputs, None, False)

        scan = nn.scan(some, variable_broadcast="params", split_rngs={"params": False})
        _, tokens = scan(layers, (), (split(tokens), split(source)))
        return rearrange(tokens, "k b (s g) m e -> b (s k g) m e", s=parts)

    def _sublayers(self, width, heads, name, dropout=0.0, within_groups=False):
        """`Sublayers` under the remat policy of latents, or of groups of patches."""
        layers = Sublayers
        # A chunk saves its inputs only, or memory would grow with the number of chunks.
        chunked = within_groups and self.group_chunks > 1
        if chunked or self.remat in PER_SUBLAYER:
            inputs_only = chunked or (within_groups and self.remat == "latent_dots")
            policy = None if inputs_only else REMAT[self.remat]
            layers = nn.remat(
                Sublayers, prevent_cse=False, static_argnums=(4,), policy=policy
            )
        return layers(width, heads, dropout, self.dtype, name=name)


class FIT(nn.Module):
    """``F`` of the denoiser: a video of the input's size, and the final latents.

    Attributes:
      frames, height, width: the largest video it takes, before padding.
      further_sizes: other sizes that it takes, each frames, height and width. Each
        height and width has its own table of positions; all other parameters are
        shared.
      in_channels, out_channels: colour channels. [P] 3 and 3; an upsampler reads 6,
        the last three from the low-resolution clip.
      pad_height: rows of zeros added above and below. [P] 64x36 becomes 64x40; [C]
        2 and 2.
      patch: pixels of a patch in time, height, width. [P] 1 x 4 x 4.
      group: patches of a group in height and width; it spans all frames. [P] 5 x 4.
      patch_width, patch_head_width: channels of a patch token and of a head. [P].
      latents: number of latent tokens, divided evenly over the groups. [P].
      latent_width, latent_head_width: channels of a latent and of a head. [P].
      context_width: channels of a context token. [P].
      blocks, global_layers: [P] 6 blocks of 4 layers of attention over all latents.
      dropout: on hidden units of the global layers. [P] 0.1.
      dtype: of the computation; parameters are float32.
      remat: what the backward pass recomputes; see `REMAT`.
      group_chunks: chunks of the groups that are read and written one after another;
        more chunks need less memory, for the many patches of an upsampler.
      unroll: blocks per iteration of the scan over blocks; more compile slower and run
        a little faster.
    """

    frames: int = 16
    height: int = 36
    width: int = 64
    further_sizes: tuple[tuple[int, int, int], ...] = ()
    in_channels: int = 3
    out_channels: int = 3
    pad_height: tuple[int, int] = (2, 2)
    patch: tuple[int, int, int] = (1, 4, 4)
    group: tuple[int, int] = (5, 4)
    patch_width: int = 768
    patch_head_width: int = 48
    latents: int = 512
    latent_width: int = 1024
    latent_head_width: int = 64
    context_width: int = 768
    blocks: int = 6
    global_layers: int = 4
    dropout: float = 0.1
    dtype: str = "bfloat16"
    remat: str = "none"
    group_chunks: int = 1
    unroll: int = 1

    @property
    def grids(self) -> "tuple[FIT, ...]":
        """A network like this one for each height and width, with the most frames."""
        longest = {(self.height, self.width): self.frames}
        for frames, *size in self.further_sizes:
            longest[tuple(size)] = max(frames, longest.get(tuple(size), 0))
        return tuple(self.at(frames, *size) for size, frames in longest.items())

    def at(self, frames: int, height: int, width: int) -> "FIT":
        """A network like this one for clips of one size."""
        size = dict(frames=frames, height=height, width=width, further_sizes=())
        return self.clone(parent=None, **size)

    def like(self, height: int, width: int) -> "FIT":
        """The network of `grids` for clips of a height and width.

        Raises:
          ValueError: the network does not take clips of this size.
        """
        for grid in self.grids:
            if (grid.height, grid.width) == (height, width):
                return grid
        known = [(grid.height, grid.width) for grid in self.grids]
        raise ValueError(f"a clip is {height}x{width}; the network takes {known}.")

    @property
    def padded_height(self) -> int:
        return self.height + sum(self.pad_height)

    @property
    def columns(self) -> int:
        return self.width // self.patch[2]

    @property
    def groups(self) -> int:
        rows = self.padded_height // (self.patch[1] * self.group[0])
        return rows * (self.columns // self.group[1])

    @property
    def patches_per_group(self) -> int:
        return self.frames // self.patch[0] * math.prod(self.group)

    @property
    def context_numbers(self) -> int:
        """Context tokens that are not text."""
        return len(UPSAMPLER_NUMBERS if self.is_upsampler else NUMBERS)

    @property
    def self_conditions(self) -> bool:
        return True

    @property
    def is_upsampler(self) -> bool:
        """Whether it also reads a low-resolution clip, as further channels."""
        return self.in_channels > self.out_channels

    def validate(self) -> None:
        """Raises ValueError, naming the field and a cure, where sizes do not divide."""
        check_known(self)
        check_sizes(self)

    def tokens(self, text_tokens: int) -> dict[str, int]:
        """Patches, their groups, latents and context tokens."""
        return {
            "patches": self.groups * self.patches_per_group,
            "groups": self.groups,
            "latents": self.latents,
            "context": text_tokens + self.context_numbers,
        }

    def forward_flops(self, text_tokens: int, text_width: int) -> dict[str, float]:
        """See `flops.fit_forward`; context tokens cost next to nothing."""
        return flops.fit_forward(self, text_tokens + self.context_numbers)

    def resource_estimate(self) -> ResourceEstimate:
        """See `resource_estimates.fit`."""
        return resource_estimates.fit(self)

    def no_latents(self, batch: int) -> Latents:
        """The carry of a first network call: no previous latents."""
        value = jnp.zeros((batch, self.latents, self.latent_width), self.dtype)
        return Latents(value=value, known=jnp.zeros(batch, bool))

    @nn.compact
    def __call__(
        self,
        noisy: Float[Array, "b t h w c"],
        c_noise: Float[Array, "b"],
        context: Context,
        previous: Latents,
        train: bool = False,
    ) -> tuple[Float[Array, "b t h w out"], Latents]:
        """Predicts ``F`` in float32.

        Args:
          noisy: ``c_in x_sigma``, up to ``frames`` frames.
          c_noise: ``ln(sigma) / 4``.
          context: text and numbers the clip is conditioned on; for an upsampler also
            the low-resolution clip.
          previous: latents of the previous call (self-conditioning).
          train: applies dropout; needs the rng "dropout".
        """
        frames, grid = noisy.shape[1], self.like(*noisy.shape[2:4])
        tokens, mask = ContextTokens(self.context_width, self.dtype, name="context")(
            c_noise, context
        )
        if self.is_upsampler:
            noisy = jnp.concatenate([noisy, context.low_resolution], axis=-1)
        patches = self._embed(noisy, grid)
        latents = self._initial_latents(previous)
        (patches, latents), _ = scanned(Block, self, inputs=3)(
            patch_heads=self.patch_width // self.patch_head_width,
            latent_heads=self.latent_width // self.latent_head_width,
            global_layers=self.global_layers,
            dropout=self.dropout,
            dtype=self.dtype,
            remat=self.remat,
            group_chunks=self.group_chunks,
            name="blocks",
        )((patches, latents), tokens, mask, train)
        return self._pixels(patches, frames, grid), Latents(
            value=latents, known=jnp.ones(latents.shape[0], bool)
        )

    def _embed(self, noisy, grid):
        """Patches -> linear -> LayerNorm -> + learned position."""
        noisy = constrain(pad_rows(noisy, self.pad_height), *CLIP_AXES)
        patches = patchify(noisy.astype(self.dtype), self.patch, self.group)
        axes = ("patch", "embed")
        patches = Dense(self.patch_width, axes, self.dtype, name="patch_embed")(patches)
        patches = layer_norm("patch_norm", dtype=self.dtype)(patches)
        position = self._positions()[grid.height, grid.width]
        position = broadcast_over_batch(position.astype(self.dtype), patches.shape[0])
        position = rearrange(position, "b (g p) d -> b g p d", g=grid.groups)
        return patches + position[:, :, : patches.shape[2]]

    def _positions(self):
        """Tables of learned positions, by height and width.

        All exist whatever the size of the clip, so that the state has one layout.
        """
        return {
            (grid.height, grid.width): self.param(
                f"patch_position_{grid.height}x{grid.width}"
                if number
                else "patch_position",
                param_init(grid._position_init, "table", None),
                (grid.groups * grid.patches_per_group, self.patch_width),
            )
            for number, grid in enumerate(self.grids)
        }

    def _position_init(self, key, shape, dtype=jnp.float32):
        """Sines and cosines of frame, row and column, a third of the channels each [C].

        The embedding is learned; it starts with similar neighbours and at the scale of
        the normalised patches, or a short run would not make use of it.
        """
        del key
        frames = self.frames // self.patch[0]
        rows = self.padded_height // self.patch[1]
        grid = grid_waves((frames, rows, self.columns), shape[-1])[None]
        position = patchify(grid, (1, 1, 1), self.group)
        position = rearrange(position, "1 g p d -> (g p) d")
        return (2**0.5 * position).astype(dtype)

    def _initial_latents(self, previous: Latents):
        """``learned + LN(FF(previous))``; the LN's scale starts at zero [C]."""
        learned = self.param(
            "latents",
            param_init(nn.initializers.normal(1.0), "table", None),
            (self.latents, self.latent_width),
        )
        learned = broadcast_over_batch(
            learned.astype(self.dtype), previous.value.shape[0]
        )
        update = FeedForward(0.0, self.dtype, name="self_conditioning")(
            previous.value.astype(self.dtype)
        )
        update = layer_norm(
            "self_conditioning_norm", dtype=self.dtype, init=nn.initializers.zeros
        )(update)
        return learned + jnp.where(previous.known[:, None, None], update, 0)

    def _pixels(self, patches, frames, grid):
        """LayerNorm -> linear, zero at init [C] -> pixels, padding cropped."""
        patches = layer_norm("output_norm", dtype=self.dtype)(patches)
        pixels = Dense(
            math.prod(self.patch) * self.out_channels,
            ("embed", "patch"),
            self.dtype,
            init=nn.initializers.zeros,
            name="pixels",
        )(patches)
        video = unpatchify(pixels, self.patch, self.group, frames, grid.padded_height)
        above = self.pad_height[0]
        return video[:, :, above : above + grid.height].astype(jnp.float32)
