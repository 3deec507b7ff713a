"""Who writes the shards: this process, a pool of them, or a Ray cluster. The bytes are the same."""

import concurrent.futures
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from typing import Any

from deepcoro.config import DataError
from deepcoro.data.sharding import Plan
from deepcoro.data.tar import ShardRecord, write_shard

Progress = Callable[[int], None]


def write_shards(plans: Sequence[Plan], output: Path, on_progress: Progress) -> Iterator[ShardRecord]:
    """Yields the records of finished shards in any order; calls `on_progress` with the number of films settled so far."""
    if not plans:
        return iter(())
    settings = plans[0].settings
    workers = min(settings.workers, len(plans))
    if settings.engine == "ray":
        from deepcoro.data.ray_engine import write_on_ray

        return write_on_ray(plans, output.resolve(), workers, on_progress)
    return _in_pool(plans, output, workers, on_progress) if workers > 1 else _here(plans, output, on_progress)


def _here(plans: Sequence[Plan], output: Path, on_progress: Progress) -> Iterator[ShardRecord]:
    settled = 0

    def count(films: int) -> None:
        nonlocal settled
        settled += films
        on_progress(settled)

    yield from (write_shard(plan, output, count) for plan in plans)


def _in_pool(
    plans: Sequence[Plan], output: Path, workers: int, on_progress: Progress
) -> Iterator[ShardRecord]:
    # spawn: a forked child could inherit a lock that the progress bar's thread holds.
    context = multiprocessing.get_context("spawn")
    counter, messages = context.Value("q", 0), context.Queue()
    level = logging.getLogger().getEffectiveLevel()
    listener = QueueListener(messages, *logging.getLogger().handlers)
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (counter, messages, level))
    listener.start()
    try:
        waiting = {pool.submit(_write_in_worker, plan, output) for plan in plans}
        while waiting:
            finished, waiting = concurrent.futures.wait(waiting, 0.2, concurrent.futures.FIRST_COMPLETED)
            on_progress(counter.value)
            yield from (future.result() for future in finished)
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process died (out of memory, or a decoder crashed); run again: complete films are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        listener.stop()


_shared_counter: Any = None


def _start_worker(counter: Any, messages: Any, level: int) -> None:
    global _shared_counter
    _shared_counter = counter
    logging.basicConfig(level=level, handlers=[QueueHandler(messages)], force=True)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A pool's worker would wait for ever when its parent is killed; what it leaves half-written has a temporary name."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _count_in_worker(films: int) -> None:
    with _shared_counter.get_lock():
        _shared_counter.value += films


def _write_in_worker(plan: Plan, output: Path) -> ShardRecord:
    return write_shard(plan, output, _count_in_worker)
