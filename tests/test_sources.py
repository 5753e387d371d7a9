"""Sources give captioned files by number, and refuse what makes no sense."""

import json
import pickle
import sys

import numpy as np
import pytest
from array_record.python import array_record_module

from snapvideo_jax.data.records import RecordWriter, encode_record
from snapvideo_jax.data.sources import (
    FolderSource,
    RecordSource,
    Sample,
    TFDSSource,
    captions_in,
)

SAMPLES = {
    "video": [
        Sample("videos/a.mp4", "a cat", b"\0first"),
        Sample("videos/b.mp4", "ein Kätzchen läuft", b"\0second"),
        Sample("videos/c.mp4", "", b""),
    ],
    "image": [Sample("images/a.png", "ねこ", b"\0third")],
}


@pytest.fixture
def folder(tmp_path):
    """A folder of the files above, mixed, with keys that nobody reads."""
    lines = []
    for kind in ("image", "video"):
        (tmp_path / f"{kind}s").mkdir()
        for sample in SAMPLES[kind]:
            (tmp_path / sample.name).write_bytes(sample.data)
            line = {"file": sample.name, "type": kind, "caption": sample.caption}
            lines.append(json.dumps(line | {"fps": None}, ensure_ascii=False))
    write_list(tmp_path, *lines)
    return tmp_path


@pytest.fixture
def records(tmp_path):
    """The same samples as records, the videos in two files."""
    parts = {
        "video-0.array_record": ("video", SAMPLES["video"][:2]),
        "video-1.array_record": ("video", SAMPLES["video"][2:]),
        "image.array_record": ("image", SAMPLES["image"]),
    }
    for name, (kind, samples) in parts.items():
        with RecordWriter(tmp_path / name) as writer:
            for sample in samples:
                fields = {"caption": sample.caption, "type": kind}
                writer.write({"file": sample.name, "data": sample.data, **fields})
    return tmp_path


