"""A table that lies elsewhere, as an open file: fetched once a process, once a node where there is a cache, and always verified."""

import hashlib
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from deepcoro.config import DataError
from deepcoro.data.cache import CacheFolder
from deepcoro.data.remote import RemoteFolder

_PIECE_BYTES = 8 << 20


def open_fetched(folder: RemoteFolder, name: str, sha256: str, kept: CacheFolder | None) -> BinaryIO:
    """The file of that digest, on a disk: of the cache, where the first process of a node puts it while the others wait, else one that
    goes with the process. FileNotFoundError when it is absent, DataError when it cannot be had or is another one.
    """
    if kept is None:
        return _download(folder, name, sha256)
    with kept.taking_turns():
        if (file := kept.open_whole(sha256)) is not None:
            if digest_of(file) == sha256:
                return file
            kept.drop(sha256)
        file = _download(folder, name, sha256)
        kept.add_whole(sha256, file.seek(0, 2), lambda: _pieces(file))
        return file


def digest_of(file: BinaryIO) -> str:
    """sha256, read in pieces: the table of millions of films is larger than all else that a rank holds."""
    digest = hashlib.sha256()
    for piece in _pieces(file):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(_PIECE_BYTES):
        yield piece


def _download(folder: RemoteFolder, name: str, sha256: str) -> BinaryIO:
    """A short or damaged answer is asked for once more."""
    for _ in range(2):
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's
        try:
            for piece in folder.pieces(name):
                file.write(piece)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DataError(f"{name} of {folder} cannot be read: {error.strerror}") from error
        if digest_of(file) == sha256:
            return file
    raise DataError(
        f"{name} differs from the manifest's digest; copy the folder again", topic="shards-changed"
    )
