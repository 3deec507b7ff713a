"""Time to an event where many are never seen to have it: they died of something else, moved, or the study ended (censoring).

A row has a time, whether it ended in the event, and a score that should be higher the sooner the event comes.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from deepcoro.bootstrap import Statistic, ratio
from deepcoro.statistics.ranking import ranked

_PAIRS_AT_ONCE = 4_000_000


def survival_statistic(
    scores: Float[np.ndarray, "row"],
    times: Float[np.ndarray, "row"],
    events: Bool[np.ndarray, "row"],
    patients: Int[np.ndarray, "row"],
    horizons: Sequence[float],
) -> Statistic:
    """`c_index`, and `auc_at_T` for each horizon in the unit of `times`, of patient weights [sample, patient].

    Raises ValueError on times that are negative or not finite.
    """
    if not (np.isfinite(times) & (times >= 0)).all():
        raise ValueError("times to event must be finite and 0 or more; leave out rows without a follow-up")

    def values(weights: Float[np.ndarray, "sample patient"]) -> dict[str, Float[np.ndarray, "sample"]]:
        of_row = weights[:, patients]
        found = {"c_index": concordance(scores, times, events, of_row)}
        return found | {
            f"auc_at_{horizon:g}": auc_at(scores, times, events, of_row, horizon) for horizon in horizons
        }

    return values


def concordance(
    scores: Float[np.ndarray, "row"],
    times: Float[np.ndarray, "row"],
    events: Bool[np.ndarray, "row"],
    weights: Float[np.ndarray, "sample row"],
) -> Float[np.ndarray, "sample"]:
    """Harrell's C: of the pairs of which one is known to have had the event first, the share in which it scores higher; ties count half.

    A row censored at the time of an event outlived it. NaN where no pair is comparable.
    """
    agree, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    first = np.flatnonzero(events)
    block = max(1, _PAIRS_AT_ONCE // max(1, len(times)))
    for start in range(0, len(first), block):
        rows = first[start : start + block]
        later = (times > times[rows, None]) | ((times == times[rows, None]) & ~events)
        higher = (scores[rows, None] > scores) + 0.5 * (scores[rows, None] == scores)
        own = weights[:, rows]
        agree += np.einsum("sr,sr->s", own, weights @ (later * higher).T)
        pairs += np.einsum("sr,sr->s", own, weights @ later.T.astype(np.float64))
    return ratio(agree, pairs)


def auc_at(
    scores: Float[np.ndarray, "row"],
    times: Float[np.ndarray, "row"],
    events: Bool[np.ndarray, "row"],
    weights: Float[np.ndarray, "sample row"],
    horizon: float,
) -> Float[np.ndarray, "sample"]:
    """Cumulative/dynamic AUC: those who had the event by `horizon` against those who lived longer without it (Heagerty 2000).

    Rows censored before are neither; the events seen stand for them, each weighted by one over the chance of not having been
    censored before its time (Uno et al. 2007), which is estimated in every resample. NaN where a group is empty.
    """
    case, control = events & (times <= horizon), times > horizon
    kept = np.flatnonzero(case | control)
    followed = uncensored_before(times, events, weights)[:, kept]
    inverse = np.where(case[kept] & (followed > 0), 1 / np.maximum(followed, 1e-300), control[kept])
    each = np.arange(len(kept))
    ranking = ranked(scores[kept], case[kept], each, len(kept))
    return (
        ranking.statistic()(weights[:, kept] * inverse)["auroc"]
        if len(kept)
        else np.full(len(weights), np.nan)
    )


def uncensored_before(
    times: Float[np.ndarray, "row"], events: Bool[np.ndarray, "row"], weights: Float[np.ndarray, "sample row"]
) -> Float[np.ndarray, "sample row"]:
    """Chance of not being censored before each row's time: Kaplan-Meier with censoring as the event."""
    distinct, place = np.unique(times, return_inverse=True)
    censored = _sums_at(weights * ~events, place, len(distinct))
    # at one time events come before censoring, so they no longer are at risk of it
    ended = _sums_at(weights, place, len(distinct))
    at_risk = np.cumsum(ended[:, ::-1], axis=1)[:, ::-1] - (ended - censored)
    factors = 1 - censored / np.maximum(at_risk, 1e-300) * (at_risk > 0)
    before = np.cumprod(np.concatenate([np.ones((len(weights), 1)), factors[:, :-1]], axis=1), axis=1)
    return before[:, place]


def survival_curve(
    times: Float[np.ndarray, "row"], events: Bool[np.ndarray, "row"]
) -> tuple[Float[np.ndarray, "time"], Float[np.ndarray, "time"]]:
    """Kaplan-Meier: distinct times and the chance of being free of the event after each."""
    distinct, place = np.unique(times, return_inverse=True)
    had = np.bincount(place[events], minlength=len(distinct))
    at_risk = np.cumsum(np.bincount(place, minlength=len(distinct))[::-1])[::-1]
    return distinct, np.cumprod(1 - had / at_risk)


def survival_band(
    times: Float[np.ndarray, "row"], events: Bool[np.ndarray, "row"], deviations: float = 1.96
) -> tuple[Float[np.ndarray, "time"], Float[np.ndarray, "time"]]:
    """Lower and upper bound of `survival_curve` at each of its times: Greenwood's variance on the log-log scale, which keeps them between
    0 and 1. NaN where the curve is still 1 or has come to 0.
    """
    distinct, place = np.unique(times, return_inverse=True)
    had = np.bincount(place[events], minlength=len(distinct))
    at_risk = num_at_risk(times, distinct)
    _, free = survival_curve(times, events)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = deviations * np.sqrt(np.cumsum(had / (at_risk * (at_risk - had)))) / np.log(free)
        low, high = free ** np.exp(-spread), free ** np.exp(spread)
    is_known = (free > 0) & (free < 1)
    return np.where(is_known, low, np.nan), np.where(is_known, high, np.nan)


def num_at_risk(times: Float[np.ndarray, "row"], at: Float[np.ndarray, "time"]) -> Int[np.ndarray, "time"]:
    """Rows that are followed up to each of these times or longer."""
    return len(times) - np.searchsorted(np.sort(times), at, side="left")


def _sums_at(weights: np.ndarray, place: np.ndarray, num_times: int) -> Float[np.ndarray, "sample time"]:
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(num_times))
    return np.add.reduceat(weights[:, order], starts, axis=1)
