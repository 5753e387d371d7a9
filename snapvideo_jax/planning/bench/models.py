"""`snapvideo bench models`: FIT compared with the U-Nets and DiTs, as ratios (Tab. 2).

All networks are compiled first and then run in turns, so that load on the machine hits
all. A program that does not fit in memory with the others is reported as such. On a CPU
the networks are scaled down: widths are divided, the numbers of heads and tokens stay.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from snapvideo_jax import config as configs
from snapvideo_jax.io import shipped
from snapvideo_jax.io.errors import first_line
from snapvideo_jax.io.messages import did_you_mean
from snapvideo_jax.parallel.sharding import make_mesh
from snapvideo_jax.planning import PlanRequest, Target, cached_plan
from snapvideo_jax.planning.bench import networks
from snapvideo_jax.planning.bench.measure import interleaved
from snapvideo_jax.planning.bench.networks import NETWORKS
from snapvideo_jax.planning.bench.programs import PROGRAMS
from snapvideo_jax.planning.golden_plans import GOLDEN_PLANS

logger = logging.getLogger(__name__)

CPU_DIVIDE = 8
"""Divisor of widths on a CPU."""
BATCH = 32
"""Clips at once on a device; on CPUs, 2 on all devices."""
PROGRAM_NAMES = {"training": "train step", "inference": "forward pass"}
BASELINE = "unet-284m"
"""The network that ratios are relative to."""
GOLDEN_TOPOLOGY = "v5p-4x4x8"
"""Topology of the golden plans that are shown by default."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchModelsOptions:
    """Which networks are compared, and how.

    Attributes:
      only: names of `NETWORKS`; None stands for all.
      divide: divisor of all widths; None stands for 8 on a CPU, else 1.
      batch: clips at once; None stands for 2 on a CPU, else 32 a device.
      steps: timed runs of each program; 1 or more.
      plan: TPU topology, for example "v5p:4x4x8", to compile each network for; None
        stands for the golden plans.

    Raises:
      ValueError: a network or the topology is unknown.
    """

    only: tuple[str, ...] | None = None
    divide: int | None = None
    batch: int | None = None
    steps: int = 20
    plan: str | None = None

    def __post_init__(self):
        for name in self.names:
            if name not in NETWORKS:
                hint = did_you_mean(name, NETWORKS)
                raise ValueError(f"--only={name} is unknown; {hint}")
        if self.plan:
            _ = Target(self.plan).chip

    @property
    def names(self) -> tuple[str, ...]:
        return self.only or tuple(NETWORKS)

    def planned(self) -> dict[str, dict[str, Any] | None]:
        """The costs of each network by its plan."""
        if not self.plan:
            return {name: golden_plan_costs(name) for name in self.names}
        target = Target(self.plan)
        return {name: planned_costs(name, target) for name in self.names}


def bench_models(options: BenchModelsOptions) -> dict[str, Any]:
    """Measures networks in turns.

    Returns:
      As `measure`, with each network's ``plan``, and the ``ratios`` of all.

    Raises:
      ValueError: a width does not divide, or the compiler refuses a plan.
    """
    on_cpu = jax.default_backend() == "cpu"
    divide = options.divide or (CPU_DIVIDE if on_cpu else 1)
    batch = options.batch or (2 if on_cpu else BATCH * jax.device_count())
    planned = options.planned()
    result = measure(options.names, divide, batch, options.steps)
    for name, row in result["models"].items():
        row["plan"] = planned[name]
    result["ratios"] = ratios(result["models"])
    return result


def by_part(options: BenchModelsOptions) -> dict[str, Any]:
    """The work of each network by part, as `networks.by_part`; measures nothing."""
    return {name: networks.by_part(name, p) for name, p in options.planned().items()}


