"""The U-Net baseline of the paper (Sec. 4.3, Tab. 2, Tab. 7).

The paper names the published parts it consists of and gives widths; this is the
combination that has its numbers of parameters at both sizes, 85M and 284M [C]: the
U-Net of arXiv 2105.05233 (ADM) with residual blocks that resample, applied to every
frame; at half the size and below, attention within each frame and then over the frames
of each position (arXiv 2204.03458), both also to the text (arXiv 2112.10741); noise
level, frame interval and resolution scale and shift the residual blocks. There are no
latents: the carry is empty.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from snapvideo_jax.models import flops, resource_estimates
from snapvideo_jax.models.context import NumbersVector, null_where_dropped
from snapvideo_jax.models.layers import pad_rows
from snapvideo_jax.models.network import FirstStage, ResourceEstimate
from snapvideo_jax.models.remat import REMAT, check_known
from snapvideo_jax.models.unet_blocks import (
    TIMES,
    UNIFORM,
    Conv,
    FrameNorm,
    Residual,
    TextAttention,
    linear,
    uniform_bias,
)
from snapvideo_jax.parallel.sharding import constrain
from snapvideo_jax.types import Context

REMATS = ("none", "dots", "layer", "block")
"""Policies of `models.remat` that a U-Net supports; a layer is a residual or an
attention block."""


class Step(NamedTuple):
    """A residual block, and the attention and the skip connections around it.

    Attributes:
      name: of the block.
      level: of its output; height and width are halved ``level`` times.
      width_in, width: input and output channels.
      resample: -1 halves height and width, 1 doubles them.
      joins: its input is concatenated with the skip of an earlier step.
      attends: attention over space, then over time, follows.
      skips: its output is a skip, for a later step.
    """

    name: str
    level: int
    width_in: int
    width: int
    resample: int = 0
    joins: bool = False
    attends: bool = False
    skips: bool = False


class UNet(FirstStage):
    """``F`` of the denoiser: a video of the input's size, and an empty carry.

    Attributes:
      frames, height, width: the largest video it takes, before padding.
      in_channels, out_channels: colour channels. [P] 3 and 3.
      pad_height: rows of zeros added above and below. [P] 64x36 becomes 64x40; [C]
        2 and 2.
      channels: of the first level. [P] 128 and 192.
      multiples: channels of every level, in multiples of ``channels``; every further
        level has half the height and width. [P] 1, 2, 2, 3 and 1, 2, 3, 4.
      blocks: residual blocks of a level on the way down; one more on the way up.
        [P] 2.
      attention_from: first level with attention. [P] "32, 16, 8", the levels of 32
        columns and fewer.
      head_width: channels of a head. [P] 64.
      context_width: channels that text is projected to. [P] 768.
      norm_groups: groups of GroupNorm. [C] 32.
      dropout: in residual blocks. [P] 0.1.
      time: encoding of the order of frames in attention over time: "sinusoid", without
        parameters [C], "relative", learned, or "none".
      dtype: of the computation; parameters, norms, softmax and the head are float32.
      remat: what the backward pass recomputes: `REMATS`.
    """

    frames: int = 16
    height: int = 36
    width: int = 64
    in_channels: int = 3
    out_channels: int = 3
    pad_height: tuple[int, int] = (2, 2)
    channels: int = 192
    multiples: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 2
    attention_from: int = 1
    head_width: int = 64
    context_width: int = 768
    norm_groups: int = 32
    dropout: float = 0.1
    time: str = "sinusoid"
    dtype: str = "bfloat16"
    remat: str = "none"

    @property
    def embedding_width(self) -> int:
        """Channels of the vector that scales and shifts."""
        return 4 * self.channels

    def size(self, level: int) -> tuple[int, int]:
        """Height and width of a level."""
        return self.padded_height >> level, self.width >> level

    def steps(self) -> list[Step]:
        """All residual blocks, in order, for the network and for counting FLOPs."""
        widths = [self.channels * multiple for multiple in self.multiples]
        last, width = len(widths) - 1, self.channels
        steps, skips = [], [self.channels]

        def add(name, level, features, **options):
            nonlocal width
            joined = skips.pop() if options.get("joins") else 0
            steps.append(Step(name, level, width + joined, features, **options))
            width = features
            if options.get("skips"):
                skips.append(width)

        for level, features in enumerate(widths):
            attends = level >= self.attention_from
            for i in range(self.blocks):
                add(f"down_{level}_{i}", level, features, attends=attends, skips=True)
            if level < last:
                add(f"halve_{level}", level + 1, features, resample=-1, skips=True)
        add("middle_0", last, widths[-1], attends=last >= self.attention_from)
        add("middle_1", last, widths[-1])
        for level, features in reversed(list(enumerate(widths))):
            attends = level >= self.attention_from
            for i in range(self.blocks + 1):
                add(f"up_{level}_{i}", level, features, attends=attends, joins=True)
            if level:
                add(f"double_{level}", level - 1, features, resample=1)
        return steps

    def validate(self) -> None:
        """Raises ValueError, naming the field and a cure, where sizes do not divide."""
        check_known(self, REMATS)
        if self.time not in TIMES:
            raise ValueError(
                f"model.time={self.time!r} is unknown; use one of {TIMES}."
            )
        self.check_channels()
        factor = 2 ** (len(self.multiples) - 1)
        for name, size in (
            ("height + pad_height", self.padded_height),
            ("width", self.width),
        ):
            if size % factor:
                raise ValueError(
                    f"model.{name}={size} px cannot be halved "
                    f"{len(self.multiples) - 1} times; use a multiple of {factor}."
                )
        if self.channels % self.norm_groups or self.channels % 4:
            raise ValueError(
                f"model.channels={self.channels} is not a multiple of "
                f"model.norm_groups={self.norm_groups} and of 4."
            )
        for step in self.steps():
            if step.attends and step.width % self.head_width:
                raise ValueError(
                    f"model.head_width={self.head_width} does not divide the "
                    f"{step.width} channels of level {step.level}."
                )

    def tokens(self, text_tokens: int) -> dict[str, int]:
        """Numbers of positions in all frames, by level, and of text tokens."""
        sizes = [self.size(level) for level in range(len(self.multiples))]
        positions = [self.frames * rows * columns for rows, columns in sizes]
        named = {f"positions of level {i}": n for i, n in enumerate(positions)}
        return named | {"text": text_tokens}

    def forward_flops(self, text_tokens: int, text_width: int) -> dict[str, float]:
        """See `flops.unet_forward`."""
        return flops.unet_forward(self, text_tokens, text_width)

    def resource_estimate(self) -> ResourceEstimate:
        """See `resource_estimates.unet`."""
        return resource_estimates.unet(self)

    @nn.compact
    def __call__(
        self,
        noisy: Float[Array, "b t h w c"],
        c_noise: Float[Array, "b"],
        context: Context,
        previous: tuple[()] = (),
        train: bool = False,
    ) -> tuple[Float[Array, "b t h w c"], tuple[()]]:
        """Predicts ``F`` in float32.

        Args:
          noisy: ``c_in x_sigma``, up to ``frames`` frames.
          c_noise: ``ln(sigma) / 4``.
          context: text and numbers the clip is conditioned on.
          previous: empty.
          train: applies dropout; needs the rng "dropout".
        """
        embedding = NumbersVector(
            self.channels, self.embedding_width, UNIFORM, uniform_bias, name="numbers"
        )(c_noise, context)
        text, mask = null_where_dropped(context)
        axes = ("text", "to_embed")
        text = linear(text.shape[-1], self.context_width, axes, self.dtype, "text")(
            text
        )
        residual, attention = self._layers()

        clip = pad_rows(noisy, self.pad_height)
        clip = constrain(clip, "batch", None, None, None, None)
        axes = ("patch", "to_embed")
        clip = Conv(self.channels, 3, self.dtype, axes, name="stem")(clip)
        skips = [clip]
        for step in self.steps():
            if step.joins:
                clip = jnp.concatenate([clip, skips.pop()], axis=-1)
            block = residual(step.width, step.resample, name=step.name)
            clip = block(clip, embedding, train)
            for over in ("space", "time") if step.attends else ():
                clip = attention(over, name=f"{step.name}_{over}")(clip, text, mask)
            if step.skips:
                skips.append(clip)
        return self._pixels(clip), ()

    def _layers(self):
        """Constructors of residual and attention blocks, under ``remat``."""
        residual, attention = Residual, TextAttention
        if self.remat != "none":
            policy = REMAT[self.remat]
            residual = nn.remat(Residual, static_argnums=(3,), policy=policy)
            attention = nn.remat(TextAttention, policy=policy)

        def make_residual(width, resample, name):
            return residual(
                width, resample, self.norm_groups, self.dropout, self.dtype, name=name
            )

        def make_attention(over, name):
            sizes = (self.head_width, self.norm_groups, self.time, self.frames)
            return attention(over, *sizes, self.dtype, name=name)

        return make_residual, make_attention

    def _pixels(self, clip):
        """GroupNorm, SiLU and a convolution that is zero at init, in float32."""
        clip = nn.silu(FrameNorm(self.norm_groups, name="output_norm")(clip))
        axes = ("embed", "patch")
        clip = Conv(self.out_channels, 3, "float32", axes, zero=True, name="pixels")(
            clip
        )
        above = self.pad_height[0]
        return clip[:, :, above : above + self.height]
