"""Members out of tars, verified: straight from the folder where they lie, or by way of a cache on the node's own disk."""

import logging
import os
import queue
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from deepcoro.data.cache import Cache, CacheFolder
from deepcoro.data.manifest import ShardEntry
from deepcoro.data.remote import RemoteFolder
from deepcoro.data.storage import Damaged, Folder, verified

logger = logging.getLogger(__name__)

_TRAVELS = ("looks_ahead", "_folder", "_entries", "_cache")


@runtime_checkable
class Tars(Protocol):
    """Where members come from."""

    looks_ahead: int
    """How many shards ahead `fetch_ahead` should be called; 0 = it is of no use."""

    def member(self, shard: str, offset: int, size: int, crc32: int) -> bytes:
        """The payload at a place of a tar. Raises Damaged or OSError."""

    def fetch_ahead(self, shards: Iterable[str]) -> None:
        """Tars that will be read soon. Returns at once."""


def tars_of(folder: Folder, shards: Sequence[ShardEntry], cache: Cache, shards_per_window: int) -> Tars:
    """A folder on a disk needs no cache: it would only copy."""
    kept = cache.open()
    if kept is None or not isinstance(folder, RemoteFolder):
        return PlainTars(folder)
    largest = sorted((shard.bytes for shard in shards), reverse=True)[:shards_per_window]
    if cache.mode == "shard" and sum(largest) > kept.max_bytes:
        logger.warning(
            "data.cache.max_gb=%g is less than the %d shards that training reads from at a time (%.1f GB): single films are kept instead",
            cache.max_gb,
            len(largest),
            sum(largest) / 1e9,
        )
        return MemberTars(folder, shards, kept)
    if cache.mode == "member":
        return MemberTars(folder, shards, kept)
    return WholeTars(folder, shards, kept, shards_per_window)


class PlainTars:
    """Every member is asked of the folder."""

    looks_ahead = 0

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def member(self, shard: str, offset: int, size: int, crc32: int) -> bytes:
        """What came over a wire is asked for a second time when it is damaged."""
        try:
            return verified(self._folder.read_range(shard, offset, size), size, crc32)
        except Damaged:
            if self._folder.is_local:
                raise
        return verified(self._folder.read_range(shard, offset, size), size, crc32)

    def fetch_ahead(self, shards: Iterable[str]) -> None:
        pass


class MemberTars(PlainTars):
    """Keeps each member that was read."""

    def __init__(self, folder: RemoteFolder, shards: Sequence[ShardEntry], cache: CacheFolder) -> None:
        super().__init__(folder)
        self._entries = {shard.name: shard for shard in shards}
        self._cache = cache

    def member(self, shard: str, offset: int, size: int, crc32: int) -> bytes:
        sha256 = self._entries[shard].sha256
        payload = _intact(self._cache.read_member(sha256, offset, size), size, crc32)
        if payload is None:
            payload = super().member(shard, offset, size, crc32)
            self._cache.add_member(sha256, offset, payload)
        return payload


class WholeTars(PlainTars):
    """Keeps whole tars, which a thread brings: those announced, and those that a member was missed of.

    A missed member is asked of the folder meanwhile, so that no film waits for a whole tar. The thread belongs to the process that reads
    (it is started after the fork) and ends with it; what it leaves half done, the next process takes over.
    """

    def __init__(
        self, folder: RemoteFolder, shards: Sequence[ShardEntry], cache: CacheFolder, shards_ahead: int
    ) -> None:
        super().__init__(folder)
        self.looks_ahead = shards_ahead
        self._entries = {shard.name: shard for shard in shards}
        self._cache = cache
        self._start()

    def member(self, shard: str, offset: int, size: int, crc32: int) -> bytes:
        sha256 = self._entries[shard].sha256
        kept = self._cache.read_whole(sha256, offset, size)
        payload = _intact(kept, size, crc32)
        if payload is not None:
            return payload
        if kept is not None:
            logger.warning("%s: the cached copy is damaged; it is fetched again", shard)
            self._cache.drop(sha256)
        self.fetch_ahead([shard])
        return super().member(shard, offset, size, crc32)

    def fetch_ahead(self, shards: Iterable[str]) -> None:
        if self._owner != os.getpid():  # forked: the thread stayed behind
            self._start()
        for shard in shards:
            with self._lock:
                if shard in self._asked:
                    continue
                self._asked.add(shard)
                if not self._has_thread:
                    self._has_thread = True
                    threading.Thread(target=self._fetch_for_ever, daemon=True).start()
            self._queue.put(shard)

    def settle(self) -> None:
        """Returns when everything asked for has come, or will not."""
        self._queue.join()

    def _fetch_for_ever(self) -> None:
        while True:
            shard = self._queue.get()
            try:
                self._fetch(self._entries[shard])
            finally:
                with self._lock:
                    self._asked.discard(shard)
                self._queue.task_done()

    def _fetch(self, entry: ShardEntry) -> None:
        try:
            self._cache.add_whole(
                entry.sha256, entry.bytes, lambda: self._folder.pieces(entry.name, 0, entry.bytes)
            )
        except OSError as error:  # who reads from it meets it too, and names the sample
            logger.info("%s could not be fetched ahead (%s)", entry.name, error.strerror)

    def _start(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._queue: queue.Queue[str] = queue.Queue()
        self._asked: set[str] = set()
        self._has_thread = False

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key in _TRAVELS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()


def _intact(payload: bytes | None, size: int, crc32: int) -> bytes | None:
    try:
        return None if payload is None else verified(payload, size, crc32)
    except Damaged:
        return None
