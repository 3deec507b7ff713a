"""From units to the order they are drawn in: all equally often, one clip of each study in turn, classes of a label or sources by shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from deepcoro.config import ConfigError
from deepcoro.data.order import SHARDS_PER_WINDOW, Mixture, Order, Shuffled

Balance = Literal["none", "study", "label"]
MOST_CLASSES = 100

_CLIPS = 0x636C697073  # sets the draws of clips apart from those of orders and rows


@dataclass(frozen=True)
class Samples:
    """What an order needs to know of the units; columns in stored order, so the units of a study follow each other."""

    shard: np.ndarray
    """Shard that holds each."""
    study: np.ndarray | None = None
    """Study of each; needed to balance studies."""
    label: np.ndarray | None = None
    """Class of each, a place among `Rule.classes`, or -1: never drawn. Needed to balance a label."""
    unit: np.ndarray | None = None
    """Numbers of the units when these are some of many; None = all, from 0."""

    def take(self, places: np.ndarray) -> "Samples":
        def part(column: np.ndarray | None) -> np.ndarray | None:
            return None if column is None else column[places]

        unit = places.astype(np.int32) if self.unit is None else self.unit[places]
        return Samples(self.shard[places], part(self.study), part(self.label), unit)


@dataclass(frozen=True)
class Rule:
    """How samples are drawn."""

    seed: int = 0
    shards_per_window: int = SHARDS_PER_WINDOW
    balance: Balance = "none"
    apart: int = 1
    """Consecutive positions that hold no study twice, where studies are balanced: the global batch."""
    power: float = 1.0
    """A class with n units has the share n ** (1 - power): 0 the natural one, 1 the same for every class."""
    classes: Sequence[str] = ()
    """Names of the classes, as counters show them."""


def order_of(samples: Samples, rule: Rule, stream: Sequence[int] = ()) -> Order:
    """`stream` sets the orders of one seed apart."""
    if rule.balance == "study":
        return StudyRounds(samples, rule, stream)
    if rule.balance == "label":
        return _class_shares(samples, rule, stream)
    return _shuffled(samples, rule, stream)


def mixed(samples: Samples, source_of_unit: np.ndarray, weights: Mapping[str, float], rule: Rule) -> Mixture:
    """Sources by weight, each in its own order. `source_of_unit` holds places in `weights`."""
    parts = {
        name: order_of(samples.take(np.flatnonzero(source_of_unit == number)), rule, (number,))
        for number, name in enumerate(weights)
    }
    return Mixture(parts, list(weights.values()), rule.seed)


class StudyRounds:
    """Every study once an epoch, with one of its clips: in n epochs a study of n clips shows each of them once, in shuffled order.

    Studies that `rule.apart` consecutive positions hold are distinct, also where two epochs meet, as long as that is no more than a
    third of the studies; so a global batch holds no study twice. With fewer studies, epochs still hold each once.
    """

    def __init__(self, samples: Samples, rule: Rule, stream: Sequence[int] = ()) -> None:
        _, self._first, self._num_clips = np.unique(samples.study, return_index=True, return_counts=True)
        self._studies = Shuffled(samples.shard[self._first], rule.seed, rule.shards_per_window, stream=stream)
        self.seed = rule.seed
        self.num_units = self._studies.num_units
        self._units = samples.unit
        self._stream = tuple(stream)
        self._margin = min(rule.apart - 1, self.num_units // 3)
        self._spaced = lru_cache(2)(self._spaced_order)

    def at(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self.num_units)
        study = int(self._spaced(epoch)[place])
        num_clips = int(self._num_clips[study])
        times, turn = divmod(epoch, num_clips)
        draw = np.random.default_rng([_CLIPS, self.seed, study, times, *self._stream])
        chosen = int(self._first[study] + draw.permutation(num_clips)[turn])
        return epoch, chosen if self._units is None else int(self._units[chosen])

    def counters(self, position: int) -> dict[str, float]:
        return {}

    def _spaced_order(self, epoch: int) -> np.ndarray:
        """The epoch's order of studies in which those that ended the epoch before do not stand at the start.

        They change places with the first others behind the start. The end of an epoch is never touched, so no epoch hangs on a chain
        of those before it.
        """
        order, margin = self._studies.epoch_order(epoch), self._margin
        if epoch == 0 or margin == 0:
            return order
        order = order.copy()
        just_seen = self._studies.epoch_order(epoch - 1)[-margin:]
        early = np.flatnonzero(np.isin(order[:margin], just_seen))
        middle = order[margin : len(order) - margin]
        later = margin + np.flatnonzero(~np.isin(middle, just_seen))[: len(early)]
        order[early], order[later] = order[later], order[early]
        return order


def _class_shares(samples: Samples, rule: Rule, stream: Sequence[int]) -> Mixture:
    """Draws by class. Each class goes through its own epochs, so its units come equally often.

    ConfigError when there is but one class, or more than MOST_CLASSES.
    """
    counts = np.bincount(samples.label[samples.label >= 0], minlength=len(rule.classes))
    there = np.flatnonzero(counts)
    if not 2 <= len(there) <= MOST_CLASSES:
        raise ConfigError(
            f"data.balance_by names a column with {len(there)} classes in the training data; 2 to {MOST_CLASSES} can be balanced"
        )
    parts: dict[str, Order] = {
        rule.classes[each]: _shuffled(
            samples.take(np.flatnonzero(samples.label == each)), rule, (*stream, each)
        )
        for each in there.tolist()
    }
    weights = counts[there].astype(float) ** (1 - rule.power)
    return Mixture(parts, weights.tolist(), rule.seed)


def _shuffled(samples: Samples, rule: Rule, stream: Sequence[int]) -> Shuffled:
    return Shuffled(samples.shard, rule.seed, rule.shards_per_window, samples.unit, stream)
