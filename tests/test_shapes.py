"""The shapes data set: what a scene is, what training never sees, what build writes."""

import collections
import io
import json
import re

import av
import numpy as np
import pytest
from array_record.python import array_record_module
from PIL import Image

from snapvideo_jax.data import records
from snapvideo_jax.data.shapes import dataset


def scenes(split, count=300):
    return [dataset.sample_scene(0, index, split) for index in range(count)]


def triple(scene):
    return scene.colour, scene.shape, scene.direction


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
        return stream.codec_context.name, int(stream.average_rate), np.stack(frames)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    return dataset.build(
        tmp_path_factory.mktemp("shapes"), videos=12, images=5, size=64
    )


def captions_of(folder):
    lines = (folder / "captions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_scenes_are_a_pure_function_of_seed_split_and_index():
    assert dataset.sample_scene(3, 7, "train") == dataset.sample_scene(3, 7, "train")
    drawn = {
        dataset.sample_scene(seed, index, split)
        for seed in (0, 1)
        for split in ("train", "test")
        for index in range(10)
    }
    assert len(drawn) == 40


def test_sixteen_of_72_triples_are_held_out_in_balance():
    assert len(dataset.TRIPLES) == 72 and len(dataset.HELD_OUT) == 16
    for words, counts in zip(
        zip(*dataset.HELD_OUT, strict=True), ({2, 3}, {5, 6}, {4}), strict=True
    ):
        assert set(collections.Counter(words).values()) == counts


def test_training_sees_every_pair_of_words_but_no_held_out_triple():
    seen = {triple(scene) for scene in scenes("train", 3000)}
    assert seen == set(dataset.TRIPLES) - dataset.HELD_OUT
    for colour, shape, direction in dataset.TRIPLES:
        assert any(t[:2] == (colour, shape) for t in seen)
        assert any(t[1:] == (shape, direction) for t in seen)
        assert any(t[::2] == (colour, direction) for t in seen)


def test_the_test_split_draws_all_held_out_triples_and_no_other():
    assert {triple(scene) for scene in scenes("test")} == dataset.HELD_OUT


def test_no_part_of_the_shape_leaves_the_frame():
    for scene in scenes("train", 80) + scenes("test", 40):
        video = dataset.render(scene, frames=2, fps=1 / dataset.DURATION, size=256)
        border = np.concatenate(
            [video[:, 0], video[:, -1], video[:, :, 0], video[:, :, -1]]
        )
        assert (border == scene.level).all(), scene


def test_slow_shapes_move_visibly_and_fast_ones_faster():
    # 8 frames at 6 fps and 16 pixels.
    travel = {
        speed: [s.velocity * 7 / 6 * 16 for s in scenes("train") if s.speed == speed]
        for speed in ("slowly", "fast")
    }
    assert min(travel["slowly"]) > 2.5
    assert min(travel["fast"]) > 1.1 * max(travel["slowly"])
    assert np.mean(travel["fast"]) > 1.6 * np.mean(travel["slowly"])


def test_motion_is_smooth_below_the_pixel():
    for scene in scenes("test", 20):
        alpha = abs(dataset.render(scene, size=64).astype(float) - scene.level).sum(-1)
        grid = np.indices(alpha.shape[1:]) + 0.5
        y, x = (np.einsum("thw,hw->t", alpha, g) / alpha.sum((1, 2)) for g in grid)
        along_x, along_y = dataset.DIRECTIONS[scene.direction]
        step = scene.velocity * 64 / dataset.FPS
        np.testing.assert_allclose(np.diff(x), along_x * step, atol=0.05)
        np.testing.assert_allclose(np.diff(y), along_y * step, atol=0.05)


def test_a_small_render_is_a_large_one_averaged():
    for scene in scenes("test", 20):
        large = dataset.render(scene, frames=2, size=64).astype(float)
        averaged = large.reshape(2, 16, 4, 16, 4, 3).mean((2, 4))
        small = dataset.render(scene, frames=2, size=16)
        assert abs(small - averaged).mean() < 1


def test_a_render_longer_than_its_scene_is_refused():
    scene = dataset.sample_scene(0, 0, "train")
    with pytest.raises(ValueError, match="frames=49 at fps=24 last 2.00 s"):
        dataset.render(scene, frames=49)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split='valid' is unknown"):
        dataset.sample_scene(0, 0, "valid")


def test_captions_name_the_triple_and_those_of_images_no_motion():
    for scene in scenes("train"):
        words = dataset.caption(scene).split()
        assert set(triple(scene)) <= set(words)
        image_words = set(dataset.caption(scene, image=True).split())
        assert {scene.colour, scene.shape} <= image_words
        assert not image_words & {*dataset.DIRECTIONS, "moving", "moves", scene.speed}


def test_captions_follow_one_grammar():
    grammar = re.compile(
        rf"(a )?((small|large) )?({'|'.join(dataset.COLOURS)}) "
        rf"({'|'.join(dataset.SHAPES)}) (moving|moves) ({'|'.join(dataset.DIRECTIONS)})"
        r"( (slowly|fast))?( on a (black|grey|white) background)?"
    )
    texts = {dataset.caption(scene) for scene in scenes("train", 2000)}
    assert all(grammar.fullmatch(text) for text in texts)


def test_held_out_prompts_cover_every_held_out_triple_evenly():
    prompts = dataset.held_out_prompts(64)
    assert prompts == dataset.held_out_prompts(64)
    counts = collections.Counter(words for _, words in prompts)
    assert counts == {words: 4 for words in dataset.HELD_OUT}
    assert all(set(words) <= set(prompt.split()) for prompt, words in prompts)


def test_no_held_out_prompt_is_a_training_caption():
    captions = {dataset.caption(scene) for scene in scenes("train", 3000)}
    assert not captions & {prompt for prompt, _ in dataset.held_out_prompts(128)}


def test_build_writes_h264_that_decodes_to_the_renders(data_set):
    for index in range(12):
        codec, fps, video = decode(data_set / f"videos/{index:05}.mp4")
        scene = dataset.sample_scene(0, index, "train")
        assert (codec, fps, video.shape) == ("h264", 24, (48, 64, 64, 3))
        assert abs(video.astype(float) - dataset.render(scene, size=64)).mean() < 4


def test_build_writes_images_without_loss(data_set):
    for number in range(5):
        image = np.asarray(Image.open(data_set / f"images/{number:05}.png"))
        scene = dataset.sample_scene(0, 12 + number, "train")
        np.testing.assert_array_equal(image, dataset.render_image(scene, size=64))


def test_build_captions_every_file_once(data_set):
    lines = captions_of(data_set)
    files = {
        str(path.relative_to(data_set))
        for kind in ("videos", "images")
        for path in (data_set / kind).iterdir()
    }
    assert len(lines) == 17 and {line["file"] for line in lines} == files
    for line in lines:
        video = line["type"] == "video"
        assert (line["width"], line["height"]) == (64, 64)
        assert (line["fps"], line["frames"]) == ((24, 48) if video else (None, 1))
        assert {line["colour"], line["shape"]} <= set(line["caption"].split())
        assert (
            (line["direction"] in line["caption"].split())
            if video
            else (line["direction"] is None)
        )


def test_records_equal_the_files(data_set):
    lines = captions_of(data_set)
    for kind in ("video", "image"):
        reader = array_record_module.ArrayRecordReader(
            str(data_set / f"{kind}.array_record")
        )
        wanted = [
            line | {"data": (data_set / line["file"]).read_bytes()}
            for line in lines
            if line["type"] == kind
        ]
        assert [records.decode_record(r) for r in reader.read_all()] == wanted
        reader.close()


def test_a_second_build_writes_nothing(data_set):
    def times():
        return {path: path.stat().st_mtime_ns for path in data_set.rglob("*")}

    before = times()
    assert dataset.build(data_set.parent, videos=12, images=5, size=64) == data_set
    assert times() == before


def test_other_arguments_make_another_folder(data_set):
    calls = []
    other = dataset.build(
        data_set.parent,
        videos=2,
        images=1,
        size=32,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert other != data_set and {*data_set.parent.iterdir()} == {data_set, other}
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert decode(other / "videos/00001.mp4")[2].shape == (48, 32, 32, 3)


def test_a_build_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="frames are 63x63, wanted an even height"):
        dataset.build(tmp_path, videos=1, images=0, size=63)
    assert not list(tmp_path.iterdir())


def test_a_record_holds_any_header_and_its_media():
    record = {"caption": "größer", "fps": None, "frames": 1, "data": b"\x00{}"}
    assert records.decode_record(records.encode_record(record)) == record


def test_a_record_without_media_is_refused():
    with pytest.raises(ValueError, match=r"record\['data'\] is NoneType"):
        records.encode_record({"caption": "a red circle"})


def test_a_record_cut_off_is_refused():
    encoded = records.encode_record({"caption": "a red circle", "data": b""})
    with pytest.raises(ValueError, match="its header ends at byte"):
        records.decode_record(encoded[:-1])


def test_an_encoded_frame_decodes_to_itself():
    frame = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)
    decoded = np.asarray(Image.open(io.BytesIO(records.encode_png(frame))))
    np.testing.assert_array_equal(decoded, frame)
