"""Decisions against the truth: counts at a threshold, what clinicians read off them, and how a threshold is chosen.

A threshold is chosen on one set of films and used on another; `score >= threshold` is called positive.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from deepcoro.bootstrap import Statistic, mean_of_known, patient_sums, ratio

Rule = Literal["youden", "f1"]


def decision_statistic(
    called: Bool[np.ndarray, "row"],
    positive: Bool[np.ndarray, "row"],
    patients: Int[np.ndarray, "row"],
    num_patients: int,
) -> Statistic:
    """`sensitivity`, `specificity`, `ppv`, `npv`, `f1`, `accuracy`, `balanced_accuracy` of rows that were called positive or not."""
    outcomes = (called & positive, called & ~positive, ~called & positive, ~called & ~positive)
    held = patient_sums(np.stack(outcomes, axis=1).astype(np.float64), patients, num_patients)
    return lambda weights: decision_measures(weights @ held)


def decision_measures(counts: Float[np.ndarray, "sample 4"]) -> dict[str, Float[np.ndarray, "sample"]]:
    """Of true positives, false positives, false negatives, true negatives. NaN where the denominator is empty."""
    hits, alarms, misses, rejections = counts.T
    sensitivity, specificity = ratio(hits, hits + misses), ratio(rejections, rejections + alarms)
    return {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": ratio(hits, hits + alarms),
        "npv": ratio(rejections, rejections + misses),
        "f1": ratio(2 * hits, 2 * hits + alarms + misses),
        "accuracy": ratio(hits + rejections, counts.sum(axis=1)),
        "balanced_accuracy": (sensitivity + specificity) / 2,
    }


def choose_threshold(
    scores: Float[np.ndarray, "row"], positive: Bool[np.ndarray, "row"], rule: Rule = "youden"
) -> float | None:
    """The threshold with the best sum of sensitivity and specificity (`youden`) or the best F1; None where a class is missing.

    It lies half-way between the last score called positive and the next one below, so that it does not hang on one film; of several
    as good the lowest is taken, since a missed lesion costs more than a second look.
    """
    if not positive.any() or positive.all():
        return None
    levels, level = np.unique(scores, return_inverse=True)
    hits = from_above(level, positive, len(levels))
    alarms = from_above(level, ~positive, len(levels))
    if rule == "youden":
        worth = hits / positive.sum() - alarms / (~positive).sum()
    else:
        worth = 2 * hits / (hits + alarms + positive.sum())
    best = int(np.flatnonzero(worth >= worth.max() - 1e-12)[0])
    return float(levels[best] if best == 0 else (levels[best - 1] + levels[best]) / 2)


def from_above(level: np.ndarray, chosen: np.ndarray, num_levels: int) -> np.ndarray:
    """Chosen rows at each level or above."""
    return np.cumsum(np.bincount(level[chosen], minlength=num_levels)[::-1])[::-1]


def confusions(
    said: Int[np.ndarray, "row"],
    truth: Int[np.ndarray, "row"],
    num_classes: int,
    patients: Int[np.ndarray, "row"],
    num_patients: int,
) -> Callable[[Float[np.ndarray, "sample patient"]], Float[np.ndarray, "sample truth said"]]:
    """Tables of confusion, one for each vector of patient weights."""
    cells = np.zeros((len(truth), num_classes**2))
    cells[np.arange(len(truth)), truth * num_classes + said] = 1.0
    held = patient_sums(cells, patients, num_patients)
    return lambda weights: (weights @ held).reshape(-1, num_classes, num_classes)


def class_measures(
    confusion: Float[np.ndarray, "sample truth said"],
) -> dict[str, Float[np.ndarray, "sample"]]:
    """Of tables of confusion: `accuracy`, `balanced_accuracy`, `macro_precision`, `macro_recall`, `macro_f1`, `micro_precision`,
    `micro_recall` and `weighted_kappa` (quadratic; for ordered classes).

    Macro means are over the classes that occur in truth or among what was said; a precision of a class never said, and a recall of one
    that nobody has, count as 0 (scikit-learn's `zero_division=0`). `balanced_accuracy` is the mean recall of the classes in truth alone. With
    one class said a row micro precision and recall both are the accuracy.
    """
    total = confusion.sum(axis=(1, 2))
    right = np.einsum("sii->si", confusion)
    true, said = confusion.sum(axis=2), confusion.sum(axis=1)
    accuracy = ratio(right.sum(axis=1), total)
    return {
        "accuracy": accuracy,
        "balanced_accuracy": mean_of_known(ratio(right, true), axis=1),
        "macro_precision": _mean_with_zeros(right, said, true + said),
        "macro_recall": _mean_with_zeros(right, true, true + said),
        "micro_precision": accuracy,
        "micro_recall": accuracy,
        "macro_f1": mean_of_known(ratio(2 * right, true + said), axis=1),
        "weighted_kappa": _weighted_kappa(confusion, true, said, total),
    }


def each_class_measures(
    confusion: Float[np.ndarray, "sample truth said"],
) -> dict[str, Float[np.ndarray, "sample class"]]:
    """`precision` and `recall` of each class; NaN of a class never said, or that nobody has."""
    right = np.einsum("sii->si", confusion)
    return {
        "precision": ratio(right, confusion.sum(axis=1)),
        "recall": ratio(right, confusion.sum(axis=2)),
    }


def _mean_with_zeros(right: np.ndarray, of: np.ndarray, occurs: np.ndarray) -> Float[np.ndarray, "sample"]:
    """Mean share of the classes that occur, 0 of those with nothing to divide by."""
    shares = np.nan_to_num(ratio(right, of))
    return mean_of_known(np.where(occurs > 0, shares, np.nan), axis=1)


def _weighted_kappa(
    confusion: np.ndarray, true: np.ndarray, said: np.ndarray, total: np.ndarray
) -> Float[np.ndarray, "sample"]:
    """Cohen 1968 with squared distances; NaN where chance alone cannot disagree."""
    steps = np.arange(confusion.shape[1])
    cost = np.square(steps[:, None] - steps).astype(np.float64)
    observed = (confusion * cost).sum(axis=(1, 2))
    expected = np.einsum("st,tu,su->s", true, cost, said) / np.maximum(total, 1e-300)
    return 1.0 - ratio(observed, expected)
