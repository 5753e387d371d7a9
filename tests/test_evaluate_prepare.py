"""Inputs of the networks: every resize, every variant, and the tokenizer."""

import gzip
import json

import numpy as np
import pytest
from PIL import Image

from snapvideo_jax.evaluation import resize
from snapvideo_jax.evaluation.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    VARIANTS,
    default_variant,
)
from snapvideo_jax.evaluation.tokenizer import (
    END,
    START,
    Tokenizer,
    openai_vocabulary,
    read_tokenizer,
)


def noise(frames=2, height=36, width=64, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(256, size=(frames, height, width, 3), dtype=np.uint8)


def constant(level, height=30, width=50):
    return np.full((2, height, width, 3), level, np.uint8)


def shown(network, variant, frames):
    return VARIANTS[network][variant].apply(frames)


# --- Resizing -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "grid, expected",
    [
        (resize.half_pixel, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]),
        (resize.legacy, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]),
        (resize.aligned, np.linspace(0, 3, 8)),
    ],
    ids=["half-pixel", "TensorFlow 1", "aligned corners"],
)
def test_each_bilinear_on_a_ramp(grid, expected):
    """Four pixels of values 0 to 3 become eight: values are positions."""
    ramp = np.arange(4, dtype=np.float32)[None, None, :, None]
    for frames, size in (
        (ramp, (1, 8)),
        (ramp.transpose(0, 2, 1, 3), (8, 1)),
    ):
        found = resize.bilinear(frames, size, grid).ravel()
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_three_bilinears_differ_by_many_levels():
    frames, size = noise(), (299, 299)
    legacy, half, aligned = (
        resize.bilinear(frames, size, grid)
        for grid in (resize.legacy, resize.half_pixel, resize.aligned)
    )
    assert np.abs(legacy - half).mean() > 20
    assert np.abs(half - aligned).mean() > 10


@pytest.mark.parametrize("size", [(224, 224), (20, 300), (36, 64)])
def test_half_pixel_is_pytorchs_bilinear(size):
    torch = pytest.importorskip("torch", reason="PyTorch comes with the parity extra")
    frames = noise()
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2).float(),
        size=size,
        mode="bilinear",
        align_corners=False,
    )
    ours = resize.bilinear(frames, size, resize.half_pixel)
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), atol=0.01)


def test_aligned_corners_are_pytorchs():
    torch = pytest.importorskip("torch", reason="PyTorch comes with the parity extra")
    frames = noise()
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2).float(),
        size=(112, 112),
        mode="bilinear",
        align_corners=True,
    )
    ours = resize.bilinear(frames, (112, 112), resize.aligned)
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), atol=0.01)


def test_exact_bicubic_rounds_to_the_ordinary_one():
    frames, size = noise() // 3 + 80, (20, 30)  # without black and white to overshoot
    exact, rounded = (f(frames, size) for f in (resize.bicubic_exact, resize.bicubic))
    assert np.abs(exact.clip(0, 255) - rounded).max() < 1.5


# --- Variants -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "network, variant", [(n, v) for n, each in VARIANTS.items() for v in each]
)
def test_size_dtype_and_constant_images_of_every_variant(network, variant):
    side = {"i3d": 224, "inception": 299, "c3d": 112, "clip": 224}[network]
    found = shown(network, variant, constant(200))
    assert found.shape == (2, side, side, 3) and found.dtype == np.float32
    assert np.ptp(found, axis=(0, 1, 2)).max() < 1e-4


@pytest.mark.parametrize(
    "network, variant, black, white",
    [
        ("i3d", "stylegan-v", -1, 1),
        ("i3d", "tf", -1, 1),
        ("i3d", "videogpt", -1, 1),
        ("inception", "tf", -1, 127 / 128),
        ("inception", "pytorch-fid", -1, 1),
        ("inception", "clean", -1, 127 / 128),
        ("c3d", "tgan", 0, 255),
    ],
)
def test_ranges(network, variant, black, white):
    for level, value in ((0, black), (255, white)):
        found = shown(network, variant, constant(level))
        np.testing.assert_allclose(found, value, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS["clip"])
