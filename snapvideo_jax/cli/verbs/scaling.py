"""The verb `snapvideo scaling`: generate, run, fit and plot."""

import argparse
import json
from pathlib import Path

from snapvideo_jax import config as configs
from snapvideo_jax.cli.options import options
from snapvideo_jax.io.files import write_json
from snapvideo_jax.io.options import check_least, part_of
from snapvideo_jax.parallel import processes
from snapvideo_jax.parallel.process_settings import ProcessOptions
from snapvideo_jax.scaling import extrapolate, plot, sweep
from snapvideo_jax.scaling.runs import results, run_all
from snapvideo_jax.scaling.validate import held_out_shapes, validation_data

LAW = "law.json"


def run(arguments: argparse.Namespace) -> None:
    """`snapvideo scaling generate`, `run`, `fit` and `plot`."""
    check_least(arguments, {"samples": 2, "draws": 20, "seed": 0})
    if arguments.action != "generate" and arguments.overrides:
        raise ValueError(
            f"{arguments.overrides[0]!r} is for scaling generate; leave it out."
        )
    if arguments.action == "run":
        part = part_of(arguments.part)
        with processes.processes(options(ProcessOptions, arguments), arguments.out):
            run_all(Path(arguments.out), *part, arguments.samples)
        return
    {"generate": _generate, "fit": _fit, "plot": _plot}[arguments.action](arguments)


def _generate(arguments) -> None:
    config = configs.load(arguments.config, arguments.overrides)
    axes = {axis: getattr(arguments, axis) for axis in sweep.AXES}
    runs = sweep.plan_sweep(config, axes, sorted(arguments.budgets))
    out = Path(arguments.out)
    if arguments.validation:
        folder = Path(arguments.validation)
        validation_data(configs.build(config).data, folder)
    elif config.data.source == "shapes":
        folder = held_out_shapes(out / "validation")
    else:
        raise ValueError(
            "--validation is missing: a folder of clips that no run trains on."
        )
    sweep.write(out, runs, str(folder))
    print(sweep.describe(runs))


def _fit(arguments) -> None:
    out = Path(arguments.out)
    fit = extrapolate.fit_runs(results(out), arguments.draws, arguments.seed)
    plan = Path(arguments.plan) if arguments.plan else None
    rows = extrapolate.extrapolate(fit, arguments.flops, plan)
    kept = fit | {"ahead": rows, "plan": arguments.plan}
    write_json(out / LAW, kept)
    print(json.dumps(kept) if arguments.json else extrapolate.describe(fit, rows))


def _plot(arguments) -> None:
    out, found = Path(arguments.out), results(Path(arguments.out))
    path = out / LAW
    if not path.is_file():
        raise ValueError(f"{path} is not there; run snapvideo scaling fit first.")
    plot.write_table(found, out / "runs.csv")
    plot.draw(found, json.loads(path.read_text()), out / "law.png")
    print(out / "runs.csv", out / "law.png")
