"""Half-widths fixed on one set of patients: against a loop, and as often right on others as they promise."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from deepcoro.bootstrap import estimates
from deepcoro.statistics.conformal import coverage_statistic, half_width, patients_needed, worst_errors


def drawn(generator: np.random.Generator, num_patients: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors of patients of one to four rows, which share what is hard about the patient."""
    patients = np.repeat(np.arange(num_patients), generator.integers(1, 5, num_patients))
    hard = generator.gamma(2, 3, num_patients)[patients]
    return 2 + hard * generator.normal(0, 1, len(patients)), patients


def slow_half_width(errors: np.ndarray, patients: np.ndarray, level: float) -> float:
    worst = sorted(max(abs(errors[patients == patient])) for patient in set(patients.tolist()))
    within = [
        width for width in worst if sum(each <= width for each in worst) >= (len(worst) + 1) * level - 1e-9
    ]
    return within[0]  # fmt: skip


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("num_patients", [19, 20, 57, 99])
def test_the_half_width_is_that_of_a_loop_over_patients(level, num_patients):
    errors, patients = drawn(np.random.default_rng(num_patients), num_patients)
    found = half_width(worst_errors(errors, 7 * patients + 3), level)
    assert found == slow_half_width(errors, patients, level)


@pytest.mark.parametrize(("level", "needed"), [(0.9, 9), (0.95, 19), (0.8, 4), (0.99, 99), (0.5, 1)])
def test_with_too_few_patients_there_is_none(level, needed):
    assert patients_needed(level) == needed
    worst = np.arange(1.0, needed + 1)
    assert half_width(worst, level) == needed, "the worst of all, of as few as can be"
    assert half_width(worst[:-1], level) is None
    assert half_width(worst_errors(np.zeros(0), np.zeros(0, np.int64)), level) is None


@pytest.mark.parametrize("num_patients", [9, 24, 60])
def test_at_least_the_level_of_further_patients_have_all_rows_inside(num_patients):
    """A val split and one further patient are drawn anew each time: the promise is an average over both."""
    generator, draws, level = np.random.default_rng(num_patients), 3000, 0.9
    kept = 0
    for _ in range(draws):
        errors, patients = drawn(generator, num_patients + 1)
        is_new = patients == num_patients
        width = half_width(worst_errors(errors[~is_new], patients[~is_new]), level)
        kept += bool(np.all(np.abs(errors[is_new]) <= width))
    promised = math.ceil((num_patients + 1) * level) / (num_patients + 1)
    low, high = binom.interval(0.999, draws, promised)
    assert promised >= level and low <= kept <= high


def test_rows_taken_one_by_one_would_promise_too_much():
    """Why each patient counts once: by rows, fewer than the level have all rows inside."""
    errors, patients = drawn(np.random.default_rng(0), 4000)
    by_rows = half_width(np.sort(np.abs(errors)), 0.9)
    inside = np.abs(errors) <= by_rows
    found = estimates(coverage_statistic(inside, patients, 4000), 4000)
    assert found["interval_coverage"] >= 0.9 > 0.87 > found["interval_coverage_of_patients"]


def test_coverage_of_rows_and_of_patients_is_that_of_a_loop_also_in_a_resample():
    generator = np.random.default_rng(1)
    errors, patients = drawn(generator, 30)
    patients, num_patients = patients + 2, 35  # some without an assessed row
    inside = np.abs(errors) <= 6
    weights = generator.integers(0, 3, (4, num_patients)).astype(float)
    found = coverage_statistic(inside, patients, num_patients)(weights)
    for sample, of_patient in enumerate(weights):
        rows = of_patient[patients]
        assert found["interval_coverage"][sample] == pytest.approx(np.average(inside, weights=rows))
        whole = [(inside[patients == each].all(), of_patient[each]) for each in np.unique(patients)]
        flags, counted = zip(*whole, strict=True)
        assert found["interval_coverage_of_patients"][sample] == pytest.approx(np.average(flags, weights=counted))  # fmt: skip
    nobody = coverage_statistic(inside, patients, num_patients)(np.zeros((1, num_patients)))
    assert np.isnan(nobody["interval_coverage"]).all()
