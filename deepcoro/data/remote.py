"""A shard folder behind a URL, read through fsspec with a time-out and a bounded number of attempts a request.

What may pass is tried again after a wait that doubles, with jitter, so that a thousand workers do not come back at once; what cannot
pass (absent, forbidden) is told at once. After a read was given up, the next ones have a single attempt until one succeeds: a server
that is down costs one round of waiting, not one a sample.
"""

import asyncio
import errno
import logging
import os
import random
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import fsspec

from deepcoro.config import ConfigError, DataError
from deepcoro.data.storage import EXTRAS, Storage, protocol_of

logger = logging.getLogger(__name__)

PIECE_BYTES = 8_000_000
"""Bytes of one request: the time-out bounds them, not a film or shard of any size."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 20.0
_SIDE_BY_SIDE = 16
_TRANSIENT = {408, 429}
_FINAL = {401: "401, not authorised", 403: "403, forbidden"}
_LOGGED_RETRIES = 20

_jitter = random.Random()  # noqa: S311 - of its own, so that waiting never moves the run's generators


class StorageError(OSError):
    """A request was given up; `strerror` says why, without a URL."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EIO, reason)


class RemoteFolder:
    """A folder at an http(s), s3, gs or memory URL."""

    is_local = False

    def __init__(self, location: str, settings: Storage) -> None:
        self.location = location.rstrip("/")
        self.settings = settings
        self._protocol = protocol_of(location)
        self._client: tuple[int, Any] = (0, None)
        self._has_given_up = False
        self._num_retries = 0
        self._ignores_ranges = False
        _refuse_missing_extra(self._protocol)

    def __str__(self) -> str:
        return self.location

    @property
    def name(self) -> str:
        return self.location.rsplit("/", 1)[-1]

    def read(self, name: str) -> bytes:
        try:
            return b"".join(self.pieces(name))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DataError(
                f"{name} of {self.location} cannot be read: {error.strerror}", topic="shards-elsewhere"
            ) from error

    def read_many(self, names: Iterable[str]) -> Iterator[bytes]:
        with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            yield from pool.map(self.read, names)

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """A short answer is asked for once more: only the same shortness twice is taken for the end of the file."""
        payload = b"".join(self.pieces(name, offset, size))
        if len(payload) < size:
            payload = b"".join(self.pieces(name, offset, size))
        return payload

    def pieces(self, name: str, offset: int = 0, size: int | None = None) -> Iterator[bytes]:
        """The bytes from `offset` on, to the end of the file or `size` of them, a request after another."""
        end = None if size is None else offset + size
        while end is None or offset < end:
            stop = offset + PIECE_BYTES if end is None else min(offset + PIECE_BYTES, end)
            piece = self._request(name, offset, stop)
            if len(piece) > stop - offset:  # the answer is the whole file
                self._tell_of_ignored_ranges(name)
                yield piece[offset:end]
                return
            yield piece
            if len(piece) < stop - offset:
                return
            offset = stop

    def _request(self, name: str, start: int, stop: int) -> bytes:
        """One range, tried as often as the settings allow. FileNotFoundError or StorageError."""
        attempts = 1 if self._has_given_up else self.settings.retries + 1
        began = time.monotonic()
        for attempt in range(1, attempts + 1):
            try:
                payload = self._ask(f"{self.location}/{name}", start, stop)
            except _failures(self._protocol) as error:
                if _status(error) == 416:  # the file ends before
                    return b""
                if not _may_pass(error):
                    raise _final(error) from error
                reason = self._reason(error)
                if attempt < attempts:
                    self._wait(name, reason, attempt, attempts)
            else:
                self._has_given_up = False
                return payload
        self._has_given_up = True
        raise StorageError(f"{reason}; {attempts} attempts in {time.monotonic() - began:.0f} s")

    def _ask(self, url: str, start: int, stop: int) -> bytes:
        client = self._filesystem()
        if not client.async_impl:
            return client.cat_file(url, start=start, end=stop)

        async def within_time() -> bytes:
            # A time-out of the whole answer: a server that drips never lets a socket's own time-out expire.
            return await asyncio.wait_for(
                client._cat_file(client._strip_protocol(url), start=start, end=stop), self.settings.timeout_s
            )

        return fsspec.asyn.sync(client.loop, within_time)

    def _filesystem(self) -> Any:
        """A client of this process: fsspec's event loop does not survive a fork."""
        owner, client = self._client
        if owner != os.getpid():
            client = _client(self._protocol, self.settings)
            self._client = (os.getpid(), client)
        return client

    def _wait(self, name: str, reason: str, attempt: int, attempts: int) -> None:
        wait_s = min(_FIRST_WAIT_S * 2 ** (attempt - 1), _LONGEST_WAIT_S) * _jitter.uniform(0.5, 1.0)
        self._num_retries += 1
        if self._num_retries <= _LOGGED_RETRIES:
            last = "; further ones are not logged" if self._num_retries == _LOGGED_RETRIES else ""
            logger.warning(
                "%s: %s; attempt %d of %d in %.1f s%s", name, reason, attempt + 1, attempts, wait_s, last
            )
        time.sleep(wait_s)

    def _reason(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"stalled: no whole answer within {self.settings.timeout_s:g} s"
        status = _status(error)
        return f"the server answered {status}" if status else f"{type(error).__name__}"

    def _tell_of_ignored_ranges(self, name: str) -> None:
        if not self._ignores_ranges:
            self._ignores_ranges = True
            logger.warning(
                "%s: the server ignores ranges, so every film costs a whole tar; set data.cache.folder or use another server",
                name,
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location, "settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)


def _refuse_missing_extra(protocol: str) -> None:
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise ConfigError(
            f"{protocol}:// needs a package that is not installed: pip install 'deepcoro[{EXTRAS[protocol]}]'",
            topic="missing-packages",
        ) from error


def _client(protocol: str, settings: Storage) -> Any:
    """fsspec's client without attempts of its own: two layers of them would multiply."""
    options: dict[str, Any] = {}
    if protocol in ("http", "https"):
        options["client_kwargs"] = {
            "trust_env": True,  # HTTPS_PROXY, ~/.netrc
            "headers": {"Accept-Encoding": "identity"},
            "timeout": aiohttp.ClientTimeout(total=None, sock_connect=settings.timeout_s),
        }
    if protocol == "s3":
        options["config_kwargs"] = {
            "retries": {"max_attempts": 0},
            "connect_timeout": settings.timeout_s,
            "read_timeout": settings.timeout_s,
        }
    client = fsspec.filesystem(protocol, skip_instance_cache=True, **options)
    if protocol == "s3":
        client.retries = 1
    return client


def _failures(protocol: str) -> tuple[type[Exception], ...]:
    """What the libraries raise when a request fails; anything else is a bug and passes."""
    failures: tuple[type[Exception], ...] = (OSError, aiohttp.ClientError)
    if protocol == "s3":
        import botocore.exceptions

        failures += (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)
    if protocol == "gs":
        import gcsfs.retry
        import google.auth.exceptions

        failures += (gcsfs.retry.HttpError, google.auth.exceptions.GoogleAuthError)
    return failures


def _status(error: BaseException | None) -> int | None:
    """HTTP status that the server answered: aiohttp's and gcsfs's error holds it, s3fs's has a cause whose `response` does."""
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status
    if type(error).__name__ == "HttpError":
        return int(getattr(error, "code", 0) or 0) or None
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        error = error.__cause__
    return None


def _may_pass(error: Exception) -> bool:
    status = _status(error)
    if status is not None:
        return status in _TRANSIENT or status >= 500
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    # botocore's own names: NoCredentialsError and the like never pass, a broken connection may.
    names = {each.__name__ for each in type(error).__mro__}
    return isinstance(error, OSError | aiohttp.ClientError) or bool(
        names & {"HTTPClientError", "ConnectionError", "IncompleteReadError"}
    )


def _final(error: Exception) -> OSError:
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return FileNotFoundError(errno.ENOENT, "it is not there (404)")
    if isinstance(error, PermissionError) or status in _FINAL:
        reason = _FINAL.get(status or 403, f"{status}, access refused")
        return StorageError(f"the server answered {reason}; check the credentials in the environment")
    if "Credentials" in type(error).__name__:
        return StorageError(f"{type(error).__name__}; set the credentials in the environment")
    return StorageError(f"the server answered {status}" if status else type(error).__name__)
