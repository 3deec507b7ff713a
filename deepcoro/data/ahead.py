"""Announces, with each batch, studies of a shard that batches some way off will read, so that a cache can bring it in time."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from deepcoro.data.plan import Row
from deepcoro.data.units import Units

_WINDOWS_REMEMBERED = 4


class Asked(NamedTuple):
    """What a worker is given: the rows of a batch, and studies to announce."""

    rows: list[Row]
    announced: tuple[int, ...] = ()


def looking_ahead(
    batches: Iterable[list[Row]], units: Units, world_size: int, shards_ahead: int
) -> Iterator[Asked]:
    """The batches, so many shards behind the look ahead. Each batch announces one study at most: so the workers share the work."""
    upcoming: deque[list[Row]] = deque()
    fresh: deque[int] = deque()
    seen: OrderedDict[int, None] = OrderedDict()
    distance, rows_ahead = _rows_of_shards(shards_ahead, units, world_size), 0
    for batch in batches:
        upcoming.append(batch)
        rows_ahead += len(batch)
        fresh.extend(_new_shards(batch, units, seen))
        while len(seen) > _WINDOWS_REMEMBERED * shards_ahead:
            seen.popitem(last=False)
        while rows_ahead > distance and upcoming:
            rows_ahead -= len(upcoming[0])
            yield Asked(upcoming.popleft(), _one(fresh))
    while upcoming:
        yield Asked(upcoming.popleft(), _one(fresh))


def _rows_of_shards(shards_ahead: int, units: Units, world_size: int) -> int:
    """Rows that one rank takes of so many shards."""
    num_shards = int(units.shard.max()) - int(units.shard.min()) + 1
    return shards_ahead * len(units) // (num_shards * world_size)


def _new_shards(batch: list[Row], units: Units, seen: OrderedDict[int, None]) -> Iterator[int]:
    """A study of each shard that was not met lately."""
    for row in batch:
        if row.unit < 0:
            continue
        shard = int(units.shard[row.unit])
        if shard not in seen:
            yield int(units.study_row[row.unit])
        seen[shard] = None
        seen.move_to_end(shard)


def _one(fresh: deque[int]) -> tuple[int, ...]:
    return (fresh.popleft(),) if fresh else ()
