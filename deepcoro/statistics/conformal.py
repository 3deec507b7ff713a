"""Prediction intervals by split-conformal prediction: a half-width chosen on one set of patients holds on average for others like them.

Vovk, Gammerman and Shafer 2005; Lei et al. 2018, arXiv:1604.04173. Rows of one patient are not exchangeable, patients are: so each patient
counts once, by the worst error among its rows, and what is promised is that all rows of a patient lie inside.
"""

import math
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Int

from deepcoro.bootstrap import Statistic, patient_sums, ratio


def worst_errors(
    errors: Float[np.ndarray, "row"], patients: Int[np.ndarray, "row"]
) -> Float[np.ndarray, "patient"]:
    """Largest absolute error of each patient who has a row, in the unit of the errors, smallest first."""
    _, patient = np.unique(patients, return_inverse=True)
    worst = np.zeros(int(patient.max(initial=-1)) + 1)
    np.maximum.at(worst, patient, np.abs(errors))
    return np.sort(worst)


def patients_needed(level: float) -> int:
    """The fewest patients that a finite interval of this level (above 0, below 1) can be chosen on: 9 at 0.9."""
    exact = _exact(level)
    return math.ceil(exact / (1 - exact))


def half_width(worst: Float[np.ndarray, "patient"], level: float) -> float | None:
    """The ceil((n + 1) level)-th smallest of the n patients' worst errors (smallest first); None where they are fewer than
    `patients_needed`. A further patient, exchangeable with these, has all its rows within it with a probability of `level` or more.
    """
    rank = math.ceil((len(worst) + 1) * _exact(level))
    return float(worst[rank - 1]) if rank <= len(worst) else None


def coverage_statistic(
    inside: Bool[np.ndarray, "row"], patients: Int[np.ndarray, "row"], num_patients: int
) -> Statistic:
    """`interval_coverage`, share of rows inside; `interval_coverage_of_patients`, share of patients with all their rows inside: that is
    what the level promises. NaN where nobody with a row was drawn.
    """
    rows, outside = patient_sums(np.stack([np.ones(len(inside)), ~inside], axis=1), patients, num_patients).T
    has_rows = rows > 0
    held = np.stack([rows, rows - outside, has_rows, has_rows & (outside == 0)], axis=1).astype(np.float64)

    def values(weights: Float[np.ndarray, "sample patient"]) -> dict[str, Float[np.ndarray, "sample"]]:
        num, num_inside, counted, whole = (weights @ held).T
        return {
            "interval_coverage": ratio(num_inside, num),
            "interval_coverage_of_patients": ratio(whole, counted),
        }

    return values


def _exact(level: float) -> Fraction:
    """The level as it is written: 0.9 / (1 - 0.9) of floats lies above 9."""
    return Fraction(str(level))
