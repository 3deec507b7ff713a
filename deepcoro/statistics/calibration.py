"""Whether a probability of 0.7 comes true seven times in ten.

TRIPOD+AI asks for slope, intercept and a plot. Slope 1 and intercept 0 are perfect; a slope below 1 says that the model is too sure of
itself, an intercept above 0 that it says too little risk on the whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from deepcoro.bootstrap import Statistic, patient_sums, ratio
from deepcoro.calibrated import Fixed

_SMALLEST = 1e-6
"""Probabilities are kept this far from 0 and 1 before their logarithm is taken."""
_NEWTON_STEPS = 50


@dataclass(frozen=True)
class Recalibration:
    """Platt scaling: the logit of the true risk is intercept + slope x the logit of what was said."""

    slope: float
    intercept: float

    def apply(self, probabilities: Float[np.ndarray, "row"]) -> Float[np.ndarray, "row"]:
        return _expit(self.intercept + self.slope * _logit(probabilities))


def recalibration_of(fixed: Fixed | None) -> Recalibration | None:
    """That of val; None where there is none or it could not be fitted."""
    if fixed is None or fixed.slope is None or fixed.intercept is None:
        return None
    return Recalibration(fixed.slope, fixed.intercept)


@dataclass(frozen=True)
class Bins:
    """Reliability: rows whose probability falls into each tenth (or so) of 0 to 1; empty bins are left out."""

    num: Int[np.ndarray, "bin"]
    said: Float[np.ndarray, "bin"]
    """Mean probability."""
    found: Float[np.ndarray, "bin"]
    """Share of positives."""


def reliability(
    probabilities: Float[np.ndarray, "row"], positive: Bool[np.ndarray, "row"], num_bins: int
) -> Bins:
    """Bins of equal width; 1 belongs to the last."""
    place = _places(probabilities, num_bins)
    num = np.bincount(place, minlength=num_bins)
    kept = num > 0
    said = np.bincount(place, probabilities, num_bins)[kept] / num[kept]
    found = np.bincount(place, positive, num_bins)[kept] / num[kept]
    return Bins(num[kept], said, found)


def calibration_statistic(
    probabilities: Float[np.ndarray, "row"],
    positive: Bool[np.ndarray, "row"],
    patients: Int[np.ndarray, "row"],
    num_patients: int,
    num_bins: int = 10,
) -> Statistic:
    """`brier`; `brier_of_prevalence`, that of saying every row the share of positives; `ece`, expected calibration error
    (Naeini et al. 2015); `calibration_slope` and `calibration_intercept` (with the slope held at 1; Cox 1958), NaN where one class
    only occurs or the classes do not overlap.

    Slopes of resamples are one Newton step from that of all rows, which needs sums over patients alone.
    """
    probabilities = np.asarray(probabilities, np.float64)
    squares = np.square(probabilities - positive)
    binned = _binned_gaps(probabilities, positive, num_bins)
    columns = np.column_stack([np.ones(len(squares)), squares, positive, binned])
    held = patient_sums(columns, patients, num_patients)
    fits = [
        _fit_sums(probabilities, positive, patients, num_patients, with_slope) for with_slope in (True, False)
    ]

    def values(weights: Float[np.ndarray, "sample patient"]) -> dict[str, Float[np.ndarray, "sample"]]:
        num, square, true, gaps = np.split(weights @ held, [1, 2, 3], axis=1)
        num, square, true = num[:, 0], square[:, 0], true[:, 0]
        share = ratio(true, num)
        slope, intercept = (_stepped(weights, *fit) for fit in fits)
        return {
            "brier": ratio(square, num),
            "brier_of_prevalence": share * (1 - share),
            "ece": ratio(np.abs(gaps).sum(axis=1), num),
            "calibration_slope": slope[:, -1],
            "calibration_intercept": intercept[:, 0],
        }

    return values


def class_calibration_statistic(
    probabilities: Float[np.ndarray, "row class"],
    truth: Int[np.ndarray, "row"],
    patients: Int[np.ndarray, "row"],
    num_patients: int,
    num_bins: int = 10,
) -> Statistic:
    """`multiclass_brier`, the squared differences summed over classes (Brier 1950: 0 to 2, of two classes twice the binary score), mean
    over rows; `multiclass_brier_of_prevalence`, that of saying every row the share of each class; `top_label_ece`, how far the probability
    of the most probable class (the first of several) is from how often it is right, in the bins of `ece` (Guo et al. 2017).
    """
    probabilities = np.asarray(probabilities, np.float64)
    one_hot = truth[:, None] == np.arange(probabilities.shape[1])
    squares = np.square(probabilities - one_hot).sum(axis=1)
    is_right = probabilities.argmax(axis=1) == truth
    binned = _binned_gaps(probabilities.max(axis=1), is_right, num_bins)
    columns = np.column_stack([np.ones(len(squares)), squares, one_hot, binned])
    held = patient_sums(columns, patients, num_patients)

    def values(weights: Float[np.ndarray, "sample patient"]) -> dict[str, Float[np.ndarray, "sample"]]:
        num, square, true, gaps = np.split(weights @ held, [1, 2, 2 + one_hot.shape[1]], axis=1)
        shares = ratio(true, num)
        return {
            "multiclass_brier": ratio(square, num)[:, 0],
            "multiclass_brier_of_prevalence": 1 - np.square(shares).sum(axis=1),
            "top_label_ece": ratio(np.abs(gaps).sum(axis=1), num[:, 0]),
        }

    return values


def is_calibration_error(key: str) -> bool:
    """Of a measure that has no interval: noise of a resample adds to every bin's gap, so that its resamples lie above it."""
    return key.rpartition("/")[2] in ("ece", "ece_recalibrated", "top_label_ece")


