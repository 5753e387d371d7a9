"""Results with their provenance, statistics of real clips, and comparing results.

A result records the settings of every metric, its protocol. Two results are compared if
their protocols are equal, and refused otherwise with the names of the fields: published
values of one metric differ more by protocol than by model. Statistics are .npz files
with ``mu`` and ``sigma`` as in pytorch-fid, and the protocol.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from snapvideo_jax.evaluation.frechet import frechet_distance
from snapvideo_jax.evaluation.settings import DDOF
from snapvideo_jax.evaluation.stats import Average, Marginals, Moments
from snapvideo_jax.io.files import write_atomically
from snapvideo_jax.io.npz import open_npz
from snapvideo_jax.io.saved_settings import differences

Protocol = Mapping[str, Any]
RANDOM = "RANDOM FEATURES: these numbers are not comparable with any others."


class Gaussian(NamedTuple):
    """Mean and covariance of a set's features, and their provenance.

    n: number of samples; None if the file does not record it.
    protocol: the settings of the metric; None if the file does not record them.
    about: describes the set: its selection of frames, its clips.
    """

    mean: np.ndarray
    covariance: np.ndarray
    n: int | None
    protocol: Protocol | None
    about: dict[str, Any]


# --- Statistics ---------------------------------------------------------------------


def gaussian_of(moments: Moments, protocol: Protocol, about: dict) -> Gaussian:
    """Raises ValueError if there are too few samples for a covariance."""
    return Gaussian(
        moments.mean, moments.covariance(DDOF), moments.n, dict(protocol), about
    )


def write_statistics(path: Path, found: Gaussian) -> None:
    """Writes an .npz that pytorch-fid reads too."""
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
    """Statistics that `write_statistics` or pytorch-fid wrote.

    Raises:
      ValueError: the file is missing, or has no mean and covariance.
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
            f"{path} has no statistics ({error}); wanted an .npz with mu and sigma."
        ) from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(
            f"{path} holds mu of {mean.shape} and sigma of {covariance.shape}; wanted "
            "a vector and a square of its size."
        )
    return Gaussian(mean, covariance, **known)


def is_statistics(path: Path) -> bool:
    """Whether an .npz has statistics, not clips."""
    try:
        with open_npz(path) as file:
            return {"mu", "sigma"} <= file.keys()
    except ValueError:
        return False


# --- Results ------------------------------------------------------------------------


def check_comparable(name: str, protocol: Protocol, real: Gaussian) -> list[str]:
    """Refuses real statistics of another protocol.

    Returns:
      Warnings.

    Raises:
      ValueError: names the fields that differ, with both values.
    """
    if real.protocol is None:
        return ["the real statistics do not record their settings; nothing was checked"]
    unlike = differences(protocol, real.protocol)
    if unlike:
        raise ValueError(
            f"Statistics of {name} cannot be compared: {_listed(unlike)}; make both "
            "with the same settings."
        )
    return []


def frechet_result(generated: Gaussian, real: Gaussian, name: str) -> dict[str, Any]:
    """A Frechet distance with its provenance.

    Raises:
      ValueError: as `check_comparable`.
    """
    warnings = check_comparable(name, generated.protocol or {}, real)
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
    """The Inception score: mean and deviation over splits, and of one split of all."""
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
      sums: the cosines averaged over the frames of each clip.
      protocol, about: the settings and the set.
      cut: number of captions that exceeded CLIP's context and were truncated.
    """
    warning = f"{cut} captions exceed CLIP's context and were truncated"
    return {
        "value": sums.mean(),
        "n": sums.n,
        "protocol": dict(protocol),
        "generated": about,
        "warnings": [warning] if cut else [],
    }


def read_result(path: Path) -> dict[str, Any]:
    """The result in a file; raises ValueError if it is not one."""
    try:
        result = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a result of evaluate ({error}).") from error
    found = result.get("metrics") if isinstance(result, dict) else None
    kinds = {"value": float, "n": int, "protocol": dict}
    if not isinstance(found, dict) or not all(
        isinstance(each, dict) and isinstance(each.get(name), kind)
        for each in found.values()
        for name, kind in kinds.items()
    ):
        raise ValueError(f"{path} is not a result of evaluate: it has no metrics.")
    return result


def compare(one: Path, other: Path) -> list[tuple[str, dict, dict]]:
    """Name and both entries of every metric that two results share.

    Raises:
      ValueError: they share none, or a metric was computed with other settings; names
        the fields that differ, with both values.
    """
    ours, theirs = (read_result(path)["metrics"] for path in (one, other))
    shared = [name for name in ours if name in theirs]
    if not shared:
        raise ValueError(
            f"{one} has {', '.join(ours)}, {other} has {', '.join(theirs)}: no metric "
            "is in both."
        )
    unlike = [
        f"{name}: {_listed(found)}"
        for name in shared
        if (found := differences(*map(_comparable, (ours[name], theirs[name]))))
    ]
    if unlike:
        raise ValueError(f"Not comparable. {'; '.join(unlike)}.")
    return [(name, ours[name], theirs[name]) for name in shared]


def describe(result: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """A result as lines of text.

    Args:
      result: as from `evaluate`.
      metrics: the ones that were asked for.
    """
    lines = []
    for name, found in result["metrics"].items():
        spread = f" +- {found['std']:.4g}" if "std" in found else ""
        real = f" against {found['n_real']}" if "n_real" in found else ""
        lines.append(
            f"{name:<9}{found['value']:.6g}{spread}   {found['n']} samples{real}, "
            f"{found['protocol']['preprocess']}"
        )
        lines += [f"         warning: {warning}" for warning in found["warnings"]]
    for name in metrics:
        if name not in result["metrics"]:
            lines.append(f"{name:<9}statistics only; --against gives a distance")
    if not result["comparable"]:
        lines.append(RANDOM)
    for side in ("skipped", "skipped_real"):
        if count := len(result[side]):
            lines.append(f"{count} clips cannot be read: see {side} in the result")
    return "\n".join(lines)


def _comparable(found: dict) -> dict[str, Any]:
    """The fields of a metric that must be equal in both results.

    The protocol, the numbers of samples, the selection of frames and the real clips;
    only the generated clips may differ.
    """
    sides = {}
    for side in ("generated", "real"):
        about = dict(found.get(side) or {})
        if side == "generated":
            about = {"selection": about.get("selection")}
        sides[side] = about
    numbers = {name: found.get(name) for name in ("n", "n_real")}
    return {**found["protocol"], **numbers, **sides}


def _listed(unlike) -> str:
    return ", ".join(
        f"{name} is {ours!r} and {theirs!r}" for name, ours, theirs in unlike
    )
