"""Where everything of a shard folder lies: columns over all its indexes, narrow enough that every rank holds millions of films."""

import logging
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.compute

from deepcoro.config import DataError
from deepcoro.data.manifest import (
    SPLIT_NAMES,
    SPLITS,
    ClipColumns,
    Index,
    Manifest,
    ShardEntry,
    StudyColumns,
    read_indexes,
    read_split_table,
)
from deepcoro.data.storage import Where

logger = logging.getLogger(__name__)

_TYPES = {"shard": np.int32, "offset": np.int64, "size": np.uint32, "crc32": np.uint32}


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
class StudyTable:
    """All studies of a folder, as columns."""

    key: np.ndarray
    """Keyed id (bytes)."""
    patient: np.ndarray
    """Keyed id of the patient (bytes); empty where the source names none."""
    shard: np.ndarray
    """Shard that holds it."""
    split: np.ndarray
    """Place in SPLIT_NAMES; -1 = in no split (withdrawn)."""
    first_clip: np.ndarray
    """Row of its first film among all films."""
    num_clips: np.ndarray

    def __len__(self) -> int:
        return len(self.key)

    @property
    def num_films(self) -> int:
        return int(self.num_clips.sum())

    @property
    def splits(self) -> list[str]:
        """Splits that hold a study."""
        return [name for code, name in enumerate(SPLIT_NAMES) if (self.split == code).any()]

    def study_of_film(self) -> np.ndarray:
        """Row of the study of each film."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.num_clips)


def split_code(split: str) -> int:
    """DataError when there is no such split."""
    if split not in SPLIT_NAMES:
        raise DataError(f"'{split}' is no split; allowed: {list(SPLIT_NAMES)}", topic="empty-split")
    return SPLIT_NAMES.index(split)


def read_studies(folder: Where, manifest: Manifest) -> tuple[StudyTable, Members, Members]:
    """Studies, the places of their records, the places of their films. DataError when indexes, manifest and splits disagree.

    The columns are filled in place, one index after another: at no time are two copies of all of them in memory.
    """
    records = _empty(sum(shard.studies for shard in manifest.shards))
    films = _empty(sum(shard.clips for shard in manifest.shards))
    num_clips = np.zeros(len(records), np.int32)
    keys, patients, study, film = [], [], 0, 0
    for number, (shard, read) in enumerate(
        zip(manifest.shards, read_indexes(folder, manifest.shards), strict=True)
    ):
        index = _checked(read, shard)
        _fill(records, study, number, index.studies)
        _fill(films, film, number, index.clips)
        num_clips[study : study + shard.studies] = _clips_of_studies(index)
        keys.append(_ids(index.studies.key))
        patients.append(_ids(index.studies.patient))
        study, film = study + shard.studies, film + shard.clips
    key = np.concatenate([_ids([]), *keys])
    studies = StudyTable(
        key=key,
        patient=np.concatenate([_ids([]), *patients]),
        shard=records.shard,
        split=_split_codes(folder, key),
        first_clip=(np.cumsum(num_clips) - num_clips).astype(np.int32),
        num_clips=num_clips,
    )
    pyarrow.default_memory_pool().release_unused()
    return studies, records, films


def _empty(count: int) -> Members:
    return Members(**{name: np.zeros(count, kind) for name, kind in _TYPES.items()})


def _fill(members: Members, start: int, shard: int, columns: StudyColumns | ClipColumns) -> None:
    rows = slice(start, start + len(columns.offset))
    members.shard[rows] = shard
    for name in ("offset", "size", "crc32"):
        getattr(members, name)[rows] = getattr(columns, name)


def _checked(index: Index, shard: ShardEntry) -> Index:
    if (len(index.studies.key), len(index.clips.study)) != (shard.studies, shard.clips):
        raise DataError(
            f"the index of {shard.name} does not hold the studies and clips that the manifest counts",
            topic="shards-changed",
        )
    largest = max((*index.studies.size, *index.clips.size), default=0)
    if largest > np.iinfo(np.uint32).max:
        raise DataError(f"{shard.name}: a member of {largest} bytes; 4 GiB is the limit, shard shorter films")
    return index


def _clips_of_studies(index: Index) -> np.ndarray:
    """Number of films of each study of one shard; DataError unless they are listed study by study, each from 0 on."""
    study, clip = np.asarray(index.clips.study, np.int64), np.asarray(index.clips.clip, np.int64)
    num_clips = np.bincount(study, minlength=len(index.studies.key))
    place = np.arange(len(study)) - np.repeat(np.cumsum(num_clips) - num_clips, num_clips)
    if (np.diff(study) < 0).any() or not np.array_equal(clip, place):
        raise DataError(
            "the indexes do not list the clips of each study together and in order; shard the data again"
        )
    return num_clips


def _ids(identifiers: list[str | None]) -> np.ndarray:
    return np.array([identifier or "" for identifier in identifiers], dtype="S")


def _split_codes(folder: Where, key: np.ndarray) -> np.ndarray:
    """Split of each study by `splits.csv`, joined by id: the table may have been corrected since sharding."""
    table = read_split_table(folder)
    keys = pyarrow.array(key, pyarrow.binary()).cast(pyarrow.string())
    if table["study"].combine_chunks().equals(keys):  # the usual case needs no hash table of all studies
        row = pyarrow.array(np.arange(len(keys)))
    else:
        row = pyarrow.compute.index_in(table["study"], keys)
    if row.null_count:
        stranger = table["study"].filter(row.is_null())[0]
        raise DataError(
            f"{SPLITS} lists study {stranger}, which no shard holds; remove the line or add its shard"
        )
    code = pyarrow.compute.index_in(table["split"], pyarrow.array(SPLIT_NAMES))
    codes = np.full(len(key), -1, np.int8)
    codes[row.to_numpy()] = code.to_numpy()
    if len(table) < len(key):
        logger.warning("%d studies are in no split of %s and are not read", len(key) - len(table), SPLITS)
    return codes
