"""One tar of the data set: decode, encode and lay down the studies that the plan gives it, with the index of where they lie."""

import hashlib
import io
import logging
import os
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from deepcoro import atomic
from deepcoro.config import Block, DataError
from deepcoro.data import manifest as schema
from deepcoro.data.decode import make_apart, make_film
from deepcoro.data.film_table import Measured, film_table, write_films
from deepcoro.data.manifest import ClipColumns, Index, ShardEntry, StudyColumns
from deepcoro.data.member import Member
from deepcoro.data.sharding import Plan, Settings
from deepcoro.data.spool import Outcome, Spool
from deepcoro.data.study_record import EncodedFilm, in_order, study_record
from deepcoro.ingest.film import Film, FilmSource, RejectedFilm, Rejection, StudySource
from deepcoro.ingest.open import open_film
from deepcoro.sample import StudyRecord

logger = logging.getLogger(__name__)

Make = Callable[[FilmSource, Settings], Outcome]


class ShardRecord(Block):
    """What a finished shard adds to the manifest; kept in `.progress/` so that a second run need not redo it."""

    name: str
    """File name of the tar."""
    digest: str
    """Of the films, rows and settings that made it."""
    entry: ShardEntry | None
    """None when every film of the shard was refused: there is no tar then."""
    films_sha256: str
    """Digest of the rows for `films.parquet`, a file beside this one."""
    rejections: list[tuple[int, str | None, str]]
    """Row, clip, reason of the films refused."""


def write_shard(
    plan: Plan, output: Path, on_films: Callable[[int], None], make: Make = make_film
) -> ShardRecord:
    """Writes one tar, its index and what later runs need to know of it; calls `on_films` as films are settled.

    `make` makes a film at the first attempt; one over which an earlier process died is made apart.

    Everything has a temporary name until it is whole, the tar after its index, the record last. Films that an
    interrupted run has finished are taken from the spool.
    """
    settings, progress = plan.settings, output / schema.PROGRESS
    spool = Spool(progress / schema.spool_name(plan.name), settings)
    encoder = _Encoder(spool, settings, on_films, make)
    records: list[StudyRecord] = []
    temporary = output / f"{plan.name}.tmp"
    with temporary.open("wb") as file:
        shard = _Tar(file)
        for study in plan.studies:
            if films := encoder.encode(study):
                records.append(study_record(study, films, settings))
                shard.add_study(records[-1], [each.member.payload for each in films])
        shard.close()
    rows = film_table(records, settings.label_columns, encoder.measured)
    record = ShardRecord(
        name=plan.name,
        digest=plan.digest,
        films_sha256=write_films(progress, rows, schema.rows_name(plan.name)),
        entry=_publish(temporary, output / plan.name, shard) if records else temporary.unlink(),
        rejections=[tuple(each) for each in encoder.refused],
    )
    schema.write_block(progress / schema.record_name(plan.name), record)
    spool.remove()
    return record


class _Encoder:
    """Makes the films of a shard, study by study; notes what was refused and measured."""

    def __init__(self, spool: Spool, settings: Settings, on_films: Callable[[int], None], make: Make) -> None:
        self.refused: list[Rejection] = []
        self.measured: list[Measured] = []
        self._spool = spool
        self._settings = settings
        self._on_films = on_films
        self._first_attempt = make

    def encode(self, study: StudySource) -> list[EncodedFilm]:
        """The usable films in acquisition order: by their headers when all tell it, else as the table lists them."""
        encoded = []
        for source in study.films:
            restored = self._spool.get(source)
            outcome = self._reread(source, restored) if restored else self._make(source)
            if outcome.reason is None:
                encoded.append(EncodedFilm(source, outcome.film, outcome.member))
            else:
                self.refused.append(Rejection(source.row, source.clip, outcome.reason))
            self._on_films(1)
        encoded = in_order(encoded)
        self.measured.extend(_measure(each.member) for each in encoded)
        return encoded

    def _make(self, source: FilmSource) -> Outcome:
        make = make_apart if self._spool.begin(source) else self._first_attempt
        try:
            outcome = make(source, self._settings)
        finally:
            self._spool.end(source)
        if outcome.reason is None:
            _log_mismatch(source, outcome.film, outcome.member)
        else:
            logger.info("row %d, film %s refused: %s", source.row, source.clip, outcome.reason)
        self._spool.put(source, outcome)
        return outcome

    def _reread(self, source: FilmSource, restored: Outcome) -> Outcome:
        """What orders and pairs films is read from the header again: the spool holds no dates and no UIDs. Only DICOM has any."""
        if restored.film is None or restored.film.modality is None:
            return restored
        try:
            film = open_film(source.path, self._settings.accept_burned_in)
        except RejectedFilm:
            return restored
        return restored._replace(film=replace(restored.film, order=film.order, plane=film.plane))


