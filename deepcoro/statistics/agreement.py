"""A number against a true number: errors, correlation, agreement. All of them are functions of eight sums."""

import numpy as np
from jaxtyping import Float, Int

from deepcoro.bootstrap import Statistic, patient_sums, ratio

_WITHIN_LIMITS = 1.96
"""Standard deviations of the differences on each side of their mean: 95 % of a normal distribution."""


def agreement_statistic(
    predicted: Float[np.ndarray, "row"],
    truth: Float[np.ndarray, "row"],
    patients: Int[np.ndarray, "row"],
    num_patients: int,
) -> Statistic:
    """Measures in the truth's unit, except for `pearson_r`, `icc` and `mae_ratio_to_median`:

    `mae`, `rmse`; `mae_of_median`, the error of saying the median of these rows of every one of them (the best that a constant can
    do), and `mae_ratio_to_median`; `pearson_r`; `icc`; `bias` (mean of prediction - truth) with `limit_low` and `limit_high`, between
    which 95 % of the differences lie (Bland and Altman 1986).
    """
    # sums of squares far from zero lose their digits; none of the measures minds a common shift
    centre = float(np.mean(truth)) if len(truth) else 0.0
    x, y = np.asarray(predicted, np.float64) - centre, np.asarray(truth, np.float64) - centre
    spread = np.abs(y - np.median(y)) if len(y) else y
    sums = (np.ones_like(x), x, y, x * x, x * y, y * y, np.abs(x - y), spread)
    held = patient_sums(np.stack(sums, axis=1), patients, num_patients)
    return lambda weights: agreement_measures(weights @ held)


def agreement_measures(sums: Float[np.ndarray, "sample 8"]) -> dict[str, Float[np.ndarray, "sample"]]:
    """Of the sums of 1, x, y, xx, xy, yy, |x - y|, |y - median|: x said, y true. NaN where a value does not exist."""
    num, x, y, xx, xy, yy, error, spread = sums.T
    bias, mae, mae_of_median = ratio(x - y, num), ratio(error, num), ratio(spread, num)
    mean_square = ratio(xx - 2 * xy + yy, num)
    deviation = np.sqrt(np.maximum(ratio(num * (mean_square - bias * bias), num - 1), 0))
    return {
        "mae": mae,
        "rmse": np.sqrt(np.maximum(mean_square, 0)),
        "mae_of_median": mae_of_median,
        "mae_ratio_to_median": ratio(mae, mae_of_median),
        "pearson_r": _pearson(num, x, y, xx, xy, yy),
        "icc": _icc(num, x, y, xx, xy, yy),
        "bias": bias,
        "limit_low": bias - _WITHIN_LIMITS * deviation,
        "limit_high": bias + _WITHIN_LIMITS * deviation,
    }


def _pearson(
    num: np.ndarray, x: np.ndarray, y: np.ndarray, xx: np.ndarray, xy: np.ndarray, yy: np.ndarray
) -> Float[np.ndarray, "sample"]:
    """NaN where one of the two does not vary."""
    along, across = num * xx - x * x, num * yy - y * y
    # what is left of a constant's squares is rounding
    varies = (along > 1e-10 * num * xx) & (across > 1e-10 * num * yy)
    return np.where(varies, (num * xy - x * y) / np.sqrt(np.where(varies, along * across, 1.0)), np.nan)


def _icc(
    num: np.ndarray, x: np.ndarray, y: np.ndarray, xx: np.ndarray, xy: np.ndarray, yy: np.ndarray
) -> Float[np.ndarray, "sample"]:
    """ICC(2,1) of model and truth as two raters: two-way random effects, absolute agreement, single rater (Shrout and Fleiss 1979)."""
    safe = np.maximum(num, 1e-300)
    grand = (x + y) / (2 * safe)
    total = xx + yy - 2 * num * grand * grand
    rows = (xx + 2 * xy + yy) / 2 - 2 * num * grand * grand
    raters = np.square(x - y) / (2 * safe)
    of_row, residual = ratio(rows, num - 1), ratio(total - rows - raters, num - 1)
    above = of_row - residual
    below = of_row + residual + 2 * ratio(raters - residual, num)
    exists = below > 1e-12 * np.maximum(xx + yy, 1e-300) / safe
    return np.where(exists, above / np.where(exists, below, 1.0), np.nan)
