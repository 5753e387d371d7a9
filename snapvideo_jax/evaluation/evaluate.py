"""The verb `snapvideo evaluate`: scores clips against real ones or their statistics."""

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax

from snapvideo_jax import __version__
from snapvideo_jax.evaluation import clips, results
from snapvideo_jax.evaluation.clips import Item, Selection
from snapvideo_jax.evaluation.results import Gaussian
from snapvideo_jax.evaluation.scoring import WIDTHS, Scorer, Sums
from snapvideo_jax.evaluation.settings import FRECHET, NETWORK_OF, Scoring
from snapvideo_jax.evaluation.shards import score_set
from snapvideo_jax.evaluation.stats import splits_of
from snapvideo_jax.evaluation.tokenizer import (
    Tokenizer,
    openai_vocabulary,
    read_tokenizer,
)
from snapvideo_jax.evaluation.weights.convert import Weights, load, random_weights
from snapvideo_jax.io.options import check_least

logger = logging.getLogger(__name__)

LEAST = {"batch": 1, "shards": 1, "threads": 1}
"""Smallest values of options on the command line."""
VARIANT_OPTIONS = {"fvd": "i3d", "fid": "inception", "clip": "clip"}
"""The options that name a variant, and their networks."""


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
    real = Path(arguments.against) if arguments.against else None
    known = _known_statistics(scoring, real)
    real_items = clips.find(real) if real and not known else None
    _check_clips(scoring, items, real_items)
    weights, tokenizer = networks_of(arguments, scoring)
    tokens = tokenizer.sha256 if tokenizer else ""
    protocols = {}
    for metric in scoring.metrics:
        sha256 = weights[NETWORK_OF[metric]].sha256
        protocols[metric] = scoring.protocol(metric, sha256, tokens)
    for metric, found in known.items():
        _check_known(protocols[metric], found, metric)
    threads = arguments.threads or os.cpu_count() or 1
    scorer = Scorer(scoring, weights, tokenizer, arguments.batch, threads)

    def score(name, items, selection, splits=None) -> Scored | None:
        chosen = {
            metric: protocols[metric] for metric in scorer.metrics(name == "real")
        }
        sums = score_set(
            name, items, selection, chosen, scorer, splits, arguments.shards, out
        )
        return sums and Scored(sums, _about(selection, items, sums))

    splits = (scoring.splits, scoring.seed) if "is" in scoring.metrics else None
    generated = score("generated", items, scoring.selection, splits)
    real_scored = None
    if real_items and scorer.metrics(is_real=True):
        real_scored = score("real", real_items, scoring.against)
    if generated is not None:
        reals = known | _statistics(protocols, real_scored, out / "real_statistics")
        metrics = _results(protocols, generated, reals, out)
        _report(arguments, metrics, generated, real_scored, weights)


class Scored(NamedTuple):
    """A set of clips: its sums, and what is to be known of it."""

    sums: Sums
    about: dict[str, Any]

    def skipped(self) -> list[dict[str, str]]:
        return [{"file": file, "reason": why} for file, why in self.sums.skipped]


def _statistics(
    protocols: dict[str, dict], scored: Scored | None, folder: Path
) -> dict[str, Gaussian]:
    """Means and covariances of a set, which are written too."""
    found = {}
    for metric, moments in scored.sums.by_metric.items() if scored else ():
        if metric in FRECHET:
            found[metric] = results.gaussian_of(
                moments, protocols[metric], scored.about
            )
            results.write_statistics(folder / f"{metric}.npz", found[metric])
    return found


def _results(
    protocols: dict[str, dict],
    generated: Scored,
    reals: dict[str, Gaussian],
    out: Path,
) -> dict[str, dict]:
    """The numbers, each with what it depends on, by metric."""
    sums, about = generated
    statistics = _statistics(protocols, generated, out / "statistics")
    found = {}
    for metric, protocol in protocols.items():
        of_metric = sums.by_metric[metric]
        if metric == "is":
            found[metric] = results.inception_score_result(of_metric, protocol, about)
        elif metric == "clipsim":
            found[metric] = results.clipsim_result(of_metric, protocol, about, sums.cut)
        elif metric in reals:
            found[metric] = results.frechet_result(
                statistics[metric], reals[metric], metric
            )
    return found


def _report(
    arguments,
    metrics: dict[str, dict],
    generated: Scored,
    real: Scored | None,
    weights: dict[str, Weights],
) -> None:
    """Writes and prints the result."""
    path = Path(arguments.out) / "result.json"
    is_random = any(each.is_random for each in weights.values())
    about = {
        "comparable": not is_random,
        "clips": arguments.clips,
        "against": arguments.against,
        "skipped": generated.skipped(),
        "skipped_real": real.skipped() if real else [],
        "weights": {
            network: {"source": each.source, "sha256": each.sha256}
            for network, each in weights.items()
        },
        "code": {"snapvideo_jax": __version__, "jax": jax.__version__},
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
    }
    results.write_result(path, metrics, about)
    if metrics:
        print(results.describe(metrics))
    for metric in arguments.metrics.split(","):
        if metric not in metrics:
            print(f"{metric:<9}statistics only; --against gives a distance")
    if is_random:
        print("RANDOM FEATURES: these numbers are not comparable with any others.")
    for side in ("skipped", "skipped_real"):
        if count := len(about[side]):
            print(f"{count} clips cannot be read: {side} in {path}")
    print(path)


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
        raise ValueError(
            f"{folder} lacks {', '.join(f'{name}.safetensors' for name in missing)}; "
            f"make each (docs/evaluation.md tells from what): snapvideo convert "
            f"--network NAME --weights FILE --out {folder / 'NAME.safetensors'}"
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
    """Refuses statistics of other settings, before anything is scored."""
    results.check_alike(metric, protocol, real)
    if len(real.mean) != WIDTHS[metric]:
        raise ValueError(
            f"--against has statistics of {len(real.mean)} channels; {metric} has "
            f"{WIDTHS[metric]}."
        )


def _check_clips(
    scoring: Scoring, items: list[Item], real_items: list[Item] | None
) -> None:
    """Refuses clips without what the metrics need, before any is read.

    Raises:
      ValueError: prompts are missing, or there are too few clips.
    """
    lacking = [item.name for item in items if item.prompt is None]
    if "clipsim" in scoring.metrics and lacking:
        raise ValueError(
            f"clipsim needs a prompt for every clip; {len(lacking)} of {len(items)} "
            f"have none, as {lacking[0]}: use a manifest or captions.jsonl, or leave "
            "clipsim out."
        )
    if "is" in scoring.metrics:
        splits_of(len(items), scoring.splits, scoring.seed)
    for option, found in (("clips", items), ("against", real_items)):
        if found is not None and "fvd" in scoring.metrics and len(found) < 2:
            raise ValueError(
                f"--{option} has {len(found)} clip, of which there is no covariance; "
                "fvd needs 2 or more, and better more than its 400 channels."
            )


def _about(selection: Selection, items: list[Item], sums: Sums) -> dict[str, Any]:
    """What is to be known of a set of clips."""
    return {
        "clips": sums.clips,
        "digest": clips.digest(items, with_time=False),
        "selection": selection.described(),
    }


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, x, width = text.partition("x")
    if not (x and height.isdecimal() and width.isdecimal()):
        raise ValueError(f"--size={text} is no size; use HEIGHTxWIDTH, as 36x64.")
    return int(height), int(width)
