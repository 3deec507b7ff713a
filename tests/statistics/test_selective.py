"""Certainties against every certainty tried, and selective measures against loops over rows."""

import numpy as np
import pytest

from deepcoro.bootstrap import estimates
from deepcoro.statistics.selective import certainty_of, choose_certainty, selective_statistic
from tests.statistics.repeated import assert_is_that_of_rows_repeated


def calls(levels: int, seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """How sure calls are, in so many steps from 0.5 to 1, and which are wrong: fewer of the surer."""
    generator = np.random.default_rng(seed)
    certainty = 0.5 + np.rint(levels * generator.random(count)) / (2 * levels)
    return certainty, generator.random(count) < 1.2 - certainty


def by_trying(certainty: np.ndarray, wrong: np.ndarray, largest_error: float) -> list[int] | None:
    """Rows with a call at the least certainty of any row that keeps to the error."""
    for least in sorted(set(certainty.tolist())):
        kept = [row for row, sure in enumerate(certainty) if sure >= least]
        if sum(bool(wrong[row]) for row in kept) / len(kept) <= largest_error:
            return kept
    return None


@pytest.mark.parametrize("levels", [2, 7, 10_000])
@pytest.mark.parametrize("largest_error", [0.0, 0.05, 0.1, 0.25, 0.5])
def test_the_chosen_certainty_is_the_least_of_all_that_keep_to_the_error(levels, largest_error):
    for seed in range(30):
        certainty, wrong = calls(levels, seed)
        expected, chosen = by_trying(certainty, wrong, largest_error), choose_certainty(
            certainty, wrong, largest_error
        )
        if expected is None:
            assert chosen is None
        else:
            assert np.flatnonzero(certainty >= chosen).tolist() == expected
            assert chosen >= 0.5 and (chosen == 0.5) == (len(expected) == len(certainty))


def test_the_certainty_lies_half_way_to_the_surest_row_without_a_call():
    certainty, wrong = np.array([0.6, 0.7, 0.9]), np.array([True, True, False])
    assert choose_certainty(certainty, wrong, 0.1) == pytest.approx(0.8)


def test_an_error_that_is_met_exactly_is_kept_to():
    wrong = np.arange(10) < 3
    assert choose_certainty(np.full(10, 0.9), wrong, 0.3) == 0.5


def test_without_rows_and_where_the_surest_are_wrong_there_is_no_certainty():
    none = np.zeros(0)
    assert choose_certainty(none, none.astype(bool), 0.5) is None
    assert choose_certainty(np.array([0.6, 0.7, 0.9]), np.array([False, False, True]), 0.3) is None
    assert choose_certainty(np.full(4, 0.8), np.ones(4, bool), 0.99) is None


def test_the_finding_and_its_absence_are_equally_sure():
    sure = certainty_of(np.array([0.1, 0.9, 0.3, 0.7, 0.5, 0.1 + 0.2, 0.0]))
    assert sure.tolist() == [0.9, 0.9, 0.7, 0.7, 0.5, 0.7, 1.0]


@pytest.mark.parametrize("levels", [5, 10_000])
def test_selective_measures_are_those_of_loops_plain_and_resampled(levels):
    certainty, wrong = calls(levels, seed=1, count=90)
    patients, least = np.arange(90) // 3, 0.8

    def oracle(rows):
        kept = [row for row in rows if certainty[row] >= least]
        risks = []
        for row in rows:
            as_sure = [other for other in rows if certainty[other] >= certainty[row]]
            risks.append(sum(bool(wrong[other]) for other in as_sure) / len(as_sure))
        return {
            "coverage": len(kept) / len(rows),
            "error": sum(bool(wrong[row]) for row in kept) / len(kept),
            "aurc": sum(risks) / len(risks),
        }

    assert_is_that_of_rows_repeated(
        selective_statistic(certainty, wrong, least, patients, 30), oracle, patients
    )


def test_where_no_call_is_made_there_is_no_error():
    found = estimates(selective_statistic(np.full(3, 0.6), np.zeros(3, bool), 0.7, np.arange(3), 3), 3)
    assert (found["coverage"], found["aurc"]) == (0, 0) and np.isnan(found["error"])
    nothing = selective_statistic(np.zeros(0), np.zeros(0, bool), 0.7, np.zeros(0, int), 2)
    assert np.isnan(list(estimates(nothing, 2).values())).all()
