"""The loader's workers: how many, how long to wait for them, and what each is reading, so that one that dies or hangs is named with it."""

import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepcoro.config import DataError

_NAMED = 8
_DIES_WITHIN_S = 10.0
_HINTS = {
    "Killed": "the system kills a process when memory runs out (dmesg tells): fewer data.num_workers, or a smaller batch_size",
    "Bus error": "shared memory is full: give /dev/shm more room (docker: --shm-size), or fewer data.num_workers",
}
_HINT = "try data.num_workers=0 on these samples, and leave the film out if it crashes the decoder"


LOST_WORKER = (ConnectionError, EOFError)
"""What a loader raises when a worker ends while a batch is on its way."""


class WorkerFault(DataError):
    """A worker of this rank died or hung. Only this rank knows, so it speaks for itself."""

    topic = "loader-workers"


@dataclass(frozen=True)
class Workers:
    """Processes that fetch batches for one rank."""

    count: int = 0
    """0 = the rank fetches by itself."""
    timeout_s: float = 600.0
    """Longest wait for a batch."""


class Watch:
    """What each worker is reading, in memory that it shares with its rank: it can be read after the worker has died."""

    def __init__(self, workers: Workers, rows: int, name: Callable[[int], str]) -> None:
        """`rows` of a batch at most; `name` turns a unit into its key."""
        self.workers = workers
        self._name = name
        self._rows = rows
        self._me: int | None = None
        self._processes: list[multiprocessing.Process] = []
        self._pids = multiprocessing.RawArray("q", workers.count)
        self._since_s = multiprocessing.RawArray("d", workers.count)
        self._reading = multiprocessing.RawArray("q", workers.count)
        self._units = multiprocessing.RawArray("q", workers.count * rows)
        _watches.add(self)

    def arrive(self, worker: int) -> None:
        """Called in a worker when it starts; elsewhere `begin`, `read` and `end` do nothing."""
        self._me = worker
        self._pids[worker] = os.getpid()

    def started(self) -> None:
        """Called in the rank once the workers run: those that end later are known by what ended them."""
        self._processes = multiprocessing.active_children()

    def begin(self, units: Sequence[int]) -> None:
        """This worker has been given a batch."""
        if self._me is not None:
            start = self._me * self._rows
            self._units[start : start + self._rows] = [*units, *[-1] * (self._rows - len(units))]
            self._reading[self._me] = -1
            self._since_s[self._me] = time.monotonic()

    def read(self, unit: int) -> None:
        """This worker goes on to a sample; -1 = it has read them all."""
        if self._me is not None:
            self._reading[self._me] = unit

    def end(self) -> None:
        """This worker hands its batch over."""
        if self._me is not None:
            self._since_s[self._me] = 0.0

    def fault(self, error: Exception) -> WorkerFault | None:
        """What an error out of this watch's loader means; None when it is about something else. The workers have ended on return."""
        if isinstance(error, LOST_WORKER):
            line = self._broken_off()
        elif str(error).startswith("DataLoader timed out"):
            line = self._hung()
        else:
            line = self.death(error)
        if line is None:
            return None
        self.kill()
        return WorkerFault(line)

    def death(self, error: Exception) -> str | None:
        """One line, when the error is torch's about one of these workers."""
        message = str(error)
        found = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", message)
        if found is None:
            return None
        dead = [int(pid) for pid in found[1].split(",")]
        pid = next((pid for pid in self._pids if pid in dead), None)
        if pid is None:
            return None
        signalled = re.search(r"killed by signal: ([A-Za-z ]+)", message)
        return self._ended(pid, signalled[1].strip() if signalled else None)

    def _broken_off(self) -> str | None:
        """One line, when one of these workers is dying: what it was sending breaks off before the system has told of its end."""
        sentinels = {child.sentinel: pid for pid, child in self._children().items()}
        try:
            ended = [sentinels[each] for each in multiprocessing.connection.wait(sentinels, _DIES_WITHIN_S)]
        except RuntimeError as error:  # torch's handler tells of it in the meantime
            return self.death(error)
        return self._ended(ended[0]) if ended else None

    def _children(self) -> dict[int, multiprocessing.Process]:
        return {child.pid: child for child in self._processes if child.pid in self._pids}

    def _ended(self, pid: int, signalled: str | None = None) -> str:
        how, worker = signalled or self._signal(pid), list(self._pids).index(pid)
        said = f"was killed by signal '{how}'" if how else "ended by itself"
        return f"loader worker {worker} {said} {self._at(worker)}; {_HINTS.get(how or '', _HINT)}"

    def kill(self) -> None:
        """Ends the workers outright: one that is stuck outside of Python would keep its rank from ending."""
        on_main_thread = threading.current_thread() is threading.main_thread()
        # torch's handler would raise once more for each of them
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if on_main_thread else None
        for child in self._children().values():
            child.kill()
            child.join()
        if on_main_thread:
            signal.signal(signal.SIGCHLD, before)

    def _signal(self, pid: int) -> str | None:
        """What killed a worker that has ended or is about to."""
        child = self._children().get(pid)
        if child is None:
            return None
        try:
            child.join(_DIES_WITHIN_S)  # its connections are closed before its code is known
        except RuntimeError:  # torch's handler; the code is known from here on
            child.join(_DIES_WITHIN_S)
        code = child.exitcode or 0
        return signal.strsignal(-code) if code < 0 else None

    def _hung(self) -> str:
        busy = [number for number in range(self.workers.count) if self._since_s[number]]
        wait = f"no batch came for {self.workers.timeout_s:g} s (data.worker_timeout_s)"
        if not busy:
            return f"{wait} and no loader worker is reading: this is a bug, please report it"
        worker = min(busy, key=lambda number: self._since_s[number])
        hint = "a stalled disk or server, or a film that the decoder never finishes"
        return f"{wait}: loader worker {worker} hangs {self._at(worker)}; {hint}"

    def _at(self, worker: int) -> str:
        units = [unit for unit in self._units[worker * self._rows : (worker + 1) * self._rows] if unit >= 0]
        if not self._since_s[worker]:
            return "between two batches"
        names = [self._name(unit) for unit in units[:_NAMED]]
        more = f" and {len(units) - len(names)} more" if len(units) > len(names) else ""
        reading = self._reading[worker]
        sample = f"reading sample {self._name(reading)}" if reading >= 0 else "putting its batch together"
        seconds = time.monotonic() - self._since_s[worker]
        return f"{seconds:.0f} s into its batch, {sample} (the batch: {', '.join(names)}{more})"


_watches: "weakref.WeakSet[Watch]" = weakref.WeakSet()


def worker_fault(error: Exception) -> WorkerFault | None:
    """The death of a worker, named with what it was reading; None for any other error. The workers have ended on return.

    torch raises it wherever the rank happens to be when the system tells it, also far from the loader.
    """
    return next(
        (fault for watch in list(_watches) if watch.death(error) and (fault := watch.fault(error))), None
    )
