"""Files as a scraped corpus holds them: giant, lying, turned, mixed up, or no video."""

import io
import json
import time

import av
import numpy as np
import pytest
from PIL import Image
from test_video import grey_frames, noise_frames, numbers, write_clip

from snapvideo_jax.data import (
    DataConfig,
    UnusableClip,
    decode_at,
    decode_image,
    make_joint_source,
    probe,
)
from snapvideo_jax.data.container import Deadline, SlowClip
from snapvideo_jax.data.image import sized_image
from snapvideo_jax.data.records import encode_png
from snapvideo_jax.data.video import Clip
from snapvideo_jax.io.media import encode_gif


def moving_frames(count=48):
    """A pattern that moves, so that frames are made from each other."""
    coarse = np.random.default_rng(0).integers(256, size=(9, 16, 3), dtype=np.uint8)
    picture = coarse.repeat(8, 0).repeat(8, 1)
    return np.stack([np.roll(picture, (i, 2 * i), (0, 1)) for i in range(count)])


def decoded_whole(data):
    """Every frame, by PyAV alone, from the first packet to the last."""
    with av.open(io.BytesIO(data)) as container:
        return {frame.pts: frame for frame in container.decode(video=0)}


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("libx264", "mp4", {"bf": "3", "g": "12"}),
        ("libx264", "mp4", {"x264-params": "open-gop=1:keyint=12:bframes=3"}),
        ("libx264", "mpegts", {"bf": "2", "g": "12"}),
        ("libx265", "mp4", {"x265-params": "log-level=none:keyint=12"}),
        ("libvpx-vp9", "webm", {"deadline": "realtime"}),
        ("mpeg4", "avi", {"g": "12"}),
    ],
)
def test_skipping_unreferenced_frames_changes_nothing(codec, container, options):
    data = write_clip(moving_frames(), None, codec, container, **options)
    whole = [frame for _, frame in sorted(decoded_whole(data).items())]
    for wanted in (range(16, 32), range(1, 48, 5), [13], [2, 30, 31, 47]):
        with Clip(data) as clip:
            clip.frames_at(np.asarray(wanted) * 0.04)  # leaves a used decoder behind
            stamps = clip._stamps[list(wanted)]
            for number, frame in zip(wanted, clip.decode(stamps), strict=True):
                np.testing.assert_array_equal(
                    frame.to_ndarray(), whole[number].to_ndarray()
                )


def test_frames_are_reduced_without_a_shift_in_colour():
    frames = moving_frames(2)
    data = write_clip(frames, None, pix_fmt="yuv444p", crf="1")
    small = decode_at(data, np.zeros(1), cover=(9, 16))[0]
    mean = frames[0].reshape(9, 8, 16, 8, 3).mean((1, 3))
    assert abs(small - mean).max() < 4
    assert abs((small - mean).mean()) < 0.5


def test_frames_cover_the_requested_size_in_their_aspect_ratio():
    data = write_clip(grey_frames(3, 90, 60))
    assert decode_at(data, np.zeros(1), cover=(20, 20)).shape == (1, 30, 20, 3)
    assert decode_at(data, np.zeros(1), cover=(180, 60)).shape == (1, 180, 120, 3)


def corner_clip(angle):
    """A clip stored 48 wide and 32 high, white in its upper left, with a rotation."""
    file = io.BytesIO()
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:16, :24] = 255
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.set_display_rotation(angle)
        for _ in range(4):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        output.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize(
    ("angle", "size", "white"),
    [(0, (32, 48), (0, 0)), (90, (48, 32), (1, 0)), (180, (32, 48), (1, 1)),
     (-90, (48, 32), (0, 1))],
)  # fmt: skip
def test_a_clip_filmed_sideways_is_rotated_for_display(angle, size, white):
    data = corner_clip(angle)
    info = probe(data)
    assert (info.height, info.width) == size
    (frame,) = decode_at(data, np.zeros(1))
    assert frame.shape == (*size, 3)
    height, width = size[0] // 2, size[1] // 2
    quarters = frame.mean(2).reshape(2, height, 2, width).mean((1, 3))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == white
    assert decode_at(data, np.zeros(1), cover=(12, 8)).shape[1:3] == (
        (12, 18) if size[0] == 32 else (12, 8)
    )


def test_ten_bits_and_uneven_odd_frames_are_decoded():
    times = [0, 30, 100, *range(140, 500, 40)]
    data = write_clip(grey_frames(12, 31, 45), times, pix_fmt="yuv444p10le")
    assert numbers(decode_at(data, np.array([0.0, 0.099, 0.46]))) == [0, 2, 11]


