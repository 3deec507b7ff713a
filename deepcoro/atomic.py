"""A file, or a folder of them, is written whole or not at all."""

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def check_writable(path: Path) -> None:
    """The OSError that writing `path` would end with, before the work whose result it is to hold. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, UTF-8; line ends are written as given."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, payload: bytes, private: bool = False) -> None:
    """All of the file or none of it, also after a power cut: a reader sees the old content or the new. Makes the folder.

    `private`: only its owner can read it (mode 0600), at no moment anybody else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    if private:
        temporary.unlink(missing_ok=True)
    opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666)
    try:
        with os.fdopen(opened, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # a full disk has no room for half a file either
        temporary.unlink()
        raise
    publish(temporary, path)


def publish(temporary: Path, path: Path) -> None:
    """Gives a finished, synced file or folder its name, for good."""
    temporary.replace(path)
    _sync(path.parent)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill. It becomes `folder`, which must not be there, when the block ends, and is gone when that fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        unfinished = Path(scratch) / folder.name
        unfinished.mkdir()
        yield unfinished
        for each in unfinished.rglob("*"):
            _sync(each)
        publish(unfinished, folder)


def _sync(path: Path) -> None:
    """Of a file what is in it, of a folder which names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone among the processes that ask for it: what is read inside is still so when the change is written. Ends with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
