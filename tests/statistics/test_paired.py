"""Differences between models: paired resampling by hand, DeLong's variance, and no difference where there is none."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from deepcoro.bootstrap import resamples
from deepcoro.statistics.paired import compare
from deepcoro.statistics.ranking import ranked

NUM = 300


def two_models(seed=0, better=0.6):
    generator = np.random.default_rng(seed)
    positive = generator.random(NUM) < 0.4
    shared = generator.normal(size=NUM)
    first = better * positive + shared + 0.5 * generator.normal(size=NUM)
    second = 0.2 * positive + shared + 0.5 * generator.normal(size=NUM)
    return positive, first, second


def statistic(scores, positive, patients):
    return ranked(scores, positive, patients, int(patients.max()) + 1).statistic()


def delong_deviation(positive, first, second):
    """Standard error of the difference of two AUROCs on the same rows (DeLong et al. 1988), by placements."""
    placed = []
    for scores in (first, second):
        wins = (scores[positive][:, None] > scores[~positive]) + 0.5 * (
            scores[positive][:, None] == scores[~positive]
        )
        placed.append((wins.mean(axis=1), wins.mean(axis=0)))
    of_positive = np.cov(placed[0][0] - placed[1][0]) / positive.sum()
    return float(np.sqrt(of_positive + np.cov(placed[0][1] - placed[1][1]) / (~positive).sum()))


def test_the_interval_is_that_of_both_models_resampled_with_the_same_patients_by_hand():
    positive, first, second = two_models()
    patients = np.arange(NUM) // 3
    found = compare(
        [statistic(first, positive, patients)], [statistic(second, positive, patients)], 100, 200, seed=4
    )["auroc"]
    apart = []
    for counts in next(resamples(100, 200, seed=4)).astype(int):
        rows = np.repeat(np.arange(NUM), counts[patients])
        apart.append(roc_auc_score(positive[rows], first[rows]) - roc_auc_score(positive[rows], second[rows]))
    assert found.value == pytest.approx(roc_auc_score(positive, first) - roc_auc_score(positive, second))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(apart, [2.5, 97.5])))
    beyond = min(sum(each <= 0 for each in apart), sum(each >= 0 for each in apart))
    assert found.p_value == pytest.approx(2 * (beyond + 1) / 201)


@pytest.mark.parametrize("lacking", [0, 1])
def test_what_one_seed_alone_lacks_is_not_compared_and_the_rest_is(lacking: int):
    positive, first, second = two_models()
    patients = np.arange(NUM) // 3
    seeds = [
        ranked(first + seed, positive, patients, 100).statistic(() if seed == lacking else (0.9,))
        for seed in range(2)
    ]
    other = [ranked(second, positive, patients, 100).statistic((0.9,))] * 2
    for models in ((seeds, other), (other, seeds)):
        assert set(compare(*models, 100, 20, seed=0)) == {"auroc", "auprc"}


def test_one_film_a_patient_gives_the_interval_of_delong():
    positive, first, second = two_models()
    patients = np.arange(NUM)
    found = compare(
        [statistic(first, positive, patients)], [statistic(second, positive, patients)], NUM, 2000, seed=0
    )["auroc"]
    width = 2 * stats.norm.ppf(0.975) * delong_deviation(positive, first, second)
    assert found.high - found.low == pytest.approx(width, rel=0.1)


def test_a_model_does_not_differ_from_itself():
    positive, first, _ = two_models()
    own = statistic(first, positive, np.arange(NUM))
    found = compare([own], [own], NUM, 50, seed=0)["auroc"]
    assert (found.value, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_seeds_are_averaged_within_each_resample():
    positive, first, second = two_models()
    patients = np.arange(NUM)
    own, other = statistic(first, positive, patients), statistic(second, positive, patients)
    both = compare([own, other], [other, own], NUM, 50, seed=0)["auroc"]
    assert both.value == pytest.approx(0)
    assert both.low == pytest.approx(0)
    assert both.first_by_seed == list(reversed(both.second_by_seed))
    no_resamples = compare([own], [other], NUM, 0, seed=0)["auroc"]
    assert no_resamples.low is no_resamples.p_value is None
    assert no_resamples.value > 0
