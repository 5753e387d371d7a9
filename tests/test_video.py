"""Clips give the frames nearest to moments, whatever their frame-rate or format."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.data.image import decode_image
from snapvideo_jax.data.records import encode_mp4, encode_png
from snapvideo_jax.data.video import Clip, decode_at, nearest_frames, probe

BAD = Path(__file__).parents[1] / "../shared/clips/bad"
needs_bad_clips = pytest.mark.skipif(
    not BAD.is_dir(), reason="the shared clips are missing"
)


def grey_frames(count, height=32, width=48):
    """Frame ``i`` is grey of level ``5 i``, so its level gives its number."""
    levels = 5 * np.arange(count, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3))


def numbers(video):
    """Which frames of `grey_frames` these are."""
    return np.rint(video.mean((1, 2, 3)) / 5).astype(int).tolist()


def write_clip(frames, milliseconds=None, codec="libx264", container="mp4", **options):
    """A file whose frames are shown at the given times (every 40 ms unless given)."""
    if milliseconds is None:
        milliseconds = range(0, 40 * len(frames), 40)
    file = io.BytesIO()
    pixels = options.pop("pix_fmt", "yuv420p")
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options=options)
        _, stream.height, stream.width, _ = frames.shape
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, 25 if container == "avi" else 1000)
        for rgb, when in zip(frames, milliseconds, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(when / 1000 / frame.time_base)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


UNEVEN = [0, 33, 116, 316, 378, 411, 611, 694]


def test_probe_returns_size_and_timing_without_decoding():
    info = probe(encode_mp4(grey_frames(25), fps=24))
    assert (info.frames, info.height, info.width) == (25, 32, 48)
    assert info.fps == pytest.approx(24)
    assert info.duration == pytest.approx(1.0)


def test_probe_of_an_uneven_clip_gives_its_mean_rate():
    info = probe(write_clip(grey_frames(8), UNEVEN))
    assert info.frames == 8
    assert info.duration == pytest.approx(0.694)
    assert info.fps == pytest.approx(7 / 0.694)


@pytest.mark.parametrize(
    ("time", "frame"),
    [
        (0.0, 0),
        (0.016, 0),
        (0.017, 1),
        (0.074, 1),
        (0.075, 2),
        (0.215, 2),
        (0.217, 3),
        (0.395, 5),
        (0.510, 5),
        (0.512, 6),
        (0.694, 7),
    ],
)
def test_the_frame_nearest_in_presentation_time_is_taken(time, frame):
    assert nearest_frames(np.array(UNEVEN) / 1000, np.array([time])) == [frame]
    video = decode_at(write_clip(grey_frames(8), UNEVEN), np.array([time]))
    assert numbers(video) == [frame]


def test_a_time_halfway_takes_the_earlier_frame():
    assert nearest_frames(np.array([0.0, 1.0, 2.0]), np.array([0.5, 1.5])).tolist() == [
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("libx264", "mp4", {}),
        ("libx264", "matroska", {}),
        ("libvpx-vp9", "webm", {}),
        ("libx264", "mpegts", {}),
        ("mpeg4", "avi", {"qmax": "2"}),
    ],
)
def test_every_container_returns_the_requested_frames(codec, container, options):
    data = write_clip(grey_frames(30), None, codec, container, g="6", **options)
    info = probe(data)
    assert info.frames == 30
    assert info.fps == pytest.approx(25)
    wanted = [0, 3, 3, 11, 12, 20, 29]
    assert numbers(decode_at(data, np.array(wanted) * 0.04)) == wanted
    assert numbers(decode_at(data, np.array([17, 18]) * 0.04)) == [17, 18]


def packets_decoded(clip, times):
    """How many packets of a clip the decoder is given for the frames at some times."""
    given = []
    play = clip._play

    def counted(packets, wanted):
        given.extend(packets)
        return play(packets, wanted)

    clip._play = counted
    clip.frames_at(times)
    return len(given)


def test_decoding_begins_at_the_key_frame_before_and_ends_with_the_last_frame():
    with Clip(write_clip(grey_frames(40), g="8", bf="0", sc_threshold="0")) as clip:
        for first, last, packets in (
            (16, 16, 1),
            (7, 7, 8),
            (6, 9, 7 + 2),
            (0, 39, 1 + 8),
        ):
            assert packets_decoded(clip, np.array([first, last]) * 0.04) == packets


def test_a_file_and_its_bytes_are_the_same_clip(tmp_path):
    data = encode_mp4(grey_frames(4), fps=25)
    (tmp_path / "clip.mp4").write_bytes(data)
    assert probe(tmp_path / "clip.mp4") == probe(data)


def test_odd_sizes_and_full_chroma_are_decoded():
    data = write_clip(grey_frames(5, 31, 45), UNEVEN[:5], pix_fmt="yuv444p")
    video = decode_at(data, np.array([0.0, 0.3]))
    assert video.shape == (2, 31, 45, 3)
    assert video.dtype == np.uint8
    assert numbers(video) == [0, 3]


def test_a_clip_in_memory_gives_the_same_frames():
    data = write_clip(grey_frames(8), UNEVEN)
    times = np.array([0.0, 0.1, 0.4, 0.69])
    with Clip(data) as clip:
        decoded = clip.decoded()
    assert decoded.info == probe(data)
    np.testing.assert_array_equal(decoded.frames_at(times), decode_at(data, times))


def write_sound():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=8000, layout="mono")
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"A text is no video. " * 30, "not a video file"),
        (write_sound(), "no video stream"),
        (write_clip(grey_frames(9), container="h264"), "no presentation times"),
    ],
)
def test_files_that_are_not_clips_are_refused_with_a_reason(data, reason):
    with pytest.raises(UnusableClip, match=reason):
        probe(data)


def noise_frames(count):
    """Frames that do not compress, so that each takes its share of the file."""
    shape = (count, 32, 48, 3)
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def test_a_truncated_file_is_refused_with_the_number_of_its_frames(tmp_path):
    # The index comes first, as in files for the web, so the file still opens.
    whole = tmp_path / "whole.mp4"
    options = {"movflags": "faststart"}
    with av.open(str(whole), "w", container_options=options) as output:
        stream = output.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for rgb in noise_frames(30):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
        output.mux(stream.encode())
    data = whole.read_bytes()
    assert probe(data).frames == 30
    with pytest.raises(UnusableClip, match=r"truncated file, holds only 1\d of 30"):
        probe(data[: len(data) // 2])


def test_a_time_after_the_end_is_refused():
    data = encode_mp4(grey_frames(5), fps=25)
    with pytest.raises(UnusableClip, match=r"lasts 0.160 s, .* at 0.400 s"):
        decode_at(data, np.array([0.0, 0.4]))


def test_damaged_frames_are_refused_only_where_they_are_needed():
    frames = noise_frames(16)
    data = write_clip(frames, codec="mjpeg", container="avi", pix_fmt="yuvj420p")
    with av.open(io.BytesIO(data)) as container:
        packet = [x for x in container.demux(video=0) if x.size][12]
        place = data.index(bytes(packet))
    damaged = data[:place] + bytes(packet.size) + data[place + packet.size :]
    assert decode_at(damaged, np.array([0.0, 0.2])).shape[0] == 2
    with pytest.raises(UnusableClip, match="does not decode|only .* frames decode"):
        decode_at(damaged, np.array([12 * 0.04]))


def test_frames_out_of_order_are_refused():
    # AVI cannot say when a frame is shown, so frames stored ahead of time mislead.
    picture = np.kron(noise_frames(1)[0, ::8, ::8], np.ones((8, 8, 1), np.uint8))
    moving = np.stack([np.roll(picture, step, axis=1) for step in range(30)])
    data = write_clip(moving, container="avi", bf="3")
    with pytest.raises(UnusableClip, match="out of order"):
        decode_at(data, np.array([0.0, 0.8]))


def test_images_are_decoded_to_rgb():
    rgb = np.random.default_rng(0).integers(256, size=(7, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(encode_png(rgb)), rgb)
    file = io.BytesIO()
    Image.fromarray(rgb[..., 0]).save(file, format="png")
    assert decode_image(file.getvalue()).shape == (7, 5, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"no image", "not a readable image"),
        (encode_png(np.zeros((64, 64, 3), np.uint8))[:60], "not a readable image"),
    ],
)
def test_files_that_are_not_images_are_refused_with_a_reason(data, reason):
    with pytest.raises(UnusableClip, match=reason):
        decode_image(data)


@needs_bad_clips
@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("truncated.mp4", "truncated file, holds only 1[5-9] of 64 frames"),
        ("zero_bytes.mp4", "empty file"),
        ("text_renamed.mp4", "not a video file"),
        ("audio_only.mp4", "no video stream"),
    ],
)
def test_broken_files_are_refused(file, reason):
    with pytest.raises(UnusableClip, match=reason):
        probe(BAD / file)


@needs_bad_clips
def test_a_file_of_one_frame_holds_one_frame():
    info = probe(BAD / "one_frame.mp4")
    assert (info.frames, info.fps, info.duration) == (1, 0.0, 0.0)


@needs_bad_clips
def test_an_uneven_clip_of_odd_size_is_usable():
    info = probe(BAD / "vfr_odd_321x181.mp4")
    assert (info.frames, info.height, info.width) == (40, 181, 321)
    video = decode_at(BAD / "vfr_odd_321x181.mp4", np.linspace(0, info.duration, 16))
    assert video.shape == (16, 181, 321, 3)
