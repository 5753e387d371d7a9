"""FIT in plain PyTorch, the reference of `torch_parity.py`.

Written in PyTorch's style, from the description of the network and not from our
modules: groups are folded into the batch, since `scaled_dot_product_attention` has a
fast kernel for four axes only, and blocks are a loop. Submodules are named like our
parameters, so that `load` can copy weights.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

NUMBERS = ("noise_level", "frame_interval", "resolution_height", "resolution_width")
EPSILON = 1e-6
"""Added to the variance in LayerNorm; Flax's default, PyTorch's is 1e-5."""


def layer_norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=EPSILON, bias=False)


class FeedForward(nn.Module):
    """``D -> 4D -> D`` with GELU by tanh, as Flax's is; dropout on the hidden units."""

    def __init__(self, width: int, dropout: float = 0.0):
        super().__init__()
        self.hidden = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)
        self.dropout = dropout

    def forward(self, tokens):
        hidden = F.gelu(self.hidden(tokens), approximate="tanh")
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
        return self.out(hidden)


class Attention(nn.Module):
    """Multi-head attention of ``b q d`` to ``b k f``; ``mask`` is ``b k``."""

    def __init__(self, query_width: int, key_width: int, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(query_width, width, bias=False)
        self.key = nn.Linear(key_width, width, bias=False)
        self.value = nn.Linear(key_width, width, bias=False)
        self.out = nn.Linear(width, query_width, bias=False)

    def forward(self, queries, keys, mask=None):
        split = lambda x: x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # noqa: E731
        out = F.scaled_dot_product_attention(
            split(self.query(queries)),
            split(self.key(keys)),
            split(self.value(keys)),
            attn_mask=None if mask is None else mask[:, None, None],
        )
        return self.out(out.transpose(1, 2).flatten(-2))


class Sublayers(nn.Module):
    """Attention then feed-forward, both pre-norm residual."""

    def __init__(self, width, source_width, inner, heads, dropout=0.0):
        super().__init__()
        self.norm = layer_norm(width)
        self.source_norm = source_width and layer_norm(source_width)
        self.attention = Attention(width, source_width or width, inner, heads)
        self.feed_forward_norm = layer_norm(width)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, tokens, source=None, mask=None):
        queries = self.norm(tokens)
        keys = queries if source is None else self.source_norm(source)
        tokens = tokens + self.attention(queries, keys, mask)
        return tokens + self.feed_forward(self.feed_forward_norm(tokens))


class Block(nn.Module):
    """Context read, read, global layers, write."""

    def __init__(self, model):
        super().__init__()
        narrow, wide = model.patch_width, model.latent_width
        context = model.context_width
        heads = narrow // model.patch_head_width
        cross = min(narrow, wide)
        self.groups = model.groups
        self.context_read = Sublayers(wide, context, min(context, wide), heads)
        self.read = Sublayers(wide, narrow, cross, heads)
        self.layers = []
        for layer in range(model.global_layers):
            self.layers.append(f"global_{layer}")
            inner_heads = wide // model.latent_head_width
            sublayers = Sublayers(wide, None, wide, inner_heads, model.dropout)
            self.add_module(self.layers[-1], sublayers)
        self.write = Sublayers(narrow, wide, cross, heads)

    def forward(self, patches, latents, context, mask):
        """Patches are ``(b g) p d``, latents ``b l e``."""
        grouped = lambda x: rearrange(x, "b (g m) e -> (b g) m e", g=self.groups)  # noqa: E731
        latents = self.context_read(latents, context, mask)
        read = self.read(grouped(latents), patches)
        latents = rearrange(read, "(b g) m e -> b (g m) e", g=self.groups)
        for name in self.layers:
            latents = getattr(self, name)(latents)
        return self.write(patches, grouped(latents)), latents


