"""Golden plans: docs/plans, one for each config and topology that is recommended.

`regenerate` writes them in a checkout of the repository and `tables` formats them as
docs/plans.md. Tests recompile some and compare them by `drift`, so that no change makes
a config slower or larger unnoticed. An installed package has a copy.
"""

import dataclasses
import json
import logging
import os
from importlib import metadata
from pathlib import Path
from typing import Any

from snapvideo_jax import config as configs
from snapvideo_jax.io import shipped
from snapvideo_jax.io.messages import did_you_mean, human_bytes
from snapvideo_jax.planning import cache, compiler_flags, tables
from snapvideo_jax.planning.compile import PlanRequest
from snapvideo_jax.planning.target import Target

logger = logging.getLogger(__name__)

ROOT, FOLDER = shipped.CHECKOUT, shipped.PLANS
PAGE = ROOT / "docs" / "plans.md"
DRIFT = 0.02
"""Share by which memory and FLOPs may change."""
MORE_BYTES = 1e6
"""Bytes by which a synchronous collective may grow."""


@dataclasses.dataclass(frozen=True)
class GoldenPlan:
    """One golden plan.

    Attributes:
      name: of its file.
      config: in configs/, with its argument.
      topology, slices: as in `Target`.
      overrides: of the config, for example "mesh.replica=2".
      clips: that the sampler generates at once; None plans the train step.
      is_small: it compiles in seconds, and every run of the tests compiles it.
    """

    name: str
    config: str
    topology: str
    slices: int = 1
    overrides: tuple[str, ...] = ()
    clips: int | None = None
    is_small: bool = False

    @property
    def file(self) -> Path:
        return FOLDER / f"{self.name}.json"

    @property
    def command(self) -> str:
        """The command line that prints the same plan."""
        parts = [f"snapvideo plan --config configs/{self.config}"]
        parts.append(f"--topology {self.topology}")
        parts += [f"--slices {self.slices}"] if self.slices > 1 else []
        parts += [f"--sampler --batch {self.clips}"] if self.clips else []
        return " ".join([*parts, *(f"--config.{item}" for item in self.overrides)])

    def request(self) -> PlanRequest:
        """The request to compile it.

        Raises:
          ValueError: the config does not exist, or refuses its argument.
        """
        overrides = [f"--config.{item}" for item in self.overrides]
        config = configs.load(str(shipped.CONFIGS / self.config), overrides)
        return PlanRequest(config, Target(self.topology, self.slices), self.clips)

    def read(self) -> dict[str, Any] | None:
        """The content of its file; None where it is not generated yet."""
        if not self.file.is_file():
            return None
        return json.loads(self.file.read_text(encoding="utf-8"))


def _pod(name: str, config: str, topology: str, **options) -> GoldenPlan:
    """The plan of a config with its settings for a topology (argument ``pod``)."""
    also = "," if ":" in config else ":"
    return GoldenPlan(name, f"{config}{also}pod={topology}", topology, **options)


AS_ON_PODS = ("model.dtype=bfloat16", "model.remat=layer", "model.unroll=1")
"""Fields in which the demo, a config for CPUs, then equals the large configs."""

GOLDEN_PLANS = {
    golden.name: golden
    for golden in (
        _pod("fit-3p9b-v5p-4x4x8", "fit.py:size=3p9b", "v5p:4x4x8"),
        _pod("fit-3p9b-v6e-16x16", "fit.py:size=3p9b", "v6e:16x16"),
        _pod("fit-3p9b-v5e-16x16", "fit.py:size=3p9b", "v5e:16x16"),
        _pod(
            "fit-3p9b-v5e-16x16-twice",
            "fit.py:size=3p9b",
            "v5e:16x16",
            slices=2,
            overrides=("mesh.replica=2",),
        ),
        _pod("fit-500m-v5p-4x4x8", "fit.py:size=500m", "v5p:4x4x8"),
        _pod("fit-500m-v6e-16x16", "fit.py:size=500m", "v6e:16x16"),
        _pod("fit-upsampler-v5p-4x4x8", "fit_upsampler.py", "v5p:4x4x8"),
        _pod("fit-upsampler-v6e-16x16", "fit_upsampler.py", "v6e:16x16"),
        GoldenPlan("sample-3p9b-v6e-2x2", "fit.py:size=3p9b", "v6e:2x2", clips=16),
        GoldenPlan("sample-500m-v6e-2x2", "fit.py:size=500m", "v6e:2x2", clips=16),
        GoldenPlan(
            "fit-500m-v5e-4x4",
            "fit.py:size=500m",
            "v5e:4x4",
            overrides=(
                *("data.videos_per_batch=128", "data.images_per_batch=128"),
                *("training.self_conditioning_period=16", "model.remat=layer"),
                "mesh.fsdp=16",
            ),
        ),
        GoldenPlan(
            "demo-v5e-2x2",
            "demo.py",
            "v5e:2x2",
            overrides=(*AS_ON_PODS, "optimizer.name=lamb", "mesh.fsdp=4"),
            is_small=True,
        ),
        GoldenPlan(
            "sample-demo-v5e-2x2",
            "demo.py",
            "v5e:2x2",
            overrides=AS_ON_PODS,
            clips=62,
            is_small=True,
        ),
    )
}