def test_a_clip_of_8k_is_decoded():
    frame = np.full((1, 4320, 7680, 3), 100, np.uint8)
    data = write_clip(frame, None, "mjpeg", "avi", pix_fmt="yuvj420p")
    small = decode_at(data, np.zeros(1), cover=(36, 64))
    assert small.shape == (1, 36, 64, 3)
    assert abs(small - 100.0).max() < 3


@pytest.fixture(scope="module")
def ten_hours(tmp_path_factory):
    """72,000 frames at 2 a second: 40 frames of `grey_frames`, again and again."""
    path = tmp_path_factory.mktemp("long") / "ten_hours.mp4"
    source = av.open(io.BytesIO(write_clip(grey_frames(40), g="20", bf="0")))
    packets = [packet for packet in source.demux(video=0) if packet.size]
    with av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        tick = packets[0].time_base
        step = round(0.5 / tick)
        for number in range(72_000):
            packet = packets[number % 40]
            packet.stream = stream
            packet.time_base = tick
            packet.pts = packet.dts = number * step
            output.mux(packet)
    source.close()
    return path


def test_only_the_needed_part_of_a_clip_of_ten_hours_is_read(ten_hours):
    began = time.process_time()
    with Clip(ten_hours) as clip:
        assert clip.info.frames == 72_000
        assert clip.info.fps == pytest.approx(2, rel=1e-3)
        wanted = np.array([61_003, 61_007, 61_019])
        assert numbers(clip.frames_at(wanted / 2)) == (wanted % 40).tolist()
        assert len(clip._packets) < 100
        assert numbers(clip.frames_at(np.array([0.0, 1.5]))) == [0, 3]
        assert numbers(clip.frames_at(np.array([35_999.0]))) == [38]
        with pytest.raises(UnusableClip, match=r"lasts 35999.\d* s, but its frame at"):
            clip.frames_at(np.array([36_010.0]))
        with pytest.raises(UnusableClip, match="too large to be decoded into memory"):
            clip.decoded()
    assert time.process_time() - began < 20


def test_a_truncated_long_clip_is_refused_where_it_ends(ten_hours, tmp_path):
    cut = tmp_path / "cut.mp4"
    remux_with_index_first(ten_hours, cut)
    cut.write_bytes(cut.read_bytes()[: int(0.75 * cut.stat().st_size)])
    assert len(decode_at(cut, np.array([1000.0, 1002.0]))) == 2
    with pytest.raises(UnusableClip, match="truncated|holds|no frames"):
        decode_at(cut, np.array([35_000.0, 35_002.0]))


def remux_with_index_first(source, target):
    """The same packets in a file whose index comes before them."""
    faststart = {"movflags": "faststart"}
    with (
        av.open(str(source)) as whole,
        av.open(str(target), "w", container_options=faststart) as output,
    ):
        stream = output.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)


@pytest.mark.parametrize(
    ("width", "reason"),
    [
        (480, "says 480x32 pixels, but a frame has 48x32"),
        (2**16 - 1, "says 65535x32 pixels, but a frame has 48x32"),
    ],
)
def test_a_wrong_size_in_the_header_is_detected(width, reason):
    data = bytearray(write_clip(grey_frames(6)))
    place = data.index(b"avc1", data.index(b"stsd")) + 28
    assert int.from_bytes(data[place : place + 2], "big") == 48
    data[place : place + 2] = width.to_bytes(2, "big")
    with pytest.raises(UnusableClip, match=reason):
        decode_at(bytes(data), np.zeros(1))


def test_frames_too_large_for_memory_are_refused_before_decoding():
    data = bytearray(encode_gif(np.ascontiguousarray(grey_frames(4)), fps=10))
    data[6:10] = 2 * (8000).to_bytes(2, "little")  # of the screen, in its header
    with pytest.raises(UnusableClip, match="no known size, or over 36,000,000 pixels"):
        Clip(bytes(data))
    with pytest.raises(UnusableClip, match="1000 frames of 1500x1000 are too large"):
        with Clip(write_clip(grey_frames(2)), cover=(1000, 1500)) as clip:
            clip.frames_at(np.zeros(1000))


def test_a_gap_is_not_filled_with_copies_of_a_frame():
    times = [*range(0, 400, 40), *range(1000, 1400, 40)]
    for container in ("mpegts", "matroska"):
        lossy = write_clip(grey_frames(20), times, container=container)
        with pytest.raises(UnusableClip, match=r"no frames for 0.640 s near 0.360 s"):
            decode_at(lossy, np.linspace(0.2, 1.2, 16))
        assert numbers(decode_at(lossy, np.array([0.36, 1.0]))) == [9, 10]
    # In an MP4 each frame says how long it lasts: this one is meant to.
    still = decode_at(write_clip(grey_frames(20), times), np.array([0.4, 0.5, 0.6]))
    assert numbers(still) == [9, 9, 9]


