"""Confidence intervals that resample patients, not films, and the AUROC that they need in weighted form.

Films of one patient resemble each other, so an interval that resamples films is too narrow. Here a resample draws as many
patients as there are, with replacement; every film counts as often as its patient was drawn. Nothing is searched or ranked
again: a resample is a vector of weights, and all of them are evaluated together.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

LOW, HIGH = 2.5, 97.5
"""Percentiles of a 95 % interval."""

_ELEMENTS_AT_ONCE = 8_000_000
"""Weights held at one time (64 MB), however many films and resamples there are."""


def patient_rows(
    patients: Sequence[str | None] | np.ndarray | None, num_films: int
) -> Int[np.ndarray, "film"]:
    """Number of the patient of each film, from 0. A film without a patient id counts as a patient of its own."""
    ids = [None] * num_films if patients is None else list(patients)
    if len(ids) != num_films:
        raise ValueError(
            f"{len(ids)} patient ids for {num_films} films; one per film is needed (None where unknown)"
        )
    rows: dict = {}
    keys = [
        ("film", film) if patient is None else ("patient", str(patient)) for film, patient in enumerate(ids)
    ]
    return np.array([rows.setdefault(key, len(rows)) for key in keys], dtype=np.int64)


def resamples(
    num_patients: int, num_samples: int, seed: int
) -> Iterator[Float[np.ndarray, "sample patient"]]:
    """How often each patient was drawn, a block of resamples at a time; the same numbers for the same seed."""
    generator = np.random.default_rng(seed)
    block = max(1, _ELEMENTS_AT_ONCE // max(1, num_patients))
    even = np.full(num_patients, 1.0 / num_patients)
    for start in range(0, num_samples, block):
        size = min(block, num_samples - start)
        yield generator.multinomial(num_patients, even, size=size).astype(np.float64)


def mean_intervals(
    values: Float[np.ndarray, "query metric"],
    query_of_share: Int[np.ndarray, "share"],
    patient_of_share: Int[np.ndarray, "share"],
    num_samples: int,
    seed: int,
) -> Float[np.ndarray, "metric 2"]:
    """Lower and upper bound of the mean over queries of each column of `values`.

    A query belongs to patients in shares: a report that m films carry is held 1/m by the patient of each film. Its weight in
    a resample is the mean number of times that its films were drawn, so that it counts once on average and a report shared
    by many patients moves little.
    """
    num_patients = int(patient_of_share.max()) + 1
    share = 1.0 / np.bincount(query_of_share, minlength=len(values))[query_of_share]
    held = np.bincount(patient_of_share, weights=share, minlength=num_patients)
    sums = np.stack(
        [np.bincount(patient_of_share, share * column[query_of_share], num_patients) for column in values.T],
        axis=1,
    )
    means = [
        (weights @ sums) / np.maximum(weights @ held, 1e-300)[:, None]
        for weights in resamples(num_patients, num_samples, seed)
    ]
    return np.percentile(np.concatenate(means), [LOW, HIGH], axis=0).T


def sum_intervals(
    counts: Float[np.ndarray, "row count"],
    patient_of_row: Int[np.ndarray, "row"],
    measures: Callable[[Float[np.ndarray, "sample count"]], dict[str, Float[np.ndarray, "sample"]]],
    num_samples: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """Bounds of each value that `measures` makes of summed counts (an F1 of hits and misses, say).

    A resample in which a value does not exist (NaN) is left out of its interval; a value that exists in none has no interval.
    """
    held = np.zeros((int(patient_of_row.max()) + 1, counts.shape[1]))
    np.add.at(held, patient_of_row, counts)
    drawn = [measures(weights @ held) for weights in resamples(len(held), num_samples, seed)]
    bounds = {}
    for key in drawn[0]:
        values = np.concatenate([each[key] for each in drawn])
        values = values[~np.isnan(values)]
        if len(values):
            low, high = np.percentile(values, [LOW, HIGH])
            bounds[key] = float(low), float(high)
    return bounds


def auroc(scores: Float[np.ndarray, "film"], positive: Bool[np.ndarray, "film"]) -> float:
    """Chance that a positive film scores above a negative one, a tie counting half. Raises ValueError on a single class."""
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        raise ValueError(
            f"an AUROC needs both classes; got {num_positive} positive and {num_negative} negative"
        )
    rank_sum = rankdata(scores)[positive].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def weighted_aurocs(
    scores: Float[np.ndarray, "film"],
    positive: Bool[np.ndarray, "film"],
    weights: Float[np.ndarray, "sample film"],
) -> Float[np.ndarray, "sample"]:
    """One AUROC per row of film weights, sorting once for all; NaN where a row leaves a class without weight."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    sorted_weights, sorted_positive = weights[:, order], positive[order]
    negatives = np.add.reduceat(sorted_weights * ~sorted_positive, starts, axis=1)
    positives = np.add.reduceat(sorted_weights * sorted_positive, starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return np.where(pairs > 0, (positives * below).sum(axis=1) / np.maximum(pairs, 1e-300), np.nan)


def auroc_interval(
    scores: Float[np.ndarray, "film"],
    positive: Bool[np.ndarray, "film"],
    patient_of_film: Int[np.ndarray, "film"],
    num_samples: int,
    seed: int,
) -> tuple[float, float] | None:
    """Interval over resampled patients; None when no resample held both classes (a class that sits in one patient, say)."""
    num_patients = int(patient_of_film.max()) + 1
    block = max(1, _ELEMENTS_AT_ONCE // len(scores))
    drawn = []
    for weights in resamples(num_patients, num_samples, seed):
        for start in range(0, len(weights), block):
            drawn.append(
                weighted_aurocs(scores, positive, weights[start : start + block][:, patient_of_film])
            )
    kept = np.concatenate(drawn) if drawn else np.zeros(0)
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return None
    low, high = np.percentile(kept, [LOW, HIGH])
    return float(low), float(high)


def permuted_aurocs(
    scores: Float[np.ndarray, "film"], positive: Bool[np.ndarray, "film"], num_permutations: int, seed: int
) -> Float[np.ndarray, "permutation"]:
    """AUROCs of the same scores with the labels dealt out anew: a control that must come out at one half."""
    generator = np.random.default_rng(seed)
    return np.array([auroc(scores, generator.permutation(positive)) for _ in range(num_permutations)])
