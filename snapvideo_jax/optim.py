"""The optimizer: LAMB or Adam, warm-up and cosine, clipping, masked decay, EMA.

[P] Tab. 9: FIT trains with LAMB, the U-Nets with Adam; cosine decay after a linear
warm-up, weight decay 0.01, EMA with a half-life of 6,000 steps. Power-function averages
(arXiv 2312.02696) can be tracked in addition; a profile is the weight of each step's
parameters in such an average, and its width the relative standard deviation.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

WIDEST = 12**-0.5
"""Width of a plain mean; a wider profile would give the first steps most weight."""
OPTIMIZERS = ("lamb", "adam", "muon")
ON_BAD_STEP = ("stop", "skip")
SNAPSHOT_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer and its schedule, over ``steps`` steps.

    Attributes:
      name: "lamb" (arXiv 1904.00962; [P] for FIT), "adam" ([P] for the U-Nets; decay
        is decoupled [C]) or "muon" (orthogonalised momentum for matrices, Adam for
        the rest; ours, for short runs).
      learning_rate: peak, reached after ``warmup_steps``, cosine to 0 at ``steps``.
      betas: decay of the first and second moment. [P] 0.9 and 0.99.
      weight_decay: on matrices only [C]. [P] 0.01.
      clip_norm: global norm that gradients are clipped to. [P] used; [C] 1.0.
      ema_half_life: in steps. [P] 6,000.
      ema_rampup: the half-life is at most this share of the steps done, so that early
        averages forget the initial weights (EDM's ramp-up) [C].
      ema_widths: widths of the power-function averages that are tracked, such as (0.05,
        0.1); above 0 and below 0.288. Averages of other widths are reconstructed from
        them after training (`snapvideo ema`). [C] none.
      ema_snapshot_steps: steps between their snapshots, which are never deleted.
      ema_snapshot_dtype: of the snapshots, "float32" or "bfloat16".
      on_bad_step: action at a step whose loss or gradient is not finite, or whose
        gradient spikes: "stop" ends the run, "skip" discards the update [C].
      spike_factor: a gradient spikes where its norm is above so many times the median
        of the last ``spike_window`` steps; 0 disables the check [C].
      spike_window: steps of that median; the check begins after so many steps.
    """

    steps: int = 550_000
    name: str = "lamb"
    learning_rate: float = 5e-3
    warmup_steps: int = 10_000
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_half_life: float = 6_000.0
    ema_rampup: float = 0.09
    ema_widths: tuple[float, ...] = ()
    ema_snapshot_steps: int = 0
    ema_snapshot_dtype: str = "float32"
    on_bad_step: str = "stop"
    spike_factor: float = 0.0
    spike_window: int = 128

    def __post_init__(self):
        if self.name not in OPTIMIZERS:
            raise ValueError(
                f"optimizer.name={self.name!r} is unknown; use one of {OPTIMIZERS}."
            )
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(
                f"optimizer.warmup_steps={self.warmup_steps} must be below "
                f"optimizer.steps={self.steps}."
            )
        self._check_bad_steps()
        self._check_averages()

    def schedule(self) -> optax.Schedule:
        """Learning rate by step."""
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=self.learning_rate,
            warmup_steps=self.warmup_steps,
            decay_steps=self.steps,
        )

    def transform(self) -> optax.GradientTransformation:
        """Clipping, moments, decay, trust ratio and schedule, in this order."""
        first, second = self.betas
        decay = optax.add_decayed_weights(self.weight_decay, mask=is_matrix)
        adam = optax.chain(optax.scale_by_adam(first, second), decay)
        if self.name == "muon":
            scale = _muon(first, second, decay)
        elif self.name == "lamb":
            scale = optax.chain(adam, scale_by_block_trust_ratio())
        else:
            scale = adam
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm),
            scale,
            optax.scale_by_learning_rate(self.schedule()),
        )

    def ema_decay(self, step: jax.Array) -> jax.Array:
        """Weight of the old average when step ``step`` (from 1) is added."""
        half_life = jnp.minimum(self.ema_half_life, self.ema_rampup * step)
        return 0.5 ** (1 / jnp.maximum(half_life, 1e-8))

    def snapshots(self) -> list[int]:
        """Steps at which power-function averages are saved, including the last."""
        if not self.ema_widths:
            return []
        every = self.ema_snapshot_steps
        return sorted({*range(every, self.steps + 1, every), self.steps})

    def with_powers(self, powers, params, step: jax.Array):
        """The power-function averages after ``params`` of step ``step`` are added.

        ``beta = (1 - 1/t)^(gamma + 1)`` weighs the old average (arXiv 2312.02696, Sec.
        3.1). ``1 - beta`` is computed directly: in float32 the difference has no digits
        left after some 100,000 steps.
        """
        averages = []
        for width, power in zip(self.ema_widths, powers, strict=True):
            exponent = gamma(width) + 1
            weight = -jnp.expm1(exponent * jnp.log1p(-1 / step.astype(jnp.float32)))
            averages.append(
                jax.tree.map(lambda old, new: old + weight * (new - old), power, params)  # noqa: B023
            )
        return tuple(averages)

    def _check_bad_steps(self) -> None:
        if self.on_bad_step not in ON_BAD_STEP:
            raise ValueError(
                f"optimizer.on_bad_step={self.on_bad_step!r} is unknown; use one of "
                f"{ON_BAD_STEP}."
            )
        if self.spike_factor and not self.spike_factor > 1:
            raise ValueError(
                f"optimizer.spike_factor={self.spike_factor} would call every other "
                "step a spike; use more than 1, or 0 to disable the check."
            )
        if self.spike_window < 1:
            raise ValueError(
                f"optimizer.spike_window={self.spike_window} is too small; use at "
                "least 1."
            )

    def _check_averages(self) -> None:
        named = f"optimizer.ema_widths={self.ema_widths}"
        for width in self.ema_widths:
            check_width(width, named)
        if len(set(self.ema_widths)) < len(self.ema_widths):
            raise ValueError(f"{named} has a width twice; use each once.")
        if self.ema_widths and self.ema_snapshot_steps < 1:
            raise ValueError(
                f"{named} are useless without snapshots; set "
                "optimizer.ema_snapshot_steps, such as to a 50th of optimizer.steps."
            )
        if self.ema_snapshot_dtype not in SNAPSHOT_DTYPES:
            raise ValueError(
                f"optimizer.ema_snapshot_dtype={self.ema_snapshot_dtype!r} is unknown; "
                f"use one of {SNAPSHOT_DTYPES}."
            )