def write_list(root, *lines):
    (root / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def all_of(source):
    return [source[index] for index in range(len(source))]


@pytest.mark.parametrize("kind", ["video", "image"])
def test_a_folder_gives_its_files_in_the_order_of_the_list(folder, kind):
    source = FolderSource(folder, kind)
    assert all_of(source) == SAMPLES[kind]
    assert all_of(pickle.loads(pickle.dumps(source))) == SAMPLES[kind]


@pytest.mark.parametrize("kind", ["video", "image"])
def test_records_give_the_same_as_the_folder(records, kind):
    source = RecordSource(records, kind)
    assert all_of(source) == SAMPLES[kind]
    assert all_of(pickle.loads(pickle.dumps(source))) == SAMPLES[kind]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_limit_takes_the_first_samples(folder, limit):
    assert all_of(FolderSource(folder, "video", limit)) == SAMPLES["video"][:limit]


def test_a_limit_above_the_number_of_records_is_fine(records):
    assert all_of(RecordSource(records, "video", 2)) == SAMPLES["video"][:2]
    assert len(RecordSource(records, "video", 99)) == 3


def test_blank_lines_carriage_returns_and_byte_order_marks_are_fine(folder):
    text = (folder / "captions.jsonl").read_text(encoding="utf-8")
    (folder / "captions.jsonl").write_bytes(
        ("\ufeff\n" + text.replace("\n", "\r\n\r\n")).encode()
    )
    assert all_of(FolderSource(folder, "video")) == SAMPLES["video"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"data.root='.*nowhere' is not a folder; set"):
        FolderSource(tmp_path / "nowhere", "video")


def test_files_without_captions_are_refused(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"png")
    with pytest.raises(ValueError, match=r"data.root='.*' has no captions.jsonl; writ"):
        FolderSource(tmp_path, "image")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("3", "line 2 is int, not a JSON object"),
        ('{"type": "video", "caption": "x"}', "line 2 has file=None, wanted a string"),
        ('{"file": "a", "type": "video"}', "line 2 has caption=None, wanted a string"),
        (
            '{"file": "a", "type": "video", "caption": ["x", "y"]}',
            r"line 2 has caption=\['x', 'y'\], wanted a string",
        ),
        (
            '{"file": "a", "type": "sound", "caption": "x"}',
            "line 2 has type='sound'; use 'video' or 'image'",
        ),
        (
            '{"file": "videos/lost.mp4", "type": "video", "caption": "x"}',
            "has no file 'videos/lost.mp4', which captions.jsonl lists in line 2; a",
        ),
    ],
)
def test_a_malformed_line_is_named_by_its_number(folder, line, message):
    good = (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()[0]
    write_list(folder, good, line)
    with pytest.raises(ValueError, match=message) as caught:
        FolderSource(folder, "video")
    assert "data.root=" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_list_without_the_kind_is_refused(folder):
    write_list(folder, '{"file": "images/a.png", "type": "image", "caption": "x"}')
    with pytest.raises(
        ValueError, match=r"holds no video, data.videos_per_batch needs .*_batch=0"
    ):
        FolderSource(folder, "video")


def test_missing_and_empty_records_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no video\*.array_record; set data.root"):
        RecordSource(tmp_path, "video")
    with RecordWriter(tmp_path / "video.array_record"):
        pass
    with pytest.raises(ValueError, match="holds no video, data.videos_per_batch needs"):
        RecordSource(tmp_path, "video")


def test_captions_of_records_that_cannot_be_read_are_left_out(tmp_path):
    path = str(tmp_path / "video.array_record")
    writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
    writer.write(b"no record")
    writer.write(encode_record({"caption": "a fox", "data": b"content"}))
    writer.close()
    assert list(captions_in(RecordSource(tmp_path, "video"))) == ["a fox"]


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A TFDS data set ``captioned_clips`` of the videos above."""
    tfds = pytest.importorskip("tensorflow_datasets")
    features = tfds.features

    class CaptionedClips(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            content = features.Tensor(shape=(), dtype=np.object_)
            fields = {"video": content, "caption": features.Text()}
            return tfds.core.DatasetInfo(
                builder=self, features=features.FeaturesDict(fields)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for sample in SAMPLES["video"]:
                yield sample.name, {"video": sample.data, "caption": sample.caption}

    root = tmp_path_factory.mktemp("tfds")
    builder = CaptionedClips(data_dir=root, file_format="array_record")
    builder.download_and_prepare()
    return str(root)


@pytest.mark.parametrize("name", ["captioned_clips", "captioned_clips:1.0.0"])
def test_a_tfds_data_set_is_read_without_tensorflow(tfds_dir, name):
    source = TFDSSource(name, "video", "train", tfds_dir)
    held = {(sample.caption, sample.data) for sample in all_of(source)}
    assert held == {(sample.caption, sample.data) for sample in SAMPLES["video"]}
    assert source[1].name == f"{name}/train[1]"
    assert all_of(pickle.loads(pickle.dumps(source))) == all_of(source)
    assert "tensorflow" not in sys.modules


def test_tfds_splits_and_limits(tfds_dir):
    assert len(TFDSSource("captioned_clips", "video", "train[:2]", tfds_dir)) == 2
    assert len(TFDSSource("captioned_clips", "video", "train", tfds_dir, limit=1)) == 1


@pytest.mark.parametrize(
    ("name", "kind", "split", "message"),
    [
        ("nothing", "video", "train", "data.tfds_videos='nothing' is not in data.root"),
        (
            "captioned_clips",
            "image",
            "train",
            r"data.tfds_images='captioned_clips' has features \['caption', 'video'\], "
            "wanted 'image'",
        ),
        (
            "captioned_clips",
            "video",
            "test",
            r"no readable data.tfds_split='test' .* its splits are \['train'\]",
        ),
    ],
)
def test_missing_tfds_data_sets_features_and_splits_are_named(
    tfds_dir, name, kind, split, message
):
    with pytest.raises(ValueError, match=message):
        TFDSSource(name, kind, split, tfds_dir)
