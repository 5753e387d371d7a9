"""Runs clips through all networks in one pass and accumulates the metrics' sums.

A clip is read and preprocessed for every network once, in a reading thread, and scored
in a batch. `Sums` of a shard of clips are written to one file, so that an interrupted
evaluation resumes with the missing shards and processes share the work.
"""

import collections
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.evaluation import clips
from snapvideo_jax.evaluation.clips import Item, Selection
from snapvideo_jax.evaluation.features import (
    CaptionEmbedder,
    Extractor,
    cosine_similarity,
)
from snapvideo_jax.evaluation.nets import CLIP, c3d, inception
from snapvideo_jax.evaluation.preprocess import VARIANTS
from snapvideo_jax.evaluation.settings import FRECHET, NETWORK_OF, EvaluateOptions
from snapvideo_jax.evaluation.stats import Average, Marginals, Moments
from snapvideo_jax.evaluation.tokenizer import Tokenizer
from snapvideo_jax.evaluation.weights.convert import Weights
from snapvideo_jax.io.npz import open_npz

logger = logging.getLogger(__name__)

WIDTHS = {"fvd": 400, "fid": inception.FEATURES, "clip_fid": 512}
"""Channels of the features of Frechet distances."""
KINDS = {**dict.fromkeys(FRECHET, Moments), "is": Marginals, "clipsim": Average}
SKIPPED = "skipped"


class Sums(NamedTuple):
    """What the metrics need of a set of clips.

    by_metric: `Moments`, `Marginals` or `Average` of every metric.
    clips: number that were scored.
    skipped: names of unreadable clips, and the reasons.
    cut: number of captions that CLIP truncated.
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
        """The content of an .npz."""
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
        """The sums in a file; raises ValueError if it is damaged."""
        try:
            with open_npz(path) as file:
                about = json.loads(str(file["about"]))
                parts = {
                    metric: KINDS[metric].from_arrays(
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
    """All networks of the metrics, ready to score.

    Args:
      options: of the evaluation.
      weights: by network.
      tokenizer: of CLIPSIM; None without it.
      mesh: devices; None is all of this process.
    """

    def __init__(
        self,
        options: EvaluateOptions,
        weights: Mapping[str, Weights],
        tokenizer: Tokenizer | None,
        mesh=None,
    ):
        self._options, self._batch = options, options.batch
        self._threads = options.threads or os.cpu_count() or 1
        self._variants = {
            network: VARIANTS[network][options.variant(network)]
            for network in options.networks()
        }
        # Frames of a clip that networks of single frames take.
        images = list(options.image_indices())
        self._frames = {"inception": images, "clip": images}
        if "clipsim" in options.metrics:
            self._frames["clip"] = list(range(options.frames))
        self._extract = {
            network: Extractor(
                network,
                weights[network],
                self._batch * len(self._frames.get(network, [0])),
                dict(variant.settings),
                CLIP.image if network == "clip" else None,
                mesh,
            )
            for network, variant in self._variants.items()
        }
        self._captions = None
        if tokenizer is not None:
            self._captions = CaptionEmbedder(
                tokenizer, weights["clip"], self._batch, mesh
            )

    def score(
        self, items: Sequence[Item], is_real: bool, splits: np.ndarray | None = None
    ) -> Sums:
        """The sums of some clips.

        Args:
          items: the clips.
          is_real: skip metrics that do not use real clips.
          splits: of the Inception score, by clip.
        """
        selection = self._options.selection(is_real)
        metrics = self._options.metrics_of(is_real)
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
            return Marginals.empty(self._options.splits, c3d.CLASSES)
        return Average()

    def _cut(self) -> int:
        return self._captions.cut if self._captions else 0

    def _read(
        self, items: Sequence[Item], selection: Selection, networks: Sequence[str]
    ) -> Iterator[tuple[int, dict[str, np.ndarray] | str]]:
        """Yields every clip's network inputs in order, or why it cannot be used."""
        options = self._options

        def prepare(item: Item) -> dict[str, np.ndarray] | str:
            try:
                frames = clips.read(item, selection)
            except UnusableClip as error:
                return str(error)
            frames = clips.crop_and_resize(frames, options.view, options.size)
            return {network: self._inputs(network, frames) for network in networks}

        with ThreadPoolExecutor(self._threads) as pool:
            pending: collections.deque = collections.deque()
            for number, item in enumerate(items):
                pending.append((number, pool.submit(prepare, item)))
                if len(pending) > max(self._batch, 2 * self._threads):
                    number, future = pending.popleft()
                    yield number, future.result()
            for number, future in pending:
                yield number, future.result()

    def _inputs(self, network: str, frames: np.ndarray) -> np.ndarray:
        chosen = self._frames.get(network)
        frames = frames if chosen is None else frames[chosen]
        return self._variants[network].apply(frames)

    def _add(self, by_metric: dict[str, Any], group, items, splits) -> None:
        """Adds a batch of clips to the sums."""
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
                    chosen = self._image_rows(embeddings)
                    by_metric[metric] = sums.update(chosen)
                else:
                    prompts = [items[number].prompt for number, _ in group]
                    captions = self._captions(prompts)[:, None]
                    by_metric[metric] = sums.update(
                        cosine_similarity(embeddings, captions).mean(axis=1)
                    )

    def _rows(self, network: str, group) -> np.ndarray:
        clips_of_group = [ready[network] for _, ready in group]
        if network in self._frames:
            return np.concatenate(clips_of_group)
        return np.stack(clips_of_group)

    def _image_rows(self, embeddings: np.ndarray) -> np.ndarray:
        """The embeddings of the frames that count for CLIP-FID."""
        frames = self._frames["clip"]
        wanted = [frames.index(index) for index in self._options.image_indices()]
        return embeddings[:, wanted].reshape(-1, embeddings.shape[-1])
