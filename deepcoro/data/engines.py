"""Who writes the shards: this process, a pool of them, or a Ray cluster. The bytes are the same.

A pool that loses a process (out of memory, a decoder that crashed or was ended for taking too long) is started anew: finished films
are kept, and the film that cost it is decoded apart from then on (`deepcoro.data.decode`), so each film can end one pool at most.
"""

import concurrent.futures
import logging
import multiprocessing
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from typing import Any

from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data.decode import make_or_end
from deepcoro.data.sharding import Plan
from deepcoro.data.spool import films_waiting
from deepcoro.data.tar import ShardRecord, write_shard
from deepcoro.data.work import finished
from deepcoro.ingest.workers import leave_with_parent

logger = logging.getLogger(__name__)

Progress = Callable[[int], None]
_MOST_FRUITLESS = 3


def write_shards(plans: Sequence[Plan], output: Path, on_progress: Progress) -> Iterator[ShardRecord]:
    """Yields the records of finished shards in any order; calls `on_progress` with the number of films settled so far.

    DataError when processes are lost again and again without a film settled in between.
    """
    if not plans:
        return iter(())
    settings = plans[0].settings
    workers = min(settings.workers, len(plans))
    if settings.engine == "ray":
        from deepcoro.data.ray_engine import write_on_ray

        return write_on_ray(plans, output.resolve(), workers, on_progress)
    return (
        _in_pools(plans, output, workers, on_progress) if workers > 1 else _here(plans, output, on_progress)
    )


class Losses:
    """Counts the processes that were lost over something. Each should have brought it further than the one before."""

    def __init__(self) -> None:
        self._kept: dict[str, int] = {}
        self._fruitless: Counter[str] = Counter()

    def note(self, what: str, kept: int) -> None:
        """One more, when `kept` films of `what` lie on disk. DataError at the third in a row that brought none."""
        self._fruitless[what] = 0 if kept > self._kept.get(what, -1) else self._fruitless[what] + 1
        self._kept[what] = kept
        if self._fruitless[what] >= _MOST_FRUITLESS:
            raise DataError(
                f"worker processes died {self._fruitless[what] + 1} times in a row over {what}, between films; look for what kills"
                " them (dmesg tells of memory), give fewer --workers, run again: complete films are kept",
                topic="out-of-memory",
            )


def films_kept(output: Path, plan: Plan) -> int:
    """Films of a shard that need not be decoded again."""
    progress = output / schema.PROGRESS
    if (progress / schema.record_name(plan.name)).is_file():
        return plan.num_films
    return films_waiting(progress / schema.spool_name(plan.name))


def _here(plans: Sequence[Plan], output: Path, on_progress: Progress) -> Iterator[ShardRecord]:
    settled = 0

    def count(films: int) -> None:
        nonlocal settled
        settled += films
        on_progress(settled)

    yield from (write_shard(plan, output, count) for plan in plans)


def _in_pools(
    plans: Sequence[Plan], output: Path, workers: int, on_progress: Progress
) -> Iterator[ShardRecord]:
    """One pool, and another one for what is left whenever it loses a process: with half the processes when one was killed."""
    missing, losses, show = {plan.name: plan for plan in plans}, Losses(), _rising(on_progress)
    settled = 0
    while missing:
        pool = _Pool(min(workers, len(missing)), settled)
        try:
            for record in pool.write(missing.values(), output, show):
                settled += missing.pop(record.name).num_films
                yield record
        except BrokenProcessPool:
            for record in _told_by_nobody(missing.values(), output):
                settled += missing.pop(record.name).num_films
                yield record
            losses.note("the shards", settled + sum(films_kept(output, plan) for plan in missing.values()))
            workers = max(1, workers // 2) if pool.was_killed else workers
            logger.warning("%s; going on with %d", pool.loss, workers)


def _rising(on_progress: Progress) -> Progress:
    """Films of a lost pool are counted again as they are taken from the spool; nobody needs to see that."""
    most = 0

    def show(films: int) -> None:
        nonlocal most
        most = max(most, films)
        on_progress(most)

    return show


def _told_by_nobody(plans: Collection[Plan], output: Path) -> Iterator[ShardRecord]:
    """Shards that a pool finished in the moment it was lost."""
    for plan in list(plans):
        if (record := finished(output, plan)) is not None:
            shutil.rmtree(output / schema.PROGRESS / schema.spool_name(plan.name), ignore_errors=True)
            yield record


class _Pool:
    """Processes that write shards until one of them is lost."""

    def __init__(self, workers: int, settled: int) -> None:
        """`settled` films are there already."""
        # spawn: a forked child could inherit a lock that the progress bar's thread holds.
        context = multiprocessing.get_context("spawn")
        self._counter, messages = context.Value("q", settled), context.Queue()
        level = logging.getLogger().getEffectiveLevel()
        self._listener = QueueListener(messages, *logging.getLogger().handlers)
        arguments = (self._counter, messages, level)
        self._pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, arguments)
        self._processes: list[Any] = []

    def write(self, plans: Collection[Plan], output: Path, on_progress: Progress) -> Iterator[ShardRecord]:
        """BrokenProcessPool when a process is lost; all of them have ended then."""
        others = set(multiprocessing.active_children())
        self._listener.start()
        try:
            waiting = {self._pool.submit(_write_in_worker, plan, output) for plan in plans}
            self._processes = list(set(multiprocessing.active_children()) - others)
            while waiting:
                done, waiting = concurrent.futures.wait(waiting, 0.2, concurrent.futures.FIRST_COMPLETED)
                on_progress(self._counter.value)
                yield from (future.result() for future in done)
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._listener.stop()

    @property
    def loss(self) -> str:
        """What became of the process that was lost; the pool itself ends the others by SIGTERM."""
        signals = {-process.exitcode for process in self._processes if (process.exitcode or 0) < 0}
        names = sorted(signal.Signals(number).name for number in signals - {signal.SIGTERM})
        return f"a worker process died ({', '.join(names) or 'unknown cause'})"

    @property
    def was_killed(self) -> bool:
        """As the system does where memory runs out."""
        return any(process.exitcode == -signal.SIGKILL for process in self._processes)


_shared_counter: Any = None


def _start_worker(counter: Any, messages: Any, level: int) -> None:
    global _shared_counter
    _shared_counter = counter
    listened = QueueHandler(messages)
    # level and name are put before the words where they are shown
    listened.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[listened], force=True)
    leave_with_parent()


def _count_in_worker(films: int) -> None:
    with _shared_counter.get_lock():
        _shared_counter.value += films


def _write_in_worker(plan: Plan, output: Path) -> ShardRecord:
    return write_shard(plan, output, _count_in_worker, make_or_end)
