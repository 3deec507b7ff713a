"""The reader of a shard folder: opens the indexes, seeks to a member, verifies what it read. Never walks a tar.

A plain tar reader mixes one patient's film with another's report after a truncated shard and drops samples silently; here every read
goes by the index, is checked by size and CRC-32, and an error names the shard and the keyed id.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import BinaryIO

import pyarrow
import pydantic

from deepcoro.config import DataError
from deepcoro.data.cache import Cache
from deepcoro.data.fetched import digest_of, open_fetched
from deepcoro.data.film_table import FILMS, film_batches, missing_films, read_film_schema, read_films
from deepcoro.data.index import Members, Place, StudyTable, read_studies, split_code
from deepcoro.data.manifest import SPLITS, Manifest, read_manifest, sha256
from deepcoro.data.order import SHARDS_PER_WINDOW
from deepcoro.data.storage import Damaged, Folder, LocalFolder, Storage, Where, open_folder
from deepcoro.data.tars import tars_of
from deepcoro.data.units import Units, units_of_split
from deepcoro.sample import StudyRecord

logger = logging.getLogger(__name__)

_CACHED_RECORDS = 64
_STAYS_BEHIND = ("_cached_study", "_film_file")


class CachedStudies:
    """Keeps the last records read by `_read_study`; the cache stays behind when the reader travels to another process."""

    def _prepare_reading(self) -> None:
        self._cached_study = lru_cache(_CACHED_RECORDS)(self._read_study)

    def __getstate__(self) -> dict:
        return {key: value for key, value in vars(self).items() if key not in _STAYS_BEHIND}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._prepare_reading()


class Shards(CachedStudies):
    """A shard folder, open for reading at any place. Cheap to hand to a forked or spawned worker."""

    def __init__(
        self,
        folder: Folder,
        manifest: Manifest,
        columns: tuple[StudyTable, Members, Members],
        cache: Cache,
        shards_per_window: int,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.splits_sha256 = sha256(folder.read(SPLITS))
        self.fingerprint = sha256(f"{manifest.fingerprint} {self.splits_sha256}".encode())
        """Identity of what a run trains on: the tars, and the table of splits as it is now."""
        self.studies, self._records, self._clips = columns
        self._cache = cache
        self._tars = tars_of(folder, manifest.shards, cache, shards_per_window)
        self._prepare_reading()

    @staticmethod
    def open(
        location: Where,
        storage: Storage | None = None,
        cache: Cache | None = None,
        shards_per_window: int = SHARDS_PER_WINDOW,
    ) -> "Shards":
        """Reads manifest, indexes and splits. DataError when one is missing or they disagree; a tar on a disk that is absent
        or has another size is logged, since its samples can be masked. `shards_per_window` are brought ahead into a cache.
        """
        folder = open_folder(location, storage)
        manifest = read_manifest(folder)
        columns = read_studies(folder, manifest)
        shards = Shards(folder, manifest, columns, cache or Cache(), shards_per_window)
        shards._warn_of_damaged_tars()
        return shards

    @property
    def splits(self) -> list[str]:
        """Splits that hold a study."""
        return self.studies.splits

    def num_studies(self, split: str) -> int:
        return int((self.studies.split == split_code(split)).sum())

    def units(self, split: str, multi_video: bool, num_videos: int) -> Units:
        """Clips (or studies, when `multi_video`) of a split in stored order. DataError when it has none."""
        return units_of_split(self.studies, split, multi_video, num_videos)

    @cached_property
    def film_schema(self) -> pyarrow.Schema:
        """Names and types of the columns of films.parquet. DataError when the manifest speaks of another one."""
        return read_film_schema(self._film_file)

    def films(self, columns: Sequence[str]) -> pyarrow.Table:
        """Columns of films.parquet, one row a film in the order of the indexes. DataError when it is not of this folder."""
        return read_films(self._film_file, columns, self.studies.num_films)

    def film_batches(self, columns: Sequence[str]) -> Iterator[pyarrow.Table]:
        """The same, some rows at a time."""
        return film_batches(self._film_file, columns, self.studies.num_films)

    @cached_property
    def _film_file(self) -> BinaryIO:
        """films.parquet, open and verified."""
        digest = self.manifest.films_sha256
        try:
            if not isinstance(self.folder, LocalFolder):
                return open_fetched(self.folder, FILMS, digest, self._cache.open())
            file = (self.folder.path / FILMS).open("rb")
        except FileNotFoundError as error:
            raise missing_films() from error
        if digest_of(file) != digest:
            raise DataError(
                f"{FILMS} differs from the manifest's digest; copy the folder again", topic="shards-changed"
            )
        return file

    def study(self, row: int) -> StudyRecord:
        """The verified record of a study. DataError, named by shard and key, when it cannot be read."""
        return self._cached_study(int(row))

    @property
    def looks_ahead(self) -> int:
        """How many shards ahead studies should be announced; 0 = it is of no use."""
        return self._tars.looks_ahead

    def announce(self, rows: Iterable[int]) -> None:
        """Studies that will be read soon. Returns at once."""
        self._tars.fetch_ahead([self.shard_of(row) for row in rows])

    def shard_of(self, row: int) -> str:
        """Name of the tar that holds a study."""
        return self.manifest.shards[int(self.studies.shard[row])].name

    def read_clip(self, row: int, clip: int) -> bytes:
        """The verified bytes of one film. DataError, named by shard and key, when they cannot be read."""
        if not 0 <= clip < self.studies.num_clips[row]:
            raise IndexError(
                f"study row {row} has {self.studies.num_clips[row]} clips; clip {clip} was asked for"
            )
        place = self._clips.place(int(self.studies.first_clip[row]) + clip)
        return self._read(place, f"clip {clip} of study {self.studies.key[row].decode()}")

    def _read_study(self, row: int) -> StudyRecord:
        key = self.studies.key[row].decode()
        place = self._records.place(row)
        payload = self._read(place, f"the record of study {key}")
        shard = self.manifest.shards[place.shard].name
        try:
            record = StudyRecord.model_validate_json(payload)
        except pydantic.ValidationError as error:
            raise DataError(
                f"{shard}: the record of study {key} has {error.error_count()} bad fields"
            ) from error
        if record.study != key or len(record.clips) != self.studies.num_clips[row]:
            raise DataError(
                f"{shard}: the record of study {key} is not the one that the index names",
                topic="shards-changed",
            )
        return record

    def _read(self, place: Place, what: str) -> bytes:
        shard = self.manifest.shards[place.shard].name
        try:
            return self._tars.member(shard, place.offset, place.size, place.crc32)
        except Damaged as error:
            raise DataError(f"{shard}: {what} {error}", topic="damaged-samples") from error
        except OSError as error:
            raise DataError(
                f"{shard}: {what} cannot be read ({error.strerror}); restore the shard",
                topic="damaged-samples",
            ) from error

    def _warn_of_damaged_tars(self) -> None:
        if not isinstance(self.folder, LocalFolder):
            return  # a request a shard; a read that fails tells
        for shard in self.manifest.shards:
            size = self.folder.size(shard.name)
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size} of {shard.bytes} bytes"
                logger.warning("%s %s; its %d clips may be masked", shard.name, found, shard.clips)
