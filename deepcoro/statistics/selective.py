"""Calls that are made only where the model is sure: on how many rows, and how often they are wrong there.

Selective classification (El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017, arXiv:1705.08500). A certainty is chosen on one set of films
and used on another; a call is made where the row's is as high or higher.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from deepcoro.bootstrap import Statistic, patient_sums, ratio
from deepcoro.statistics.confusion import from_above
from deepcoro.statistics.ranking import ranked

ALWAYS = 0.5
"""No certainty is lower: a call is made on every row."""


def certainty_of(probabilities: Float[np.ndarray, "row"]) -> Float[np.ndarray, "row"]:
    """Probability of the likelier of finding and absence; rounded, so that p and 1 - p are equally sure to the last bit."""
    return np.round(np.maximum(probabilities, 1 - probabilities), 12)


def choose_certainty(
    certainty: Float[np.ndarray, "row"], wrong: Bool[np.ndarray, "row"], largest_error: float
) -> float | None:
    """The least certainty from which on at most this share of the calls is wrong; None where there is none, since the surest calls are
    wrong more often, or no row.

    `ALWAYS` where all calls together keep to it, else half-way to the surest row that gets no call, as thresholds are chosen.
    """
    levels, level = np.unique(certainty, return_inverse=True)
    calls = from_above(level, np.ones(len(level), bool), len(levels))
    errors = from_above(level, np.asarray(wrong), len(levels))
    kept = np.flatnonzero(errors / calls <= largest_error)
    if not len(kept):
        return None
    least = int(kept[0])
    return ALWAYS if least == 0 else float((levels[least - 1] + levels[least]) / 2)


def selective_statistic(
    certainty: Float[np.ndarray, "row"],
    wrong: Bool[np.ndarray, "row"],
    least: float,
    patients: Int[np.ndarray, "row"],
    num_patients: int,
) -> Statistic:
    """`coverage`, share of rows with a call; `error`, share of those calls that are wrong, NaN where there is none; `aurc`, the error of
    the calls that are as sure as a row or surer, averaged over rows (area under the risk-coverage curve, whatever `least` is).
    """
    called = certainty >= least
    held = patient_sums(
        np.stack([np.ones(len(called)), called, called & wrong], axis=1), patients, num_patients
    )
    by_certainty = ranked(certainty, wrong, patients, num_patients, every_level=True)

    def values(weights: Float[np.ndarray, "sample patient"]) -> dict[str, Float[np.ndarray, "sample"]]:
        num, calls, errors = (weights @ held).T
        area = by_certainty.values(weights, _area)
        return {"coverage": ratio(calls, num), "error": ratio(errors, calls)} | area

    return values


def _area(
    wrong: Float[np.ndarray, "level sample"], right: Float[np.ndarray, "level sample"]
) -> dict[str, Float[np.ndarray, "sample"]]:
    rows = wrong + right
    error = np.cumsum(wrong, axis=0) / np.maximum(np.cumsum(rows, axis=0), 1e-300)
    return {"aurc": ratio((rows * error).sum(axis=0), rows.sum(axis=0))}
