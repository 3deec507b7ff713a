"""A process that reads what may be poison: under a limit of memory and time, its every word kept to be searched."""

import importlib
import logging
import multiprocessing
import os
import resource
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

LIMIT_S = 60.0
"""A hang is one on a busy machine too: most inputs take milliseconds."""
_MEMORY = 1 << 30
"""What an input may take beyond the loaded libraries, bytes."""

_DECODERS = (
    "av",
    "gdcm",
    "openjpeg",
    "rle",
    "PIL.Image",
    "simplejpeg",
    "pydicom.pixels",
    "deepcoro.ingest.dicom",
)

Job = Callable[[Path], str]
"""Reads a file or folder and says what came of it; raises what it may only raise when there is a fault."""


@dataclass(frozen=True)
class Outcome:
    """What one input did."""

    kind: str
    """`ok`, `refused`, `fault` (an exception that is no refusal), `died` or `hung`."""
    text: str
    """What was said, or the traceback."""
    said: str
    """Log lines and whatever the native libraries printed."""
    seconds: float


class Worker:
    """Runs jobs one after another in a child process; a child that dies or hangs is replaced."""

    def __init__(self, job: Job, scratch: Path, preload: tuple[str, ...] = ()) -> None:
        """`preload`: modules to import before memory is limited."""
        self._job = job
        self._preload = (*_DECODERS, *preload)
        self._printed = scratch / "printed.txt"
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._job, self._printed, self._preload), daemon=True
        )
        self._process.start()
        theirs.close()
        assert self._ours.poll(600) and self._ours.recv() == "ready"

    def run(self, path: Path) -> Outcome:
        started = time.monotonic()
        self._ours.send(path)
        try:
            if self._ours.poll(LIMIT_S):
                kind, text, said = self._ours.recv()
                return Outcome(kind, text, said + self._take_printed(), time.monotonic() - started)
            kind, text = "hung", f"no answer in {LIMIT_S} s"
            self._process.kill()
        except (EOFError, ConnectionResetError):
            kind, text = "died", ""
        self._process.join()
        text = text or f"exit code {self._process.exitcode}"
        outcome = Outcome(kind, text, self._take_printed(), time.monotonic() - started)
        self._start()
        return outcome

    def _take_printed(self) -> str:
        printed = self._printed.read_text(errors="replace")
        os.truncate(self._printed, 0)
        return printed

    def close(self) -> None:
        self._process.kill()
        self._process.join()


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def _serve(connection: Connection, job: Job, printed: Path, preload: tuple[str, ...]) -> None:
    # everything that any library prints, also from C
    target = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    lines = _Lines()
    # the ingest's own loggers to the last detail; pydicom's are silenced by the reader, which is part of what is tested
    logging.basicConfig(level=logging.DEBUG, handlers=[lines], force=True)
    for name in preload:
        importlib.import_module(name)
    loaded = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (loaded + _MEMORY, loaded + _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send("ready")
    while True:
        try:
            path = connection.recv()
        except EOFError:
            return
        lines.lines.clear()
        kind, text = _outcome(job, path)
        connection.send((kind, text, "\n".join(lines.lines)))


def _outcome(job: Job, path: Path) -> tuple[str, str]:
    from deepcoro.config import ConfigError, DataError
    from deepcoro.ingest.film import RejectedFilm

    try:
        return "ok", job(path)
    except (RejectedFilm, DataError, ConfigError) as error:
        return "refused", str(error)
    except BaseException:  # noqa: BLE001 - any other exception is what is looked for
        return "fault", traceback.format_exc()
