"""One run at a time writes to a shard folder; parts of one table write side by side."""

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from deepcoro.config import DataError
from deepcoro.data.manifest import PROGRESS

logger = logging.getLogger(__name__)


LOCK = "lock"
"""Under `.progress/`: stays, empty between runs. Those of parts go when the whole is concluded."""


def check_free(output: Path, part: tuple[int, int] | None = None) -> None:
    """DataError when another run works in the folder, before any work is done."""
    if (output / PROGRESS).is_dir():
        with alone(output, part):
            pass


@contextlib.contextmanager
def alone(output: Path, part: tuple[int, int] | None = None) -> Iterator[None]:
    """Keeps the folder to this process until the end of the block, or of the process, however it ends.

    A `part` (K of N) shares the folder with other parts, but not with itself. DataError that names process and host when
    another run works there. Where the file system has no locks, a warning.
    """
    folder = output / PROGRESS
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if part is None:
            stack.enter_context(_held(folder / LOCK, fcntl.LOCK_EX, output))
        else:
            stack.enter_context(_held(folder / LOCK, fcntl.LOCK_SH, output))
            stack.enter_context(_held(folder / f"{LOCK}-part-{part[0]}-of-{part[1]}", fcntl.LOCK_EX, output))
        yield


@contextlib.contextmanager
def _held(path: Path, kind: int, output: Path) -> Iterator[None]:
    # Opened for writing: over NFS a lock needs it.
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(handle, 200, 0).decode(errors="replace").strip() or "parts of one table"
            raise DataError(
                f"{output} is being written by another run ({owner}); wait for it to end, or end it",
                topic="another-run-writes",
            ) from error
        except OSError as error:
            logger.warning(
                "%s: no locks here (%s): never start two runs on one folder", output, error.strerror
            )
        try:
            _note(handle, f"process {os.getpid()} on {socket.gethostname()}" if kind == fcntl.LOCK_EX else "")
            yield
        finally:
            _note(handle, "")
    finally:
        os.close(handle)


def _note(handle: int, owner: str) -> None:
    """What a run that finds the folder taken can tell. A killed run leaves its note but not its lock."""
    os.ftruncate(handle, 0)
    os.pwrite(handle, owner.encode(), 0)
