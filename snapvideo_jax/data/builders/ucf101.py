"""UCF-101 from a local copy: 13,320 clips of 101 actions, in three official splits."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from snapvideo_jax.data.builders.elements import element, element_spec

VIDEOS, LISTS = "UCF-101", "ucfTrainTestlist"


class Ucf101Clips(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Splits ``train`` and ``test`` of the official lists.

    A caption is the name of the class in words, such as "apply eye makeup"; the label
    is the name of the class.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=f"split{number:02}") for number in (1, 2, 3)
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"A folder with {VIDEOS}/ (a folder of AVI files for each class) and {LISTS}/ "
        "(trainlist01.txt, testlist01.txt, ...), as UCF's archives unpack."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=element_spec("video"))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        root = Path(dl_manager.manual_dir)
        number = self.builder_config.name.removeprefix("split")
        files = {
            split: listed_files(root, f"{split}list{number}.txt")
            for split in ("train", "test")
        }
        return {split: self._generate_examples(root, files[split]) for split in files}

    def _generate_examples(
        self, root: Path, files: list[str]
    ) -> Iterator[tuple[str, dict]]:
        for file in files:
            label = file.partition("/")[0]
            data = (root / VIDEOS / file).read_bytes()
            yield file, element("video", data, [in_words(label)], file, label)


def in_words(label: str) -> str:
    """The name of a class in words: "ApplyEyeMakeup" is "apply eye makeup"."""
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", label).lower()


def listed_files(root: Path, name: str) -> list[str]:
    """Files in an official list, relative to the folder of the videos.

    Raises:
        ValueError: there is no such list, or some of its files are missing.
    """
    path = root / LISTS / name
    if not path.is_file():
        raise ValueError(
            f"{root} has no {LISTS}/{name}; unpack UCF-101's train and test splits "
            "for action recognition there."
        )
    # Lines of the training lists have the number of the class after the file.
    files = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    missing = [file for file in files if not (root / VIDEOS / file).is_file()]
    if missing:
        raise ValueError(
            f"{root / VIDEOS} lacks {len(missing)} of the {len(files)} files of "
            f"{name}, the first is {missing[0]}; unpack UCF101.rar there."
        )
    return files
