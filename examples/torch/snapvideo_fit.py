"""The FIT of a bundle in plain PyTorch: denoiser and sampler in one file.

    python snapvideo_fit.py BUNDLE --out frames.pt

needs torch and safetensors, and not snapvideo_jax. BUNDLE is a folder of `snapvideo
export`; its inputs.safetensors has the embeddings of some captions. The config defines
the network: groups of patches that exchange information through latents, latents that
are conditioned on those of the previous call, and a denoiser whose signal is scaled for
video.

    bundle = Bundle("BUNDLE")
    clip, latents = bundle.denoise(noisy, sigma, context, latents, known)
    clip = bundle.sample(noise, context, steps=24, guidance=2.0)
"""

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

VERSION = 1
"""Version of the bundles that this file reads."""
NUMBERS = ("noise_level", "frame_interval", "resolution_height", "resolution_width")
CONTEXT = ("text", "text_mask", "frame_interval", "resolution")


class Sizes:
    """Sizes of a network: the sections model and data of a bundle's config."""

    def __init__(self, config: dict):
        model, data = config["model"], config["data"]
        if model["name"] != "fit":
            raise ValueError(f"model.name is {model['name']!r}; this reads 'fit' only.")
        self.__dict__.update(model)
        self.frames, self.height, self.width = (
            data[name] for name in ("frames", "height", "width")
        )
        self.is_upsampler = self.in_channels > self.out_channels
        rows = (self.height + sum(self.pad_height)) // (self.patch[1] * self.group[0])
        self.rows, self.columns = rows, self.width // (self.patch[2] * self.group[1])
        self.groups = self.rows * self.columns
        self.depth = self.frames // self.patch[0]
        self.pixels = math.prod(self.patch)


def layer_norm(width: int) -> nn.LayerNorm:
    """As in Flax: with a scale, without a bias, and 1e-6 added to the variance."""
    return nn.LayerNorm(width, eps=1e-6, bias=False)


class FeedForward(nn.Module):
    """``D -> 4D -> D`` with the tanh approximation of GELU."""

    def __init__(self, width: int):
        super().__init__()
        self.hidden = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(F.gelu(self.hidden(tokens), approximate="tanh"))


class Attention(nn.Module):
    """From ``b q d`` to those of ``b k f`` where a ``mask`` of ``b k`` is true."""

    def __init__(self, query_width: int, key_width: int, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(query_width, width, bias=False)
        self.key = nn.Linear(key_width, width, bias=False)
        self.value = nn.Linear(key_width, width, bias=False)
        self.out = nn.Linear(width, query_width, bias=False)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        def split(tokens):
            return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            split(self.query(queries)),
            split(self.key(keys)),
            split(self.value(keys)),
            attn_mask=None if mask is None else mask[:, None, None],
        )
        return self.out(attended.transpose(1, 2).flatten(-2))


class Sublayers(nn.Module):
    """Cross- or self-attention, then feed-forward; both residual."""

    def __init__(self, width: int, source: int | None, inner: int, heads: int):
        super().__init__()
        self.norm = layer_norm(width)
        if source is not None:
            self.source_norm = layer_norm(source)
        self.attention = Attention(width, source or width, inner, heads)
        self.feed_forward_norm = layer_norm(width)
        self.feed_forward = FeedForward(width)

    def forward(self, tokens: Tensor, source=None, mask=None) -> Tensor:
        queries = self.norm(tokens)
        keys = queries if source is None else self.source_norm(source)
        tokens = tokens + self.attention(queries, keys, mask)
        return tokens + self.feed_forward(self.feed_forward_norm(tokens))


