"""TFDS data sets are made from the layouts in which the originals come."""

import io
import json
import sys
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import clips_folder

from snapvideo_jax.data import TFDSSource, decode_at, decode_image, sources
from snapvideo_jax.data.builders import build, element_spec
from snapvideo_jax.data.builders.ucf101 import in_words
from snapvideo_jax.data.filters import parse
from snapvideo_jax.data.records import encode_mp4, encode_png
from snapvideo_jax.data.sources import FilteredOut


def clip(seed):
    frames = np.random.default_rng(seed).integers(256, size=(4, 16, 16, 3))
    return encode_mp4(frames.astype(np.uint8), fps=8)


def elements(data_dir, name, split="train"):
    """All elements of a data set by name, read through TFDS's random access."""
    source = tfds.data_source(name, split=split, data_dir=str(data_dir))
    found = [source[index] for index in reversed(range(len(source)))]
    return {item["name"].decode(): item for item in found}


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return clips_folder(tmp_path_factory.mktemp("folder") / "clips", {})


@pytest.fixture
def ucf(tmp_path):
    """Split 1 of UCF-101 with two classes, as its two archives unpack."""
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    names = [
        ("ApplyEyeMakeup", "v_ApplyEyeMakeup_g08_c01"),
        ("ApplyEyeMakeup", "v_ApplyEyeMakeup_g08_c02"),
        ("YoYo", "v_YoYo_g25_c01"),
    ]
    for seed, (label, name) in enumerate(names):
        (tmp_path / "UCF-101" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "UCF-101" / label / f"{name}.avi").write_bytes(clip(seed))
    files = [f"{label}/{name}.avi" for label, name in names]
    (lists / "trainlist01.txt").write_text(f"{files[0]} 1\r\n{files[2]} 101\r\n")
    (lists / "testlist01.txt").write_text(f"{files[1]}\r\n")
    return tmp_path


@pytest.fixture
def msr_vtt(tmp_path):
    """The test split of MSR-VTT, with two videos of two captions."""
    (tmp_path / "TestVideo").mkdir()
    videos, sentences = [], []
    for number in (7010, 7011):
        name = f"video{number}"
        (tmp_path / "TestVideo" / f"{name}.mp4").write_bytes(clip(number))
        about = {"url": "https://example.com", "start time": 1.5, "end time": 12.0}
        videos.append(
            {"id": number, "video_id": name, "category": 9, "split": "test"} | about
        )
        for sentence in (1, 0):
            caption = f"caption {sentence} of {number}"
            place = {"sen_id": 20 * number + sentence, "video_id": name}
            sentences.append({"caption": caption} | place)
    listed = {"info": {"year": "2016"}, "videos": videos, "sentences": sentences}
    (tmp_path / "test_videodatainfo.json").write_text(json.dumps(listed))
    return tmp_path


def test_a_folder_of_captioned_clips(folder, tmp_path):
    for kind, files in (("video", 8), ("image", 4)):
        builder = build(f"captioned_clips/{kind}s", folder, tmp_path, shards=2)
        assert builder.info.features.keys() == element_spec(kind).keys()
        assert builder.info.splits["train"].num_shards == 2
        found = elements(tmp_path, f"captioned_clips/{kind}s")
        assert len(found) == files
        for name, item in found.items():
            assert item[kind] == (folder / name).read_bytes()
            assert item["caption"].decode() == name.partition(".")[0]
    assert "tensorflow" not in sys.modules


def test_large_files_are_read_whole(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "LARGE_BYTES", 0)  # a folder gives them by their place
    build("captioned_clips/videos", folder, tmp_path)
    for item in elements(tmp_path, "captioned_clips/videos").values():
        assert item["video"] == (folder / item["name"].decode()).read_bytes()


def test_training_reads_what_was_built(folder, tmp_path):
    build("captioned_clips/videos", folder, tmp_path)
    source = TFDSSource("captioned_clips/videos", "video", "train", str(tmp_path))
    assert {source[index].caption for index in range(8)} == set("01234567")
    assert decode_at(source[0].data, np.array([0.5])).shape == (1, 16, 16, 3)


def test_webdataset_shards(tmp_path):
    picture = encode_png(np.full((4, 4, 3), 7, np.uint8))
    root = tmp_path / "tars"
    root.mkdir()
    write_tar(
        root / "part-0.tar",
        {
            "a/000.mp4": clip(0),
            "a/000.txt": "ein Kätzchen\n".encode(),
            "a/001.json": b'{"caption": "from json", "fps": 8}',
            "a/001.mp4": clip(1),
        },
    )
    write_tar(
        root / "part-1.tar",
        {
            "000.mp4": clip(2),
            "000.json": b'{"captions": ["first", "second"]}',
            "007.png": picture,
            "007.txt": b"a picture",
        },
    )
    build("captioned_clips/videos", root, tmp_path)
    found = elements(tmp_path, "captioned_clips/videos")
    assert {name: item["caption"].decode() for name, item in found.items()} == {
        "part-0.tar/a/000": "ein Kätzchen",
        "part-0.tar/a/001": "from json",
        "part-1.tar/000": "first",
    }
    assert found["part-1.tar/000"]["captions"] == [b"first", b"second"]
    assert found["part-0.tar/a/001"]["video"] == clip(1)
    build("captioned_clips/images", root, tmp_path)
    (image,) = elements(tmp_path, "captioned_clips/images").values()
    assert decode_image(image["image"]).max() == 7