def chosen(names: str) -> list[GoldenPlan]:
    """The golden plans of names separated by commas, or of "all" or "small".

    Raises:
      ValueError: a name is unknown.
    """
    if names == "all":
        return list(GOLDEN_PLANS.values())
    if names == "small":
        return [golden for golden in GOLDEN_PLANS.values() if golden.is_small]
    for name in names.split(","):
        if name not in GOLDEN_PLANS:
            known = f"use small, all or some of {[*GOLDEN_PLANS]}."
            hint = did_you_mean(name, GOLDEN_PLANS, known)
            raise ValueError(f"--golden={name} is unknown; {hint}")
    return [GOLDEN_PLANS[name] for name in names.split(",")]


def regenerate(names: str) -> None:
    """Compiles golden plans and writes their files and docs/plans.md.

    Args:
      names: as in `chosen`.

    Raises:
      ValueError: a name is unknown, or this is not a checkout.
    """
    goldens = chosen(names)
    if not (ROOT / "setup.py").is_file():
        raise ValueError(
            f"--golden={names}: {ROOT} is not a checkout of the repository; run "
            "python -m snapvideo_jax in one."
        )
    FOLDER.mkdir(exist_ok=True)
    for golden in goldens:
        logger.info("%s", golden.command)
        content = {"command": golden.command, "made_with": versions()}
        content["plan"] = _rounded(cache.cached_plan(golden.request()))
        golden.file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The content of docs/plans.md."""
    files = {name: golden.read() for name, golden in GOLDEN_PLANS.items()}
    return tables.page(
        {name: content["plan"] for name, content in files.items() if content},
        {name: golden.command for name, golden in GOLDEN_PLANS.items()},
    )


def versions() -> dict[str, str]:
    """The compiler and its flags, on which a plan depends too."""
    packages = {name: metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}
    return packages | {
        "flags": os.environ.get(compiler_flags.VARIABLE, compiler_flags.DEFAULT)
    }


def drift(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Differences above `DRIFT` and `MORE_BYTES` as lines of text.

    Args:
      was, now: plans of the same request.
    """
    found = []
    for name, field in (("bytes", "peak"), ("flops", "model"), ("flops", "program")):
        before, after = (each.get(name, {}).get(field, 0.0) for each in (was, now))
        if abs(after - before) > DRIFT * before:
            change = f"{after / before - 1:+.1%}" if before else "new"
            found.append(f"{name}.{field} was {before:.5g}, is {after:.5g} ({change})")
    before, after = _synchronous(was), _synchronous(now)
    for key, size in after.items():
        op, axis, dtype = key
        named = f"synchronous {op} of {dtype} over {axis or 'nothing'}"
        if key not in before:
            found.append(f"{named} is new: {human_bytes(size)}")
        elif size > before[key] + MORE_BYTES:
            found.append(
                f"{named} was {human_bytes(before[key])}, is {human_bytes(size)}"
            )
    return found


def _synchronous(plan: dict[str, Any]) -> dict[tuple[str, str, str], float]:
    """Bytes of the collectives that are not overlapped, by operation, axis and type."""
    return {
        (row["op"], row["axis"], row["dtype"]): row["bytes"]
        for row in plan.get("collectives", ())
        if not row["overlapped"]
    }


def _rounded(value: Any) -> Any:
    """Plain data rounded to six digits, without the compilation time."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items() if k != "compile_seconds"}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