def is_matrix(params):
    """True for kernels of linear layers, which decay and which Muon updates.

    The last two names of a path are searched: parameters may be boxed with their axes.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "kernel" in map(_name, path[-2:]), params
    )


def scale_by_block_trust_ratio() -> optax.GradientTransformation:
    """LAMB's trust ratio, one per layer: each block of a scanned stack has its own.

    ``optax.scale_by_trust_ratio`` takes one norm over all blocks of a parameter.
    """

    def scale(path, update, param):
        def ratio(update, param):
            norm, size = jnp.linalg.norm(param), jnp.linalg.norm(update)
            known = (norm > 0) & (size > 0)
            return jnp.where(known, norm / jnp.where(size > 0, size, 1.0), 1.0) * update

        stacked = any(_name(key) == "blocks" for key in path)
        flat = jax.vmap(jnp.ravel) if stacked else jnp.ravel
        scaled = (jax.vmap(ratio) if stacked else ratio)(flat(update), flat(param))
        return scaled.reshape(update.shape)

    def update(updates, state, params):
        return jax.tree_util.tree_map_with_path(scale, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _muon(first, second, decay):
    """Muon for kernels (each block's separately), Adam for everything else."""

    def label(params):
        return jax.tree.map(lambda m: "muon" if m else "adam", is_matrix(params))

    muon = optax.chain(optax.trace(first, nesterov=True), orthogonalize(), decay)
    return optax.partition(
        {"muon": muon, "adam": optax.scale_by_adam(first, second)}, label
    )


def orthogonalize(iterations: int = 5) -> optax.GradientTransformation:
    """Replaces a matrix by the nearest orthogonal one, scaled to Adam's step size.

    Newton-Schulz iteration with Muon's quintic coefficients (K. Jordan, 2024); the
    factor ``0.2 sqrt(max(rows, columns))`` gives an update the root mean square of
    Adam's (arXiv 2502.16982), so both share one learning rate.
    """

    def one(matrix):
        a, b, c = 3.4445, -4.7750, 2.0315
        rows, columns = matrix.shape
        x = matrix if rows <= columns else matrix.T
        x = x / (jnp.linalg.norm(x) + 1e-7)
        for _ in range(iterations):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        x = x if rows <= columns else x.T
        return 0.2 * max(rows, columns) ** 0.5 * x

    def each(update):
        if update.ndim == 4:  # a convolution; its rows are positions and channels
            return one(update.reshape(-1, update.shape[-1])).reshape(update.shape)
        return one(update) if update.ndim == 2 else jax.vmap(one)(update)

    def update(updates, state, params=None):
        return jax.tree.map(each, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _name(key) -> str:
    return str(getattr(key, "key", getattr(key, "name", key)))


def gamma(width: float) -> float:
    """The exponent of a profile of this width.

    ``width^2 (gamma + 2)^2 (gamma + 3) = gamma + 1`` is a cubic of three real roots,
    of which the largest is above 0; by Viete's formula. [Sec. 3.1]

    Args:
      width: above 0 and below `WIDEST`.

    Raises:
      ValueError: it is not.
    """
    check_width(width, "The width")
    # gamma = x - 7/3 turns gamma^3 + 7 gamma^2 + (16 - s) gamma + 12 - s, s = width^-2,
    # into x^3 + p x + q.
    p = -1 / 3 - width**-2
    q = 2 / 27 + width**-2 * 4 / 3
    angle = math.acos(3 * q / (2 * p) * math.sqrt(-3 / p)) / 3
    return 2 * math.sqrt(-p / 3) * math.cos(angle) - 7 / 3


def width(gamma: float) -> float:
    """The width of a profile: the deviation of a Beta(gamma + 1, 1) variable."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def check_width(value: float, name: str) -> None:
    """Raises ValueError where a width is not above 0 and below `WIDEST`.

    Args:
      value: the width.
      name: of the setting, for the message.
    """
    if not 0 < value < WIDEST:
        raise ValueError(
            f"{name}: {value} is not the width of a power-function average; use more "
            f"than 0 and less than {WIDEST:.4f}, such as 0.05 and 0.1."
        )