class Block(nn.Module):
    """Context read, read, global layers, write. Groups are part of the batch axis."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        narrow, wide = sizes.patch_width, sizes.latent_width
        cross, context = min(narrow, wide), sizes.context_width
        heads = narrow // sizes.patch_head_width
        self.groups, self.layers = sizes.groups, sizes.global_layers
        self.context_read = Sublayers(wide, context, min(context, wide), heads)
        self.read = Sublayers(wide, narrow, cross, heads)
        for layer in range(self.layers):
            own = Sublayers(wide, None, wide, wide // sizes.latent_head_width)
            self.add_module(f"global_{layer}", own)
        self.write = Sublayers(narrow, wide, cross, heads)

    def forward(self, patches, latents, context, mask):
        """Patches are ``(b g) p d``, latents ``b l e``."""

        def by_group(tokens):
            return tokens.unflatten(1, (self.groups, -1)).flatten(0, 1)

        latents = self.context_read(latents, context, mask)
        latents = self.read(by_group(latents), patches)
        latents = latents.unflatten(0, (-1, self.groups)).flatten(1, 2)
        for layer in range(self.layers):
            latents = getattr(self, f"global_{layer}")(latents)
        return self.write(patches, by_group(latents)), latents


class ContextTokens(nn.Module):
    """The text, and a token for each number."""

    def __init__(self, width: int, text_width: int, names: tuple[str, ...]):
        super().__init__()
        self.names = names
        self.null_text = nn.Parameter(torch.zeros(width))
        self.text = nn.Linear(text_width, width)
        for name in names:
            self.add_module(f"{name}_hidden", nn.Linear(width, 2 * width))
            self.add_module(f"{name}_out", nn.Linear(2 * width, width))
        periods = 0.05 * (20.0 / 0.05) ** torch.linspace(0, 1, width // 2)
        self.register_buffer("rates", 2 * math.pi / periods, persistent=False)

    def forward(self, c_noise: Tensor, context: dict) -> tuple[Tensor, Tensor]:
        mask = context["text_mask"]
        drop = context["drop_text"] | ~mask.any(1)
        text = self.text(context["text"])
        text = torch.where(drop[:, None, None], self.null_text, text)
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        mask = torch.where(drop[:, None], first, mask)
        values = [c_noise, context["frame_interval"]]
        values += context["resolution"].log().unbind(1)
        if len(self.names) > len(values):
            values.append(context["low_resolution_noise"])
        tokens = [self._number(*pair) for pair in zip(values, self.names, strict=True)]
        tokens = torch.stack(tokens, 1)
        always = torch.ones_like(tokens[..., 0], dtype=torch.bool)
        return torch.cat([text, tokens], 1), torch.cat([mask, always], 1)

    def _number(self, value: Tensor, name: str) -> Tensor:
        angle = value[:, None] * self.rates
        waves = torch.cat([angle.sin(), angle.cos()], -1)
        hidden = F.gelu(getattr(self, f"{name}_hidden")(waves), approximate="tanh")
        return getattr(self, f"{name}_out")(hidden)


class FIT(nn.Module):
    """``F`` of the denoiser, and its latents.

    Names of submodules and parameters are those of the bundle, see `load`.
    """

    def __init__(self, sizes: Sizes, text_width: int):
        super().__init__()
        self.sizes = sizes
        narrow, wide = sizes.patch_width, sizes.latent_width
        names = NUMBERS + (("low_resolution_noise",) if sizes.is_upsampler else ())
        self.context = ContextTokens(sizes.context_width, text_width, names)
        self.patch_embed = nn.Linear(sizes.pixels * sizes.in_channels, narrow)
        self.patch_norm = layer_norm(narrow)
        places = sizes.groups * sizes.depth * math.prod(sizes.group)
        self.patch_position = nn.Parameter(torch.zeros(places, narrow))
        self.latents = nn.Parameter(torch.zeros(sizes.latents, wide))
        self.self_conditioning = FeedForward(wide)
        self.self_conditioning_norm = layer_norm(wide)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.blocks))
        self.output_norm = layer_norm(narrow)
        self.pixels = nn.Linear(narrow, sizes.pixels * sizes.out_channels)

    def forward(self, noisy, c_noise, context, latents, known):
        """Arguments as of `Bundle.denoise`, with c_noise for the noise level."""
        tokens, mask = self.context(c_noise, context)
        if self.sizes.is_upsampler:
            noisy = torch.cat([noisy, context["low_resolution"]], -1)
        patches = self.patch_norm(self.patch_embed(self._cut(noisy)))
        position = self.patch_position.unflatten(0, (self.sizes.groups, -1))
        patches = patches.unflatten(0, (-1, self.sizes.groups)) + position
        update = self.self_conditioning_norm(self.self_conditioning(latents))
        latents = self.latents + torch.where(known[:, None, None], update, 0.0)
        patches = patches.flatten(0, 1)
        for block in self.blocks:
            patches, latents = block(patches, latents, tokens, mask)
        return self._joined(self.pixels(self.output_norm(patches))), latents

    def _cut(self, video: Tensor) -> Tensor:
        """``b t h w c`` to patches of each group, ``(b g) p d``."""
        sizes = self.sizes
        video = F.pad(video, (0, 0, 0, 0, *sizes.pad_height))
        (pt, ph, pw), (gh, gw) = sizes.patch, sizes.group
        grid = (sizes.depth, pt, sizes.rows, gh, ph, sizes.columns, gw, pw)
        cut = video.reshape(len(video), *grid, video.shape[-1])
        # b T pt H gh ph W gw pw c  ->  b H W T gh gw pt ph pw c
        cut = cut.permute(0, 3, 6, 1, 4, 7, 2, 5, 8, 9)
        return cut.flatten(6).flatten(3, 5).flatten(0, 2)

    def _joined(self, patches: Tensor) -> Tensor:
        """The inverse of `_cut`, without the padded rows."""
        sizes = self.sizes
        (pt, ph, pw), (gh, gw) = sizes.patch, sizes.group
        shape = (-1, sizes.rows, sizes.columns, sizes.depth, gh, gw, pt, ph, pw)
        cut = patches.reshape(*shape, sizes.out_channels)
        # b H W T gh gw pt ph pw c  ->  b T pt H gh ph W gw pw c
        cut = cut.permute(0, 3, 6, 1, 4, 7, 2, 5, 8, 9)
        video = cut.flatten(6, 8).flatten(3, 5).flatten(1, 2)
        above = sizes.pad_height[0]
        return video[:, :, above : above + sizes.height]


def load(network: FIT, weights: dict[str, Tensor]) -> None:
    """Copies a bundle's weights, where blocks are stacked and kernels transposed."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            *path, last = name.split(".")
            block = int(path.pop(1)) if path[:1] == ["blocks"] else None
            if last == "weight":
                last = "kernel" if "/".join([*path, "kernel"]) in weights else "scale"
            value = weights["/".join([*path, last])].float()
            value = value if block is None else value[block]
            parameter.copy_(value.T if last == "kernel" else value)


