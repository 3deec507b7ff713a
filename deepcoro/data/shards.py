"""The reader of a shard folder: opens the indexes, seeks to a member, verifies what it read. Never walks a tar.

A plain tar reader mixes one patient's film with another's report after a truncated shard and drops samples silently; here every read
goes by the index, is checked by size and CRC-32, and an error names the shard and the keyed id.
"""

import hashlib
import logging
import os
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydantic

from deepcoro.config import DataError
from deepcoro.data.manifest import (
    SPLIT_NAMES,
    SPLITS,
    ClipColumns,
    Manifest,
    StudyColumns,
    read_index,
    read_manifest,
    read_splits,
)
from deepcoro.sample import StudyRecord

logger = logging.getLogger(__name__)

_TYPES = {"shard": np.int32, "offset": np.int64, "size": np.int64, "crc32": np.uint32}
_OPEN_TARS = 32
_CACHED_RECORDS = 64


class Place(NamedTuple):
    """Where one member's payload lies and what it must be."""

    shard: int
    offset: int
    size: int
    crc32: int


@dataclass(frozen=True)
class Members:
    """Places of many members, as columns."""

    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    crc32: np.ndarray

    def __len__(self) -> int:
        return len(self.offset)

    def place(self, row: int) -> Place:
        return Place(int(self.shard[row]), int(self.offset[row]), int(self.size[row]), int(self.crc32[row]))


@dataclass(frozen=True)
class Units:
    """What a run counts as one sample: a clip, or a study with up to `num_videos` clips. Columns, one entry a unit."""

    split: str
    num_videos: int
    """Clips that a row of a batch has room for; 1 when the unit is a clip."""
    study_row: np.ndarray
    """Row of the study among all studies of the folder."""
    clip: np.ndarray
    """Index of the film in its study; -1 when the unit is a study."""
    num_clips: np.ndarray
    """Films of the unit's study."""
    shard: np.ndarray
    """Shard that holds it."""
    study_key: np.ndarray
    """Keyed ids of all studies of the folder, by study row (bytes)."""
    study_patient: np.ndarray
    """Keyed ids of their patients (bytes; empty where the source names none)."""

    def __len__(self) -> int:
        return len(self.study_row)

    def study_id(self, unit: int) -> str:
        """Keyed id of the unit's study."""
        return self.study_key[self.study_row[unit]].decode()

    def name(self, unit: int) -> str:
        """Key that names a unit in tables, logs and the quarantine: `study` or `study.clip`."""
        clip = self.clip[unit]
        return self.study_id(unit) if clip < 0 else f"{self.study_id(unit)}.{clip:03d}"

    def patient(self, unit: int) -> str | None:
        """Keyed id of the unit's patient."""
        return self.study_patient[self.study_row[unit]].decode() or None

    @property
    def patients(self) -> list[str]:
        """Distinct patients among those named, sorted."""
        return [patient.decode() for patient in np.unique(self.study_patient[self.study_row]) if patient]


