"""Where a shard folder lies: on a disk, or elsewhere by its URL. Everything that reads one goes through the interface here.

A disk is read by `pread` at once. What lies elsewhere is `deepcoro.data.remote`, imported only when a URL asks for it.
"""

import os
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

import pydantic

from deepcoro.config import Block, ConfigError, DataError

EXTRAS = {"s3": "s3", "gs": "gcs"}
"""Protocols that need an optional dependency, and the extra that installs it."""
PROTOCOLS = ("file", "http", "https", "memory", *EXTRAS)
_OPEN_FILES = 32

Location = Annotated[
    str, pydantic.BeforeValidator(lambda given: os.fspath(given) if isinstance(given, os.PathLike) else given)
]
"""A folder in a config: a path or a URL. A str, since a Path would make `http:/host` of `http://host`."""


class Storage(Block):
    """How a folder that lies elsewhere is asked; a disk needs none of it. Credentials are the environment's, never these."""

    retries: int = pydantic.Field(default=4, ge=0)
    """Further attempts after a time-out, a refused or cut connection, 408, 429 or 5xx, with waits that double; 403 and 404 are final."""
    timeout_s: float = pydantic.Field(default=60.0, gt=0)
    """Longest wait for the whole answer to one request, which asks for 8 MB at most."""


class Damaged(Exception):
    """Bytes are not those that the index promises; the message says in what way."""


def verified(payload: bytes, size: int, crc32: int) -> bytes:
    """The payload. Raises Damaged when it has another size or checksum."""
    if len(payload) != size:
        raise Damaged(f"has {len(payload)} of {size} bytes; the shard is truncated")
    if zlib.crc32(payload) != crc32:
        raise Damaged("fails its checksum; the shard is damaged, restore it")
    return payload


@runtime_checkable
class Folder(Protocol):
    """A shard folder, open for reading; may be handed to forked and spawned workers."""

    name: str
    """Last part of its location: names results and predictions."""
    is_local: bool

    def read(self, name: str) -> bytes:
        """A whole file. FileNotFoundError when it is absent, DataError when it cannot be had."""

    def read_many(self, names: Iterable[str]) -> Iterator[bytes]:
        """Several small files in the order asked for, fetched side by side where that helps; raises as `read`."""

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on, fewer only where the file ends. OSError when they cannot be had."""


Where = Folder | Path | str


def open_folder(location: Where, settings: Storage | None = None) -> Folder:
    """The folder at a path or URL; one that is open already is given back. ConfigError when the URL cannot be one of ours."""
    if isinstance(location, Folder):
        return location
    protocol = protocol_of(location)
    if protocol == "file":
        return LocalFolder(Path(str(location).removeprefix("file://")))
    _refuse_secrets(str(location), protocol)
    from deepcoro.data.remote import RemoteFolder

    return RemoteFolder(str(location), settings or Storage())


def protocol_of(location: str | Path) -> str:
    """`file` for a path. ConfigError when a URL names a protocol that is not read."""
    protocol, separator, _ = str(location).partition("://")
    if not separator:
        return "file"
    if protocol not in PROTOCOLS:
        allowed = sorted(set(PROTOCOLS) - {"memory"})
        raise ConfigError(
            f"'{protocol}://' is not read; give a path, or a URL of {allowed}", topic="shards-elsewhere"
        )
    return protocol


def _refuse_secrets(location: str, protocol: str) -> None:
    """The location is written into the run folder, checkpoints and trackers, so it may not open anything by itself."""
    parts = urlsplit(location)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"a {protocol} location may not hold a user, password, query or fragment, since it is saved with every run; "
            "set credentials in the environment (see docs/data.md) and give scheme, host and path alone",
            topic="shards-elsewhere",
        )


class LocalFolder:
    """A folder on a disk. Keeps the last used files open; `pread` needs no position, so forked workers may share them."""

    is_local = True

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._open: OrderedDict[str, int] = OrderedDict()

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DataError(
                f"{name} cannot be read ({error.strerror}); mend the folder", topic="shards-elsewhere"
            ) from error

    def read_many(self, names: Iterable[str]) -> Iterator[bytes]:
        return map(self.read, names)

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor(name), size, offset)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None when it is absent."""
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def _descriptor(self, name: str) -> int:
        if name not in self._open:
            if len(self._open) >= _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            self._open[name] = os.open(self.path / name, os.O_RDONLY)
        self._open.move_to_end(name)
        return self._open[name]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def __del__(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])
