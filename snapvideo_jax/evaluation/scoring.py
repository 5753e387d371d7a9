"""Clips through all networks in one pass, shard by shard.

A clip is read once, prepared for every network in a reading thread, and scored together
with some others. A shard is every so many-th clip of a set; its sums go to one file,
which is there whole or not at all, so a run that was stopped goes on with the shards
that are missing, and processes share the work by taking turns.
"""

import collections
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.evaluation import clips
from snapvideo_jax.evaluation.clips import Item, Selection
from snapvideo_jax.evaluation.features import Captions, Extractor, cosines
from snapvideo_jax.evaluation.nets import CLIP, c3d, inception
from snapvideo_jax.evaluation.preprocess import VARIANTS
from snapvideo_jax.evaluation.settings import FRECHET, NETWORK_OF, Scoring
from snapvideo_jax.evaluation.stats import Average, Marginals, Moments
from snapvideo_jax.evaluation.tokenizer import Tokenizer
from snapvideo_jax.evaluation.weights.convert import Weights
from snapvideo_jax.io.npz import open_npz

logger = logging.getLogger(__name__)

WIDTHS = {"fvd": 400, "fid": inception.FEATURES, "clip_fid": 512}
"""Channels of the features that Frechet distances compare."""
KINDS = {**dict.fromkeys(FRECHET, Moments), "is": Marginals, "clipsim": Average}
SKIPPED = "skipped"


class Sums(NamedTuple):
    """What is kept of a set of clips.

    by_metric: the sums of every metric.
    clips: that were scored.
    skipped: names of clips that were not, and why.
    cut: captions that CLIP read in part.
    """

    by_metric: dict[str, Any]
    clips: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    cut: int = 0

    def merge(self, other: "Sums") -> "Sums":
        return Sums(
            {
                metric: sums.merge(other.by_metric[metric])
                for metric, sums in self.by_metric.items()
            },
            self.clips + other.clips,
            self.skipped + other.skipped,
            self.cut + other.cut,
        )

    def encoded(self) -> bytes:
        """As the bytes of an .npz."""
        arrays = {
            f"{metric}/{name}": array
            for metric, sums in self.by_metric.items()
            for name, array in sums.arrays().items()
        }
        about = json.dumps(
            {"clips": self.clips, SKIPPED: list(self.skipped), "cut": self.cut}
        )
        buffer = io.BytesIO()
        np.savez(buffer, about=np.array(about), **arrays)
        return buffer.getvalue()

    @staticmethod
    def read(path: Path, metrics: Sequence[str]) -> "Sums":
        """Raises ValueError where a file is damaged."""
        try:
            with open_npz(path) as file:
                about = json.loads(str(file["about"]))
                parts = {
                    metric: KINDS[metric].of(
                        {
                            name.removeprefix(f"{metric}/"): file[name]
                            for name in file
                            if name.startswith(f"{metric}/")
                        }
                    )
                    for metric in metrics
                }
                skipped = tuple((name, reason) for name, reason in about[SKIPPED])
                return Sums(parts, about["clips"], skipped, about["cut"])
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); delete it.") from error


