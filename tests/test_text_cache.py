"""A cache returns what was written, and only complete shards."""

import ml_dtypes
import numpy as np
import pytest
import t5_folder

from snapvideo_jax.models.t5 import SIZES
from snapvideo_jax.text import CachedText, HashTextEncoder, TextEncoder
from snapvideo_jax.text.cache import (
    begin_cache,
    key_of,
    read_keys,
    shards_of,
    write_shard,
)
from snapvideo_jax.text.costs import TextPlan

WIDTH = 8
MANIFEST = {"encoder": "t5", "fingerprint": "0", "tokens": 6, "width": WIDTH}


def embedding(caption):
    """Some embedding of 1 to 6 tokens, as bfloat16 has it."""
    rng = np.random.default_rng(len(caption))
    made = rng.normal(size=(1 + len(caption) % 6, WIDTH))
    return made.astype(ml_dtypes.bfloat16).astype(np.float32)


def write(folder, captions, shard=4):
    begin_cache(folder, MANIFEST)
    for number, first in enumerate(range(0, len(captions), shard)):
        some = captions[first : first + shard]
        path = folder / f"text-{number:05d}.array_record"
        write_shard(path, [key_of(x) for x in some], map(embedding, some))
    return folder


def cached(folder, tokens=6, width=WIDTH):
    return CachedText(str(folder), tokens, width)


def test_embeddings_come_back_bit_for_bit_in_any_order(tmp_path):
    captions = [*t5_folder.captions(10), "円が動く", "\ud800"]
    encoder = cached(write(tmp_path / "cache", captions))
    assert isinstance(encoder, TextEncoder)
    asked = [captions[7], captions[11], captions[7], *captions]
    text, mask = encoder.encode(asked)
    assert text.shape == (15, 6, WIDTH) and text.dtype == np.float32
    for row, known, caption in zip(text, mask, asked, strict=True):
        expected = embedding(caption)
        np.testing.assert_array_equal(row[known], expected)
        assert known.sum() == len(expected) and not row[~known].any()


def test_a_cache_has_the_size_that_is_planned(tmp_path):
    lengths = np.random.default_rng(0).integers(2, 40, 300)
    plan = TextPlan(
        captions=300, mean_tokens=lengths.mean(), tokens=128, sizes=SIZES["t5-11b"],
        batch=64, step_seconds=1.0, step_flops=1e12,
    )  # fmt: skip
    keys = [key_of(str(number)) for number in range(300)]
    made = (np.ones((length, 1024), np.float32) for length in lengths)
    write_shard(tmp_path / "text-00000.array_record", keys, made)
    held = (tmp_path / "text-00000.array_record").stat().st_size
    assert plan.answer()["cache_bytes"] == pytest.approx(held, rel=0.01)


def test_blank_captions_need_no_record(tmp_path):
    text, mask = cached(write(tmp_path / "cache", ["a"])).encode(["", " "])
    assert not text.any() and not mask.any()


def test_missing_captions_are_named_and_counted_with_the_cure(tmp_path):
    encoder = cached(write(tmp_path / "cache", ["a", "b"]))
    with pytest.raises(ValueError) as error:
        encoder.encode(["a", "a fox", "b", "a dog"])
    assert str(error.value) == (
        f"{tmp_path / 'cache'} lacks 2 of 4 captions, as 'a fox'; add them: snapvideo "
        f"encode_text --captions FILE --encoder t5 --out {tmp_path / 'cache'}"
    )


def test_a_cache_made_with_other_settings_is_refused(tmp_path):
    folder = write(tmp_path / "cache", ["a"])
    with pytest.raises(ValueError, match="text.tokens=9, .* use text.tokens=6"):
        cached(folder, tokens=9).encode(["a"])
    with pytest.raises(ValueError, match="text.width=16, .* use text.width=8"):
        cached(folder, width=16).check(["a"])


def test_a_cache_resumes_with_its_encoder_only(tmp_path):
    folder = write(tmp_path / "cache", ["a"])
    begin_cache(folder, MANIFEST | {"encoder": "moved/elsewhere"})
    with pytest.raises(
        ValueError, match=r"fingerprint='1' \(was '0'\), tokens=7 \(was 6"
    ):
        begin_cache(folder, MANIFEST | {"fingerprint": "1", "tokens": 7})


def test_a_folder_without_a_cache_is_refused(tmp_path):
    with pytest.raises(ValueError, match="manifest.json is missing; write one with"):
        cached(tmp_path).encode(["a"])
    begin_cache(tmp_path, MANIFEST)
    with pytest.raises(ValueError, match="has no text-"):
        cached(tmp_path).encode(["a"])


def test_a_damaged_shard_is_named(tmp_path):
    folder = write(tmp_path / "cache", t5_folder.captions(8))
    shard = shards_of(folder)[1]
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match="text-00001.array_record is damaged"):
        cached(folder).encode(["a"])


def test_a_shard_lists_its_captions_in_order(tmp_path):
    captions = t5_folder.captions(5)
    (shard,) = shards_of(write(tmp_path / "cache", captions, shard=5))
    assert [bytes(key) for key in read_keys(shard)] == [key_of(x) for x in captions]


def test_other_encoders_encode_anything_and_return_their_input_on_devices():
    encoder, text = HashTextEncoder(), np.ones(2)
    assert encoder.check(["anything"]) is None
    assert encoder.on_devices(None)(text, None) is text
