"""Intervals over patients and the AUROC, against scikit-learn and against resampling done by hand."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from deepcoro.bootstrap import (
    auroc,
    auroc_interval,
    mean_intervals,
    patient_rows,
    permuted_aurocs,
    resamples,
    sum_intervals,
    weighted_aurocs,
)


def scored_films(num_films: int, levels: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, levels, num_films).astype(float), generator.random(num_films) < 0.3


@pytest.mark.parametrize("levels", [2, 7, 10_000])
def test_auroc_is_that_of_scikit_learn_with_and_without_ties(levels):
    scores, positive = scored_films(200, levels)
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


@pytest.mark.parametrize("levels", [2, 7, 10_000])
def test_weighted_aurocs_are_those_of_the_films_repeated(levels):
    scores, positive = scored_films(60, levels)
    weights = np.random.default_rng(1).integers(0, 4, (20, 60)).astype(float)
    expected = [
        roc_auc_score(np.repeat(positive, row.astype(int)), np.repeat(scores, row.astype(int)))
        for row in weights
    ]
    np.testing.assert_allclose(weighted_aurocs(scores, positive, weights), expected, atol=1e-12)


def test_a_resample_without_one_class_has_no_auroc():
    scores, positive = np.array([0.1, 0.9]), np.array([False, True])
    found = weighted_aurocs(scores, positive, np.array([[2.0, 0.0], [1.0, 1.0]]))
    assert np.isnan(found[0])
    assert found[1] == 1.0


def test_an_auroc_of_one_class_is_refused():
    with pytest.raises(ValueError, match="both classes"):
        auroc(np.array([0.0, 1.0]), np.array([True, True]))


def test_a_film_without_patient_is_a_patient_of_its_own():
    assert patient_rows(["a", None, "a", None, "b"], 5).tolist() == [0, 1, 0, 2, 3]
    assert patient_rows(None, 3).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="one per film"):
        patient_rows(["a"], 2)


def test_resamples_draw_as_many_patients_as_there_are(monkeypatch):
    whole = np.concatenate(list(resamples(30, 50, seed=3)))
    assert whole.shape == (50, 30)
    assert (whole.sum(axis=1) == 30).all()
    monkeypatch.setattr("deepcoro.bootstrap._ELEMENTS_AT_ONCE", 100)
    np.testing.assert_array_equal(np.concatenate(list(resamples(30, 50, seed=3))), whole)


def test_the_interval_of_a_mean_is_the_one_of_patients_resampled_by_hand():
    values = np.array([[0.0], [1.0], [1.0], [0.0], [1.0]])
    query_of_share = np.array([0, 1, 2, 2, 3, 4])  # query 2 is held half by patient 1, half by patient 2
    patient_of_share = np.array([0, 0, 1, 2, 2, 3])
    by_hand = []
    for (counts,) in (block[None] for block in np.concatenate(list(resamples(4, 400, seed=5)))):
        weights = np.array([counts[0], counts[0], (counts[1] + counts[2]) / 2, counts[2], counts[3]])
        by_hand.append((weights * values[:, 0]).sum() / weights.sum())
    found = mean_intervals(values, query_of_share, patient_of_share, 400, seed=5)
    np.testing.assert_allclose(found[0], np.percentile(by_hand, [2.5, 97.5]), atol=1e-12)


def test_films_that_a_patient_repeats_make_the_interval_wider_not_narrower():
    generator = np.random.default_rng(0)
    values = np.repeat(generator.random(20) < 0.5, 10).astype(float)[:, None]
    films = np.arange(200)
    by_film = np.diff(mean_intervals(values, films, films, 1000, seed=0)[0])
    by_patient = np.diff(mean_intervals(values, films, films // 10, 1000, seed=0)[0])
    assert by_patient > 2 * by_film


def test_the_auroc_interval_is_the_same_in_blocks_and_holds_the_estimate(monkeypatch):
    scores, positive = scored_films(120, 50)
    scores += 10.0 * positive
    patients = np.arange(120) // 3
    low, high = auroc_interval(scores, positive, patients, 300, seed=0)
    assert low < auroc(scores, positive) < high
    monkeypatch.setattr("deepcoro.bootstrap._ELEMENTS_AT_ONCE", 500)
    assert auroc_interval(scores, positive, patients, 300, seed=0) == pytest.approx((low, high), abs=1e-12)


def test_the_auroc_interval_is_the_one_of_patients_resampled_by_hand():
    scores, positive = scored_films(40, 20)
    patients = np.random.default_rng(2).integers(0, 12, 40)
    by_hand = []
    for counts in np.concatenate(list(resamples(12, 200, seed=5))).astype(int):
        films = np.concatenate(
            [np.repeat(np.flatnonzero(patients == row), count) for row, count in enumerate(counts)]
        )
        by_hand.append(roc_auc_score(positive[films], scores[films]))
    found = auroc_interval(scores, positive, patients, 200, seed=5)
    np.testing.assert_allclose(found, np.percentile(by_hand, [2.5, 97.5]), atol=1e-12)


def test_a_single_patient_has_an_interval_of_no_width_and_no_samples_have_none():
    scores, positive = scored_films(20, 50)
    point = auroc(scores, positive)
    one_patient = np.zeros(20, np.int64)
    assert auroc_interval(scores, positive, one_patient, 50, seed=0) == pytest.approx((point, point))
    assert auroc_interval(scores, positive, one_patient, 0, seed=0) is None


def test_shuffled_labels_score_one_half():
    scores, positive = scored_films(150, 40)
    shuffled = permuted_aurocs(scores + 100.0 * positive, positive, 200, seed=0)
    low, high = np.percentile(shuffled, [2.5, 97.5])
    assert low < 0.5 < high
    assert abs(shuffled.mean() - 0.5) < 0.02


def test_intervals_of_a_ratio_of_sums_are_those_of_resampled_patients_by_hand():
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 5, (40, 2)).astype(float)
    patients = np.arange(40) // 3

    def ratio(sums):
        return {"ratio": sums[:, 0] / sums[:, 1], "never": np.full(len(sums), np.nan)}

    bounds = sum_intervals(counts, patients, ratio, 300, seed=1)
    drawn = []
    for weights in next(resamples(14, 300, 1)):
        repeated = np.repeat(counts, weights[patients].astype(int), axis=0)
        drawn.append(repeated[:, 0].sum() / repeated[:, 1].sum())
    assert bounds == {"ratio": pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))}
