"""One tar of the data set: decode, encode and lay down the studies that the plan gives it, with the index of where they lie."""

import hashlib
import io
import logging
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from deepcoro import atomic
from deepcoro.angiography.vocabulary import view_of
from deepcoro.config import Block, DataError
from deepcoro.data import manifest as schema
from deepcoro.data.decode import make_apart, make_film
from deepcoro.data.film_table import Measured, film_table, write_films
from deepcoro.data.manifest import ClipColumns, Index, ShardEntry, StudyColumns
from deepcoro.data.member import Member
from deepcoro.data.sharding import Plan, Settings
from deepcoro.data.spool import Outcome, Spool
from deepcoro.ingest.film import Film, FilmSource, RejectedFilm, Rejection, StudySource
from deepcoro.ingest.open import open_film
from deepcoro.ingest.positioner import pair_planes
from deepcoro.sample import ClipRecord, Report, Scope, StudyRecord

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


class _Encoded(NamedTuple):
    source: FilmSource
    film: Film
    member: Member


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
                records.append(_record(study, films, settings))
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

    def encode(self, study: StudySource) -> list[_Encoded]:
        """The usable films in acquisition order: by their headers when all tell it, else as the table lists them."""
        encoded = []
        for source in study.films:
            restored = self._spool.get(source)
            outcome = self._reread(source, restored) if restored else self._make(source)
            if outcome.reason is None:
                encoded.append(_Encoded(source, outcome.film, outcome.member))
            else:
                self.refused.append(Rejection(source.row, source.clip, outcome.reason))
            self._on_films(1)
        encoded = _in_order(encoded)
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


def _in_order(films: list[_Encoded]) -> list[_Encoded]:
    if any(each.film.order is None for each in films):
        return films
    return sorted(films, key=lambda each: each.film.order or ())


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


def _record(study: StudySource, films: Sequence[_Encoded], settings: Settings) -> StudyRecord:
    """All that the shard will know of the study: every field is named here, nothing else of a header or a row passes."""
    extension = settings.encoding.extension
    partners = pair_planes([each.film.plane for each in films])
    clips = [_clip(each, f"{number:03d}.{extension}", partners[number]) for number, each in enumerate(films)]
    return StudyRecord(
        study=study.study,
        patient=study.patient,
        clips=clips,
        reports=list(_reports(films, settings.report_scope)),
    )


def _clip(encoded: _Encoded, member: str, partner: int | None) -> ClipRecord:
    source, film, stored = encoded
    primary = _first_known(source.primary_angle_deg, film.primary_angle_deg)
    secondary = _first_known(source.secondary_angle_deg, film.secondary_angle_deg)
    known = primary is not None and secondary is not None and not film.rotation_deg
    fps, fps_source = film.frame_rate_fps, film.frame_rate_source
    if fps is None and source.frame_rate_fps is not None:
        fps, fps_source = source.frame_rate_fps, "table"
    return ClipRecord(
        clip=source.clip,
        member=member,
        frame_offsets=stored.frame_offsets,
        height=stored.height,
        width=stored.width,
        channels=stored.channels,
        frame_rate_fps=fps,
        frame_rate_source=fps_source,
        side=source.side,
        view=source.view or (view_of(primary, secondary) if known else None),
        primary_angle_deg=primary,
        secondary_angle_deg=secondary,
        rotation_deg=film.rotation_deg,
        source_to_detector_mm=film.source_to_detector_mm,
        source_to_patient_mm=film.source_to_patient_mm,
        imager_pixel_spacing_mm=_stored_spacing(film, stored),
        biplane=film.plane.name if film.plane else None,
        biplane_pair=partner,
        grey_scale=film.grey_scale,
        labels=dict(source.labels),
    )


def _stored_spacing(film: Film, stored: Member) -> float | None:
    """Pixels that were merged to store the film are larger in proportion."""
    if film.imager_pixel_spacing_mm is None or film.height is None:
        return None
    return round(film.imager_pixel_spacing_mm * film.height / stored.height, 6)


def _first_known(table: float | None, header: float | None) -> float | None:
    return header if table is None else table


def _reports(films: Sequence[_Encoded], scope: Scope) -> Iterator[Report]:
    """Texts of one scope, each once. A film whose tree is not known keeps its text to itself under scope `side`."""
    seen = set()
    for clip, each in enumerate(films):
        text, side = each.source.text, each.source.side
        if text is None:
            continue
        if scope == "clip" or (scope == "side" and side is None):
            yield Report(scope="clip", text=text, clip=clip)
        elif (key := side if scope == "side" else None) not in seen:
            seen.add(key)
            yield Report(scope=scope, text=text, side=key)


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
        raise DataError(f"{name}: a member fails its checksum; restore the shard first")
    return payload
