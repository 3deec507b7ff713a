"""Batches in the plan's order: workers only fetch rows, so any number of them gives the same batches.

A sample that cannot be read keeps its row with `valid` false and is masked everywhere; its key and reason enter the quarantine.
"""

import atexit
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from deepcoro.config import DataError
from deepcoro.data.ahead import Asked, looking_ahead
from deepcoro.data.damage import Bad, Damage
from deepcoro.data.plan import Plan, Row, evaluation_rows, rows_from
from deepcoro.data.units import Units
from deepcoro.data.watch import LOST_WORKER, Watch, Workers
from deepcoro.sample import StudyRecord

Batch = dict[str, Any]
_BATCHES_AHEAD = 2

_leaving = multiprocessing.RawValue("b", 0)
# Registered after multiprocessing's own exit hook, so it runs before it: that hook ends workers by SIGTERM and waits for them.
atexit.register(setattr, _leaving, "value", 1)


@runtime_checkable
class BuiltField(Protocol):
    """What `Config.build` of a field gives."""

    def decode(
        self,
        study: StudyRecord,
        clip_indices: tuple[int, ...],
        read_clip: Callable[[int], bytes],
        draw: np.random.Generator | None,
    ) -> Any: ...

    def collate(self, values: list[Any], num_videos: int) -> Batch: ...


@runtime_checkable
class StudyReader(Protocol):
    """A shard folder, or several as one."""

    fingerprint: str
    looks_ahead: int

    def announce(self, rows: Iterable[int]) -> None: ...

    def shard_of(self, row: int) -> str: ...

    def study(self, row: int) -> StudyRecord: ...

    def read_clip(self, row: int, clip: int) -> bytes: ...


class Fetched(NamedTuple):
    """A batch, and those of its samples that could not be read."""

    batch: Batch
    bad: list[Bad]


class Fetch(Dataset):
    """Maps the rows of a batch to the batch. Runs in the workers; holds no state that a batch could depend on."""

    def __init__(
        self, shards: StudyReader, units: Units, fields: dict[str, BuiltField], seed: int | None
    ) -> None:
        """`seed` None = evaluation: nothing is drawn."""
        self._shards = shards
        self._units = units
        self._fields = fields
        self._seed = seed
        self.watch: Watch | None = None
        """Told what is being read; set where workers read."""

    @property
    def looks_ahead(self) -> int:
        """How many shards ahead studies should be announced with the rows; 0 = it is of no use."""
        return self._shards.looks_ahead

    def __getitem__(self, asked: Asked | list[Row]) -> Fetched:
        rows, announced = asked if isinstance(asked, Asked) else (asked, ())
        if announced:
            self._shards.announce(announced)
        if self.watch is None:
            return self._fetched(rows, lambda unit: None)
        self.watch.begin([row.unit for row in rows])
        fetched = self._fetched(rows, self.watch.read)
        self.watch.end()
        return fetched

    def _fetched(self, rows: list[Row], on_sample: Callable[[int], None]) -> Fetched:
        samples, bad = [], []
        for row in rows:
            on_sample(row.unit)
            try:
                samples.append(self._sample(row) if row.unit >= 0 else None)
            except DataError as error:
                samples.append(None)
                bad.append(self._told(row.unit, error))
        on_sample(-1)
        batch: Batch = {
            "valid": torch.tensor([sample is not None for sample in samples]),
            "unit": torch.tensor([row.unit for row in rows], dtype=torch.int64),
            "position": torch.tensor([row.position for row in rows], dtype=torch.int64),
        }
        for name, field in self._fields.items():
            values = [None if sample is None else sample[name] for sample in samples]
            batch.update(field.collate(values, self._units.num_videos))
        return Fetched(batch, bad)

    def name(self, unit: int) -> str:
        """Key of a unit."""
        return self._units.name(unit)

    def _told(self, unit: int, error: DataError) -> Bad:
        shard = self._shards.shard_of(int(self._units.study_row[unit]))
        return Bad(self._units.name(unit), shard, str(error).removeprefix(f"{shard}: "))

    def _sample(self, row: Row) -> dict[str, Any]:
        study_row = int(self._units.study_row[row.unit])
        study = self._shards.study(study_row)
        clips = self._units.shown_clips(row.unit, self._draw(row))
        return {
            name: field.decode(
                study, clips, lambda each: self._shards.read_clip(study_row, each), self._draw(row, name)
            )
            for name, field in self._fields.items()
        }

    def _draw(self, row: Row, field: str = "") -> np.random.Generator | None:
        """A generator of the row's own; one a field, so that a further field does not change what the others draw."""
        if self._seed is None:
            return None
        name = [int.from_bytes(field.encode(), "big")] if field else []
        return np.random.default_rng([self._seed, row.epoch, row.position, *name])


