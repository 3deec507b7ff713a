"""A bounded folder of shards on a node's own disk, shared by all ranks and workers of the node, also of several runs.

Entries are named by the sha256 of the tar they hold, so other data never answer for these. Two kinds, each whole or not there:

- `<sha256>.tar`: a whole shard (or films.parquet), downloaded under a temporary name, compared with its digest, renamed.
- `<sha256>.part`: some members of a shard, a sparse file that has them at their own offsets. The index tells which bytes are a member, its
  checksum tells whether they are there: a hole, a torn write or a flipped bit all fail it and are fetched (again).

Room is made by removing what was used longest ago. A reader that has such a file open reads on (POSIX keeps the bytes until it closes), and
no reader keeps one open longer than one read. Downloads are reserved at full size while they run, and a lock that dies with its process
guards each of them: a shard is never downloaded twice at the same time, and what a killed process left is removed.
"""

import fcntl
import hashlib
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import pydantic

from deepcoro.config import Block

logger = logging.getLogger(__name__)

_NEW, _WHOLE, _MEMBERS, _LOCK, _TURNS = ".new", ".tar", ".part", "room.lock", "turns.lock"
_TOUCH_S = 30.0
_COUNT_AGAIN = 512
_FREE_TO = 15 / 16

_told = multiprocessing.RawValue("b", 0)  # shared with forked workers: one warning a rank


class Cache(Block):
    """Shards kept on the node's own disk, for folders that lie elsewhere."""

    folder: Path | None = None
    """Where; a disk of the node, not a network one. Unset = nothing is kept."""
    max_gb: float = pydantic.Field(default=100.0, gt=0)
    """Room that all runs on this node may take there together."""
    mode: Literal["shard", "member", "none"] = "shard"
    """shard: whole tars, the next ones ahead of time (one node, or all fits); member: only the films read here (many nodes); none: nothing."""

    def open(self) -> "CacheFolder | None":
        """None when nothing shall be kept."""
        if self.folder is None or self.mode == "none":
            return None
        return CacheFolder(self.folder, int(self.max_gb * 1e9))


