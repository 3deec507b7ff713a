"""Intervals over patients, against resampling done by hand."""

import numpy as np
import pytest

from deepcoro.bootstrap import (
    draws,
    estimates,
    interval,
    mean_intervals,
    means_with_intervals,
    patient_rows,
    resamples,
    sum_intervals,
)


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


def test_a_statistic_has_an_estimate_and_a_value_for_each_resample():
    held = np.array([2.0, 4.0, 9.0])

    def mean(weights):
        return {"mean": (weights @ held) / 3, "rare": np.where(weights[:, 2] > 1, 1.0, np.nan)}

    assert estimates(mean, 3) == pytest.approx({"mean": 5.0, "rare": np.nan}, nan_ok=True)
    drawn = draws(mean, 3, 40, seed=2)
    np.testing.assert_allclose(drawn["mean"], next(resamples(3, 40, seed=2)) @ held / 3)
    assert interval(drawn["rare"]) == (1.0, 1.0)
    assert interval(np.full(4, np.nan)) is None
    assert draws(mean, 3, 0, seed=2) == {}


def test_means_come_with_the_intervals_of_a_bootstrap_of_patients() -> None:
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(10), 3)
    columns = {"a": generator.normal(size=30), "b": generator.random(30)}
    found = means_with_intervals(columns, patients, 50, 7)
    for key, column in columns.items():
        assert found[key] == pytest.approx(column.mean())
        drawn = [
            np.average(column, weights=weights[patients])
            for block in resamples(10, 50, 7)
            for weights in block
        ]
        low, high = np.percentile(drawn, [2.5, 97.5])
        assert (found[f"{key}_ci_low"], found[f"{key}_ci_high"]) == pytest.approx((low, high))
    assert means_with_intervals(columns, patients, 0, 7).keys() == {"a", "b"}