class TrainingStream:
    """Endless batches of one rank, one per micro-step, in the plan's order from `start_position` on."""

    def __init__(
        self,
        shards: StudyReader,
        units: Units,
        fields: dict[str, BuiltField],
        plan: Plan,
        workers: Workers = Workers(),  # noqa: B008 - frozen
        damage: Damage | None = None,
        start_position: int = 0,
    ) -> None:
        self.damage = damage or Damage(plan.num_units, 1.0)
        """What could not be read; only of batches that were handed out."""
        self.start_position = start_position
        self.skipped_ranges: list[list[int]] = []
        """Positions [start, end) that were given up: steps after them begin behind them."""
        self._plan = plan
        self._units = units
        self._fetch = Fetch(shards, units, fields, plan.seed)
        self._fingerprint = shards.fingerprint
        self._workers = workers

    def __iter__(self) -> Iterator[Batch]:
        rows: Iterable = _PlannedRows(self._plan, self.start_position)
        if self._fetch.looks_ahead:
            rows = looking_ahead(rows, self._units, self._plan.world_size, self._fetch.looks_ahead)
        for batch, bad in _fetched(self._fetch, rows, self._plan.batch_size, self._workers):
            self.damage.note(bad)
            yield batch

    def position_after(self, steps: int) -> int:
        """Of the first row that `steps` optimiser steps have not read; of those after the last range that was given up."""
        return steps * self._plan.rows_per_step + sum(end - start for start, end in self.skipped_ranges)

    def samples_of(self, step: int) -> list[str]:
        """Keys of the samples that the optimiser step read which was the `step`-th (1, 2, ...), over all ranks, in their order."""
        rows = range(self.position_after(step - 1), self.position_after(step))
        return list(dict.fromkeys(self._units.name(self._plan.row(position).unit) for position in rows))

    def skip_to(self, position: int) -> None:
        """The rows from here to `position` are given up. Before iteration begins."""
        if position > self.start_position:
            self.skipped_ranges.append([self.start_position, position])
            self.start_position = position

    def state(self, position: int) -> dict[str, Any]:
        """What goes into a checkpoint taken when the positions below `position` have been trained on; plain JSON values."""
        return {
            "epoch": position // self._plan.num_units,
            "position": position,
            "seed": self._plan.seed,
            "fingerprint": self._fingerprint,
            "skipped_ranges": self.skipped_ranges,
        } | self.damage.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken. DataError when order or data are not the ones it speaks of."""
        for name, now in (("seed", self._plan.seed), ("fingerprint", self._fingerprint)):
            if state[name] != now:
                raise DataError(
                    f"the checkpoint was trained with {name} {state[name]}, this run has {now}: its position means nothing"
                    " here; restore the data, or start a new run from its weights",
                    topic="resume",
                )
        self.start_position = state["position"]
        self.skipped_ranges = list(state.get("skipped_ranges", []))
        self.damage.restore(state)


class EvaluationStream:
    """Every unit once over all ranks, as many batches on each; rows of padding have `unit` -1. Nothing is drawn.

    A unit that cannot be read is logged and keeps its row: `unit` >= 0 and `valid` false.
    """

    def __init__(
        self,
        shards: StudyReader,
        units: Units,
        fields: dict[str, BuiltField],
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        workers: Workers = Workers(),  # noqa: B008 - frozen
    ) -> None:
        self.bad: list[Bad] = []
        """What this rank could not read; only of batches that were handed out."""
        self._fetch = Fetch(shards, units, fields, None)
        self._batches = evaluation_rows(len(units), batch_size, world_size, rank)
        self._units = units
        self._world_size = world_size
        self._batch_size = batch_size
        self._workers = workers

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        damage = Damage(max(len(self), 1), 1.0)
        rows: Iterable = self._batches
        if self._fetch.looks_ahead:
            rows = looking_ahead(rows, self._units, self._world_size, self._fetch.looks_ahead)
        for batch, bad in _fetched(self._fetch, rows, self._batch_size, self._workers):
            damage.note(bad)
            self.bad += bad
            yield batch


class _PlannedRows(Sampler):
    """Rows of one micro-step after another, for ever."""

    def __init__(self, plan: Plan, start_position: int) -> None:
        self._plan = plan
        self._start_position = start_position

    def __iter__(self) -> Iterator[list[Row]]:
        micro_step = 0
        while True:
            yield rows_from(self._plan, self._start_position, micro_step)
            micro_step += 1


def _fetched(fetch: Fetch, rows: Any, batch_size: int, workers: Workers) -> Iterator[Fetched]:
    """The batches of `rows`, in order. WorkerFault when a worker dies or no batch comes for `workers.timeout_s`."""
    watch = fetch.watch = Watch(workers, batch_size, fetch.name)
    try:
        batches = iter(_loader(fetch, rows, workers))
        watch.started()
        yield from batches
    except (RuntimeError, *LOST_WORKER) as error:
        fault = watch.fault(error)
        if fault is None:
            raise
        raise fault from error


def _loader(fetch: Fetch, rows: Any, workers: Workers) -> DataLoader:
    ahead = {}
    if workers.count:
        ahead = {
            "prefetch_factor": _BATCHES_AHEAD,
            "worker_init_fn": partial(_start_worker, _leaving, fetch.watch),
            "timeout": workers.timeout_s,
        }
    return DataLoader(
        fetch,
        collate_fn=_as_it_is,
        sampler=rows,
        batch_size=None,
        num_workers=workers.count,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers.count > 0,
        **ahead,
    )


def _as_it_is(fetched: Fetched) -> Fetched:
    return fetched


def _start_worker(leaving: Any, watch: Watch, worker: int) -> None:
    def end_with_parent(*_: object) -> None:
        if leaving.value:
            os._exit(0)

    # A scheduler's SIGTERM or SIGUSR1 reaches every process of a job: workers must outlive it, or the emergency save never runs.
    signal.signal(signal.SIGTERM, end_with_parent)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch.arrive(worker)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