def scaled_config(name: str, divide: int = 1, batch: int | None = None) -> ConfigDict:
    """The config of a network with widths divided by ``divide``.

    The numbers of heads and tokens stay, so products with weights shrink by the square
    of ``divide``, and those of attention by ``divide``.

    Args:
      name: in `NETWORKS`.
      divide: divisor of all widths.
      batch: clips of the batch; None stands for that of the config.

    Raises:
      ValueError: a width does not divide.
    """
    config = configs.load(str(shipped.CONFIGS / NETWORKS[name].config), [])
    model = config.model
    for field, value in model.items():
        if not (field.endswith("_width") or field in ("channels", "norm_groups")):
            continue
        if value % divide:
            raise ValueError(
                f"--divide={divide} does not divide model.{field}={value} of {name}; "
                "use 1, 2, 4, 8 or 16."
            )
        model[field] = value // divide
    config.text.width //= divide
    if batch is not None:
        config.data.update(videos_per_batch=batch, images_per_batch=0)
        period = min(batch, 32) if config.training.self_conditioning else 1
        config.training.self_conditioning_period = period
    if jax.default_backend() == "cpu":
        # No remat, and unrolled loops, as the compiler counts the body of a loop once.
        model.update(dtype="float32", remat="none")
        if "unroll" in model:
            model.unroll = model.blocks
    return config


def measure(
    names: Sequence[str], divide: int, batch: int, steps: int
) -> dict[str, Any]:
    """Times of all networks in turns, for training and for one evaluation.

    Returns:
      Plain numbers, lists and dicts; milliseconds, FLOPs and bytes are of one clip.
    """
    calls, rows = {}, {}
    for name in names:
        experiment = configs.build(scaled_config(name, divide, batch))
        mesh = make_mesh(experiment.mesh, batch)
        share = experiment.training.self_conditioned_share
        rows[name] = {"config": NETWORKS[name].config, "self_conditioned": share}
        for use, program_name in PROGRAM_NAMES.items():
            logger.info("Compiling the %s of %s.", program_name, name)
            try:
                program = PROGRAMS[program_name](experiment, mesh)
                jax.block_until_ready(program.call())
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                reason = f"does not fit with the others ({first_line(error)})"
                rows[name][use] = {"refusal": reason}
                continue
            calls[name, use] = program.call
            costs = program.compiled.cost_analysis() or {}
            flops, size = costs.get("flops", 0.0), costs.get("bytes accessed", 0.0)
            rows[name][use] = {
                "model_gflops": program.flops / batch / 1e9,
                "compiler_gflops": flops * mesh.size / batch / 1e9,
                "compiler_gbytes": size * mesh.size / batch / 1e9,
                "compile_seconds": program.compile_seconds,
            }
    for (name, use), times in interleaved(calls, steps, warm_up=1).items():
        low, high = times.quartiles()
        rows[name][use] |= {
            "milliseconds": 1e3 * times.median / batch,
            "lower_quartile": 1e3 * low / batch,
            "upper_quartile": 1e3 * high / batch,
        }
    for name, row in rows.items():
        row["paper_milliseconds"] = dict(NETWORKS[name].paper)
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "divide": divide,
        "batch": batch,
        "runs": steps,
        "models": rows,
    }


def planned_costs(name: str, target: Target) -> dict[str, Any]:
    """Costs of a clip by plans of the full size: chip-milliseconds, FLOPs, bytes.

    Inference is one evaluation of a sampler of Euler steps without guidance.
    """
    path = str(shipped.CONFIGS / NETWORKS[name].config)
    config = configs.load(f"{path},pod={target.topology}", [])
    config.sampler.update(solver="euler", steps=8)
    config.sheets.guidance = 0.0
    clips, found = config.data.videos_per_batch + config.data.images_per_batch, {}
    for use, count in (("training", None), ("inference", clips)):
        plan = cached_plan(PlanRequest(config, target, count))
        if not plan["fits"]:
            found[use] = {"refusal": f"does not fit on {target.topology}"}
            continue
        runs = 1 if count is None else plan["evaluations"]
        found[use] = _per_clip(plan, clips * runs)
    return found