@pytest.mark.parametrize(
    "data",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.mp4\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile other.mp4\n",
        encode_png(np.zeros((8, 8, 3), np.uint8)),
    ],
    ids=["playlist", "concat", "picture"],
)
def test_playlists_and_other_formats_are_not_opened(data, tmp_path):
    (tmp_path / "other.mp4").write_bytes(write_clip(grey_frames(8)))
    (tmp_path / "clip.mp4").write_bytes(data)
    for clip in (data, tmp_path / "clip.mp4"):
        with pytest.raises(UnusableClip, match="not a video file"):
            probe(clip)


def test_cover_art_is_not_a_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as output:
        sound = output.add_stream("aac", rate=8000, layout="mono")
        cover = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(grey_frames(1, 16, 16)[0].copy(), "rgb24")
        output.mux(cover.encode(picture))
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), "fltp", "mono"
        )
        frame.sample_rate = 8000
        output.mux(sound.encode(frame))
        output.mux(sound.encode())
        output.mux(cover.encode())
    with pytest.raises(UnusableClip, match="no video stream"):
        probe(path)


def test_a_clip_that_exceeds_its_time_limit_is_refused():
    data = write_clip(noise_frames(40))
    with pytest.raises(SlowClip, match=r"takes longer than 0.001 s to read"):
        with Clip(data, seconds=0.001) as clip:
            clip.frames_at(np.array([1.5]))
    with pytest.raises(SlowClip, match="takes longer than"):
        Deadline(-1.0).check()


def test_pictures_are_decoded_small_and_upright():
    gradient = np.linspace(0, 255, 640).astype(np.uint8)
    rgb = np.broadcast_to(gradient[None, :, None], (480, 640, 3)).copy()
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # held upright: shown turned by a quarter
    Image.fromarray(rgb).save(file, "jpeg", quality=95, exif=exif)
    assert sized_image(file.getvalue())[1] == (640, 480)
    small = decode_image(file.getvalue(), cover=(32, 24))
    assert small.shape == (32, 24, 3)
    expected = rgb.reshape(480, 32, 20, 3).mean((0, 2))[:, None]
    assert abs(small - expected).max() < 3


def test_a_picture_of_too_many_pixels_is_refused():
    file = io.BytesIO()
    Image.new("1", (8000, 8000)).save(file, "png")
    with pytest.raises(UnusableClip, match="8000x8000 pixels are too large"):
        decode_image(file.getvalue())


# Captions, and files that go away.


def folder(root, lines):
    """A folder of clips, a line of captions.jsonl for each, given as bytes."""
    for index in range(len(lines)):
        (root / f"{index}.mp4").write_bytes(write_clip(grey_frames(10)))
    text = [
        b'{"file": "%d.mp4", "type": "video", "caption": %s}' % (index, caption)
        for index, caption in enumerate(lines)
    ]
    (root / "captions.jsonl").write_bytes(b"\n".join(text))
    return DataConfig(
        source="folder", root=str(root), frames=4, height=8, width=12,
        videos_per_batch=len(lines), images_per_batch=0, num_threads=0,
    )  # fmt: skip


def test_captions_may_be_empty_or_long_and_must_be_utf8(tmp_path):
    long = b'"' + b"a panda " * 1250 + b'"'
    config = folder(tmp_path, [b'""', long, b'"caf\xe9"', '"café"'.encode()])
    joint = make_joint_source(config, 0, tmp_path / "skipped.jsonl")
    captions = {joint.sample_caption(sample) for sample in range(4)}
    assert captions == {
        ("0.mp4", ""),
        ("1.mp4", 1250 * "a panda "),
        ("3.mp4", "café"),
    }
    (entry,) = map(json.loads, (tmp_path / "skipped.jsonl").read_text().splitlines())
    assert (entry["file"], entry["reason"]) == ("2.mp4", "its caption is not UTF-8")


def test_a_deleted_file_is_skipped(tmp_path):
    config = folder(tmp_path, 3 * [b'"a"'])
    joint = make_joint_source(config, 0, tmp_path / "skipped.jsonl")
    (tmp_path / "1.mp4").unlink()
    assert {joint.sample_caption(i)[0] for i in range(3)} == {"0.mp4", "2.mp4"}
    entry = json.loads((tmp_path / "skipped.jsonl").read_text())
    assert entry["reason"] == "unreadable file (No such file or directory)"


def test_a_file_that_was_slow_once_remains_refused(tmp_path):
    config = folder(tmp_path, 3 * [b'"a"'])
    path = tmp_path / "skipped.jsonl"
    slow = {"kind": "video", "file": "1.mp4", "reason": "takes longer", "of": 3}
    path.write_text(json.dumps(slow | {"slow": True}) + "\n")
    joint = make_joint_source(config, 0, path)
    assert {joint.sample_caption(i)[0] for i in range(3)} == {"0.mp4", "2.mp4"}
