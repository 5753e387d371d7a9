"""Mergeable statistics of many samples, which shards accumulate separately.

`Moments` are mean and covariance of features, for Frechet distances; `Marginals` the
sums of the Inception score; `Average` a plain mean. All are float64 on the host: sums
of squares in float32 lose the variance of features with a large mean; centred sums in
float64 merged by Chan's rule do not. ``arrays`` and ``from_arrays`` convert to named
arrays and back, so that processes exchange files.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int


class Statistic:
    """Base of the dataclasses below: their fields as named arrays and back."""

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Statistic":
        fields = {name: x if x.ndim else x.item() for name, x in arrays.items()}
        return cls(**fields)


@dataclasses.dataclass(frozen=True)
class Moments(Statistic):
    """Count, mean and centred scatter of feature vectors.

    n: number of samples.
    mean: of the samples.
    scatter: the sum of ``(x - mean)(x - mean)^T``.
    """

    n: int
    mean: Float[np.ndarray, "d"]
    scatter: Float[np.ndarray, "d d"]

    @staticmethod
    def empty(width: int) -> "Moments":
        return Moments(0, np.zeros(width), np.zeros((width, width)))

    def update(self, features: Float[np.ndarray, "b d"]) -> "Moments":
        """With more samples added."""
        features = np.asarray(features, np.float64)
        if not len(features):
            return self
        mean = features.mean(axis=0)
        centred = features - mean
        return self.merge(Moments(len(features), mean, centred.T @ centred))

    def merge(self, other: "Moments") -> "Moments":
        """Of the samples of both (Chan, Golub and LeVeque 1983)."""
        n = self.n + other.n
        if not n:
            return self
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.n / n)
        between = np.outer(difference, difference) * (self.n * other.n / n)
        return Moments(n, mean, self.scatter + other.scatter + between)

    def covariance(self, ddof: int = 1) -> Float[np.ndarray, "d d"]:
        """Divided by ``n - ddof``.

        Raises:
          ValueError: there are too few samples.
        """
        if self.n <= ddof:
            raise ValueError(
                f"A covariance of {self.n} samples is not defined; use 2 or more, and "
                f"better more than the {len(self.mean)} channels of the features."
            )
        return self.scatter / (self.n - ddof)


@dataclasses.dataclass(frozen=True)
class Marginals(Statistic):
    """Sums over a classifier's predictions, per split, for the Inception score.

    n: number of samples.
    p: sums of the predicted probabilities.
    p_log_p: sums over samples and classes of ``p log p``.
    """

    n: Int[np.ndarray, "s"]
    p: Float[np.ndarray, "s c"]
    p_log_p: Float[np.ndarray, "s"]

    @staticmethod
    def empty(splits: int, classes: int) -> "Marginals":
        zeros = np.zeros((splits, classes))
        return Marginals(np.zeros(splits, np.int64), zeros, np.zeros(splits))

    def update(
        self, logits: Float[np.ndarray, "b c"], splits: Int[np.ndarray, "b"]
    ) -> "Marginals":
        """With more samples added, each to its split."""
        log_p = _log_softmax(np.asarray(logits, np.float64))
        p = np.exp(log_p)
        n, sums, entropies = self.n.copy(), self.p.copy(), self.p_log_p.copy()
        np.add.at(n, splits, 1)
        np.add.at(sums, splits, p)
        # The limit of p log p at p = 0 is 0.
        terms = np.where(p > 0, p * np.where(p > 0, log_p, 0.0), 0.0)
        np.add.at(entropies, splits, terms.sum(axis=1))
        return Marginals(n, sums, entropies)

    def merge(self, other: "Marginals") -> "Marginals":
        return Marginals(
            self.n + other.n, self.p + other.p, self.p_log_p + other.p_log_p
        )

    def scores(self) -> Float[np.ndarray, "s"]:
        """exp(mean KL(p(y|x) || p(y))) of every split (arXiv 1606.03498).

        Raises:
          ValueError: a split has no sample.
        """
        if not self.n.all():
            raise ValueError(
                f"{self.n.sum()} samples do not fill {len(self.n)} splits; use fewer "
                "splits or more samples."
            )
        marginal = self.p / self.n[:, None]
        seen = marginal > 0
        log_marginal = np.log(np.where(seen, marginal, 1.0))
        entropy = np.where(seen, marginal * log_marginal, 0.0).sum(axis=1)
        return np.exp(self.p_log_p / self.n - entropy)

    def whole(self) -> "Marginals":
        """All samples in one split."""
        return Marginals(
            self.n.sum(keepdims=True),
            self.p.sum(axis=0, keepdims=True),
            self.p_log_p.sum(keepdims=True),
        )


@dataclasses.dataclass(frozen=True)
class Average(Statistic):
    """A mean of scalars."""

    n: int = 0
    total: float = 0.0

    def update(self, values: Float[np.ndarray, "b"]) -> "Average":
        values = np.asarray(values, np.float64)
        return self.merge(Average(len(values), float(values.sum())))

    def merge(self, other: "Average") -> "Average":
        return Average(self.n + other.n, self.total + other.total)

    def mean(self) -> float:
        """Raises ValueError without samples."""
        if not self.n:
            raise ValueError("There is no sample to average.")
        return self.total / self.n


def assign_splits(samples: int, splits: int, seed: int) -> Int[np.ndarray, "n"]:
    """The split of every sample: equal parts of a shuffled list.

    Prompts often come class by class, and splits in that order would hold few classes
    each: scores would be several times too low. A sample's split depends on its index,
    the number of samples and the seed, not on the process that scores it.

    Raises:
      ValueError: there are more splits than samples.
    """
    if splits > samples:
        raise ValueError(
            f"{samples} samples do not fill {splits} splits; use fewer splits."
        )
    # RandomState's stream is frozen; newer generators' may change.
    rank = np.empty(samples, np.int64)
    rank[np.random.RandomState(seed).permutation(samples)] = np.arange(samples)
    return rank * splits // samples


def _log_softmax(logits: Float[np.ndarray, "b c"]) -> Float[np.ndarray, "b c"]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