class Shards:
    """A shard folder, open for reading at any place. Cheap to hand to a forked or spawned worker."""

    def __init__(self, folder: Path, manifest: Manifest, studies: "StudyTable", clips: Members) -> None:
        self.folder = folder
        self.manifest = manifest
        self.fingerprint = _fingerprint(folder, manifest)
        self._studies = studies
        self._clips = clips
        self._prepare_reading()

    @staticmethod
    def open(folder: Path) -> "Shards":
        """Reads manifest, indexes and splits. DataError when one is missing or they disagree; a tar that is absent or
        has another size is logged, since its samples can be masked."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        studies, clips = _read_indexes(folder, manifest)
        shards = Shards(folder, manifest, studies, clips)
        shards._warn_of_damaged_tars()
        return shards

    @property
    def splits(self) -> list[str]:
        """Splits that hold a study."""
        return [name for code, name in enumerate(SPLIT_NAMES) if (self._studies.split == code).any()]

    def num_studies(self, split: str) -> int:
        return int((self._studies.split == _split_code(split)).sum())

    def units(self, split: str, multi_video: bool, num_videos: int) -> Units:
        """Clips (or studies, when `multi_video`) of a split in stored order. DataError when it has none."""
        studies = self._studies
        in_split = (studies.split == _split_code(split)) & (studies.num_clips > 0)
        if not in_split.any():
            raise DataError(f"split '{split}' is empty; splits of this folder: {self.splits}")
        study_row = np.flatnonzero(in_split)
        clip = np.full(len(study_row), -1)
        if not multi_video:
            num_clips = studies.num_clips[study_row]
            study_row = np.repeat(study_row, num_clips)
            clip = np.arange(len(study_row)) - np.repeat(np.cumsum(num_clips) - num_clips, num_clips)
        return Units(
            split=split,
            num_videos=num_videos if multi_video else 1,
            study_row=study_row,
            clip=clip,
            num_clips=studies.num_clips[study_row],
            shard=studies.members.shard[study_row],
            study_key=studies.key,
            study_patient=studies.patient,
        )

    def study(self, row: int) -> StudyRecord:
        """The verified record of a study. DataError, named by shard and key, when it cannot be read."""
        return self._cached_study(int(row))

    def read_clip(self, row: int, clip: int) -> bytes:
        """The verified bytes of one film. DataError, named by shard and key, when they cannot be read."""
        if not 0 <= clip < self._studies.num_clips[row]:
            raise IndexError(
                f"study row {row} has {self._studies.num_clips[row]} clips; clip {clip} was asked for"
            )
        place = self._clips.place(int(self._studies.first_clip[row]) + clip)
        return self._read(place, f"clip {clip} of study {self._studies.key[row].decode()}")

    def _read_study(self, row: int) -> StudyRecord:
        key = self._studies.key[row].decode()
        place = self._studies.members.place(row)
        payload = self._read(place, f"the record of study {key}")
        shard = self.manifest.shards[place.shard].name
        try:
            record = StudyRecord.model_validate_json(payload)
        except pydantic.ValidationError as error:
            raise DataError(
                f"{shard}: the record of study {key} has {error.error_count()} bad fields"
            ) from error
        if record.study != key or len(record.clips) != self._studies.num_clips[row]:
            raise DataError(f"{shard}: the record of study {key} is not the one that the index names")
        return record

    def _read(self, place: Place, what: str) -> bytes:
        shard = self.manifest.shards[place.shard].name
        try:
            payload = os.pread(self._tars.descriptor(self.folder / shard), place.size, place.offset)
        except OSError as error:
            raise DataError(
                f"{shard}: {what} cannot be read ({error.strerror}); restore the shard"
            ) from error
        if len(payload) != place.size:
            raise DataError(
                f"{shard}: {what} has {len(payload)} of {place.size} bytes; the shard is truncated"
            )
        if zlib.crc32(payload) != place.crc32:
            raise DataError(f"{shard}: {what} fails its checksum; the shard is damaged, restore it")
        return payload

    def _warn_of_damaged_tars(self) -> None:
        for shard in self.manifest.shards:
            tar = self.folder / shard.name
            size = tar.stat().st_size if tar.is_file() else None
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size} of {shard.bytes} bytes"
                logger.warning("%s %s; its %d clips may be masked", shard.name, found, shard.clips)

    def _prepare_reading(self) -> None:
        self._tars = _OpenTars(_OPEN_TARS)
        self._cached_study = lru_cache(_CACHED_RECORDS)(self._read_study)

    def __getstate__(self) -> dict:
        return {key: value for key, value in vars(self).items() if key not in ("_tars", "_cached_study")}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._prepare_reading()


@dataclass(frozen=True)
class StudyTable:
    """All studies of a folder, as columns."""

    key: np.ndarray
    patient: np.ndarray
    members: Members
    split: np.ndarray
    """Place in SPLIT_NAMES; -1 = in no split (withdrawn)."""
    first_clip: np.ndarray
    """Row of its first film among all films."""
    num_clips: np.ndarray


class _OpenTars:
    """Descriptors of the last used tars; `pread` needs no position, so forked workers may share them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: OrderedDict[Path, int] = OrderedDict()

    def descriptor(self, tar: Path) -> int:
        if tar not in self._open:
            if len(self._open) >= self._limit:
                os.close(self._open.popitem(last=False)[1])
            self._open[tar] = os.open(tar, os.O_RDONLY)
        self._open.move_to_end(tar)
        return self._open[tar]

    def __del__(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


def _fingerprint(folder: Path, manifest: Manifest) -> str:
    """Identity of what a run trains on: the tars, and the table of splits as it is now."""
    splits = hashlib.sha256((folder / SPLITS).read_bytes()).hexdigest()
    return hashlib.sha256(f"{manifest.fingerprint} {splits}".encode()).hexdigest()


def _split_code(split: str) -> int:
    if split not in SPLIT_NAMES:
        raise DataError(f"'{split}' is no split; allowed: {list(SPLIT_NAMES)}")
    return SPLIT_NAMES.index(split)


def _read_indexes(folder: Path, manifest: Manifest) -> tuple[StudyTable, Members]:
    studies, clips, clip_study, clip_number, num_studies = [], [], [], [], 0
    for number, shard in enumerate(manifest.shards):
        index = read_index(folder, shard)
        if (len(index.studies.key), len(index.clips.study)) != (shard.studies, shard.clips):
            raise DataError(
                f"the index of {shard.name} does not hold the studies and clips that the manifest counts"
            )
        studies.append((number, index.studies))
        clips.append(_columns(number, index.clips))
        clip_study.append(np.asarray(index.clips.study, np.int64) + num_studies)
        clip_number.append(np.asarray(index.clips.clip, np.int64))
        num_studies += shard.studies
    study_of_clip = np.concatenate([np.zeros(0, np.int64), *clip_study])
    num_clips = np.bincount(study_of_clip, minlength=num_studies)
    first_clip = np.cumsum(num_clips) - num_clips
    in_order = np.repeat(first_clip, num_clips) + np.concatenate([np.zeros(0, np.int64), *clip_number])
    if (np.diff(study_of_clip) < 0).any() or not np.array_equal(in_order, np.arange(len(study_of_clip))):
        raise DataError(
            "the indexes do not list the clips of each study together and in order; shard the data again"
        )
    key = _ids(each.key for _, each in studies)
    table = StudyTable(
        key=key,
        patient=_ids(each.patient for _, each in studies),
        members=_joined([_columns(number, each) for number, each in studies]),
        split=_split_codes(folder, key),
        first_clip=first_clip,
        num_clips=num_clips,
    )
    return table, _joined(clips)


def _columns(shard: int, index: StudyColumns | ClipColumns) -> Members:
    columns = {
        "shard": np.full(len(index.offset), shard),
        "offset": index.offset,
        "size": index.size,
        "crc32": index.crc32,
    }
    return Members(**{name: np.asarray(column, _TYPES[name]) for name, column in columns.items()})


def _joined(parts: list[Members]) -> Members:
    return Members(
        **{
            name: np.concatenate([np.zeros(0, kind), *(getattr(part, name) for part in parts)])
            for name, kind in _TYPES.items()
        }
    )


def _ids(columns: Iterable[list[str | None]]) -> np.ndarray:
    return np.array([identifier or "" for column in columns for identifier in column], dtype="S")


def _split_codes(folder: Path, key: np.ndarray) -> np.ndarray:
    """Split of each study by `splits.csv`, joined by id: the table may have been corrected since sharding."""
    table = read_splits(folder)
    order = np.argsort(key)
    listed = np.array([row.study for row in table], dtype=key.dtype if len(key) else "S1")
    place = np.searchsorted(key, listed, sorter=order)
    known = place < len(key)
    known[known] = key[order[place[known]]] == listed[known]
    if not known.all():
        stranger = table[int(np.flatnonzero(~known)[0])].study
        raise DataError(
            f"{SPLITS} lists study {stranger}, which no shard holds; remove the line or add its shard"
        )
    codes = np.full(len(key), -1, np.int8)
    codes[order[place]] = [SPLIT_NAMES.index(row.split) for row in table]
    if len(table) < len(key):
        logger.warning("%d studies are in no split of %s and are not read", len(key) - len(table), SPLITS)
    return codes
