"""Shards written by a Ray cluster. Ray is optional; what it needs is a file system that all its machines share."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deepcoro.config import ConfigError
from deepcoro.data.decode import make_or_end
from deepcoro.data.engines import Losses, Progress, films_kept
from deepcoro.data.sharding import Plan
from deepcoro.data.tar import ShardRecord, write_shard

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[2]
_QUEUED_PER_CPU = 2
Told = list[tuple[int, str]]


def write_on_ray(
    plans: Sequence[Plan], output: Path, workers: int, on_progress: Progress
) -> Iterator[ShardRecord]:
    """As `write_shards`. Joins the cluster of `RAY_ADDRESS`, else starts a local one with `workers` CPUs and ends it.

    A shard whose worker died is given to another one. ConfigError when Ray is not installed; DataError when workers die over one shard
    again and again without a film settled in between.
    """
    ray = _start(workers)
    write = ray.remote(num_cpus=1, max_retries=0)(_write)
    queued = _QUEUED_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending, running, settled, losses = list(plans)[::-1], {}, 0, Losses()
    try:
        while pending or running:
            while pending and len(running) < queued:
                plan = pending.pop()
                running[write.remote(plan, output, logging.getLogger().getEffectiveLevel())] = plan
            finished, _ = ray.wait(list(running), num_returns=1)
            plan = running.pop(finished[0])
            record, told = _result(ray, finished[0])
            for level, text in told:
                logger.log(level, "%s", text)
            if record is None:
                losses.note(plan.name, films_kept(output, plan))
                pending.append(plan)
                continue
            settled += plan.num_films
            on_progress(settled)
            yield record
    finally:
        ray.shutdown()


def _start(workers: int) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "--engine ray needs Ray: pip install 'deepcoro[ray]', or use --engine local",
            topic="missing-packages",
        ) from error
    address = os.environ.get("RAY_ADDRESS")
    searched = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    try:
        ray.init(
            address=address or "local",  # None would join a cluster that somebody started on this machine
            num_cpus=None if address else workers,
            include_dashboard=None if address else False,
            log_to_driver=False,  # a worker's traceback may name a film
            runtime_env={"env_vars": {"PYTHONPATH": searched}},
        )
    except ConnectionError as error:
        raise ConfigError(
            "no Ray cluster answers at RAY_ADDRESS; start it, or unset RAY_ADDRESS for a local one"
        ) from error
    return ray


def _write(plan: Plan, output: Path, level: int) -> tuple[ShardRecord, Told]:
    """In a worker: the record, and what was logged on the way."""
    listener = _Listener()
    logging.basicConfig(level=level, handlers=[listener], force=True)
    return write_shard(plan, output, lambda films: None, make_or_end), listener.told


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.told: Told = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("deepcoro"):
            self.told.append((record.levelno, record.getMessage()))


def _result(ray: Any, finished: Any) -> tuple[ShardRecord | None, Told]:
    """No record when the worker was lost over it."""
    try:
        return ray.get(finished)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        return None, [
            (logging.WARNING, f"a Ray worker was lost ({type(error).__name__}); its shard is gone on with")
        ]
