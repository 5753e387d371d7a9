"""Numbers with their provenance: results, statistics of real clips, and comparing both.

A result says of every metric what it was computed with, its protocol. Two results are
compared where the protocols are equal, and else refused, naming the field: published
numbers of one metric differ by more than the models do. Statistics are .npz files with
``mu`` and ``sigma`` as pytorch-fid has them, and the protocol beside.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from snapvideo_jax.evaluation.frechet import frechet_distance
from snapvideo_jax.evaluation.settings import DDOF
from snapvideo_jax.evaluation.stats import Average, Marginals, Moments
from snapvideo_jax.io.files import write_atomically, write_json
from snapvideo_jax.io.npz import open_npz
from snapvideo_jax.io.resume import differences

Protocol = Mapping[str, Any]


class Gaussian(NamedTuple):
    """Mean and covariance of a set, and what is known of it.

    n: samples; None where a file does not tell.
    protocol: that it was made with; None where a file does not tell.
    about: the set: its selection of frames, its clips.
    """

    mean: np.ndarray
    covariance: np.ndarray
    n: int | None
    protocol: Protocol | None
    about: dict[str, Any]


# --- Statistics ---------------------------------------------------------------------


def gaussian_of(moments: Moments, protocol: Protocol, about: dict) -> Gaussian:
    """Raises ValueError where there are too few samples for a covariance."""
    return Gaussian(
        moments.mean, moments.covariance(DDOF), moments.n, dict(protocol), about
    )


def write_statistics(path: Path, found: Gaussian) -> None:
    """Writes an .npz that other tools read too."""
    about = {"n": found.n, "protocol": found.protocol, "about": found.about}
    buffer = io.BytesIO()
    np.savez(
        buffer,
        mu=found.mean,
        sigma=found.covariance,
        snapvideo=np.array(json.dumps(about)),
    )
    write_atomically(path, buffer.getvalue())


def read_statistics(path: Path) -> Gaussian:
    """Statistics of ours or of others.

    Raises:
      ValueError: there is no such file, or it holds no mean and covariance.
    """
    try:
        with open_npz(path) as file:
            mean, covariance = (
                np.asarray(file[name], np.float64) for name in ("mu", "sigma")
            )
            known = {"n": None, "protocol": None, "about": {"file": path.name}}
            if "snapvideo" in file:
                known |= json.loads(str(file["snapvideo"]))
    except ValueError as error:
        raise ValueError(
            f"{path} holds no statistics ({error}); wanted an .npz with mu and sigma."
        ) from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(
            f"{path} holds mu of {mean.shape} and sigma of {covariance.shape}; wanted "
            "a vector and a square of its size."
        )
    return Gaussian(mean, covariance, **known)


def is_statistics(path: Path) -> bool:
    """Whether an .npz holds statistics, not clips."""
    try:
        with open_npz(path) as file:
            return {"mu", "sigma"} <= file.keys()
    except ValueError:
        return False


# --- Results ------------------------------------------------------------------------


def check_alike(name: str, protocol: Protocol, real: Gaussian) -> list[str]:
    """Refuses real statistics that were made in another way.

    Returns:
      Warnings.

    Raises:
      ValueError: names the fields that differ, and both values.
    """
    if real.protocol is None:
        return [
            "the real statistics do not tell how they were made; nothing was checked"
        ]
    unlike = differences(protocol, real.protocol)
    if unlike:
        raise ValueError(
            f"Statistics of {name} cannot be compared: {_fields(unlike)}; make both "
            "with the same settings."
        )
    return []


def frechet_result(generated: Gaussian, real: Gaussian, name: str) -> dict[str, Any]:
    """A Frechet distance with all that it depends on.

    Raises:
      ValueError: as `check_alike`.
    """
    warnings = check_alike(name, generated.protocol or {}, real)
    width = len(generated.mean)
    for whose, n in (("generated", generated.n), ("real", real.n)):
        if n is not None and n <= width:
            warnings.append(
                f"{n} {whose} samples for {width} channels: the covariance is not of "
                "full rank, and the distance is biased"
            )
    value = frechet_distance(
        generated.mean, generated.covariance, real.mean, real.covariance
    )
    return {
        "value": value,
        "n": generated.n,
        "n_real": real.n,
        "protocol": generated.protocol,
        "generated": generated.about,
        "real": real.about,
        "warnings": warnings,
    }


def inception_score_result(
    sums: Marginals, protocol: Protocol, about: dict
) -> dict[str, Any]:
    """The Inception score: mean and spread over splits, and of all in one split."""
    scores = sums.scores()
    return {
        "value": float(scores.mean()),
        "std": float(scores.std()),
        "one_split": float(sums.whole().scores()[0]),
        "n": int(sums.n.sum()),
        "protocol": dict(protocol),
        "generated": about,
        "warnings": [],
    }


def clipsim_result(
    sums: Average, protocol: Protocol, about: dict, cut: int
) -> dict[str, Any]:
    """CLIPSIM: the mean over clips of the mean over frames of the cosine.

    Args:
      sums, protocol, about: as of the others.
      cut: captions that were longer than CLIP reads.
    """
    warning = f"{cut} captions were longer than CLIP reads, and were cut"
    return {
        "value": sums.mean(),
        "n": sums.n,
        "protocol": dict(protocol),
        "generated": about,
        "warnings": [warning] if cut else [],
    }


def write_result(path: Path, metrics: Mapping[str, dict], about: Mapping) -> None:
    """Writes a result: the metrics by name, and what holds for all of them."""
    result = {**about, "metrics": dict(metrics)}
    write_json(path, result)


def read_result(path: Path) -> dict[str, Any]:
    """Raises ValueError where a file is no result."""
    try:
        result = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no result of evaluate ({error}).") from error
    found = result.get("metrics") if isinstance(result, dict) else None
    kinds = {"value": float, "n": int, "protocol": dict}
    if not isinstance(found, dict) or not all(
        isinstance(each, dict) and isinstance(each.get(name), kind)
        for each in found.values()
        for name, kind in kinds.items()
    ):
        raise ValueError(f"{path} is no result of evaluate: it has no metrics.")
    return result


def compare(one: Path, other: Path) -> list[tuple[str, dict, dict]]:
    """Metrics that two results share, in the order of the first.

    Raises:
      ValueError: they share none, or a metric was computed differently; names the
        fields that differ, and both values.
    """
    ours, theirs = (read_result(path)["metrics"] for path in (one, other))
    shared = [name for name in ours if name in theirs]
    if not shared:
        raise ValueError(
            f"{one} has {', '.join(ours)}, {other} has {', '.join(theirs)}: no metric "
            "is in both."
        )
    unlike = [
        f"{name}: {_fields(found)}"
        for name in shared
        if (found := differences(*map(_compared, (ours[name], theirs[name]))))
    ]
    if unlike:
        raise ValueError(f"Not comparable. {'; '.join(unlike)}.")
    return [(name, ours[name], theirs[name]) for name in shared]


def describe(metrics: Mapping[str, dict]) -> str:
    """A line for every metric, and its warnings."""
    lines = []
    for name, found in metrics.items():
        spread = f" +- {found['std']:.4g}" if "std" in found else ""
        real = f" against {found['n_real']}" if "n_real" in found else ""
        lines.append(
            f"{name:<9}{found['value']:.6g}{spread}   {found['n']} samples{real}, "
            f"{found['protocol']['preprocess']}"
        )
        lines += [f"         warning: {warning}" for warning in found["warnings"]]
    return "\n".join(lines)


def _compared(found: dict) -> dict[str, Any]:
    """What must be equal: the protocol, the numbers of samples, and how clips were cut.

    Which clips were generated is what a comparison is about; the real ones have to be
    the same.
    """
    sides = {}
    for side in ("generated", "real"):
        about = dict(found.get(side) or {})
        if side == "generated":
            about = {"selection": about.get("selection")}
        sides[side] = about
    numbers = {name: found.get(name) for name in ("n", "n_real")}
    return {**found["protocol"], **numbers, **sides}


def _fields(unlike) -> str:
    return ", ".join(
        f"{name} is {ours!r} and {theirs!r}" for name, ours, theirs in unlike
    )
