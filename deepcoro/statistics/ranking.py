"""Measures that depend on the order of scores alone: AUROC, AUPRC, sensitivity at a given specificity; ties count as ties.

Scores are sorted once. After that a resample is a product of a sparse table (films of a patient at each level of the score) with the
weights of the patients. Neighbouring levels that hold negatives only are joined, which changes none of the measures here: with few
positives few levels remain, however many films there are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.stats import rankdata

from deepcoro.bootstrap import Statistic, draws, interval, ratio

_ELEMENTS_AT_ONCE = 2_000_000
"""Sums per level held at one time (16 MB, a few times over)."""

Measures = Callable[[np.ndarray, np.ndarray], dict[str, Float[np.ndarray, "sample"]]]


def at_specificity(specificity: float) -> str:
    return f"sensitivity_at_specificity_{specificity:.2f}"


@dataclass(frozen=True)
class Ranking:
    """Rows of two classes in levels of equal score, the highest first."""

    positives: sparse.csr_array
    """Weight of the positive rows of each level, by patient [level, patient]."""
    negatives: sparse.csr_array
    """The same of the negative rows."""

    def values(
        self, weights: Float[np.ndarray, "sample patient"], measures: Measures
    ) -> dict[str, Float[np.ndarray, "sample"]]:
        """What `measures` makes of the sums per level [level, sample] of positives and of negatives."""
        block = max(1, _ELEMENTS_AT_ONCE // max(1, self.positives.shape[0]))
        found = []
        for start in range(0, len(weights), block):
            drawn = np.ascontiguousarray(weights[start : start + block].T)
            found.append(measures(self.positives @ drawn, self.negatives @ drawn))
        return {key: np.concatenate([each[key] for each in found]) for key in found[0]}

    def statistic(self, specificities: Sequence[float] = ()) -> Statistic:
        """`auroc`, `auprc` and a `sensitivity_at_specificity_0.90` for each specificity, of patient weights [sample, patient]."""
        return lambda weights: self.values(weights, lambda *sums: _of_sums(*sums, specificities))


def ranked(
    scores: Float[np.ndarray, "row"],
    positive: Bool[np.ndarray, "row"],
    patients: Int[np.ndarray, "row"],
    num_patients: int,
    every_level: bool = False,
) -> Ranking:
    """Sorts once; `every_level` keeps also those apart that hold negatives only. Raises ValueError on NaN: a missing score has no place."""
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} of {len(scores)} scores are NaN; leave those rows out")
    _, level = np.unique(-np.asarray(scores, np.float64), return_inverse=True)
    has_positive = np.full(level.max(initial=-1) + 1, every_level)
    has_positive[level[positive]] = True
    # a run of levels without positives is one level
    starts = has_positive | np.concatenate([[True], has_positive])[: len(has_positive)]
    level = (np.cumsum(starts) - 1)[level]
    shape = (int(starts.sum()), num_patients)

    def table(chosen: np.ndarray) -> sparse.csr_array:
        ones = np.ones(int(chosen.sum()))
        return sparse.coo_array((ones, (level[chosen], patients[chosen])), shape=shape).tocsr()

    return Ranking(table(positive), table(~positive))


def stratified_auroc(
    scores: Float[np.ndarray, "row"],
    positive: Bool[np.ndarray, "row"],
    strata: Int[np.ndarray, "row"],
    patients: Int[np.ndarray, "row"],
    num_patients: int,
) -> Statistic:
    """`auroc_within_strata`: the chance that a positive row scores above a negative one of its own stratum, a tie counting half.

    Every such pair counts once, so that a stratum of one class has no part in it; NaN where all are.
    """
    own = [strata == each for each in np.unique(strata)]
    rankings = [ranked(scores[rows], positive[rows], patients[rows], num_patients) for rows in own]

    def values(weights: Float[np.ndarray, "sample patient"]) -> dict[str, Float[np.ndarray, "sample"]]:
        sums = [ranking.values(weights, _pairs) for ranking in rankings]
        won, pairs = (np.sum([each[key] for each in sums], axis=0) for key in ("won", "pairs"))
        return {"auroc_within_strata": ratio(won, pairs)}

    return values


def _pairs(
    positives: Float[np.ndarray, "level sample"], negatives: Float[np.ndarray, "level sample"]
) -> dict[str, Float[np.ndarray, "sample"]]:
    false = negatives.sum(axis=0)
    won = _won(positives, negatives, np.cumsum(negatives, axis=0), false)
    return {"won": won, "pairs": positives.sum(axis=0) * false}


def _of_sums(
    positives: Float[np.ndarray, "level sample"],
    negatives: Float[np.ndarray, "level sample"],
    specificities: Sequence[float],
) -> dict[str, Float[np.ndarray, "sample"]]:
    found, true, false = np.cumsum(positives, axis=0), positives.sum(axis=0), negatives.sum(axis=0)
    alarms = np.cumsum(negatives, axis=0)
    values = {
        "auroc": _auroc(positives, negatives, alarms, true, false),
        "auprc": _average_precision(positives, found, alarms, true),
    }
    for specificity in specificities:
        allowed = alarms <= (1 - specificity) * false + 1e-9
        best = np.where(allowed, found, 0.0).max(axis=0, initial=0.0)
        values[at_specificity(specificity)] = np.where(false > 0, ratio(best, true), np.nan)
    return values


def _auroc(
    positives: np.ndarray, negatives: np.ndarray, alarms: np.ndarray, true: np.ndarray, false: np.ndarray
) -> Float[np.ndarray, "sample"]:
    return ratio(_won(positives, negatives, alarms, false), true * false)


def _won(
    positives: np.ndarray, negatives: np.ndarray, alarms: np.ndarray, false: np.ndarray
) -> Float[np.ndarray, "sample"]:
    """Pairs in which the positive row has the higher score, ties as halves."""
    below = false - alarms + negatives / 2
    return (positives * below).sum(axis=0)


def _average_precision(
    positives: np.ndarray, found: np.ndarray, alarms: np.ndarray, true: np.ndarray
) -> Float[np.ndarray, "sample"]:
    """Precision at each level, weighted by the recall gained there; not the trapezium, which is too good (Davis and Goadrich 2006)."""
    precision = found / np.maximum(found + alarms, 1e-300)
    return ratio((positives * precision).sum(axis=0), true)


def auroc(scores: Float[np.ndarray, "film"], positive: Bool[np.ndarray, "film"]) -> float:
    """Chance that a positive film scores above a negative one, a tie counting half. Raises ValueError on a single class."""
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        raise ValueError(
            f"an AUROC needs both classes; got {num_positive} positive and {num_negative} negative"
        )
    rank_sum = rankdata(scores)[positive].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def auroc_interval(
    scores: Float[np.ndarray, "film"],
    positive: Bool[np.ndarray, "film"],
    patient_of_film: Int[np.ndarray, "film"],
    num_samples: int,
    seed: int,
) -> tuple[float, float] | None:
    """Interval over resampled patients; None when no resample held both classes (a class that sits in one patient, say)."""
    num_patients = int(patient_of_film.max()) + 1
    statistic = ranked(scores, positive, patient_of_film, num_patients).statistic()
    drawn = draws(statistic, num_patients, num_samples, seed)
    return interval(drawn["auroc"]) if drawn else None


def permuted_aurocs(
    scores: Float[np.ndarray, "film"], positive: Bool[np.ndarray, "film"], num_permutations: int, seed: int
) -> Float[np.ndarray, "permutation"]:
    """AUROCs of the same scores with the labels dealt out anew: a control that must come out at one half."""
    generator = np.random.default_rng(seed)
    return np.array([auroc(scores, generator.permutation(positive)) for _ in range(num_permutations)])
