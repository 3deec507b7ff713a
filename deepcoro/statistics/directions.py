"""Which way a measure is better, by its name: the one list that the best checkpoint, sweeps and comparisons read."""

import fnmatch
from typing import Literal

_LOWER = (
    *("*mae", "mae_*", "*rmse", "rmse_*", "*mse", "mse_*", "*error*", "*loss*", "huber*", "nll*", "*entropy*", "perplexity*"),
    *("*brier*", "ece*", "*_ece", "aurc*", "interval_half_width", "rank", "median_rank*", "mean_rank*", "alignment*", "uniformity*"),
)  # fmt: skip
"""Patterns of the last part of a name, in lower case."""
_HIGHER = (
    *("*auroc*", "*auprc*", "auc", "auc_at_*", "r@*", "*accuracy*", "*f1", "f1_*", "*kappa*", "pearson*", "icc*", "c_index*"),
    *("sensitivity*", "specificity*", "ppv*", "npv*", "*recall", "recall*", "*precision", "precision*", "cider*", "bleu*", "rouge*", "mrr*"),
)  # fmt: skip
_LOWER_FAMILIES = ("wrong_side", "privacy")
"""Metrics all of whose rates count what should not be."""


def known_direction(metric: str) -> Literal["max", "min"] | None:
    """Whether a higher or a lower value of `linear_probing/lvef/mae` is better; None for a name that is in neither list."""
    parts = metric.lower().split("/")
    if set(parts) & set(_LOWER_FAMILIES) or _fits(parts[-1], _LOWER):
        return "min"
    return "max" if _fits(parts[-1], _HIGHER) else None


def direction(metric: str) -> Literal["max", "min"]:
    """The same, with max for a name that nobody knows."""
    return known_direction(metric) or "max"


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