class ContextTokens(nn.Module):
    """Text, and a token for each number."""

    def __init__(self, width: int, text_width: int):
        super().__init__()
        self.null_text = nn.Parameter(torch.randn(width))
        self.text = nn.Linear(text_width, width)
        for name in NUMBERS:
            self.add_module(f"{name}_hidden", nn.Linear(width, 2 * width))
            self.add_module(f"{name}_out", nn.Linear(2 * width, width))
        periods = 0.05 * (20.0 / 0.05) ** torch.linspace(0, 1, width // 2)
        self.register_buffer("rates", 2 * math.pi / periods, persistent=False)

    def forward(self, c_noise, context):
        drop = context["drop_text"] | ~context["text_mask"].any(1)
        text = torch.where(
            drop[:, None, None], self.null_text, self.text(context["text"])
        )
        first = torch.arange(text.shape[1]) == 0
        mask = torch.where(drop[:, None], first, context["text_mask"])
        resolution = context["resolution"].log()
        values = (c_noise, context["frame_interval"], *resolution.unbind(1))
        tokens = [self._number(*pair) for pair in zip(values, NUMBERS, strict=True)]
        tokens = torch.stack(tokens, 1)
        always = torch.ones(tokens.shape[:2], dtype=torch.bool)
        return torch.cat([text, tokens], 1), torch.cat([mask, always], 1)

    def _number(self, value, name):
        angle = value[:, None] * self.rates
        waves = torch.cat([angle.sin(), angle.cos()], -1)
        hidden = F.gelu(getattr(self, f"{name}_hidden")(waves), approximate="tanh")
        return getattr(self, f"{name}_out")(hidden)


class TorchFIT(nn.Module):
    """The network of a `snapvideo_jax.models.FIT`, with its own weights.

    Args:
      model: our module; gives all sizes.
      text_width: channels of a text embedding.
    """

    def __init__(self, model, text_width: int):
        super().__init__()
        self.model = model
        pixels = math.prod(model.patch)
        narrow, wide = model.patch_width, model.latent_width
        self.context = ContextTokens(model.context_width, text_width)
        self.patch_embed = nn.Linear(pixels * model.in_channels, narrow)
        self.patch_norm = layer_norm(narrow)
        positions = model.groups * model.patches_per_group
        self.patch_position = nn.Parameter(torch.randn(positions, narrow))
        self.latents = nn.Parameter(torch.randn(model.latents, wide))
        self.self_conditioning = FeedForward(wide)
        self.self_conditioning_norm = layer_norm(wide)
        self.blocks = nn.ModuleList(Block(model) for _ in range(model.blocks))
        self.output_norm = layer_norm(narrow)
        self.pixels = nn.Linear(narrow, pixels * model.out_channels)

    def forward(self, noisy, c_noise, context, previous, known):
        """``F``, and the final latents.

        Args:
          noisy: ``b t h w c``.
          c_noise: ``b``.
          context: the fields of a `Context`, by name.
          previous: latents of the previous call, ``b l e``.
          known: ``b``, whether there was one.
        """
        model = self.model
        tokens, mask = self.context(c_noise, context)
        noisy = F.pad(noisy, (0, 0, 0, 0, *model.pad_height))
        sizes = dict(zip(("pt", "ph", "pw"), model.patch, strict=True))
        sizes |= dict(zip(("gh", "gw"), model.group, strict=True))
        patches = rearrange(
            noisy,
            "b (T pt) (H gh ph) (W gw pw) c -> b (H W) (T gh gw) (pt ph pw c)",
            **sizes,
        )
        position = self.patch_position.unflatten(0, (model.groups, -1))
        patches = self.patch_norm(self.patch_embed(patches)) + position
        patches = patches.flatten(0, 1)
        update = self.self_conditioning_norm(self.self_conditioning(previous))
        latents = self.latents + torch.where(known[:, None, None], update, 0.0)
        for block in self.blocks:
            patches, latents = block(patches, latents, tokens, mask)
        pixels = self.pixels(self.output_norm(patches))
        video = rearrange(
            pixels,
            "(b H W) (T gh gw) (pt ph pw c) -> b (T pt) (H gh ph) (W gw pw) c",
            b=len(noisy),
            H=model.padded_height // (model.group[0] * model.patch[1]),
            T=model.frames // model.patch[0],
            **sizes,
        )
        above = model.pad_height[0]
        return video[:, :, above : above + model.height], latents


def load(network: TorchFIT, params) -> None:
    """Copies our parameters into those of the same names in ``network``."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(np.array(namesake(params, name))))


def namesake(params, name: str):
    """Our parameter for PyTorch's ``name``, in PyTorch's layout."""
    *path, last = name.split(".")
    block = int(path.pop(1)) if path[:1] == ["blocks"] else None
    for key in path:
        params = params[key]
    if last == "weight":
        last = "kernel" if "kernel" in params else "scale"
    value = params[last] if block is None else params[last][block]
    return value.T if last == "kernel" else value
