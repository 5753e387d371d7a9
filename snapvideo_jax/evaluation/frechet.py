"""The Frechet distance between two Gaussians (Dowson and Landau 1982), in float64.

    |m1 - m2|^2 + Tr C1 + Tr C2 - 2 Tr (C1 C2)^(1/2)

The last trace equals that of ``(R C2 R)^(1/2)`` with the symmetric root R of C1, so
only symmetric matrices are decomposed: the result is real, and rank-deficient
covariances (of few samples) are no problem.
"""

import logging

import numpy as np
from jaxtyping import Float

logger = logging.getLogger(__name__)


def frechet_distance(
    mean1: Float[np.ndarray, "d"],
    covariance1: Float[np.ndarray, "d d"],
    mean2: Float[np.ndarray, "e"],
    covariance2: Float[np.ndarray, "e e"],
) -> float:
    """The squared distance, 0 or more.

    Rounding can make the distance between equal sets slightly negative; it is logged
    and returned as 0.

    Raises:
      ValueError: the widths differ, or a value is not finite.
    """
    arrays = [
        np.asarray(x, np.float64) for x in (mean1, covariance1, mean2, covariance2)
    ]
    if arrays[0].shape != arrays[2].shape:
        raise ValueError(
            f"Features of {arrays[0].size} and of {arrays[2].size} channels cannot be "
            "compared; use statistics of the same network."
        )
    if not all(np.isfinite(x).all() for x in arrays):
        raise ValueError(
            "Statistics hold NaN or infinity; check the network's weights and the "
            "clips that they were computed from."
        )
    mean1, covariance1, mean2, covariance2 = arrays
    root = _root(covariance1)
    product = root @ covariance2 @ root
    overlap = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(0)).sum()
    traces = np.trace(covariance1) + np.trace(covariance2)
    distance = float(((mean1 - mean2) ** 2).sum() + traces - 2 * overlap)
    if distance < 0:
        logger.info("A distance of %.3g is rounding error; it is set to 0.", distance)
    return max(distance, 0.0)


def _root(matrix: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """The symmetric square root of a matrix, positive semi-definite up to rounding."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
