"""Sums and distances: closed forms, invariances, and any division into shards."""

import numpy as np
import pytest

from snapvideo_jax.evaluation.features import cosine_similarity
from snapvideo_jax.evaluation.frechet import frechet_distance
from snapvideo_jax.evaluation.results import (
    gaussian_of,
    read_statistics,
    write_statistics,
)
from snapvideo_jax.evaluation.stats import Average, Marginals, Moments, assign_splits


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def covariance(width, seed=0):
    factor = normal(width, 2 * width, seed=seed)
    return factor @ factor.T / (2 * width)


def moments_of(features):
    return Moments.empty(features.shape[1]).update(features)


def distance(one, other):
    return frechet_distance(one.mean, one.covariance(), other.mean, other.covariance())


# --- The Frechet distance -----------------------------------------------------------


def test_means_one_apart_in_every_channel_of_2048():
    identity, zeros = np.eye(2048), np.zeros(2048)
    assert frechet_distance(zeros, identity, zeros + 1, identity) == pytest.approx(
        2048, rel=1e-12
    )


def test_diagonal_covariances():
    one, other = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 0.25])
    apart = np.array([1.0, -2.0, 0.5])
    expected = (apart**2).sum() + ((np.sqrt(one) - np.sqrt(other)) ** 2).sum()
    found = frechet_distance(np.zeros(3), np.diag(one), apart, np.diag(other))
    assert found == pytest.approx(expected, rel=1e-12)


def test_covariances_that_do_not_commute():
    one, other = np.array([[2.0, 1], [1, 2]]), np.array([[1.0, 0], [0, 3]])
    found = frechet_distance(np.zeros(2), one, np.array([1.0, 2.0]), other)
    assert found == pytest.approx(5 + 8 - 2 * np.sqrt(14), rel=1e-12)
    assert found == pytest.approx(5.516685226452118, rel=1e-12)


def test_a_multiple_of_a_covariance():
    c, zeros = covariance(12), np.zeros(12)
    found = frechet_distance(zeros, c, zeros, 9 * c)
    assert found == pytest.approx((1 - 3) ** 2 * np.trace(c), rel=1e-10)


def test_the_distance_is_symmetric_and_invariant_to_rotation():
    one, other = covariance(12), covariance(12, seed=1)
    mean = normal(12)
    turn, _ = np.linalg.qr(normal(12, 12, seed=2))
    plain = frechet_distance(np.zeros(12), one, mean, other)
    turned = frechet_distance(
        np.zeros(12), turn @ one @ turn.T, turn @ mean, turn @ other @ turn.T
    )
    assert turned == pytest.approx(plain, rel=1e-10)
    assert frechet_distance(mean, other, np.zeros(12), one) == pytest.approx(plain)


def test_the_distance_of_a_set_to_itself_is_zero():
    moments = moments_of(normal(10, 40))  # fewer samples than channels
    assert distance(moments, moments) == pytest.approx(0, abs=1e-5)
    assert distance(moments, moments) >= 0


def test_fewer_samples_than_channels_agree_with_scipys_root():
    scipy = pytest.importorskip("scipy.linalg")
    one, other = moments_of(normal(20, 32)), moments_of(0.5 + normal(24, 32, seed=1))
    a, b = one.covariance(), other.covariance()
    root = scipy.sqrtm((a + 1e-12 * np.eye(32)) @ b).real
    expected = ((one.mean - other.mean) ** 2).sum() + np.trace(a + b - 2 * root)
    assert distance(one, other) == pytest.approx(expected, rel=1e-4)


