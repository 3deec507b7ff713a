"""Films that are encoded and wait for their tar: a run that is killed at any moment decodes no finished film a second time.

One file a film under `.progress/`, gone when its tar is published: at most the films of the shards under way lie on disk twice.
"""

import dataclasses
import hashlib
import json
import shutil
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydantic

from deepcoro.config import Block
from deepcoro.data.member import Member
from deepcoro.data.sharding import Settings, stamp
from deepcoro.ingest.film import Film, FilmSource

_FILM = ".film"
_NOT_KEPT = ("frames", "order", "plane", "regions")
"""Of an opened film: the pixels are in the member; order and plane hold dates and UIDs; regions have done their work."""


class Outcome(NamedTuple):
    """What became of one row: a film with its member, or the reason why there is none."""

    film: Film | None = None
    member: Member | None = None
    reason: str | None = None


class _Header(Block):
    """First line of a spooled film; the payload follows."""

    digest: str
    """Of the source and of the settings that shape the pixels."""
    crc32: int
    """Of the payload: the file is not forced to disk, a power cut may leave a hole in it."""
    reason: str | None
    """Why there is no film."""
    film: dict
    """Fields of the opened film."""
    member: dict
    """Fields of the member but its payload."""


class Spool:
    """The spooled films of one shard."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self._settings = settings
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, source: FilmSource) -> Outcome | None:
        """What an earlier run made of this film with the same settings; None when there is nothing, or nothing whole."""
        try:
            line, _, payload = self._path(source).read_bytes().partition(b"\n")
            header = _Header.model_validate_json(line)
        except (FileNotFoundError, pydantic.ValidationError):
            return None
        if header.digest != self._digest(source) or header.crc32 != zlib.crc32(payload):
            return None
        if header.reason is not None:
            return Outcome(reason=header.reason)
        # JSON has no tuples; the fields of a film that hold several values do.
        fields = {
            name: tuple(value) if isinstance(value, list) else value for name, value in header.film.items()
        }
        return Outcome(Film(frames=(), **fields), _member(header.member, payload))

    def begin(self, source: FilmSource) -> bool:
        """Notes that the film is being decoded. True when it was noted before: the process that did so never came back."""
        mark = self._mark(source)
        died = mark.exists()
        mark.touch()
        return died

    def end(self, source: FilmSource) -> None:
        """Decoding came back, with a film or with an error."""
        self._mark(source).unlink(missing_ok=True)

    def _mark(self, source: FilmSource) -> Path:
        return self._path(source).with_suffix(".begun")

    def put(self, source: FilmSource, outcome: Outcome) -> None:
        """Keeps it: under its name only when written to the end, without waiting for the disk."""
        payload = outcome.member.payload if outcome.member else b""
        header = _Header(
            digest=self._digest(source),
            crc32=zlib.crc32(payload),
            reason=outcome.reason,
            film=_film_fields(outcome.film) if outcome.film else {},
            member=_member_fields(outcome.member) if outcome.member else {},
        )
        temporary = self._path(source).with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.write(header.model_dump_json().encode() + b"\n")
            file.write(payload)
        temporary.replace(self._path(source))

    def remove(self) -> None:
        shutil.rmtree(self._folder)

    def _path(self, source: FilmSource) -> Path:
        return self._folder / f"{source.clip}{_FILM}"

    def _digest(self, source: FilmSource) -> str:
        """Changes when the file or a setting that shapes its pixels changes, not with the row's labels or text."""
        key = [source.clip, stamp(source.path), self._settings.film_shape()]
        return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def films_waiting(folder: Path) -> int:
    """Number of films in the spool of a shard that nobody is writing."""
    return sum(path.suffix == _FILM for path in folder.iterdir()) if folder.is_dir() else 0


def _film_fields(film: Film) -> dict:
    return {
        field.name: getattr(film, field.name)
        for field in dataclasses.fields(film)
        if field.name not in _NOT_KEPT
    }


def _member_fields(member: Member) -> dict:
    fields = member._asdict()
    del fields["payload"]
    fields["histogram"] = member.histogram.tolist()
    fields["fingerprint"] = member.fingerprint.hex() if member.fingerprint else None
    return fields


def _member(fields: dict, payload: bytes) -> Member:
    mark = fields["fingerprint"]
    restored = {
        "histogram": np.array(fields["histogram"], np.int64),
        "fingerprint": bytes.fromhex(mark) if mark else None,
    }
    return Member(payload=payload, **fields | restored)