def test_clip_normalises_by_its_mean_and_deviation(variant):
    found = shown("clip", variant, constant(51))
    expected = np.broadcast_to((0.2 - CLIP_MEAN) / CLIP_STD, found.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_variants_crop_the_sides_or_squash():
    """White sides left and right of a black square in the middle."""
    frames = constant(255, 36, 64)
    frames[:, :, 14:50] = 0
    for network, variant, is_cut in (
        ("i3d", "videogpt", True),
        ("i3d", "stylegan-v", False),
        ("i3d", "tf", False),
        ("clip", "openai", True),
        ("clip", "squash", False),
    ):
        found = shown(network, variant, frames)
        edge = found[0, 100, 3] > found[0, 100, 112]
        assert edge.all() != is_cut


def test_clip_preprocessing_equals_pillows():
    frames = noise(1, 40, 60)
    picture = Image.fromarray(frames[0]).resize((336, 224), Image.Resampling.BICUBIC)
    middle = np.asarray(picture)[:, 56:280] / 255
    expected = (middle - CLIP_MEAN) / CLIP_STD
    np.testing.assert_allclose(shown("clip", "openai", frames)[0], expected, atol=1e-5)


def test_default_variants():
    found = [
        default_variant(network) for network in ("i3d", "inception", "c3d", "clip")
    ]
    assert found == ["stylegan-v", "tf", "tgan", "openai"]
    assert VARIANTS["i3d"]["stylegan-v"].settings == {"epsilon": 1e-3}
    assert VARIANTS["i3d"]["videogpt"].settings == {"epsilon": 1e-5}


# --- Tokens -------------------------------------------------------------------------

PANDA = [("p", "a"), ("n", "d"), ("pa", "nd"), ("pand", "a</w>")]


def test_merges_are_applied_by_priority():
    tokenizer = Tokenizer(*openai_vocabulary(PANDA))
    vocabulary, _ = openai_vocabulary(PANDA)
    assert tokenizer.tokens("Panda a") == [
        vocabulary[START],
        vocabulary["panda</w>"],
        vocabulary["a</w>"],
        vocabulary[END],
    ]
    apart = [vocabulary["pand"], vocabulary["e</w>"]]
    assert tokenizer.tokens("pande")[1:-1] == apart
    assert vocabulary[START] == 512 + len(PANDA)
    assert vocabulary["!"] == 0 and vocabulary["!</w>"] == 256


def test_captions_are_repaired_as_openai_does():
    tokenizer = Tokenizer(*openai_vocabulary(PANDA))
    plain = tokenizer.tokens("a <b> & \"c\" 'd'")
    for caption in (
        "a &lt;b&gt; &amp; &quot;c&quot; 'd'",
        "a &amp;lt;b&amp;gt; &amp;amp; &quot;c&quot; 'd'",
        "a <b> & \u201cc\u201d \u2018d\u2019",
    ):
        assert tokenizer.tokens(caption) == plain
        assert tokenizer.tokens(caption, repair=False) != plain


def test_a_long_caption_is_truncated_and_counted():
    tokenizer = Tokenizer(*openai_vocabulary(PANDA))
    rows, cut = tokenizer.encode(["panda " * 100, "panda"])
    assert rows.shape == (2, 77) and cut == 1
    assert rows[0, -1] == rows[1, 2] == len(tokenizer) - 1
    assert not rows[1, 3:].any()


def test_both_kinds_of_files_give_the_same_tokens(tmp_path):
    ours, theirs = tmp_path / "openai", tmp_path / "hf"
    for folder in (ours, theirs):
        folder.mkdir()
    lines = "\n".join(["version", *map(" ".join, PANDA)])
    (ours / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress(lines.encode()))
    vocabulary, _ = openai_vocabulary(PANDA)
    (theirs / "vocab.json").write_text(json.dumps(vocabulary))
    (theirs / "merges.txt").write_text(lines)
    one, other = map(read_tokenizer, (ours, theirs))
    assert one.sha256 == other.sha256
    assert one.tokens("a panda's 🐼") == other.tokens("a panda's 🐼")


def test_damaged_tokenizer_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="put vocab.json and merges.txt there"):
        read_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("version\np a\n")
    with pytest.raises(ValueError, match="The vocabulary lacks"):
        read_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("version\na b c\n")
    with pytest.raises(ValueError, match="'a b c', not a pair"):
        read_tokenizer(tmp_path)