def golden_plan_costs(name: str) -> dict[str, Any] | None:
    """The costs of training by a golden plan, as `planned_costs`; None without one."""
    golden = GOLDEN_PLANS.get(f"{name}-{GOLDEN_TOPOLOGY}")
    plan = golden and golden.read()
    return plan and {"training": _per_clip(plan["plan"], plan["plan"]["batch"])}


def _per_clip(plan: Mapping[str, Any], clips: int) -> dict[str, Any]:
    """The costs of a clip on one chip; older plans have no traffic."""
    share, seconds = plan["devices"] / clips, plan["seconds"]
    unit = "step" if "step" in seconds else "batch"
    return {
        "milliseconds": 1e3 * seconds[unit] * share,
        "milliseconds_by_cycles": 1e3 * seconds["by_cycles"] * share,
        "gflops": plan["flops"]["program"] * share / 1e9,
        "gbytes": plan.get("traffic", 0.0) * share / 1e9,
        "parts": {
            part: {what: amount * share for what, amount in row.items()}
            for part, row in plan.get("parts", {}).items()
        },
    }


def ratios(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Costs of the U-Net 284M over those of each other network.

    Above 1 the other network is faster, or costs less.
    """
    if BASELINE not in rows:
        return {}
    kinds = {
        "measured": lambda row, use: row[use].get("milliseconds"),
        "model FLOPs": lambda row, use: row[use].get("model_gflops"),
        "compiler's FLOPs": lambda row, use: row[use].get("compiler_gflops"),
        "compiler's bytes": lambda row, use: row[use].get("compiler_gbytes"),
        "plan": lambda row, use: _planned(row, use, "milliseconds"),
        "plan by cycles": lambda row, use: _planned(row, use, "milliseconds_by_cycles"),
        "plan's bytes": lambda row, use: _planned(row, use, "gbytes"),
        "paper": lambda row, use: row["paper_milliseconds"].get(use),
    }

    def ratio(of, row, use):
        ours, baseline = of(row, use), of(rows[BASELINE], use)
        return ours and baseline and baseline / ours

    return {
        name: {
            use: {kind: ratio(of, row, use) for kind, of in kinds.items()}
            for use in PROGRAM_NAMES
        }
        for name, row in rows.items()
        if name != BASELINE
    }


def _planned(row, use: str, what: str) -> float | None:
    return ((row.get("plan") or {}).get(use) or {}).get(what)


def describe(result: dict[str, Any]) -> str:
    """What `bench_models` returns as lines of text."""
    lines = [
        f"{result['devices']} x {result['device']}, {result['batch']} clips at once, "
        f"medians of {result['runs']} turns, widths divided by {result['divide']}",
        "",
        f"{'of one clip':<16}{'':<11}{'ms':>10}{'quartiles':>20}{'model GFLOP':>13}"
        f"{'compiled':>11}{'GB':>9}{'plan ms':>10}{'A100 ms':>10}",
    ]
    for name, row in result["models"].items():
        for use in PROGRAM_NAMES:
            lines.append(f"{name:<16}{use:<11}" + _cells(row, use))
    lines += ["", f"times as fast as {BASELINE}"]
    for name, uses in result["ratios"].items():
        for use, kinds in uses.items():
            known = (f"{kind} {ratio:.2f}" for kind, ratio in kinds.items() if ratio)
            lines.append(f"{name:<16}{use:<11}" + ", ".join(known))
    return "\n".join(lines)


def _cells(row: Mapping[str, Any], use: str) -> str:
    one = row[use]
    if "refusal" in one:
        return f"  {one['refusal']}"
    spread = f"{one['lower_quartile']:.4g} to {one['upper_quartile']:.4g}"
    planned, paper = _planned(row, use, "milliseconds"), row["paper_milliseconds"]
    return (
        f"{one['milliseconds']:>10.4g}{spread:>20}{one['model_gflops']:>13.4g}"
        f"{one['compiler_gflops']:>11.4g}{one['compiler_gbytes']:>9.3g}"
        f"{f'{planned:.3g}' if planned else '':>10}"
        f"{f'{paper[use]:.4g}' if use in paper else '':>10}"
    )