def _measure(member: Member) -> Measured:
    values = np.arange(256)
    return Measured(int(member.histogram @ values), int(member.histogram @ values**2), member.fingerprint)


def _log_mismatch(source: FilmSource, film: Film, member: Member) -> None:
    if film.announced_frames not in (None, member.num_frames):
        logger.warning(
            "row %d, film %s: %d frames could be decoded, its header says %d",
            source.row,
            source.clip,
            member.num_frames,
            film.announced_frames,
        )


class _Tar:
    """A POSIX tar (USTAR) whose bytes depend on its content alone, hashed while it is written, and its index."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._studies, self._clips = StudyColumns(), ClipColumns()
        self._tar = tarfile.open(fileobj=self, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def write(self, payload: bytes) -> int:
        """What tarfile calls."""
        self._digest.update(payload)
        return self._file.write(payload)

    def tell(self) -> int:
        return self._file.tell()

    def add_study(self, record: StudyRecord, payloads: Sequence[bytes]) -> None:
        """The JSON member, then the films, without a gap between them."""
        row = len(self._studies.key)
        self._studies.key.append(record.study)
        self._studies.patient.append(record.patient)
        self._add(f"{record.study}.json", record.model_dump_json().encode(), self._studies)
        for number, (clip, payload) in enumerate(zip(record.clips, payloads, strict=True)):
            self._clips.study.append(row)
            self._clips.clip.append(number)
            self._add(f"{record.study}.{clip.member}", payload, self._clips)

    def _add(self, name: str, payload: bytes, columns: StudyColumns | ClipColumns) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(payload), 0o644
        columns.offset.append(self._tar.offset + tarfile.BLOCKSIZE)
        columns.size.append(len(payload))
        columns.crc32.append(zlib.crc32(payload))
        self._tar.addfile(member, io.BytesIO(payload))

    def close(self) -> None:
        """Ends the archive and forces it to disk."""
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    @property
    def index(self) -> Index:
        return Index(studies=self._studies, clips=self._clips)


def _publish(temporary: Path, path: Path, shard: _Tar) -> ShardEntry:
    """The index first: a tar that has its name also has its index."""
    index_digest = schema.write_block(path.parent / schema.index_name(path.name), shard.index)
    atomic.publish(temporary, path)
    return _entry(path, shard, index_digest)


def _entry(path: Path, shard: _Tar, index_digest: str) -> ShardEntry:
    return ShardEntry(
        name=path.name,
        studies=len(shard.index.studies.key),
        clips=len(shard.index.clips.clip),
        bytes=path.stat().st_size,
        sha256=shard.sha256,
        index_sha256=index_digest,
    )


def copy_without(source: Path, index: Index, target: Path) -> ShardEntry:
    """A tar, with its index, of those studies of `source` that its `index` still lists: the bytes that the writer would have made of them.

    DataError when a member to be kept is not the one that the index promises.
    """
    place = 0
    with source.open("rb") as tar, target.open("wb") as file:
        shard = _Tar(file)
        for row, key in enumerate(index.studies.key):
            record = StudyRecord.model_validate_json(_member(tar, index.studies, row, source.name))
            count = len(record.clips)
            payloads = [_member(tar, index.clips, place + clip, source.name) for clip in range(count)]
            place += count
            if record.study != key:
                raise DataError(
                    f"{source.name}: the record of study {key} is another; restore the shard first"
                )
            shard.add_study(record, payloads)
        shard.close()
    index_digest = schema.write_block(target.parent / schema.index_name(target.name), shard.index)
    return _entry(target, shard, index_digest)


def _member(tar: BinaryIO, columns: StudyColumns | ClipColumns, row: int, name: str) -> bytes:
    tar.seek(columns.offset[row])
    payload = tar.read(columns.size[row])
    if zlib.crc32(payload) != columns.crc32[row]:
        raise DataError(
            f"{name}: a member fails its checksum; restore the shard first", topic="damaged-samples"
        )
    return payload
