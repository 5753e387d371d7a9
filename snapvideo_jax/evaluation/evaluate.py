"""Scores clips against real ones or their statistics: `evaluate`."""

from pathlib import Path
from typing import Any, NamedTuple

import jax

from snapvideo_jax import __version__
from snapvideo_jax.evaluation import clips, results
from snapvideo_jax.evaluation.clips import Item
from snapvideo_jax.evaluation.results import Gaussian
from snapvideo_jax.evaluation.scoring import WIDTHS, Scorer, Sums
from snapvideo_jax.evaluation.settings import (
    FRECHET,
    NETWORK_OF,
    SPLITS_SEED,
    EvaluateOptions,
)
from snapvideo_jax.evaluation.shards import score_set
from snapvideo_jax.evaluation.stats import assign_splits
from snapvideo_jax.evaluation.tokenizer import (
    Tokenizer,
    openai_vocabulary,
    read_tokenizer,
)
from snapvideo_jax.evaluation.weights.convert import Weights, load, random_weights
from snapvideo_jax.io.files import write_json

RESULT = "result.json"


def evaluate(options: EvaluateOptions) -> dict[str, Any] | None:
    """Scores clips; writes OUT/result.json, statistics and shards.

    Shards that an earlier call completed are not scored again.

    Returns:
      The result as in the file in process 0, None in the others.

    Raises:
      ValueError: clips, weights or statistics are missing or do not suit the options,
        or ``out`` was started with others.
    """
    items = clips.find(options.clips)
    known = _known_statistics(options)
    real_items = clips.find(options.against) if options.against and not known else None
    _check_clips(options, items, real_items)
    weights, tokenizer = load_networks(options)
    tokens = tokenizer.sha256 if tokenizer else ""
    protocols = {}
    for metric in options.metrics:
        sha256 = weights[NETWORK_OF[metric]].sha256
        protocols[metric] = options.protocol(metric, sha256, tokens)
    for metric, found in known.items():
        _check_known(protocols[metric], found, metric)
    scorer = Scorer(options, weights, tokenizer)

    def score(items: list[Item], is_real: bool) -> ScoredSet | None:
        sums = score_set(items, options, scorer, protocols, is_real)
        about = {
            "clips": sums.clips if sums else 0,
            "digest": clips.digest(items, with_time=False),
            "selection": options.selection(is_real).described(),
        }
        return sums and ScoredSet(sums, about)

    generated = score(items, is_real=False)
    real = None
    if real_items and options.metrics_of(is_real=True):
        real = score(real_items, is_real=True)
    if generated is None:
        return None
    reals = known | _statistics(protocols, real, options.out / "real_statistics")
    result = {
        "comparable": not any(each.is_random for each in weights.values()),
        "clips": str(options.clips),
        "against": str(options.against) if options.against else None,
        "skipped": generated.skipped(),
        "skipped_real": real.skipped() if real else [],
        "weights": {
            network: {"source": each.source, "sha256": each.sha256}
            for network, each in weights.items()
        },
        "code": {"snapvideo_jax": __version__, "jax": jax.__version__},
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "metrics": _metrics(protocols, generated, reals, options.out),
    }
    write_json(options.out / RESULT, result)
    return result


class ScoredSet(NamedTuple):
    """Sums of a set of clips, and the description of the set for results."""

    sums: Sums
    about: dict[str, Any]

    def skipped(self) -> list[dict[str, str]]:
        return [{"file": file, "reason": why} for file, why in self.sums.skipped]


def _statistics(
    protocols: dict[str, dict], scored: ScoredSet | None, folder: Path
) -> dict[str, Gaussian]:
    """Means and covariances of a set by metric; also writes them to a folder."""
    found = {}
    for metric, moments in scored.sums.by_metric.items() if scored else ():
        if metric in FRECHET:
            found[metric] = results.gaussian_of(
                moments, protocols[metric], scored.about
            )
            results.write_statistics(folder / f"{metric}.npz", found[metric])
    return found


def _metrics(
    protocols: dict[str, dict],
    generated: ScoredSet,
    reals: dict[str, Gaussian],
    out: Path,
) -> dict[str, dict]:
    """The values by metric, each with its provenance."""
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


def load_networks(
    options: EvaluateOptions,
) -> tuple[dict[str, Weights], Tokenizer | None]:
    """The weights by network, and the tokenizer if a metric needs it.

    Raises:
      ValueError: files are missing (names all of them) or damaged.
    """
    wanted = options.networks()
    needs_tokens = "clipsim" in options.metrics
    if options.features:
        seed = int(options.features.removeprefix("random:"))
        weights = {network: random_weights(network, seed) for network in wanted}
        tokenizer = Tokenizer(*openai_vocabulary([])) if needs_tokens else None
        return weights, tokenizer
    folder = options.weights
    missing = [
        name for name in wanted if not (folder / f"{name}.safetensors").is_file()
    ]
    if missing:
        raise ValueError(
            f"{folder} lacks {', '.join(f'{name}.safetensors' for name in missing)}; "
            f"make each (docs/evaluation.md lists the sources): snapvideo convert "
            f"--network NAME --weights FILE --out {folder / 'NAME.safetensors'}"
        )
    tokenizer = read_tokenizer(folder) if needs_tokens else None
    weights = {name: load(folder / f"{name}.safetensors", name) for name in wanted}
    return weights, tokenizer


def _known_statistics(options: EvaluateOptions) -> dict[str, Gaussian]:
    """The statistics in --against, by metric; empty if it has clips."""
    real, wanted = options.against, [m for m in options.metrics if m in FRECHET]
    if real is None or not wanted:
        return {}
    if real.is_dir() and any((real / f"{metric}.npz").is_file() for metric in FRECHET):
        lacking = [m for m in wanted if not (real / f"{m}.npz").is_file()]
        if lacking:
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
    results.check_comparable(metric, protocol, real)
    if len(real.mean) != WIDTHS[metric]:
        raise ValueError(
            f"--against has statistics of {len(real.mean)} channels; {metric} has "
            f"{WIDTHS[metric]}."
        )


def _check_clips(
    options: EvaluateOptions, items: list[Item], real_items: list[Item] | None
) -> None:
    """Raises ValueError for missing prompts and too few clips, before any is read."""
    lacking = [item.name for item in items if item.prompt is None]
    if "clipsim" in options.metrics and lacking:
        raise ValueError(
            f"clipsim needs a prompt for every clip; {len(lacking)} of {len(items)} "
            f"have none, as {lacking[0]}: use a manifest or captions.jsonl, or leave "
            "clipsim out."
        )
    if "is" in options.metrics:
        assign_splits(len(items), options.splits, SPLITS_SEED)
    for option, found in (("clips", items), ("against", real_items)):
        if found is not None and "fvd" in options.metrics and len(found) < 2:
            raise ValueError(
                f"--{option} has {len(found)} clip, of which there is no covariance; "
                "fvd needs 2 or more, and better more than its 400 channels."
            )
