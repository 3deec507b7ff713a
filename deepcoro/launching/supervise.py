"""Starts the launcher, passes signals on to the ranks, and finds out how the run really ended.

`accelerate launch` turns every failure into 1 and knows nothing of SIGUSR1; its own restarts did not recover a killed rank on a static
meeting point. So the launcher itself is started again, and the run's exit code is read from run_dir/exit.json.
"""

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

import psutil

from deepcoro.launching.command import ROOT, Command
from deepcoro.preemption import EXIT_CODE
from deepcoro.shared_folder import PATIENCE_S, wait_until

logger = logging.getLogger(__name__)

KILLED = 1
FINAL = (0, 2, EXIT_CODE)
"""Exit codes after which starting again at once is of no use."""
AGAIN_S = 5.0
"""Seconds between two signals to ranks that have not ended: one that is still starting has not heard the first."""

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Supervisor:
    """One run on this machine. Signals may come at any time; ranks hear SIGUSR1 (a run that saves) or SIGTERM (one that does not)."""

    def __init__(self, command: Command, run_dir: Path, *, saves: bool, waits_for_others: bool):
        """`saves`: whether the run heeds SIGUSR1, as training does. `waits_for_others`: exit.json may come from another machine."""
        self._command = command
        self._exit_file = run_dir / "exit.json"
        self._signal = signal.SIGUSR1 if saves else signal.SIGTERM
        self._patience_s = PATIENCE_S if waits_for_others else 0.0
        self._asked = 0
        """How often this process was asked to stop."""

    def run(self, max_restarts: int) -> int:
        """The exit code of the run, or of its last start."""
        previous = {each: signal.getsignal(each) for each in (*_STOPPING, signal.SIGUSR1)}
        try:
            for restart in range(max_restarts + 1):
                code = self._once()
                if code in FINAL or self._asked or restart == max_restarts:
                    return code
                logger.warning("the run ended with %d; restart %d of %d", code, restart + 1, max_restarts)
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)
        return code

    def _once(self) -> int:
        before = _content(self._exit_file)
        # what is started inherits that it is ignored: launcher and starting ranks do not listen yet and must not die of it
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        process = subprocess.Popen(
            self._command.words,
            cwd=ROOT,
            env=os.environ | dict(self._command.environment),
            start_new_session=True,  # Ctrl-C reaches this process alone, which lets the ranks save
            close_fds=False,  # a sweep's lock on its trial is held until the last rank is gone, also when this process is killed
            preexec_fn=end_with_parent,
        )
        for each in _heard():
            signal.signal(each, self._note)
        status = self._wait(process)
        return self._code(status, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._asked:
            raise KeyboardInterrupt
        self._asked += 1

    def _wait(self, process: subprocess.Popen) -> int:
        told_at = None
        try:
            while (status := process.poll()) is None:
                due = told_at is None or (
                    self._signal == signal.SIGUSR1 and time.monotonic() - told_at > AGAIN_S
                )
                if self._asked and due:
                    told_at = time.monotonic()
                    tell_ranks(process.pid, self._signal)
                time.sleep(0.1)
        except KeyboardInterrupt:
            process.kill()  # its ranks end with it
            process.wait()
            raise
        return status

    def _code(self, status: int, before: str) -> int:
        if status == 0:
            return 0
        wait_until(lambda: _content(self._exit_file) != before, self._patience_s)
        written = _content(self._exit_file)
        if written == before:
            logger.error("no rank left word in %s: one was killed, or none came to run", self._exit_file)
            return KILLED
        record = json.loads(written)
        if record["code"] == 0:  # rank 0 was done; another was not
            return KILLED
        return record["code"]


_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _heard() -> list[signal.Signals]:
    """What was ignored stays ignored: nohup, and a shell's background jobs."""
    return [each for each in _STOPPING if signal.getsignal(each) is not signal.SIG_IGN] + [signal.SIGUSR1]


def tell_ranks(launcher: int, number: signal.Signals) -> None:
    """To the launcher's children, not to the launcher: it would end them by a clock of its own."""
    try:
        for rank in psutil.Process(launcher).children():
            rank.send_signal(number)
    except psutil.NoSuchProcess:  # it ended in the meantime
        return


def _content(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def end_with_parent() -> None:
    """For a child between fork and exec: it hears SIGTERM when its parent dies, however it dies. Linux only."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
