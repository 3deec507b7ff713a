"""Do 95 % intervals hold the truth 95 times in 100? Films of a patient resemble each other, and the truth is known in closed form."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import norm

from deepcoro.bootstrap import Statistic, draws, interval
from deepcoro.statistics.agreement import agreement_statistic
from deepcoro.statistics.calibration import calibration_statistic
from deepcoro.statistics.confusion import decision_statistic
from deepcoro.statistics.paired import compare
from deepcoro.statistics.ranking import ranked

PATIENTS, FILMS, DATA_SETS, RESAMPLES = 250, 4, 1000, 400
SHIFT, OF_PATIENT, OF_FILM, THRESHOLD = 1.2, 0.8, 0.8, 0.7
DEVIATION = np.hypot(OF_PATIENT, OF_FILM)
OWNER = np.repeat(np.arange(PATIENTS), FILMS)


def films(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Findings that run in patients, a score with a part of the patient's own, and an error with one too."""
    leaning = generator.normal(-0.5, 1.0, PATIENTS)[OWNER]
    positive = generator.random(len(OWNER)) < 1 / (1 + np.exp(-leaning))
    shared, error = generator.normal(0, OF_PATIENT, (2, PATIENTS))
    score = SHIFT * positive + shared[OWNER] + generator.normal(0, OF_FILM, len(OWNER))
    return positive, score, error[OWNER] + generator.normal(0, OF_FILM, len(OWNER))


def statistic(positive: np.ndarray, score: np.ndarray, error: np.ndarray, owner: np.ndarray) -> Statistic:
    num = int(owner.max()) + 1
    order = ranked(score, positive, owner, num).statistic([0.9])
    decided = decision_statistic(score >= THRESHOLD, positive, owner, num)
    truth = 50 + 10 * np.sin(np.arange(len(owner)))
    agreed = agreement_statistic(truth + 1 + error, truth, owner, num)
    return lambda weights: order(weights) | decided(weights) | agreed(weights)


def truths() -> dict[str, float]:
    """In closed form, or as an integral over thresholds or over what patients lean to."""
    squared = 1 + DEVIATION**2
    leaning = np.linspace(-8, 7, 20001)
    prevalence = float(np.trapezoid(norm.pdf(leaning, -0.5, 1.0) / (1 + np.exp(-leaning)), leaning))
    thresholds = np.linspace(-8, 10, 200001)
    found, alarms = norm.sf((thresholds - SHIFT) / DEVIATION), norm.sf(thresholds / DEVIATION)
    precision = prevalence * found / (prevalence * found + (1 - prevalence) * alarms)
    sensitivity, specificity = norm.cdf((SHIFT - THRESHOLD) / DEVIATION), norm.cdf(THRESHOLD / DEVIATION)
    ppv = prevalence * sensitivity / (prevalence * sensitivity + (1 - prevalence) * (1 - specificity))
    rejected = (1 - prevalence) * specificity
    return {
        "auprc": float(-np.trapezoid(precision, found)),
        "sensitivity_at_specificity_0.90": norm.cdf(SHIFT / DEVIATION - norm.ppf(0.9)),
        "ppv": ppv,
        "npv": rejected / (rejected + prevalence * (1 - sensitivity)),
        "f1": 2 * ppv * sensitivity / (ppv + sensitivity),
        "auroc": norm.cdf(SHIFT / (DEVIATION * np.sqrt(2))),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "mae": DEVIATION * np.sqrt(2 / np.pi) * np.exp(-1 / (2 * DEVIATION**2))
        + 1
        - 2 * norm.cdf(-1 / DEVIATION),
        "rmse": np.sqrt(squared),
        "bias": 1.0,
        "limit_low": 1 - 1.96 * DEVIATION,
    }


@pytest.mark.slow
def test_intervals_over_patients_hold_the_truth_and_those_over_films_do_not():
    expected, generator = truths(), np.random.default_rng(0)
    held, held_by_film = Counter(), Counter()
    for number in range(DATA_SETS):
        data = films(generator)
        by_patient = draws(statistic(*data, OWNER), PATIENTS, RESAMPLES, number)
        for key, truth in expected.items():
            low, high = interval(by_patient[key])
            held[key] += low <= truth <= high
        if number < 300:
            rows = np.arange(len(OWNER))
            low, high = interval(draws(statistic(*data, rows), len(rows), RESAMPLES, number)["bias"])
            held_by_film["bias"] += low <= expected["bias"] <= high
    coverage = {key: held[key] / DATA_SETS for key in expected}
    assert all(0.93 <= share <= 0.97 for share in coverage.values()), coverage
    assert held_by_film["bias"] / 300 < 0.85


@pytest.mark.slow
def test_intervals_of_calibration_hold_the_truth():
    generator, held = np.random.default_rng(1), Counter()
    for number in range(DATA_SETS):
        shared = generator.normal(0, OF_PATIENT, PATIENTS)[OWNER]
        logits = shared + generator.normal(0, 1.2, len(OWNER)) - 0.3
        positive = generator.random(len(OWNER)) < 1 / (1 + np.exp(-(0.4 + 0.7 * logits)))
        said = 1 / (1 + np.exp(-logits))
        drawn = draws(calibration_statistic(said, positive, OWNER, PATIENTS), PATIENTS, RESAMPLES, number)
        low, high = interval(drawn["calibration_slope"])
        held["slope"] += low <= 0.7 <= high
    assert 0.93 <= held["slope"] / DATA_SETS <= 0.97, held


@pytest.mark.slow
def test_the_interval_of_a_difference_holds_none_where_two_models_are_as_good():
    generator, held = np.random.default_rng(2), 0
    for number in range(DATA_SETS):
        positive, score, error = films(generator)
        other = score + 0.5 * error
        own = score + 0.5 * (
            generator.normal(0, OF_PATIENT, PATIENTS)[OWNER] + generator.normal(0, OF_FILM, len(OWNER))
        )
        pair = [[ranked(each, positive, OWNER, PATIENTS).statistic()] for each in (own, other)]
        found = compare(*pair, PATIENTS, RESAMPLES, number)["auroc"]
        held += found.low <= 0 <= found.high
    assert 0.93 <= held / DATA_SETS <= 0.97, held
