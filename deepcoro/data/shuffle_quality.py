"""How well an order mixes: what a global batch holds, against a full shuffle of the same units."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepcoro.data.order import epoch_permutation


@dataclass(frozen=True)
class Quality:
    """Numbers of one epoch's order. `of_full` = divided by what a full shuffle gives; 1 is as good as it gets."""

    shards_in_batch: float
    """Distinct shards that a global batch reads from, on average."""
    shards_in_batch_of_full: float
    entropy_of_full: float
    """Entropy of the shards of a batch's rows, on average."""
    study_pairs: float
    """Pairs of rows of one study in a global batch, on average: each is no negative of the other."""
    study_pairs_of_full: float
    serial_correlation: float
    """Correlation of the stored places of successive rows: 0 in a full shuffle, 1 in stored order."""
    displacement: float
    """Distance of a unit from its stored place over the number of units, on average: 1/3 in a full shuffle."""
    open_shards: int
    """The most shards that are open at one time, from their first read in the epoch to their last."""


def shuffle_quality(
    order: np.ndarray, shard_of_unit: np.ndarray, study_of_unit: np.ndarray, rows: int
) -> Quality:
    """`order`: units of an epoch as they are drawn; `rows` of a global batch. A tail that fills no batch does not count."""
    full = np.random.default_rng(0).permutation(order)
    of_order, of_full = (_batches(shard_of_unit[units], rows) for units in (order, full))
    pairs, pairs_full = (_pairs(_batches(study_of_unit[units], rows)) for units in (order, full))
    distinct, distinct_full = _distinct(of_order), _distinct(of_full)
    place = order.astype(np.float64)
    return Quality(
        shards_in_batch=distinct,
        shards_in_batch_of_full=distinct / distinct_full,
        entropy_of_full=_entropy(of_order) / max(_entropy(of_full), 1e-12),
        study_pairs=pairs,
        study_pairs_of_full=pairs / pairs_full if pairs_full else float("nan"),
        serial_correlation=float(np.corrcoef(place[:-1], place[1:])[0, 1]),
        displacement=float(np.abs(place - np.arange(len(order))).mean() / len(order)),
        open_shards=_most_open(shard_of_unit[order]),
    )


def quality_of_windows(
    shard_of_unit: np.ndarray, study_of_unit: np.ndarray, rows: int, windows: Sequence[int]
) -> dict[int, Quality]:
    """The quality of the first epoch for several numbers of shards a window."""
    return {
        size: shuffle_quality(
            epoch_permutation(shard_of_unit, 0, 0, size), shard_of_unit, study_of_unit, rows
        )
        for size in windows
    }


def _batches(values: np.ndarray, rows: int) -> np.ndarray:
    """[batch row], each batch sorted."""
    count = len(values) // rows
    return np.sort(values[: count * rows].reshape(count, rows), axis=1)


def _runs(batches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Batch and length of every run of equal values."""
    starts = np.ones_like(batches, bool)
    starts[:, 1:] = np.diff(batches, axis=1) != 0
    places = np.flatnonzero(starts)
    return places // batches.shape[1], np.diff(np.append(places, batches.size))


def _distinct(batches: np.ndarray) -> float:
    return len(_runs(batches)[0]) / len(batches)


def _pairs(batches: np.ndarray) -> float:
    _, length = _runs(batches)
    return float((length * (length - 1) // 2).sum() / len(batches))


def _entropy(batches: np.ndarray) -> float:
    """Nats."""
    share = _runs(batches)[1] / batches.shape[1]
    return float(-(share * np.log(share)).sum() / len(batches))


def _most_open(visited: np.ndarray) -> int:
    _, first = np.unique(visited, return_index=True)
    _, last = np.unique(visited[::-1], return_index=True)
    change = np.zeros(len(visited) + 1, np.int64)
    np.add.at(change, first, 1)
    np.add.at(change, len(visited) - last, -1)
    return int(np.cumsum(change).max())
