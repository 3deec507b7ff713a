"""Times to an event against pairs counted one by one, scipy's Kaplan-Meier and, without censoring, scikit-learn."""

import numpy as np
import pytest
from scipy.stats import CensoredData, ecdf, norm
from sklearn.metrics import roc_auc_score

from deepcoro.bootstrap import estimates
from deepcoro.statistics.survival import num_at_risk, survival_band, survival_curve, survival_statistic
from tests.statistics.repeated import assert_is_that_of_rows_repeated


def followed(num: int, seed: int = 0, levels: int = 12):
    """Scores and times with ties; the event and censoring take turns by chance."""
    generator = np.random.default_rng(seed)
    risk = generator.normal(size=num)
    event_time = generator.exponential(np.exp(-risk))
    censored_at = generator.exponential(1.0, num)
    times = np.ceil(np.minimum(event_time, censored_at) * levels / 2)
    return np.rint(3 * (risk + generator.normal(size=num))), times, event_time <= censored_at


def c_index_pair_by_pair(scores, times, events):
    agree = pairs = 0.0
    for i in range(len(times)):
        for j in range(len(times)):
            if events[i] and (times[i] < times[j] or (times[i] == times[j] and not events[j])):
                pairs += 1
                agree += (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
    return agree / pairs


def auc_pair_by_pair(scores, times, events, horizon):
    """Cases weighted by scipy's Kaplan-Meier of censoring just before their time; events at that time leave first."""
    moved = np.where(events, times - 0.25, times)
    censoring = ecdf(CensoredData.right_censored(moved, events)).sf
    above = below = 0.0
    for i in np.flatnonzero(events & (times <= horizon)):
        weight = 1 / censoring.evaluate(times[i] - 0.5)
        for j in np.flatnonzero(times > horizon):
            below += weight
            above += weight * ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
    return above / below


def test_concordance_and_auc_over_time_are_those_pair_by_pair_plain_and_resampled():
    scores, times, events = followed(60)
    patients = np.arange(60) // 2

    def oracle(rows):
        return {
            "c_index": c_index_pair_by_pair(scores[rows], times[rows], events[rows]),
            "auc_at_3": auc_pair_by_pair(scores[rows], times[rows], events[rows], 3),
            "auc_at_6": auc_pair_by_pair(scores[rows], times[rows], events[rows], 6),
        }

    statistic = survival_statistic(scores, times, events, patients, [3.0, 6.0])
    assert_is_that_of_rows_repeated(statistic, oracle, patients, num_samples=6)


def test_without_censoring_the_auc_at_a_time_is_an_ordinary_one():
    scores, times, _ = followed(80, seed=1)
    found = estimates(survival_statistic(scores, times, np.ones(80, bool), np.arange(80), [4.0]), 80)
    assert found["auc_at_4"] == pytest.approx(roc_auc_score(times <= 4, scores))


def test_the_survival_curve_is_that_of_scipy():
    _, times, events = followed(100, seed=2)
    at, free = survival_curve(times, events)
    curve = ecdf(CensoredData.right_censored(times, ~events)).sf
    np.testing.assert_allclose(free, curve.evaluate(at), atol=1e-12)


def test_the_band_of_the_curve_is_that_of_scipy():
    _, times, events = followed(100, seed=2)
    at, free = survival_curve(times, events)
    low, high = survival_band(times, events, deviations=norm.ppf(0.975))
    with np.errstate(all="ignore"):
        curve = ecdf(CensoredData.right_censored(times, ~events)).sf
        bounds = curve.confidence_interval(0.95, method="log-log")
    known = (free > 0) & (free < 1)
    assert known.sum() > 5
    np.testing.assert_allclose(low[known], bounds.low.evaluate(at)[known], atol=1e-9)
    np.testing.assert_allclose(high[known], bounds.high.evaluate(at)[known], atol=1e-9)
    assert np.isnan(low[~known]).all() and np.isnan(high[~known]).all()


def test_at_risk_is_who_is_followed_up_to_a_time_or_longer():
    times = np.array([5.0, 1.0, 3.0, 3.0])
    assert num_at_risk(times, np.array([0.0, 1.0, 3.0, 4.0, 9.0])).tolist() == [4, 4, 3, 1, 0]


def test_without_events_or_rows_nothing_can_be_said():
    scores, times, events = followed(20)
    none = estimates(survival_statistic(scores, times, np.zeros(20, bool), np.arange(20), [3.0]), 20)
    assert np.isnan(list(none.values())).all()
    empty = estimates(survival_statistic(scores[:0], times[:0], events[:0], np.zeros(0, int), [3.0]), 2)
    assert np.isnan(list(empty.values())).all()
    with pytest.raises(ValueError, match="finite and 0 or more"):
        survival_statistic(scores, np.full(20, np.nan), events, np.arange(20), [3.0])


def test_blocks_of_pairs_change_nothing(monkeypatch):
    scores, times, events = followed(50)
    statistic = survival_statistic(scores, times, events, np.arange(50), [])
    whole = estimates(statistic, 50)
    monkeypatch.setattr("deepcoro.statistics.survival._PAIRS_AT_ONCE", 120)
    assert estimates(statistic, 50) == pytest.approx(whole, abs=1e-12)