class Bundle:
    """A network with its weights, and the diffusion that it was trained with.

    Args:
      folder: of `snapvideo export`.

    Raises:
      ValueError: a bundle of another version, or of another network than FIT.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        about = json.loads((folder / "config.json").read_text())
        if about.get("format_version") != VERSION:
            raise ValueError(
                f"{folder} has version {about.get('format_version')}; this file "
                f"reads version {VERSION}."
            )
        self.config, self.sizes = about["config"], Sizes(about["config"])
        self.edm = self.config["diffusion"]
        self.network = FIT(self.sizes, self.config["text"]["width"]).eval()
        weights: dict[str, Tensor] = {}
        for path in sorted(folder.glob("model*.safetensors")):
            weights |= load_file(path)
        load(self.network, weights)

    def no_latents(self, count: int) -> tuple[Tensor, Tensor]:
        """Arguments ``latents`` and ``known`` of the first call."""
        size = (count, self.sizes.latents, self.sizes.latent_width)
        return torch.zeros(size), torch.zeros(count, dtype=torch.bool)

    @torch.no_grad()
    def denoise(self, noisy, sigma, context, latents, known):
        """The denoised clip ``D = c_skip x + c_out F`` in -1..1, and the latents.

        Args:
          noisy: ``x / sigma_in + sigma eps``, ``b t h w c``.
          sigma: noise level of each sample.
          context: text, text_mask, frame_interval, resolution and drop_text, by name;
            for an upsampler also low_resolution and low_resolution_noise.
          latents, known: of the previous call; `no_latents` for the first.
        """
        level, data, scale = sigma[:, None, None, None, None], *self._scales()
        c_in = (data**2 / scale**2 + level**2) ** -0.5
        shared = scale * level**2 + data**2
        c_skip = scale * data**2 / shared
        c_out = -scale * level * data * (level**2 + data**2).sqrt() / shared
        c_noise = sigma.log() / 4
        output, latents = self.network(c_in * noisy, c_noise, context, latents, known)
        return c_skip * noisy + c_out * output, latents

    @torch.no_grad()
    def sample(self, noise: Tensor, context: dict, steps: int, guidance: float):
        """Clips in about -1..1 by Heun's method, from standard normal noise.

        Args:
          noise: ``b t h w c``.
          context: as of `denoise`, without drop_text.
          steps: noise levels.
          guidance: weight g of ``D_c + g (D_c - D_u)``.
        """
        edm, count = self.edm, len(noise)
        high, low = (edm[f"sigma_{end}"] ** (1 / edm["rho"]) for end in ("max", "min"))
        levels = (high + torch.linspace(0, 1, steps) * (low - high)) ** edm["rho"]
        both = {name: torch.cat([value, value]) for name, value in context.items()}
        both["drop_text"] = torch.arange(2 * count) >= count
        carry = self.no_latents(2 * count)
        _, scale = self._scales()

        def estimate(x, sigma, carry):
            level = sigma.expand(2 * count)
            clip, latents = self.denoise(torch.cat([x, x]), level, both, *carry)
            conditional, unconditional = clip.chunk(2)
            known = torch.ones(2 * count, dtype=torch.bool)
            guided = conditional + guidance * (conditional - unconditional)
            return guided, (latents, known)

        x = edm["sigma_max"] * noise
        for sigma, after in zip(levels[:-1], levels[1:], strict=True):
            clip, carry = estimate(x, sigma, carry)
            slope = (x - clip / scale) / sigma
            euler = x + (after - sigma) * slope
            clip, carry = estimate(euler, after, carry)
            slope = (slope + (euler - clip / scale) / after) / 2
            x = x + (after - sigma) * slope
        return estimate(x, levels[-1], carry)[0]

    def _scales(self) -> tuple[float, float]:
        return self.edm["sigma_data"], self.edm["sigma_in"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--inputs", type=Path, help="(default: the bundle's)")
    parser.add_argument("--out", type=Path, required=True, help="frames in 0..255, .pt")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    bundle = Bundle(arguments.bundle)
    inputs = load_file(arguments.inputs or arguments.bundle / "inputs.safetensors")
    context = {name: inputs[name] for name in CONTEXT}
    size = (bundle.sizes.frames, bundle.sizes.height, bundle.sizes.width)
    generator = torch.Generator().manual_seed(arguments.seed)
    shape = (len(context["text"]), *size, bundle.sizes.out_channels)
    noise = torch.randn(shape, generator=generator)
    guidance = float(inputs["guidance"])
    clips = bundle.sample(noise, context, arguments.steps, guidance)
    frames = ((clips + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    torch.save(frames, arguments.out)


if __name__ == "__main__":
    main()
