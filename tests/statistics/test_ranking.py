"""AUROC, AUPRC and sensitivity at a specificity against scikit-learn, with ties and without, plain and resampled."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from deepcoro.bootstrap import estimates, resamples
from deepcoro.statistics import ranking
from deepcoro.statistics.ranking import auroc, auroc_interval, permuted_aurocs, ranked, stratified_auroc
from tests.statistics.repeated import assert_is_that_of_rows_repeated


def scored_films(num_films: int, levels: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, levels, num_films).astype(float), generator.random(num_films) < 0.3


def sensitivity_at(positive, scores, specificity):
    alarms, found, _ = roc_curve(positive, scores, drop_intermediate=False)
    return found[alarms <= 1 - specificity + 1e-12].max()


def by_scikit_learn(positive, scores):
    return {
        "auroc": roc_auc_score(positive, scores),
        "auprc": average_precision_score(positive, scores),
        "sensitivity_at_specificity_0.90": sensitivity_at(positive, scores, 0.9),
        "sensitivity_at_specificity_0.50": sensitivity_at(positive, scores, 0.5),
    }


@pytest.mark.parametrize("levels", [1, 2, 7, 10_000])
def test_measures_of_order_are_those_of_scikit_learn_with_and_without_ties(levels):
    scores, positive = scored_films(200, levels)
    patients = np.arange(200) // 3
    found = estimates(ranked(scores, positive, patients, 67).statistic([0.9, 0.5]), 67)
    assert found == pytest.approx(by_scikit_learn(positive, scores), abs=1e-12)
    assert auroc(scores, positive) == pytest.approx(found["auroc"], abs=1e-12)


@pytest.mark.parametrize("levels", [2, 7, 10_000])
def test_resampled_measures_of_order_are_those_of_the_films_repeated(levels):
    scores, positive = scored_films(60, levels)
    patients = np.arange(60) // 2
    assert_is_that_of_rows_repeated(
        ranked(scores, positive, patients, 30).statistic([0.9, 0.5]),
        lambda rows: by_scikit_learn(positive[rows], scores[rows]),
        patients,
    )


def test_blocks_of_resamples_change_nothing(monkeypatch):
    scores, positive = scored_films(60, 20)
    weights = next(resamples(60, 50, seed=0))
    statistic = ranked(scores, positive, np.arange(60), 60).statistic([0.8])
    whole = statistic(weights)
    monkeypatch.setattr(ranking, "_ELEMENTS_AT_ONCE", 100)
    for key, values in statistic(weights).items():
        np.testing.assert_array_equal(values, whole[key])


def test_many_negatives_between_few_positives_are_few_levels():
    scores, positive = np.arange(1000.0), np.zeros(1000, bool)
    positive[[100, 500]] = True
    assert ranked(scores, positive, np.arange(1000), 1000).positives.shape == (5, 1000)


def test_what_lacks_a_class_has_no_value():
    scores, positive = np.array([0.1, 0.9]), np.array([False, True])
    found = ranked(scores, positive, np.arange(2), 2).statistic([0.9])(np.array([[2.0, 0], [0, 1], [1, 1]]))
    assert np.isnan([found["auroc"][0], found["auroc"][1], found["auprc"][0]]).all()
    assert np.isnan(found["sensitivity_at_specificity_0.90"][:2]).all()
    assert {key: values[2] for key, values in found.items()} == dict.fromkeys(found, 1.0)
    nothing = estimates(ranked(np.zeros(0), np.zeros(0, bool), np.zeros(0, int), 3).statistic([0.9]), 3)
    assert np.isnan(list(nothing.values())).all()


def pairs_of_one_stratum(scores, positive, strata):
    own = strata[:, None] == strata[None, :]
    pairs = own & positive[:, None] & ~positive[None, :]
    won = (scores[:, None] > scores[None, :]) + 0.5 * (scores[:, None] == scores[None, :])
    return {"auroc_within_strata": won[pairs].mean() if pairs.any() else np.nan}


@pytest.mark.parametrize("levels", [2, 7, 10_000])
def test_the_stratified_auroc_counts_the_pairs_of_one_stratum(levels):
    scores, positive = scored_films(60, levels)
    patients = np.arange(60) // 2
    strata = patients % 4
    positive[strata == 3] = False
    assert_is_that_of_rows_repeated(
        stratified_auroc(scores, positive, strata, patients, 30),
        lambda rows: pairs_of_one_stratum(scores[rows], positive[rows], strata[rows]),
        patients,
    )


def test_one_stratum_has_the_plain_auroc_and_strata_of_one_class_have_none():
    scores, positive = scored_films(60, 7)
    rows = np.arange(60)
    whole = estimates(stratified_auroc(scores, positive, np.zeros(60, int), rows, 60), 60)
    assert whole == pytest.approx({"auroc_within_strata": auroc(scores, positive)})
    assert np.isnan(
        estimates(stratified_auroc(scores, positive, positive.astype(int), rows, 60), 60)[
            "auroc_within_strata"
        ]
    )


def test_missing_scores_and_an_auroc_of_one_class_are_refused():
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        ranked(np.array([0.0, np.nan]), np.array([True, False]), np.arange(2), 2)
    with pytest.raises(ValueError, match="both classes"):
        auroc(np.array([0.0, 1.0]), np.array([True, True]))


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
