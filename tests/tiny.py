"""The smallest networks with every mechanism, and inputs for them; configs, built."""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from snapvideo_jax import config as configs
from snapvideo_jax.models import FIT, DiT, UNet
from snapvideo_jax.types import Context, Latents

TOKENS, TEXT_WIDTH = 3, 5
CONFIGS = pathlib.Path(__file__).parent.parent / "configs"


@functools.cache
def experiment(name):
    """What ``configs/name`` stands for."""
    return configs.build(configs.load(f"{CONFIGS}/{name}", []))


def fit(**changes):
    """4 groups of 2x2 patches of 1x2x2 px; 6 rows are padded to 8."""
    sizes = dict(
        frames=2, height=6, width=8, pad_height=(1, 1), patch=(1, 2, 2), group=(2, 2),
        patch_width=8, patch_head_width=4, latents=8, latent_width=12,
        latent_head_width=6, context_width=8, blocks=2, global_layers=1, dropout=0.0,
        dtype="float32",
    )  # fmt: skip
    return FIT(**sizes | changes)


def unet(**changes):
    """Levels of 8x8 and, with attention, 4x4 px; 6 rows are padded to 8."""
    sizes = dict(
        frames=3, height=6, width=8, pad_height=(1, 1), channels=8, multiples=(1, 2),
        blocks=1, head_width=4, context_width=8, norm_groups=4, dropout=0.0,
        dtype="float32",
    )  # fmt: skip
    return UNet(**sizes | changes)


def dit(**changes):
    """32 patches of 1x2x2 px in 2 frames; 6 rows are padded to 8."""
    sizes = dict(
        frames=2, height=6, width=8, pad_height=(1, 1), patch=(1, 2, 2), patch_width=12,
        patch_head_width=6, context_width=8, number_width=8, blocks=2, dropout=0.0,
        dtype="float32",
    )  # fmt: skip
    return DiT(**sizes | changes)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def clip(model, batch=2, seed=1):
    size = (model.frames, model.height, model.width, model.out_channels)
    return normal(seed, batch, *size)


def context(batch=2, **changes):
    """Captions of 2, 3, 2, ... tokens for clips of various rates and resolutions."""
    lengths = 2 + jnp.arange(batch) % 2
    fields = dict(
        text=normal(2, batch, TOKENS, TEXT_WIDTH),
        text_mask=jnp.arange(TOKENS)[None] < lengths[:, None],
        frame_interval=0.1 * jnp.arange(batch),
        resolution=jnp.stack([100.0 + jnp.arange(batch), jnp.full(batch, 64.0)], 1),
        drop_text=jnp.zeros(batch, bool),
    )
    return Context(**fields | changes)


def context_of(model, batch=2):
    """`context`, with a low-resolution clip for an upsampler."""
    about = context(batch)
    if not model.is_upsampler:
        return about
    low, level = clip(model, batch, seed=4), jnp.linspace(0.1, 0.4, batch)
    return about.replace(low_resolution=low, low_resolution_noise=level)


def previous(model, batch=2, seed=3):
    """Latents of a call before, known for every sample."""
    value = normal(seed, batch, model.latents, model.latent_width)
    return Latents(value=value, known=jnp.ones(batch, bool))


def init(model):
    """The parameters that training begins with, as a function of a key."""
    inputs = clip(model, 1), jnp.zeros(1), context_of(model, 1), model.no_latents(1)
    return lambda key: nn.unbox(model.init(key, *inputs)["params"])


@functools.cache
def fresh_params(model):
    """Parameters as training begins with them."""
    return jax.jit(init(model))(jax.random.key(0))


@functools.cache
def random_params(model):
    """Parameters none of which is zero: at init a FIT's output is, whatever it does."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape)
        if path[-1].key == "kernel":
            value = 1.3 * noise / leaf.shape[-2] ** 0.5
        else:
            value = 0.3 * noise + (path[-1].key == "scale")
        return jnp.asarray(value, jnp.float32)

    shapes = jax.eval_shape(init(model), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def compiled(model, train=False):
    """The network's call as a compiled function of its parameters and inputs."""

    @jax.jit
    def call(params, *inputs, **rngs):
        return model.apply({"params": params}, *inputs, train=train, rngs=rngs)

    return call


def run(model, params=None, noisy=None, c_noise=None, about=None, latents=None):
    """Output and latents for 2 clips; what is not given is random."""
    noisy = clip(model) if noisy is None else noisy
    batch = len(noisy)
    return compiled(model)(
        random_params(model) if params is None else params,
        noisy,
        jnp.linspace(-1.0, 0.5, batch) if c_noise is None else c_noise,
        context_of(model, batch) if about is None else about,
        model.no_latents(batch) if latents is None else latents,
    )
