"""Which unit stands at a position of the endless sequence of training: pure functions, so that the whole state is the position.

Orders nest: a `Mixture` draws from orders, and each of them counts its own positions. Any position is found without the ones before it.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np

from deepcoro.config import DataError

SHARDS_PER_WINDOW = 16
BLOCK = 10_000
"""Draws after which a mixture has taken its shares exactly; a share is a multiple of 1 / BLOCK."""

_ORDER = 0x6F72646572  # sets the streams of orders apart from those of rows


@runtime_checkable
class Order(Protocol):
    """An endless sequence of units."""

    seed: int
    num_units: int
    """Draws that make up one epoch."""

    def at(self, position: int) -> tuple[int, int]:
        """Epoch and unit."""

    def counters(self, position: int) -> dict[str, float]:
        """What the positions below this one have drawn, by the names that a log shows. Empty where epochs say it all."""


class Shuffled:
    """Epoch permutations one after another, each shuffled on two levels: the shards, then the units of every window of shards."""

    def __init__(
        self,
        shard_of_unit: np.ndarray,
        seed: int = 0,
        shards_per_window: int = SHARDS_PER_WINDOW,
        units: np.ndarray | None = None,
        stream: Sequence[int] = (),
    ) -> None:
        """`units`: numbers of the units when they are some of many. `stream` sets orders of one seed apart."""
        if len(shard_of_unit) == 0:
            raise DataError(
                "there is nothing to train on: the split holds no sample; choose another split",
                topic="empty-split",
            )
        self.seed = seed
        self.num_units = len(shard_of_unit)
        self._units = units

        def permutation(epoch: int) -> np.ndarray:
            return epoch_permutation(shard_of_unit, seed, epoch, shards_per_window, stream)

        self.epoch_order: Callable[[int], np.ndarray] = lru_cache(2)(permutation)
        """Places of one epoch; two epochs are kept, since batches straddle them."""

    def at(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self.num_units)
        chosen = int(self.epoch_order(epoch)[place])
        return epoch, chosen if self._units is None else int(self._units[chosen])

    def counters(self, position: int) -> dict[str, float]:
        return {}


class Mixture:
    """Draws from several orders by weight. Each goes through its own epochs; whose turn it is follows a fixed schedule."""

    def __init__(self, parts: dict[str, Order], weights: Sequence[float], seed: int) -> None:
        self.seed = seed
        self.num_units = sum(part.num_units for part in parts.values())
        self._names = list(parts)
        self._parts = list(parts.values())
        self._shares = shares(weights)
        self._turn, self._turns_before = schedule(self._shares)

    def at(self, position: int) -> tuple[int, int]:
        block, place = divmod(position, BLOCK)
        part = int(self._turn[place])
        return self._parts[part].at(block * int(self._shares[part]) + int(self._turns_before[place]))

    def counters(self, position: int) -> dict[str, float]:
        block, place = divmod(position, BLOCK)
        drawn = block * self._shares + np.bincount(self._turn[:place], minlength=len(self._shares))
        found: dict[str, float] = {}
        for name, part, count in zip(self._names, self._parts, drawn.tolist(), strict=True):
            found |= {f"{name}/drawn": float(count), f"{name}/epoch": count / part.num_units}
            found |= {f"{name}/{key}": value for key, value in part.counters(count).items()}
        return found


def epoch_permutation(
    shard_of_unit: np.ndarray,
    seed: int,
    epoch: int,
    shards_per_window: int = SHARDS_PER_WINDOW,
    stream: Sequence[int] = (),
) -> np.ndarray:
    """The order of one epoch, each unit once: shards are shuffled, then the units of every `shards_per_window` of them."""
    draw = np.random.default_rng([_ORDER, seed, epoch, *stream])
    shard, num_shards = _numbered(shard_of_unit)
    key = (draw.permutation(num_shards) // shards_per_window).astype(np.float64)[shard]
    key += draw.random(len(shard))
    return np.argsort(key, kind="stable").astype(np.int32)


def _numbered(shard_of_unit: np.ndarray) -> tuple[np.ndarray, int]:
    """Shards renumbered without gaps. Stored order needs no sorting, which would cost five times the memory."""
    steps = np.diff(shard_of_unit)
    if (steps >= 0).all():
        shard = np.concatenate([np.zeros(1, np.int32), np.cumsum(steps > 0, dtype=np.int32)])
        return shard, int(shard[-1]) + 1
    shards, shard = np.unique(shard_of_unit, return_inverse=True)
    return shard, len(shards)


def shares(weights: Sequence[float]) -> np.ndarray:
    """Draws of each part in a block of BLOCK, at least one each: the largest remainders round up."""
    if len(weights) > BLOCK:
        raise DataError(f"{len(weights)} parts to draw from; {BLOCK} are the most")
    ideal = np.asarray(weights, np.float64) / np.sum(weights) * BLOCK
    count = np.maximum(np.floor(ideal), 1).astype(np.int64)
    while count.sum() != BLOCK:
        if count.sum() < BLOCK:
            count[np.argmax(ideal - count)] += 1
        else:
            count[np.argmax(np.where(count > 1, count - ideal, -np.inf))] -= 1
    return count


def schedule(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whose turn each place of a block is, and how many turns that part had before.

    Turn k of a part with n turns lies at (k + 1/2) / n of the block, so after any number of places a part with share s of S parts is
    less than 1/2 + s * S / 2 draws away from its share.
    """
    part = np.repeat(np.arange(len(counts)), counts)
    turns_before = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort((turns_before + 0.5) / counts[part], kind="stable")
    return part[order].astype(np.int32), turns_before[order].astype(np.int32)