class Scorer:
    """All networks of some metrics, ready to score.

    Args:
      scoring: what is scored.
      weights: by network.
      tokenizer: of CLIPSIM; None without it.
      batch: clips at once.
      threads: that read clips.
      mesh: devices; None is all of this process.
    """

    def __init__(
        self,
        scoring: Scoring,
        weights: Mapping[str, Weights],
        tokenizer: Tokenizer | None,
        batch: int,
        threads: int,
        mesh=None,
    ):
        self._scoring, self._batch, self._threads = scoring, batch, threads
        self._prepare = {
            network: VARIANTS[network][scoring.variant(network)]
            for network in scoring.networks()
        }
        self._places = {
            "inception": list(scoring.image_places()),
            "clip": list(scoring.image_places()),
        }
        if "clipsim" in scoring.metrics:
            self._places["clip"] = list(range(scoring.selection.frames))
        self._extract = {
            network: Extractor(
                network,
                weights[network],
                batch * len(self._places.get(network, [0])),
                dict(self._prepare[network].settings),
                CLIP.image if network == "clip" else None,
                mesh,
            )
            for network in scoring.networks()
        }
        self._captions = None
        if tokenizer is not None:
            self._captions = Captions(tokenizer, weights["clip"], batch, mesh)

    def metrics(self, is_real: bool) -> tuple[str, ...]:
        """Those that are made of a set of clips."""
        return tuple(m for m in self._scoring.metrics if m in FRECHET or not is_real)

    def score(
        self,
        items: Sequence[Item],
        selection: Selection,
        splits: np.ndarray | None,
        is_real: bool = False,
    ) -> Sums:
        """The sums of some clips.

        Args:
          items: the clips.
          selection: of their frames.
          splits: of the Inception score, by clip.
          is_real: leave out what needs no real clips.
        """
        metrics = self.metrics(is_real)
        networks = list(dict.fromkeys(NETWORK_OF[metric] for metric in metrics))
        by_metric = {metric: self._empty(metric) for metric in metrics}
        skipped, scored, before = [], 0, self._cut()
        group: list[tuple[int, dict[str, np.ndarray]]] = []
        for number, ready in self._read(items, selection, networks):
            if isinstance(ready, str):
                skipped.append((items[number].name, ready))
                logger.warning("Skipping %s: %s", items[number].name, ready)
                continue
            group.append((number, ready))
            if len(group) == self._batch:
                self._add(by_metric, group, items, splits)
                scored, group = scored + len(group), []
        if group:
            self._add(by_metric, group, items, splits)
        return Sums(
            by_metric, scored + len(group), tuple(skipped), self._cut() - before
        )

    def _empty(self, metric: str) -> Any:
        if metric in FRECHET:
            return Moments.empty(WIDTHS[metric])
        if metric == "is":
            return Marginals.empty(self._scoring.splits, c3d.CLASSES)
        return Average()

    def _cut(self) -> int:
        return self._captions.cut if self._captions else 0

    def _read(
        self, items: Sequence[Item], selection: Selection, networks: Sequence[str]
    ) -> Iterator[tuple[int, dict[str, np.ndarray] | str]]:
        """Every clip as its networks take it, in order; or why it cannot be used."""

        def one(item: Item) -> dict[str, np.ndarray] | str:
            try:
                frames = clips.read(item, selection)
            except UnusableClip as error:
                return str(error)
            frames = clips.fitted(frames, self._scoring.view, self._scoring.size)
            return {network: self._ready(network, frames) for network in networks}

        with ThreadPoolExecutor(self._threads) as pool:
            ahead: collections.deque = collections.deque()
            for number, item in enumerate(items):
                ahead.append((number, pool.submit(one, item)))
                if len(ahead) > max(self._batch, 2 * self._threads):
                    number, future = ahead.popleft()
                    yield number, future.result()
            for number, future in ahead:
                yield number, future.result()

    def _ready(self, network: str, frames: np.ndarray) -> np.ndarray:
        places = self._places.get(network)
        chosen = frames if places is None else frames[places]
        return self._prepare[network].apply(chosen)

    def _add(self, by_metric: dict[str, Any], group, items, splits) -> None:
        """Adds the clips of a group to the sums."""
        features = {
            network: self._extract[network](self._rows(network, group))
            for network in group[0][1]
        }
        for metric, sums in by_metric.items():
            if metric == "fvd":
                by_metric[metric] = sums.update(features["i3d"])
            elif metric == "fid":
                by_metric[metric] = sums.update(features["inception"])
            elif metric == "is":
                chosen = splits[[number for number, _ in group]]
                by_metric[metric] = sums.update(features["c3d"], chosen)
            else:
                embeddings = features["clip"].reshape(
                    len(group), -1, features["clip"].shape[-1]
                )
                if metric == "clip_fid":
                    chosen = self._of_images(embeddings)
                    by_metric[metric] = sums.update(chosen)
                else:
                    prompts = [items[number].prompt for number, _ in group]
                    captions = self._captions(prompts)[:, None]
                    by_metric[metric] = sums.update(
                        cosines(embeddings, captions).mean(axis=1)
                    )

    def _rows(self, network: str, group) -> np.ndarray:
        clips_of_group = [ready[network] for _, ready in group]
        if network in self._places:
            return np.concatenate(clips_of_group)
        return np.stack(clips_of_group)

    def _of_images(self, embeddings: np.ndarray) -> np.ndarray:
        """Of a clip's frames those that count for CLIP-FID."""
        places = self._places["clip"]
        wanted = [places.index(place) for place in self._scoring.image_places()]
        return embeddings[:, wanted].reshape(-1, embeddings.shape[-1])
