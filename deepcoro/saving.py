"""When a run's checkpoints are written, and that the loop does not wait for the disk."""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from deepcoro import checkpoint, distributed
from deepcoro.checkpoint import CheckpointError, Retention
from deepcoro.engine import Engine
from deepcoro.run_config import RunConfig

logger = logging.getLogger(__name__)


class Saver:
    """Writes the checkpoints of a run, one at a time: weights and moments are copied at their step, and a thread of rank 0 writes the copies.

    `save` and `finish` are collective. Leaving the context waits for the writing, also when an error ends the run.
    """

    def __init__(self, config: RunConfig):
        self._folder, self._config = config.checkpoint_folder, config.checkpoint
        self._retention = Retention(self._config.keep, self._config.keep_every_steps)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._is_open = False  # of a checkpoint whose end the ranks have not yet agreed on
        self._writing: Future | None = None  # on rank 0
        self._last_s = time.monotonic()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)
        if self.has_failed:  # the error that ends the run came first
            logger.error("%s", self._writing.exception())

    def is_due(self, step: int) -> bool:
        """This rank's opinion: the run's is that of any rank. Only rank 0 looks at the clock."""
        minutes = self._config.every_minutes
        by_clock = minutes is not None and time.monotonic() - self._last_s >= 60 * minutes
        return step % self._config.every_steps == 0 or (by_clock and distributed.rank() == 0)

    @property
    def has_failed(self) -> bool:
        """Whether the checkpoint that this rank was writing is known to have failed: `finish` then says why."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def save(self, step: int, engine: Engine, state: dict[str, Any], is_best: bool) -> None:
        """Waits for the checkpoint before this one, then for the copy of this one; for the disk only when `in_background` is false."""
        self.finish()
        snapshot = checkpoint.take(step, engine, state, is_best)
        self._last_s = time.monotonic()
        self._is_open = True
        if distributed.rank() == 0:
            self._writing = self._thread.submit(checkpoint.write, self._folder, snapshot, self._retention)
        if not self._config.in_background:
            self.finish()

    def finish(self) -> None:
        """Returns when the last checkpoint is whole on disk; CheckpointError, on every rank, when it could not be written."""
        if not self._is_open:
            return
        refusal = distributed.broadcast_object(self._wait())
        self._is_open = False
        if refusal is not None:
            raise CheckpointError(refusal)

    def _wait(self) -> str | None:
        if self._writing is None:
            return None
        writing, self._writing = self._writing, None
        try:
            writing.result()
        except CheckpointError as error:
            return str(error)
        return None