class CacheFolder:
    """The files. Every method may be called by any number of processes at once."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._unaccounted = max_bytes  # written since the room was last counted

    def read_whole(self, sha256: str, offset: int, size: int) -> bytes | None:
        """Bytes of a whole shard; None when it is not here."""
        return self._read(self.folder / f"{sha256}{_WHOLE}", offset, size)

    def read_member(self, sha256: str, offset: int, size: int) -> bytes | None:
        """Bytes where a member would lie; None when nothing of its shard is here."""
        return self._read(self.folder / f"{sha256}{_MEMBERS}", offset, size)

    def open_whole(self, sha256: str) -> BinaryIO | None:
        """A whole file for reading, which eviction does not end; None when it is not here."""
        try:
            file = (self.folder / f"{sha256}{_WHOLE}").open("rb")
        except OSError:
            return None
        _touch(file.fileno())
        return file

    @contextmanager
    def taking_turns(self) -> Iterator[None]:
        """Alone among the processes of the node that ask for it; a disk that refuses is told once, and then nobody waits."""
        with ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                stack.enter_context(_alone(self.folder / _TURNS))
            except OSError as error:
                self._refused(error)
            yield

    def holds(self, sha256: str) -> bool:
        return (self.folder / f"{sha256}{_WHOLE}").exists()

    def drop(self, sha256: str) -> None:
        """Removes a shard that turned out damaged."""
        (self.folder / f"{sha256}{_WHOLE}").unlink(missing_ok=True)

    def add_member(self, sha256: str, offset: int, payload: bytes) -> None:
        """Keeps one member; a disk that refuses is told once."""
        try:
            self._account(len(payload))
            descriptor = os.open(self.folder / f"{sha256}{_MEMBERS}", os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.pwrite(descriptor, payload, offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._refused(error)

    def add_whole(self, sha256: str, size: int, pieces: Callable[[], Iterator[bytes]]) -> bool:
        """Downloads a shard, unless it is here or another process is at it. Whether it is here now.

        What `pieces` raises passes; nothing is left behind then.
        """
        if self.holds(sha256) or size > self.max_bytes:
            return self.holds(sha256)
        new = self.folder / f"{sha256}{_NEW}"
        try:
            with _refusals():
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                descriptor = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                # The name may have gone to another file between opening and locking.
                if not (_locked(descriptor) and _is_still(descriptor, new)):
                    return False
                return self._fill(descriptor, sha256, size, pieces)
            finally:
                _release(descriptor)
        except _Refused as refused:
            self._refused(refused.error)
            return False

    def _fill(self, descriptor: int, sha256: str, size: int, pieces: Callable[[], Iterator[bytes]]) -> bool:
        """Under the lock: downloads into the temporary file and gives it its name, or removes it."""
        new, whole = self.folder / f"{sha256}{_NEW}", self.folder / f"{sha256}{_WHOLE}"
        is_whole = False
        try:
            is_whole = not whole.exists() and self._download(descriptor, sha256, size, pieces)
            if is_whole:
                # Alone: who counts the room meanwhile could miss it under both names, and overdraw.
                with _refusals(), _alone(self.folder / _LOCK):
                    new.rename(whole)
            return whole.exists()
        finally:
            if not is_whole:
                new.unlink(missing_ok=True)

    def _download(self, new: int, sha256: str, size: int, pieces: Callable[[], Iterator[bytes]]) -> bool:
        with _refusals():
            if not self._make_room(size, lambda: os.truncate(new, size)):
                return False
        digest, written = hashlib.sha256(), 0
        for piece in pieces():
            digest.update(piece)
            with _refusals():
                os.pwrite(new, piece, written)
            written += len(piece)
        if written != size or digest.hexdigest() != sha256:
            logger.warning(
                "a shard is not the one of the manifest and is not kept; its films are read one by one"
            )
            return False
        return True

    def _account(self, size: int) -> None:
        """Counts the room now and then; a member is small, and a count looks at every file."""
        self._unaccounted += size
        if self._unaccounted * _COUNT_AGAIN >= self.max_bytes:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._make_room(size, lambda: None)
            self._unaccounted = 0

    def _make_room(self, size: int, reserve: Callable[[], None]) -> bool:
        """Removes the longest unused files until `size` fits, and reserves it. False when what is being downloaded leaves no room."""
        with _alone(self.folder / _LOCK):
            entries = sorted(self._entries())
            used = sum(taken for _, taken, _ in entries)
            room = self.max_bytes if used + size <= self.max_bytes else self.max_bytes * _FREE_TO
            for _, taken, path in entries:
                if used + size <= room:
                    break
                if path.suffix == _NEW and not _is_abandoned(path):
                    continue
                path.unlink(missing_ok=True)
                used -= taken
            if used + size > self.max_bytes:
                return False
            reserve()
            return True

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Last use, bytes and path; a download counts whole, a file of members by what it really takes."""
        with os.scandir(self.folder) as files:
            for file in files:
                path = Path(file.path)
                if path.suffix not in (_NEW, _WHOLE, _MEMBERS):
                    continue
                try:
                    facts = file.stat()
                except FileNotFoundError:  # removed or renamed this moment
                    continue
                taken = facts.st_blocks * 512 if path.suffix == _MEMBERS else facts.st_size
                yield facts.st_mtime, taken, path

    def _read(self, path: Path, offset: int, size: int) -> bytes | None:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        try:
            if time.time() - os.fstat(descriptor).st_mtime > _TOUCH_S:
                _touch(descriptor)
            return os.pread(descriptor, size, offset)
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def _refused(self, error: OSError) -> None:
        if not _told.value:
            _told.value = 1
            logger.warning(
                "data.cache.folder takes nothing more (%s): shards are read without it; free some room or lower data.cache.max_gb",
                error.strerror,
            )


class _Refused(Exception):
    """The disk did not take something; apart from what the network may raise."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _Refused(error) from error


def _touch(descriptor: int) -> None:
    try:
        os.utime(descriptor)
    except PermissionError:  # another user's entry: it is only evicted earlier
        return


def _locked(descriptor: int) -> bool:
    """Whether this process has the lock (now)."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether the path names the open file, rather than one made after it was removed or renamed."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def _is_abandoned(path: Path) -> bool:
    """Whether no process is at this download any more."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return _locked(descriptor)
    finally:
        _release(descriptor)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        _release(descriptor)


def _release(descriptor: int) -> None:
    """Closing alone would not unlock where a process forked meanwhile holds the same file."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
