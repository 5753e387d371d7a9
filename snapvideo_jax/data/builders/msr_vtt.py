"""MSR-VTT from a local copy: clips of 10 to 30 seconds with 20 captions each."""

import collections
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from snapvideo_jax.data.builders.elements import element, element_spec

LISTS = "*videodatainfo.json"


class MsrVttClips(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The splits in the lists of the local copy: ``test``, ``train``, ``validate``.

    The label is the number of the category.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "A folder with test_videodatainfo.json, train_val_videodatainfo.json or both, "
        "and the videos in them, such as TestVideo/video7010.mp4, at any depth."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=element_spec("video"))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        splits = listed_videos(Path(dl_manager.manual_dir))
        return {name: self._generate_examples(splits[name]) for name in sorted(splits)}

    def _generate_examples(self, videos: list[dict]) -> Iterator[tuple[str, dict]]:
        for video in videos:
            name, data = video["video_id"], video["path"].read_bytes()
            label = str(video.get("category", ""))
            yield name, element("video", data, video["captions"], name, label)


def listed_videos(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Videos of each split with path and ``captions``, in order of ``sen_id``.

    Raises:
        ValueError: there is no list, or a video or its captions are missing.
    """
    lists = [json.loads(path.read_bytes()) for path in sorted(root.rglob(LISTS))]
    if not lists:
        raise ValueError(
            f"{root} has no {LISTS}; unpack MSR-VTT's annotation there, such as "
            "test_videodatainfo.json."
        )
    paths = {path.stem: path for path in sorted(root.rglob("*.mp4"))}
    captions = collections.defaultdict(list)
    for sentence in sorted(
        (sentence for listed in lists for sentence in listed["sentences"]),
        key=lambda sentence: sentence["sen_id"],
    ):
        captions[sentence["video_id"]].append(sentence["caption"])
    splits = collections.defaultdict(list)
    for video in (video for listed in lists for video in listed["videos"]):
        name = video["video_id"]
        for wanted, held in (("file", paths), ("caption", captions)):
            if name not in held:
                raise ValueError(f"{root} has no {wanted} of {name}, which it lists.")
        found = {"path": paths[name], "captions": captions[name]}
        splits[video["split"]].append(video | found)
    return dict(splits)