def test_other_networks_and_broken_statistics_are_refused():
    with pytest.raises(ValueError, match="of 2 and of 3 channels"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(np.full(2, np.nan), np.eye(2), np.zeros(2), np.eye(2))


# --- Moments ------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3, 8])
def test_any_number_of_shards_gives_the_same_fvd(shards):
    """400 channels as of I3D, features with a large mean."""
    real, fake = normal(1000, 400) + 3, 1.1 * normal(900, 400, seed=1) + 3.1
    expected = distance(moments_of(real), moments_of(fake))
    merged = Moments.empty(400)
    for part in range(shards):
        state = Moments.empty(400)
        for batch in np.array_split(fake[part::shards], 7):
            state = state.update(batch)
        merged = merged.merge(Moments.from_arrays(state.arrays()))
    assert merged.n == 900
    assert distance(moments_of(real), merged) == pytest.approx(expected, abs=1e-10)


def test_moments_equal_numpys_in_any_order():
    features = normal(50, 6)
    shuffled = np.random.default_rng(3).permutation(features)
    for each in (moments_of(features), moments_of(shuffled)):
        np.testing.assert_allclose(each.mean, features.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(each.covariance(), np.cov(features.T), atol=1e-12)
        np.testing.assert_allclose(
            each.covariance(ddof=0), np.cov(features.T, ddof=0), atol=1e-12
        )


def test_the_variance_is_exact_with_a_large_mean():
    features = normal(400, 5)
    far = Moments.empty(5)
    for batch in np.array_split(features + 1e4, 9):
        far = far.update(batch)
    np.testing.assert_allclose(far.covariance(), np.cov(features.T), rtol=1e-9)


def test_no_samples_change_nothing():
    whole = moments_of(normal(8, 4))
    for same in (whole.update(np.zeros((0, 4))), whole.merge(Moments.empty(4))):
        assert same.n == 8
        np.testing.assert_array_equal(same.scatter, whole.scatter)
    assert Moments.empty(4).merge(Moments.empty(4)).n == 0


def test_one_sample_has_no_covariance():
    with pytest.raises(ValueError, match="1 samples"):
        moments_of(normal(1, 4)).covariance()


def test_three_constant_images_have_mean_a_half_and_covariance_a_quarter():
    """pytorch-fid's own test, on four channels."""
    features = np.repeat([[0.0], [0.5], [1.0]], 4, axis=1)
    found = moments_of(features)
    np.testing.assert_allclose(found.mean, 0.5)
    np.testing.assert_allclose(found.covariance(), 0.25)


def test_statistics_are_compatible_with_pytorch_fid(tmp_path):
    moments = moments_of(normal(9, 3))
    made = gaussian_of(moments, {"metric": "fid"}, {"clips": 9})
    write_statistics(tmp_path / "fid.npz", made)
    with np.load(tmp_path / "fid.npz") as file:  # as pytorch-fid does
        np.testing.assert_array_equal(file["mu"], moments.mean)
        np.testing.assert_array_equal(file["sigma"], moments.covariance())
    found = read_statistics(tmp_path / "fid.npz")
    assert (found.n, found.protocol) == (9, {"metric": "fid"})
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(3), sigma=np.eye(3))
    foreign = read_statistics(tmp_path / "theirs.npz")
    assert (foreign.n, foreign.protocol) == (None, None)
    whole = (tmp_path / "fid.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut.npz has no statistics"):
        read_statistics(tmp_path / "cut.npz")
    np.savez(tmp_path / "broken.npz", mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(ValueError, match="a square of its size"):
        read_statistics(tmp_path / "broken.npz")


# --- The Inception score ------------------------------------------------------------


def score(probabilities, splits=None):
    with np.errstate(divide="ignore"):
        logits = np.log(np.asarray(probabilities, np.float64))
    places = np.zeros(len(logits), int) if splits is None else splits
    empty = Marginals.empty(int(places.max()) + 1, logits.shape[1])
    return empty.update(logits, places).scores()


def test_inception_scores_of_closed_form():
    assert score(np.full((7, 5), 0.2)) == pytest.approx(1)
    assert score([[0.3, 0.7]] * 4) == pytest.approx(1)
    assert score(np.eye(6)) == pytest.approx(6)
    found = score([[0.9, 0.1], [0.1, 0.9]])
    assert found == pytest.approx(1.4449348111684153, rel=1e-12)


def test_a_score_lies_between_1_and_the_number_of_classes():
    found = score(np.random.default_rng(0).dirichlet(np.full(5, 0.1), size=300))
    assert 1 < found[0] < 5


def test_prompts_by_class_have_to_be_shuffled_before_they_are_split():
    """Nearly perfect predictions of 101 classes: 10.57 sorted, 94.96 shuffled."""
    classes = np.arange(10_000) * 101 // 10_000
    logits = np.where(np.arange(101) == classes[:, None], 12.0, 0.0)
    empty = Marginals.empty(10, 101)
    in_order = np.arange(10_000) * 10 // 10_000
    shuffled = assign_splits(10_000, 10, seed=42)
    sums = empty.update(logits, shuffled)
    assert empty.update(logits, in_order).scores().mean() < 12
    assert sums.scores().mean() > 85
    assert sums.whole().scores()[0] > sums.scores().mean()


def test_splits_are_equal_and_deterministic():
    splits = assign_splits(10_000, 10, seed=42)
    assert np.bincount(splits).tolist() == [1000] * 10
    np.testing.assert_array_equal(splits, assign_splits(10_000, 10, seed=42))
    assert (splits != assign_splits(10_000, 10, seed=1)).mean() > 0.8
    with pytest.raises(ValueError, match="4 samples do not fill 5 splits"):
        assign_splits(4, 5, seed=0)


def test_marginals_of_shards_merge():
    logits, splits = 3 * normal(200, 7), assign_splits(200, 4, seed=0)
    whole = Marginals.empty(4, 7).update(logits, splits)
    merged = Marginals.empty(4, 7)
    for part in range(3):
        some = slice(part, None, 3)
        state = Marginals.empty(4, 7).update(logits[some], splits[some])
        merged = merged.merge(Marginals.from_arrays(state.arrays()))
    np.testing.assert_allclose(merged.scores(), whole.scores(), rtol=1e-12)
    with pytest.raises(ValueError, match="0 samples"):
        Marginals.empty(2, 7).scores()


# --- CLIPSIM ------------------------------------------------------------------------


def test_cosines_of_equal_opposite_and_scaled_vectors():
    vectors = normal(4, 16).astype(np.float32)
    np.testing.assert_allclose(cosine_similarity(vectors, 7 * vectors), 1, atol=1e-6)
    np.testing.assert_allclose(cosine_similarity(vectors, -vectors), -1, atol=1e-6)
    frames = np.stack([vectors, 2 * vectors], axis=1)
    np.testing.assert_allclose(
        cosine_similarity(frames, vectors[:, None]), 1, atol=1e-6
    )


def test_averages_merge():
    values = normal(10)
    halves = [Average().update(values[i::2]) for i in range(2)]
    merged = halves[0].merge(Average.from_arrays(halves[1].arrays()))
    assert merged.n == 10 and merged.mean() == pytest.approx(values.mean())
    with pytest.raises(ValueError, match="no sample"):
        Average().mean()
