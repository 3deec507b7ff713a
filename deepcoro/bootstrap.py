"""Confidence intervals that resample patients, not films.

Films of one patient resemble each other, so an interval that resamples films is too narrow. Here a resample draws as many
patients as there are, with replacement; every film counts as often as its patient was drawn. Nothing is searched or ranked
again: a resample is a vector of weights, and all of them are evaluated together.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

LOW, HIGH = 2.5, 97.5
"""Percentiles of a 95 % interval."""

_ELEMENTS_AT_ONCE = 8_000_000
"""Weights held at one time (64 MB), however many films and resamples there are."""

Statistic = Callable[[Float[np.ndarray, "sample patient"]], dict[str, Float[np.ndarray, "sample"]]]
"""Named values for each vector of patient weights; NaN where a value does not exist. All weights 1 give the estimates themselves."""


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


def renumbered(patients: Int[np.ndarray, "row"]) -> Int[np.ndarray, "row"]:
    """Those that are left of `patient_rows` when rows were left out, numbered from 0 without gaps."""
    return np.unique(patients, return_inverse=True)[1].reshape(-1)


def patients_counted(
    patients: Int[np.ndarray, "row"], positive: Bool[np.ndarray, "row"] | None = None
) -> dict[str, float]:
    """`num_patients`; of a finding also those with a row that has it and with one that has it not: a patient may be in both."""
    numbers = {"num_patients": patients}
    if positive is not None:
        numbers |= {
            "num_positive_patients": patients[positive],
            "num_negative_patients": patients[~positive],
        }
    return {name: float(len(np.unique(each))) for name, each in numbers.items()}


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


def estimates(statistic: Statistic, num_patients: int) -> dict[str, float]:
    """The values of the data as they are; NaN for those that do not exist."""
    return {key: float(value[0]) for key, value in statistic(np.ones((1, num_patients))).items()}


def draws(
    statistic: Statistic, num_patients: int, num_samples: int, seed: int
) -> dict[str, Float[np.ndarray, "sample"]]:
    """The values of each resample; {} without any. Two statistics of the same patients and seed meet the same resamples."""
    found = [statistic(weights) for weights in resamples(num_patients, num_samples, seed)]
    return {key: np.concatenate([each[key] for each in found]) for key in found[0]} if found else {}


def interval(drawn: Float[np.ndarray, "sample"]) -> tuple[float, float] | None:
    """The middle 95 % of the resamples in which the value exists; None when it exists in none."""
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return None
    low, high = np.percentile(drawn, [LOW, HIGH])
    return float(low), float(high)


def with_intervals(statistic: Statistic, num_patients: int, num_samples: int, seed: int) -> dict[str, float]:
    """Flat numbers: every value that exists, beside `_ci_low` and `_ci_high` where resamples are drawn."""
    values = estimates(statistic, num_patients)
    drawn = draws(statistic, num_patients, num_samples, seed) if values else {}
    numbers: dict[str, float] = {}
    for key, value in values.items():
        if np.isnan(value):
            continue
        numbers[key] = value
        bounds = interval(drawn[key]) if drawn else None
        if bounds is not None:
            numbers[f"{key}_ci_low"], numbers[f"{key}_ci_high"] = bounds
    return numbers


def joined(parts: Mapping[str, Statistic]) -> Statistic:
    """Statistics of the same patients as one, each under its own prefix, so that all of them meet the same resamples."""

    def values(weights: Float[np.ndarray, "sample patient"]) -> dict[str, Float[np.ndarray, "sample"]]:
        return {
            f"{name}/{key}": value
            for name, statistic in parts.items()
            for key, value in statistic(weights).items()
        }

    return values


def together(*statistics: Statistic) -> Statistic:
    """Statistics of the same patients as one, under their own names; a later one's stand where two have the same."""

    def values(weights: Float[np.ndarray, "sample patient"]) -> dict[str, Float[np.ndarray, "sample"]]:
        return {key: value for each in statistics for key, value in each(weights).items()}

    return values


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by."""
    return np.where(below > 0, above / np.maximum(below, 1e-300), np.nan)


def mean_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Of the values that exist; NaN where none does."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis))


def patient_sums(
    counts: Float[np.ndarray, "row count"], patients: Int[np.ndarray, "row"], num_patients: int
) -> Float[np.ndarray, "patient count"]:
    """Sums over the rows of each patient: what measures of sums are resampled from."""
    held = np.zeros((num_patients, counts.shape[1]))
    np.add.at(held, patients, counts)
    return held


def query_means(
    values: Float[np.ndarray, "query metric"],
    query_of_share: Int[np.ndarray, "share"],
    patient_of_share: Int[np.ndarray, "share"],
    num_patients: int,
) -> Callable[[Float[np.ndarray, "sample patient"]], Float[np.ndarray, "sample metric"]]:
    """The mean over queries of each column of `values`, for each vector of patient weights; NaN where nobody with a query was drawn.

    A query belongs to patients in shares: a report that m films carry is held 1/m by the patient of each film. Its weight in
    a resample is the mean number of times that its films were drawn, so that it counts once on average and a report shared
    by many patients moves little.
    """
    share = 1.0 / np.bincount(query_of_share, minlength=len(values))[query_of_share]
    held = np.bincount(patient_of_share, weights=share, minlength=num_patients)
    sums = np.stack(
        [np.bincount(patient_of_share, share * column[query_of_share], num_patients) for column in values.T],
        axis=1,
    )
    return lambda weights: ratio(weights @ sums, (weights @ held)[:, None])


def mean_intervals(
    values: Float[np.ndarray, "query metric"],
    query_of_share: Int[np.ndarray, "share"],
    patient_of_share: Int[np.ndarray, "share"],
    num_samples: int,
    seed: int,
) -> Float[np.ndarray, "metric 2"]:
    """Lower and upper bound of each of `query_means`."""
    num_patients = int(patient_of_share.max()) + 1
    means = query_means(values, query_of_share, patient_of_share, num_patients)
    drawn = [means(weights) for weights in resamples(num_patients, num_samples, seed)]
    return np.nanpercentile(np.concatenate(drawn), [LOW, HIGH], axis=0).T


def means_with_intervals(
    columns: Mapping[str, Float[np.ndarray, "row"]],
    patients: Int[np.ndarray, "row"],
    num_samples: int,
    seed: int,
) -> dict[str, float]:
    """Flat numbers: the mean of each column over rows (one or more), beside `_ci_low` and `_ci_high` where resamples are drawn.

    `patients` are numbered without gaps.
    """
    values = np.stack(list(columns.values()), axis=1)
    numbers = {key: float(mean) for key, mean in zip(columns, values.mean(axis=0), strict=True)}
    if not num_samples:
        return numbers
    bounds = mean_intervals(values, np.arange(len(values)), patients, num_samples, seed)
    for key, (low, high) in zip(columns, bounds.tolist(), strict=True):
        numbers |= {f"{key}_ci_low": low, f"{key}_ci_high": high}
    return numbers


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
    held = patient_sums(counts, patient_of_row, int(patient_of_row.max()) + 1)
    drawn = draws(lambda weights: measures(weights @ held), len(held), num_samples, seed)
    bounds = {key: interval(values) for key, values in drawn.items()}
    return {key: bound for key, bound in bounds.items() if bound is not None}