def without_intervals_of_errors(numbers: Mapping[str, float]) -> dict[str, float]:
    """The numbers without `_ci_low` and `_ci_high` of calibration errors."""
    return {
        key: value
        for key, value in numbers.items()
        if not (key.endswith(("_ci_low", "_ci_high")) and is_calibration_error(key.rpartition("_ci_")[0]))
    }


def fit_recalibration(
    probabilities: Float[np.ndarray, "row"], positive: Bool[np.ndarray, "row"]
) -> Recalibration | None:
    """Maximum likelihood; None where one class only occurs or the classes do not overlap."""
    logits = _logit(np.asarray(probabilities, np.float64))
    found = _fitted(np.column_stack([np.ones_like(logits), logits]), positive, np.zeros_like(logits))
    return None if found is None else Recalibration(slope=float(found[1]), intercept=float(found[0]))


def _fit_sums(
    probabilities: np.ndarray, positive: np.ndarray, patients: np.ndarray, num_patients: int, with_slope: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The fit to all rows, NaN where there is none, and each patient's score and curvature there, flat."""
    logits = _logit(probabilities)
    ones = np.ones((len(logits), 1))
    design = np.column_stack([ones, logits]) if with_slope else ones
    offset = np.zeros_like(logits) if with_slope else logits
    width = design.shape[1]
    found = _fitted(design, positive, offset)
    if found is None:
        return np.full(width, np.nan), np.zeros((num_patients, width + width**2))
    risk = _expit(design @ found + offset)
    curvature = (risk * (1 - risk))[:, None, None] * design[:, :, None] * design[:, None, :]
    columns = np.column_stack([(positive - risk)[:, None] * design, curvature.reshape(len(risk), -1)])
    return found, patient_sums(columns, patients, num_patients)


def _stepped(
    weights: Float[np.ndarray, "sample patient"],
    found: Float[np.ndarray, "parameter"],
    held: Float[np.ndarray, "patient column"],
) -> Float[np.ndarray, "sample parameter"]:
    sums, width = weights @ held, len(found)
    curvature = sums[:, width:].reshape(-1, width, width)
    exists = np.abs(np.linalg.det(curvature)) > 1e-12
    curvature = np.where(exists[:, None, None], curvature, np.eye(width))
    step = np.linalg.solve(curvature, sums[:, :width, None])[:, :, 0]
    return np.where(exists[:, None], found + step, np.nan)


def _fitted(
    design: Float[np.ndarray, "row parameter"], positive: Bool[np.ndarray, "row"], offset: np.ndarray
) -> Float[np.ndarray, "parameter"] | None:
    """Logistic regression by Newton's method, halving steps that make it worse; None where there is no finite answer."""
    if not positive.any() or positive.all():
        return None
    if design.shape[1] == 2 and not _overlap(design[positive, 1], design[~positive, 1]):
        return None
    found = np.zeros(design.shape[1])
    if design.shape[1] == 2:
        found[1] = 1.0
    loss = _loss(design @ found + offset, positive)
    for _ in range(_NEWTON_STEPS):
        risk = _expit(design @ found + offset)
        curvature = (design * (risk * (1 - risk))[:, None]).T @ design + 1e-12 * np.eye(len(found))
        step = np.linalg.solve(curvature, design.T @ (positive - risk))
        while (moved := _loss(design @ (found + step) + offset, positive)) > loss + 1e-12:
            step = step / 2
        found, loss = found + step, moved
        if np.abs(step).max() < 1e-10 * (1 + np.abs(found).max()):
            return found
    return None


def _overlap(of_positive: np.ndarray, of_negative: np.ndarray) -> bool:
    """Whether a finite slope exists: neither class lies wholly above the other."""
    return bool(of_positive.min() < of_negative.max() and of_negative.min() < of_positive.max())


def _loss(logits: np.ndarray, positive: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0, logits) - positive * logits))


def _binned_gaps(
    probabilities: np.ndarray, positive: np.ndarray, num_bins: int
) -> Float[np.ndarray, "row bin"]:
    """What came true less what was said, in the bin of each row; an error of calibration sums these."""
    place = _places(probabilities, num_bins)
    gaps = np.zeros((len(place), num_bins))
    gaps[np.arange(len(place)), place] = positive - probabilities
    return gaps


def _places(probabilities: np.ndarray, num_bins: int) -> Int[np.ndarray, "row"]:
    return np.minimum((np.asarray(probabilities, np.float64) * num_bins).astype(np.int64), num_bins - 1)


def _logit(probabilities: np.ndarray) -> np.ndarray:
    kept = np.clip(probabilities, _SMALLEST, 1 - _SMALLEST)
    return np.log(kept) - np.log1p(-kept)


def _expit(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
