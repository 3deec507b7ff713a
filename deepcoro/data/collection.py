"""The films of a run: one or several shard folders as one, newer tables laid over them, and those kept that `data.where` lets pass."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepcoro.config import ConfigError, DataError
from deepcoro.data.config import Data
from deepcoro.data.film_columns import FilmColumns, stored_columns
from deepcoro.data.folds import Fold, with_fold
from deepcoro.data.index import StudyTable, split_code
from deepcoro.data.patients import every_patient_is_named, refuse_other_splits, refuse_shared_patients
from deepcoro.data.shards import CachedStudies, Shards
from deepcoro.data.table_cells import FACTS
from deepcoro.data.tables import IDS, Overlay, read_label_table
from deepcoro.data.units import Units, films_kept, units_of_split
from deepcoro.data.where import parse_where
from deepcoro.ingest.labels import LabelRules, read_rules
from deepcoro.sample import StudyRecord

logger = logging.getLogger(__name__)


class Collection(CachedStudies):
    """Reads as one shard folder does: studies are numbered through all sources, and so are films."""

    def __init__(
        self,
        sources: dict[str, Shards],
        tables: Sequence[Path] = (),
        where: str | None = None,
        fold: Fold | None = None,
        label_rules: Path | None = None,
    ) -> None:
        """DataError when folders, tables and splits disagree, or a patient is in two splits."""
        self.sources = sources
        self.where = where
        self.fold = fold
        self._shards = list(sources.values())
        self._first_study = np.cumsum([0, *(len(shards.studies) for shards in self._shards)])
        for shards in self._shards:
            refuse_other_splits(shards)
        self.studies = _numbered_through(self._shards)
        self._overlay = self._join(tables, read_rules(label_rules))
        self.films = FilmColumns(sources, self.studies, self._overlay)
        if fold is not None:
            column = self.films.read([fold.column])[fold.column].combine_chunks()
            self.studies = with_fold(self.studies, column, fold)
            self.films = FilmColumns(sources, self.studies, self._overlay)
        refuse_shared_patients(self.studies)
        self._all_patients_named = every_patient_is_named(self.studies)
        self._kept = None if where is None else self._filtered(where)
        self.fingerprint = self._fingerprint()
        self._prepare_reading()

    @staticmethod
    def open(data: Data) -> "Collection":
        """What the config names."""
        chosen = (data.tables, data.where, data.fold, data.label_rules)
        if data.shards is not None:
            shards = Shards.open(data.shards, data.storage, data.cache, data.shards_per_window)
            return Collection({shards.folder.name: shards}, *chosen)
        if not data.sources:
            raise ConfigError(
                "data.shards is not set; give it the folder that tools/shard_dataset.py wrote",
                topic="shards-missing",
            )
        sources = {
            name: Shards.open(source.shards, data.storage, data.cache, data.shards_per_window)
            for name, source in data.sources.items()
        }
        return Collection(sources, *chosen)

    @property
    def name(self) -> str:
        """What results are filed under."""
        return "+".join(self.sources)

    @property
    def splits(self) -> list[str]:
        """Splits that hold a film of this run."""
        return [split for split in self.studies.splits if self._counts(split)["films"]]

    @property
    def keys(self) -> set[str]:
        """Tell apart the secrets of the sources' ids; '' where a folder does not say."""
        return {shards.manifest.key_check or "" for shards in self._shards}

    @property
    def patient_split(self) -> str:
        """`verified` or `unverifiable`, as in a manifest. Ids of sources that are keyed with other secrets cannot be compared."""
        are_comparable = len(self._shards) == 1 or (len(self.keys) == 1 and "" not in self.keys)
        return "verified" if self._all_patients_named and are_comparable else "unverifiable"

    def units(self, split: str, multi_video: bool, num_videos: int) -> Units:
        """Clips (or studies, when `multi_video`) of a split in stored order. DataError when it has none."""
        return units_of_split(self.studies, split, multi_video, num_videos, self._kept)

    def source_of_study(self, row: int | np.ndarray) -> Any:
        """Place of the study's source among all."""
        return np.searchsorted(self._first_study, row, side="right") - 1

    def shard_of(self, row: int) -> str:
        """Name of the shard that holds a study, behind its source's where there are several."""
        source = int(self.source_of_study(row))
        name = self._shards[source].shard_of(int(row - self._first_study[source]))
        return name if len(self._shards) == 1 else f"{list(self.sources)[source]}/{name}"

    @property
    def looks_ahead(self) -> int:
        """How many shards ahead studies should be announced; 0 = it is of no use."""
        return max(shards.looks_ahead for shards in self._shards)

    def announce(self, rows: Iterable[int]) -> None:
        """Studies that will be read soon. Returns at once."""
        for row in rows:
            source = int(self.source_of_study(row))
            self._shards[source].announce([int(row - self._first_study[source])])

    def study(self, row: int) -> StudyRecord:
        """The verified record of a study with what newer tables say of it and which films the filter lets pass. DataError when it cannot
        be read.
        """
        return self._cached_study(int(row))

    def read_clip(self, row: int, clip: int) -> bytes:
        """The verified bytes of one film. DataError when they cannot be read."""
        source = int(self.source_of_study(row))
        return self._shards[source].read_clip(int(row - self._first_study[source]), clip)

    def pixel_statistics(self) -> tuple[float | None, float | None]:
        """Mean and standard deviation of the stored training pixels; several sources count by their pixels in this run's train split."""
        known = [shards.manifest for shards in self._shards if shards.manifest.pixel_mean is not None]
        if len(self._shards) == 1 or not known:
            return self._shards[0].manifest.pixel_mean, self._shards[0].manifest.pixel_std
        pixels = self._training_pixels()
        mean = np.array([manifest.pixel_mean for manifest in known])
        square = np.array([manifest.pixel_std for manifest in known]) ** 2 + mean**2
        share = pixels / pixels.sum()
        pooled = float(share @ mean)
        return pooled, float(np.sqrt(share @ square - pooled**2))

    def record(self) -> dict[str, Any]:
        """What run and checkpoint remember of the data besides the films; plain JSON values, names without folders."""
        return {
            "fingerprint": self.fingerprint,
            "sources": {
                name: {"folder": shards.folder.name, "fingerprint": shards.fingerprint}
                for name, shards in self.sources.items()
            },
            "tables": [vars(table) for table in self._overlay.records] if self._overlay else [],
            "where": self.where,
            "fold": (
                None if self.fold is None else {"column": self.fold.column, "held_out": self.fold.held_out}
            ),
            "splits": {split: self._counts(split) for split in self.studies.splits},
        }

    def reads_beside(self, sha256: str) -> None:
        """A table that a field reads belongs to what a run trains on."""
        self.fingerprint = hashlib.sha256(f"{self.fingerprint} {sha256}".encode()).hexdigest()

    def _counts(self, split: str) -> dict[str, int]:
        mine = self.studies.split == split_code(split)
        films, kept = self.studies.num_clips[mine], films_kept(self.studies, self._kept)[mine]
        return {
            "studies": int((kept > 0).sum()),
            "films": int(kept.sum()),
            "dropped": int((films - kept).sum()),
        }

    def _training_pixels(self) -> np.ndarray:
        """Of each source that knows its statistics."""
        tables = self.films.batches(["num_frames", "height", "width"])
        pixels = np.concatenate(
            [
                np.prod([each.to_numpy().astype(np.float64) for each in table.columns], axis=0)
                for table in tables
            ]
        )
        study = self.studies.study_of_film()
        is_training = self.studies.split[study] == split_code("train")
        per_source = np.bincount(
            self.source_of_study(study), pixels * is_training, minlength=len(self._shards)
        )
        known = [shards.manifest.pixel_mean is not None for shards in self._shards]
        return per_source[known]

    def _join(self, paths: Sequence[Path], rules: LabelRules) -> Overlay | None:
        if not paths:
            return None
        tables = [read_label_table(path, rules) for path in paths]
        ids = [name for name in IDS if any(name in table.ids for table in tables)]
        known = {name for shards in self._shards for name in shards.film_schema.names}
        facts = [name for name in FACTS if name in known]
        overlay = Overlay(stored_columns(self._shards, [*ids, *facts]), self.studies)
        for table in tables:
            overlay.join(table)
        self.studies = StudyTable(**vars(self.studies) | {"split": overlay.split_codes(self.studies.split)})
        return overlay

    def _filtered(self, where: str) -> np.ndarray:
        condition = parse_where(where)
        parts, unknown = [], Counter[str]()
        for films in self.films.batches(condition.columns):
            kept = condition.apply(films)
            parts.append(kept.films)
            unknown.update(kept.unknown)
        whole = np.concatenate(parts)
        films_of_split = np.repeat(self.studies.split, self.studies.num_clips)
        for split in self.studies.splits:
            mine = whole[films_of_split == split_code(split)]
            logger.info("data.where keeps %d of %d films of split %s", mine.sum(), len(mine), split)
        for term, count in unknown.items():
            logger.warning("data.where drops %d films whose '%s' is not known", count, term)
        return whole

    def _fingerprint(self) -> str:
        """That of the folder, where there is one and nothing beside it. Names of sources do not count, their order does."""
        own = [shards.fingerprint for shards in self._shards]
        tables = [table.sha256 for table in self._overlay.records] if self._overlay else []
        if len(own) == 1 and not tables and self.where is None and self.fold is None:
            return own[0]
        chosen = [self.where] if self.fold is None else [self.where, self.fold.column, self.fold.held_out]
        return hashlib.sha256(json.dumps([own, tables, *chosen]).encode()).hexdigest()

    def _read_study(self, row: int) -> StudyRecord:
        source = int(self.source_of_study(row))
        record = self._shards[source].study(int(row - self._first_study[source]))
        first, num_clips = int(self.studies.first_clip[row]), int(self.studies.num_clips[row])
        if self._overlay is not None:
            record = self._overlay.of_study(record, row, first)
        if self._kept is None:
            return record
        kept = np.flatnonzero(self._kept[first : first + num_clips])
        return record.model_copy(update={"kept": tuple(kept.tolist())})


def _numbered_through(sources: Sequence[Shards]) -> StudyTable:
    """The studies of all sources. DataError when two sources hold the same study."""
    if len(sources) == 1:
        return sources[0].studies
    tables = [shards.studies for shards in sources]
    first_film = np.cumsum([0, *(table.num_films for table in tables)])
    first_shard = np.cumsum([0, *(len(shards.manifest.shards) for shards in sources)])
    columns = {name: np.concatenate([getattr(table, name) for table in tables]) for name in vars(tables[0])}
    counts = [len(table) for table in tables]
    columns["first_clip"] += np.repeat(first_film[:-1], counts).astype(np.int32)
    columns["shard"] += np.repeat(first_shard[:-1], counts).astype(np.int32)
    studies = StudyTable(**columns)
    if len(np.unique(studies.key)) != len(studies):
        raise DataError(
            "data.sources hold the same study twice; leave one of the folders out, or shard one of them without it",
            topic="ids-twice",
        )
    return studies
