"""The hash encoder is deterministic, and encodes words and their order."""

import itertools
import logging
import subprocess
import sys

import numpy as np
import pytest

from snapvideo_jax.text import HashTextEncoder, TextEncoder, split_words, word_vector

WORDS = "circle square red green left right up down grows shrinks on a dark".split()


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_the_vector_of_a_word_never_changes():
    expected = [0.16807707, 0.8874347, -0.8449095, -0.54478914]
    np.testing.assert_allclose(word_vector("circle", 64)[:4], expected, atol=1e-6)


def test_another_process_embeds_a_caption_alike():
    code = (
        "from snapvideo_jax.text import HashTextEncoder\n"
        "print(*HashTextEncoder().encode(['a red circle'])[0][0, :3].ravel())"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    here = HashTextEncoder().encode(["a red circle"])[0][0, :3].ravel()
    np.testing.assert_allclose(np.array(output.split(), float), here, atol=1e-6)


def test_the_hash_encoder_is_a_text_encoder():
    assert isinstance(HashTextEncoder(), TextEncoder)


def test_embeddings_and_mask_have_the_promised_shapes_and_types():
    embeddings, mask = HashTextEncoder(tokens=5, width=8).encode(["a", "b c", ""])
    assert embeddings.shape == (3, 5, 8) and embeddings.dtype == np.float32
    assert mask.shape == (3, 5) and mask.dtype == bool


def test_the_mask_is_true_for_words_and_the_rest_is_zero():
    embeddings, mask = HashTextEncoder(tokens=4).encode(["a red circle", "", "a, b"])
    assert mask.sum(axis=1).tolist() == [3, 0, 3]
    assert mask[0].tolist() == [True, True, True, False]
    assert not embeddings[~mask].any()
    assert embeddings[mask].any(axis=-1).all()


def test_elements_have_unit_mean_square():
    words = [f"word{i}" for i in range(256)]
    vectors = np.stack([word_vector(word, 64) for word in words])
    np.testing.assert_allclose(np.mean(vectors**2, axis=1), 1, atol=1e-5)
    captions = [" ".join(words[i : i + 16]) for i in range(0, 256, 16)]
    embeddings, _ = HashTextEncoder().encode(captions)
    assert abs(np.mean(embeddings**2) - 1) < 0.05


def test_different_words_are_nearly_orthogonal():
    cosines = [
        cosine(word_vector(a, 64), word_vector(b, 64))
        for a, b in itertools.combinations(WORDS, 2)
    ]
    assert abs(np.mean(cosines)) < 0.05
    assert np.max(np.abs(cosines)) < 0.5


def test_similar_spelling_is_closer_than_unrelated():
    def mean_cosine(ending):
        return np.mean(
            [
                cosine(word_vector(word, 256), word_vector(ending(word), 256))
                for word in WORDS
            ]
        )

    assert mean_cosine(lambda word: word + "s") > 0.1
    assert abs(mean_cosine(lambda word: f"zq{len(word)}")) < 0.05


def test_word_order_matters_and_can_be_read():
    encoder = HashTextEncoder()
    (one, two), _ = encoder.encode(["red circle", "circle red"])
    assert np.abs(one[0] - two[1]).max() > 0.1
    shift = one[1] - two[0]  # The same word one place later: positions only.
    (three, four), _ = encoder.encode(["big square", "square big"])
    np.testing.assert_allclose(three[1] - four[0], shift, atol=1e-5)


def test_case_and_spacing_do_not_matter():
    embeddings, _ = HashTextEncoder().encode(["A Red  Circle", "a red circle\n"])
    np.testing.assert_array_equal(embeddings[0], embeddings[1])


def test_any_unicode_text_is_embedded():
    captions = ["Ein Würfel rollt", "円が動く", "кот 🐈 бежит", "e\u0301", "\ud800"]
    embeddings, mask = HashTextEncoder().encode(captions)
    assert np.isfinite(embeddings).all()
    assert mask.any(axis=1).all()
    assert split_words("e\u0301tude") == split_words("\u00c9TUDE")


def test_punctuation_marks_are_words():
    assert split_words("Red, then blue!") == ["red", ",", "then", "blue", "!"]


def test_long_captions_are_cut_counted_and_logged_once(caplog):
    encoder = HashTextEncoder(tokens=2)
    with caplog.at_level(logging.WARNING):
        embeddings, mask = encoder.encode(["a b c", "a b", "a b d"])
    assert mask.all()
    np.testing.assert_array_equal(embeddings[0], embeddings[1])
    assert encoder.cut_captions == 2
    assert caplog.text.count("text.tokens=2") == 1


def test_no_captions_give_no_embeddings():
    embeddings, mask = HashTextEncoder().encode([])
    assert embeddings.shape == (0, 16, 64) and mask.shape == (0, 16)


def test_a_lone_string_is_refused():
    with pytest.raises(ValueError, match=r"captions='red' is one string"):
        HashTextEncoder().encode("red")


def test_sizes_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"text.tokens=0 .* use text.tokens=16"):
        HashTextEncoder(tokens=0)
    with pytest.raises(ValueError, match=r"text.width=7 .* use text.width=8"):
        HashTextEncoder(width=7)
