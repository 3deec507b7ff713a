"""What could not be read: counted over all ranks, named by shard and key, and the end of a run that lost too much.

Each rank notes what it met. Numbers of all ranks travel in a sum that the training step makes anyway; names travel when an epoch ends
or a checkpoint is written. So all ranks decide on the same numbers, and stop at the same step with the same words.
"""

import csv
import io
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deepcoro import atomic, distributed
from deepcoro.config import DataError

logger = logging.getLogger(__name__)

TABLE = "damaged_samples.csv"
_LOGGED_BY_NAME = 20
_SHARDS_NAMED = 5


class Bad(NamedTuple):
    """A sample that could not be read."""

    key: str
    shard: str
    reason: str


class Damage:
    """The account of one stream over the data. Everything but `note` is the same on every rank, or collective."""

    def __init__(self, num_units: int, max_bad_fraction: float, folder: Path | None = None) -> None:
        """`folder`: where rank 0 writes damaged_samples.csv."""
        self.quarantine: dict[str, str] = {}
        """Key of each sample that could not be read -> shard and reason; of all ranks after `merge`."""
        self.total = 0
        """Rows of all ranks that could not be read since training began, as of the last `agree`."""
        self.own = 0
        """Rows of this rank since it started."""
        self._num_units = num_units
        self._max_bad_fraction = max_bad_fraction
        self._folder = folder
        self._before = 0
        self._merged = 0
        self._epoch_began = 0
        self._new: dict[str, str] = {}
        self._new_by_shard: Counter[str] = Counter()
        self._by_shard: Counter[str] = Counter()

    def note(self, bad: Sequence[Bad]) -> None:
        """Takes in what this rank met in a batch that was handed out; the first ones are logged by name, then their number."""
        for key, shard, reason in bad:
            self.own += 1
            self._new[key] = self.quarantine[key] = f"{shard}: {reason}"
            self._new_by_shard[shard] += 1
            if self.own <= _LOGGED_BY_NAME:
                logger.warning("sample %s is masked: %s: %s", key, shard, reason)
            elif self.own & (self.own - 1) == 0:  # at powers of two
                logger.warning(
                    "%d samples are masked so far on this rank, the last of %s; %s names all",
                    self.own,
                    shard,
                    TABLE,
                )

    def fraction(self, position: int) -> float:
        """Share of unreadable rows among all that were read, or would have been by the end of the first epoch."""
        return self.total / max(position, self._num_units)

    def agree(self, own_of_all_ranks: int, position: int) -> dict[str, float]:
        """Takes the sum of every rank's `own` when `position` rows were handed out in all; numbers to log. Collective.

        DataError on every rank when the share is past `max_bad_fraction`.
        """
        self.total = self._before + own_of_all_ranks
        fraction = self.fraction(position)
        if fraction > self._max_bad_fraction:
            self.merge()
            rows = max(position, self._num_units)
            raise DataError(
                f"{self.total} of {rows} samples cannot be read ({fraction:.1%}), more than max_bad_fraction {self._max_bad_fraction}"
                f" allows: {self._shards()}. {_first(self.quarantine)}. Restore the shards or raise data.max_bad_fraction",
                topic="damaged-samples",
            )
        return {"data/bad_samples": float(self.total), "data/bad_fraction": fraction}

    def merge(self) -> None:
        """Gives every rank the names that the others met, and rank 0 a table of them. Collective; free when nothing is new."""
        if self.total == self._merged:
            return
        for new, by_shard in distributed.gather_objects((self._new, self._new_by_shard)):
            self.quarantine |= new
            self._by_shard += by_shard
        self._new, self._new_by_shard, self._merged = {}, Counter(), self.total
        if self._folder is not None and distributed.rank() == 0:
            write_table(self._folder / TABLE, self.quarantine)

    def end_epoch(self, epoch: int) -> None:
        """One line that says what the epoch (0, 1, ...) lost, after `agree`. Collective."""
        self.merge()
        lost = self.total - self._epoch_began
        if distributed.rank() == 0 and not lost:
            logger.info("epoch %d: all samples could be read", epoch)
        elif distributed.rank() == 0:
            logger.warning(
                "epoch %d: %d of %d samples could not be read (%.2f %%): %s",
                epoch,
                lost,
                self._num_units,
                100 * lost / self._num_units,
                self._shards(),
            )
        self._epoch_began = self.total
        self._by_shard.clear()

    def end_run(self) -> None:
        """One line that says what the whole of training lost, after `agree`. Collective."""
        self.merge()
        if self.total and distributed.rank() == 0:
            logger.warning(
                "in all, %d rows could not be read, of %d samples; %s names them",
                self.total,
                len(self.quarantine),
                TABLE,
            )

    def state(self) -> dict[str, Any]:
        """For a checkpoint; plain JSON values, the same on every rank after `merge`."""
        return {"bad_samples": self.total, "quarantine": dict(sorted(self.quarantine.items()))}

    def restore(self, state: dict[str, Any]) -> None:
        self._before = self.total = self._merged = self._epoch_began = state["bad_samples"]
        self.quarantine = dict(state["quarantine"])

    def _shards(self) -> str:
        worst = [f"{shard} {count}" for shard, count in self._by_shard.most_common(_SHARDS_NAMED)]
        more = len(self._by_shard) - len(worst)
        return ", ".join(worst) + (f", {more} more" if more > 0 else "")


def unreadable_of_split(bad: Sequence[Bad], num_units: int, max_bad_fraction: float) -> dict[str, str]:
    """Key -> shard and reason over all ranks of an evaluation. Collective. DataError on every rank when they are too many."""
    everyones = distributed.gather_objects([(key, f"{shard}: {reason}") for key, shard, reason in bad])
    found = dict(sorted(each for ranks in everyones for each in ranks))
    if len(found) > max_bad_fraction * num_units:
        raise DataError(
            f"{len(found)} of {num_units} samples of the split cannot be read ({len(found) / num_units:.1%}), more than"
            f" max_bad_fraction {max_bad_fraction} allows. {_first(found)}. Restore the shards or raise data.max_bad_fraction",
            topic="damaged-samples",
        )
    return found


def write_table(path: Path, quarantine: dict[str, str]) -> None:
    """CSV with the columns sample, shard, reason, sorted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("sample", "shard", "reason"))
    writer.writerows((key, *told.split(": ", 1)) for key, told in sorted(quarantine.items()))
    atomic.write_text(path, text.getvalue())


def _first(quarantine: dict[str, str]) -> str:
    key = min(quarantine)
    return f"One of them: {key}: {quarantine[key]}"
