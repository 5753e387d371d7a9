"""The verb `snapvideo evaluate`: scores clips against real ones or their statistics."""

import logging
import os
from pathlib import Path
from typing import Any

import jax

from snapvideo_jax import __version__, distributed
from snapvideo_jax import config as configs
from snapvideo_jax.evaluate import clips, results
from snapvideo_jax.evaluate.clips import Item, Selection
from snapvideo_jax.evaluate.convert import Weights, load, random_weights
from snapvideo_jax.evaluate.results import Gaussian
from snapvideo_jax.evaluate.scoring import Scorer, Sums
from snapvideo_jax.evaluate.settings import FRECHET, NETWORK_OF, Scoring
from snapvideo_jax.evaluate.shards import score_set
from snapvideo_jax.evaluate.tokenizer import (
    Tokenizer,
    openai_vocabulary,
    read_tokenizer,
)
from snapvideo_jax.options import check_least

logger = logging.getLogger(__name__)

LEAST = {"batch": 1, "shards": 1, "threads": 1}
"""Smallest values of options on the command line."""
VARIANT_OPTIONS = {"fvd": "i3d", "fid": "inception", "clip": "clip"}
"""The options that name a variant, and their networks."""


def run(arguments) -> None:
    """`snapvideo evaluate`."""
    with configs.user_errors():
        check(arguments)
        if arguments.selfcheck:
            from snapvideo_jax.evaluate.selfcheck import selfcheck

            if not selfcheck(Path(arguments.weights), Path(arguments.anchors)):
                raise SystemExit(1)
            return
        with distributed.processes(vars(arguments), arguments.out):
            evaluate(arguments)


def check(arguments) -> None:
    """Refuses options that make no sense together, before anything is read.

    Raises:
      ValueError: names them and what would do.
    """
    check_least(arguments, LEAST)
    if arguments.selfcheck:
        if not arguments.weights:
            raise ValueError("--selfcheck needs --weights DIR, the converted networks.")
        return
    for name in ("clips", "out"):
        if not getattr(arguments, name):
            raise ValueError(f"--{name} is missing.")
    if bool(arguments.weights) == bool(arguments.features):
        raise ValueError(
            "Give --weights DIR (made by snapvideo convert), or --features random:SEED "
            "to try everything out with random networks."
        )


def scoring_of(arguments) -> Scoring:
    """The settings of the command line.

    Raises:
      ValueError: names what makes no sense.
    """
    chosen = {
        network: getattr(arguments, option)
        for option, network in VARIANT_OPTIONS.items()
        if getattr(arguments, option)
    }
    selection = Selection(
        arguments.frames, arguments.fps, arguments.position, arguments.seed
    )
    real = Selection(
        arguments.frames,
        arguments.fps if arguments.real_fps is None else arguments.real_fps,
        arguments.real_position or arguments.position,
        arguments.seed,
    )
    return Scoring(
        metrics=tuple(arguments.metrics.split(",")),
        selection=selection,
        against=real,
        size=_size(arguments.size),
        view=arguments.view,
        image_frames=arguments.image_frames,
        variants=chosen,
        splits=arguments.splits,
    )


def evaluate(arguments) -> None:
    """Scores, merges, and writes and prints the result in process 0."""
    scoring, out = scoring_of(arguments), Path(arguments.out)
    items = clips.find(Path(arguments.clips))
    _check_prompts(scoring, items)
    real = Path(arguments.against) if arguments.against else None
    known = _known_statistics(scoring, real)
    real_items = clips.find(real) if real and not known else None
    weights, tokenizer = networks_of(arguments, scoring)
    protocols = {
        metric: scoring.protocol(
            metric,
            weights[NETWORK_OF[metric]].sha256,
            tokenizer.sha256 if tokenizer else "",
        )
        for metric in scoring.metrics
    }
    for metric, found in known.items():
        _check_known(protocols[metric], found, metric)
    threads = arguments.threads or os.cpu_count() or 1
    scorer = Scorer(scoring, weights, tokenizer, arguments.batch, threads)
    splits = (scoring.splits, scoring.seed) if "is" in scoring.metrics else None
    sums = score_set(
        *("generated", items, scoring.selection, protocols, scorer, splits),
        *(arguments.shards, out),
    )
    real_sums = None
    if real_items and set(scoring.metrics) & set(FRECHET):
        chosen = {m: p for m, p in protocols.items() if m in FRECHET}
        real_sums = score_set(
            *("real", real_items, scoring.against, chosen, scorer, None),
            *(arguments.shards, out),
        )
    if sums is not None:
        finish(scoring, protocols, sums, real_sums, known, arguments)