def test_ucf101_has_its_official_splits(ucf, tmp_path):
    build("ucf101_clips/split01", ucf, tmp_path / "out")
    train = elements(tmp_path / "out", "ucf101_clips/split01")
    assert {(x["caption"], x["label"]) for x in train.values()} == {
        (b"apply eye makeup", b"ApplyEyeMakeup"),
        (b"yo yo", b"YoYo"),
    }
    ((name, item),) = elements(tmp_path / "out", "ucf101_clips/split01", "test").items()
    assert name == "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi"
    assert item["video"] == (ucf / "UCF-101" / name).read_bytes()


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("YoYo", "yo yo"),
        ("Archery", "archery"),
        ("TaiChi", "tai chi"),
    ],
)
def test_a_class_in_words(label, words):
    assert in_words(label) == words


def test_msr_vtt_has_all_captions_of_a_video(msr_vtt, tmp_path):
    build("msr_vtt_clips", msr_vtt, tmp_path / "out")
    found = elements(tmp_path / "out", "msr_vtt_clips", "test")
    assert found.keys() == {"video7010", "video7011"}
    item = found["video7011"]
    assert item["captions"] == [b"caption 0 of 7011", b"caption 1 of 7011"]
    assert (item["caption"], item["label"]) == (b"caption 0 of 7011", b"9")
    place = "msr_vtt_clips", "video", "test", str(tmp_path / "out")
    samples = [TFDSSource(*place)[index] for index in range(2)]
    assert {len(sample.captions) for sample in samples} == {2}
    others = TFDSSource(*place, filters=parse(f"name!={samples[0].fields['name']}", ""))
    with pytest.raises(FilteredOut, match="name is .*, wanted name!="):
        others[0]
    assert others[1].captions == samples[1].captions
    assert item["video"] == clip(7011)


def test_all_data_sets_have_the_same_elements(folder, ucf, msr_vtt, tmp_path):
    specs = [
        repr(build(name, source, tmp_path / "out").info.features)
        for name, source in [
            ("captioned_clips", folder),
            ("ucf101_clips", ucf),
            ("msr_vtt_clips", msr_vtt),
        ]
    ]
    assert len(set(specs)) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ucf", "'ucf' is not a data set; use .*'ucf101_clips'"),
        (
            "ucf101_clips/4",
            r"is not a data set; .*\(ucf101_clips: \['split01', 'split02'",
        ),
        ("ucf101_clips", "has no ucfTrainTestlist/trainlist01.txt; unpack UCF-101's"),
        ("msr_vtt_clips", r"has no \*videodatainfo.json; unpack MSR-VTT's annotation"),
        ("captioned_clips", "has no captions.jsonl; write one with"),
    ],
)
def test_a_folder_of_another_layout_is_refused(tmp_path, name, message):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "README").write_text("something else")
    with pytest.raises(ValueError, match=message):
        build(name, tmp_path / "source", tmp_path / "out")


def test_a_missing_folder_of_a_builder_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="is not a folder of files. msr_vtt_clips needs: A"
    ):
        build("msr_vtt_clips", tmp_path / "nowhere", tmp_path)


def test_listed_files_that_are_missing_are_named(ucf, msr_vtt, tmp_path):
    (ucf / "UCF-101" / "YoYo" / "v_YoYo_g25_c01.avi").unlink()
    with pytest.raises(ValueError, match="lacks 1 of the 2 files of trainlist01.txt"):
        build("ucf101_clips", ucf, tmp_path / "out")
    (msr_vtt / "TestVideo" / "video7011.mp4").unlink()
    with pytest.raises(ValueError, match="has no file of video7011, which it lists"):
        build("msr_vtt_clips", msr_vtt, tmp_path / "out")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"0.mp4": b"x"}, "part.tar/0 has no caption; add 0.txt"),
        ({"0.mp4": b"x", "0.json": b"{"}, "part.tar/0.json is not JSON"),
    ],
)
def test_tar_samples_without_captions_are_named(tmp_path, members, message):
    write_tar(tmp_path / "part.tar", members)
    with pytest.raises(ValueError, match=message):
        build("captioned_clips", tmp_path, tmp_path / "out")


def test_a_damaged_tar_is_named(tmp_path):
    (tmp_path / "part.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(ValueError, match="part.tar is damaged .*fetch it again"):
        build("captioned_clips", tmp_path, tmp_path / "out")
