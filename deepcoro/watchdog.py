"""A rank that hangs says where: in a collective that a peer never joins, in a kernel, on a disk.

A thread of its own looks whether the training loop goes on; it imports no torch and takes no lock of it.
"""

import faulthandler
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from deepcoro.config import pointer
from deepcoro.exit_record import EXIT_STALLED, write_exit

logger = logging.getLogger(__name__)

_LOOKS = 20
"""Times within the timeout that the thread looks."""


class _Phase(NamedTuple):
    name: str | None
    """None: nothing that has a limit."""
    step: int
    since_s: float


class Watchdog:
    """Open, it watches this rank: after `timeout_s` in one phase it writes the stacks of all threads, after twice that it ends the process.

    `timeout_s` None: it does nothing.
    """

    def __init__(self, run_dir: Path, timeout_s: float | None, rank: int):
        self._run_dir, self._timeout_s, self._rank = run_dir, timeout_s, rank
        self._phase = _Phase(None, 0, time.monotonic())
        self._told: _Phase | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Watchdog":
        if self._timeout_s is not None:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def enter(self, phase: str | None, step: int) -> None:
        """The loop goes on: it is now in `phase` (data, compute, save) of optimiser step `step`; None is for what may take long."""
        self._phase = _Phase(phase, step, time.monotonic())

    def _watch(self) -> None:
        while not self._closed.wait(self._timeout_s / _LOOKS):
            # Python code that never lets go of the interpreter stops this thread too; then a timer in C speaks and ends the process.
            faulthandler.dump_traceback_later(2 * self._timeout_s, exit=True, file=sys.__stderr__)
            phase = self._phase
            waited_s = time.monotonic() - phase.since_s
            if phase.name is None or waited_s < self._timeout_s:
                continue
            if phase is not self._told:
                self._tell(phase)
                self._told = phase
            elif waited_s >= 2 * self._timeout_s:
                self._end(phase)

    def _tell(self, phase: _Phase) -> None:
        path = self._run_dir / "stalls" / f"rank_{self._rank}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        line = f"rank {self._rank} has been in phase '{phase.name}' of step {phase.step} for {self._timeout_s:g} s"
        with path.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
            file.write("\n")
        logger.warning("%s (stall_timeout_s): %s holds the stacks of its threads", line, path)

    def _end(self, phase: _Phase) -> None:
        reason = (
            f"rank {self._rank} hung in phase '{phase.name}' of step {phase.step} for {2 * self._timeout_s:g} s (twice stall_timeout_s); "
            "stalls/ holds the stacks of every rank: the one whose stack differs from the others' is the cause"
        )
        logger.error("%s; leaving with exit code %d %s", reason, EXIT_STALLED, pointer("hung-ranks"))
        write_exit(self._run_dir, EXIT_STALLED, reason)
        sys.stderr.flush()
        os._exit(EXIT_STALLED)  # no clean-up: it would wait for the same peers