def finish(
    scoring: Scoring,
    protocols: dict[str, dict],
    sums: Sums,
    real_sums: Sums | None,
    known: dict[str, Gaussian],
    arguments,
) -> None:
    """Writes statistics and the result, and prints it."""
    out = Path(arguments.out)
    about = _about(scoring.selection, sums)
    reals = dict(known)
    if real_sums is not None:
        real_about = _about(scoring.against, real_sums)
        for metric, moments in real_sums.by_metric.items():
            reals[metric] = results.gaussian_of(moments, protocols[metric], real_about)
            path = out / "real_statistics" / f"{metric}.npz"
            results.write_statistics(path, reals[metric])
    metrics = {}
    for metric, found in sums.by_metric.items():
        protocol = protocols[metric]
        if metric == "is":
            metrics[metric] = results.inception_score_result(found, protocol, about)
        elif metric == "clipsim":
            metrics[metric] = {
                **{"value": found.mean(), "n": found.n, "protocol": protocol},
                **{"generated": about, "warnings": _cut_warnings(sums)},
            }
        else:
            generated = results.gaussian_of(found, protocol, about)
            results.write_statistics(out / "statistics" / f"{metric}.npz", generated)
            if metric in reals:
                metrics[metric] = results.frechet_result(
                    generated, reals[metric], metric
                )
    described = {
        "clips": arguments.clips,
        "against": arguments.against,
        "skipped": [{"file": file, "reason": why} for file, why in sums.skipped],
        "skipped_real": [
            {"file": file, "reason": why}
            for file, why in (real_sums.skipped if real_sums else ())
        ],
        "code": {"snapvideo_jax": __version__, "jax": jax.__version__},
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
    }
    result = results.write_result(out / "result.json", metrics, described)
    print(results.describe(metrics) or "Statistics only: no --against was given.")
    if not result["comparable"]:
        print("RANDOM FEATURES: these numbers are not comparable with any others.")
    for side, lost in (
        ("generated", result["skipped"]),
        ("real", result["skipped_real"]),
    ):
        if lost:
            print(f"{len(lost)} {side} clips were skipped; result.json names them.")
    print(out / "result.json")


def networks_of(
    arguments, scoring: Scoring
) -> tuple[dict[str, Weights], Tokenizer | None]:
    """Weights of all networks, and the tokenizer.

    Raises:
      ValueError: files are missing, all of which are named, or damaged.
    """
    wanted = scoring.networks()
    needs_tokens = "clipsim" in scoring.metrics
    if arguments.features:
        seed = _random_seed(arguments.features)
        weights = {network: random_weights(network, seed) for network in wanted}
        tokenizer = Tokenizer(*openai_vocabulary([])) if needs_tokens else None
        return weights, tokenizer
    folder = Path(arguments.weights)
    missing = [
        name for name in wanted if not (folder / f"{name}.safetensors").is_file()
    ]
    if missing:
        commands = "\n".join(
            f"  snapvideo convert --network {name} --weights FILE --out "
            f"{folder / name}.safetensors"
            for name in missing
        )
        raise ValueError(
            f"{folder} lacks {', '.join(f'{name}.safetensors' for name in missing)}; "
            f"make them (docs/evaluation.md tells from what):\n{commands}"
        )
    tokenizer = read_tokenizer(folder) if needs_tokens else None
    weights = {name: load(folder / f"{name}.safetensors", name) for name in wanted}
    return weights, tokenizer


def _random_seed(text: str) -> int:
    kind, _, seed = text.partition(":")
    if kind != "random" or not seed.isdecimal():
        raise ValueError(f"--features={text} is unknown; use random:SEED, as random:0.")
    return int(seed)


def _known_statistics(scoring: Scoring, real: Path | None) -> dict[str, Gaussian]:
    """Statistics that --against points to, by metric; none where it has clips."""
    wanted = [metric for metric in scoring.metrics if metric in FRECHET]
    if real is None or not wanted:
        return {}
    if real.is_dir() and any((real / f"{metric}.npz").is_file() for metric in FRECHET):
        found = [metric for metric in wanted if (real / f"{metric}.npz").is_file()]
        if len(found) < len(wanted):
            lacking = [metric for metric in wanted if metric not in found]
            raise ValueError(
                f"--against={real} has no {', '.join(f'{m}.npz' for m in lacking)}; "
                "leave those metrics out, or give the real clips."
            )
        return {m: results.read_statistics(real / f"{m}.npz") for m in wanted}
    if real.suffix == ".npz" and real.is_file() and results.is_statistics(real):
        if len(wanted) > 1:
            raise ValueError(
                f"--against={real} is one file of statistics, but {', '.join(wanted)} "
                "need one each; use --metrics with one of them."
            )
        return {wanted[0]: results.read_statistics(real)}
    return {}


def _check_known(protocol: dict, real: Gaussian, metric: str) -> None:
    """Refuses statistics of other settings before anything is scored."""
    empty = Gaussian(real.mean * 0, real.covariance * 0, None, protocol, {})
    results.frechet_result(empty, real, metric)


def _check_prompts(scoring: Scoring, items: list[Item]) -> None:
    lacking = [item.name for item in items if item.prompt is None]
    if "clipsim" in scoring.metrics and lacking:
        raise ValueError(
            f"clipsim needs a prompt for every clip; {len(lacking)} of {len(items)} "
            f"have none, as {lacking[0]}: use a manifest or captions.jsonl, or leave "
            "clipsim out."
        )


def _about(selection: Selection, sums: Sums) -> dict[str, Any]:
    return {"clips": sums.clips, "selection": dict(vars(selection))}


def _cut_warnings(sums: Sums) -> list[str]:
    cut = f"{sums.cut} captions were longer than CLIP reads, and were cut"
    return [cut] if sums.cut else []


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, x, width = text.partition("x")
    if not (x and height.isdecimal() and width.isdecimal()):
        raise ValueError(f"--size={text} is no size; use HEIGHTxWIDTH, as 36x64.")
    return int(height), int(width)
