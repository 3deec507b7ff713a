"""Is one model better than another? Both are resampled with the same patients, so that what is hard for both cancels out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepcoro.bootstrap import Statistic, draws, estimates, interval


@dataclass(frozen=True)
class Difference:
    """One measure of two models; each value is the mean over the seeds given."""

    first: float
    second: float
    first_by_seed: Sequence[float]
    second_by_seed: Sequence[float]
    low: float | None
    """95 % interval of first - second over resampled patients; None where no resample had both values."""
    high: float | None
    p_value: float | None
    """Two-sided: twice the share of resamples on the far side of no difference, at least 2 / (samples + 1)."""

    @property
    def value(self) -> float:
        return self.first - self.second


def compare(
    first: Sequence[Statistic], second: Sequence[Statistic], num_patients: int, num_samples: int, seed: int
) -> dict[str, Difference]:
    """Every measure that all seeds of both models have: each given as one statistic a seed, over the same rows and patients.

    The interval is over patients with the seeds at hand; how much another seed would change is what the values by seed tell.
    """
    of_first = [estimates(each, num_patients) for each in first]
    of_second = [estimates(each, num_patients) for each in second]
    drawn = _mean_draws(first, num_patients, num_samples, seed), _mean_draws(
        second, num_patients, num_samples, seed
    )
    found = {}
    # a seed without thresholds of val has no decisions
    for key in [key for key in of_first[0] if all(key in each for each in (*of_first, *of_second))]:
        values = [each[key] for each in of_first], [each[key] for each in of_second]
        apart = drawn[0][key] - drawn[1][key] if drawn[0] else np.zeros(0)
        bounds = interval(apart)
        found[key] = Difference(
            float(np.mean(values[0])),
            float(np.mean(values[1])),
            *values,
            *(bounds or (None, None)),
            p_value=_p_value(apart),
        )
    return found


def _mean_draws(
    statistics: Sequence[Statistic], num_patients: int, num_samples: int, seed: int
) -> dict[str, np.ndarray]:
    each = [draws(statistic, num_patients, num_samples, seed) for statistic in statistics]
    shared = [key for key in each[0] if all(key in drawn for drawn in each)]
    return {key: np.mean([drawn[key] for drawn in each], axis=0) for key in shared}


def _p_value(apart: np.ndarray) -> float | None:
    known = apart[~np.isnan(apart)]
    if not len(known):
        return None
    # one more on each side: no finite number of resamples shows a chance of zero (Davison and Hinkley 1997)
    tail = min((known <= 0).sum(), (known >= 0).sum()) + 1
    return float(min(1.0, 2 * tail / (len(known) + 1)))
