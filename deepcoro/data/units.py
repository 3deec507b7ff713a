"""What a run counts as one sample: a clip, or a study with several."""

from dataclasses import dataclass

import numpy as np

from deepcoro.config import DataError
from deepcoro.data.index import StudyTable, split_code
from deepcoro.data.plan import chosen_clips


@dataclass(frozen=True)
class Units:
    """The samples of a split. Columns, one entry a unit."""

    split: str
    num_videos: int
    """Clips that a row of a batch has room for; 1 when the unit is a clip."""
    study_row: np.ndarray
    """Row of the study among all studies."""
    clip: np.ndarray
    """Index of the film in its study; -1 when the unit is a study."""
    studies: StudyTable
    """All studies, of other splits too."""
    kept: np.ndarray | None = None
    """Films, over all studies, that a filter let pass; None = all."""

    def __len__(self) -> int:
        return len(self.study_row)

    @property
    def shard(self) -> np.ndarray:
        """Shard that holds each unit."""
        return self.studies.shard[self.study_row]

    @property
    def film(self) -> np.ndarray:
        """Row of each unit's film among all films, where units are clips."""
        return self.studies.first_clip[self.study_row] + self.clip

    @property
    def num_clips(self) -> np.ndarray:
        """Films of each unit's study that may be shown."""
        return films_kept(self.studies, self.kept)[self.study_row]

    @property
    def may_show(self) -> np.ndarray:
        """Whether each film, over all studies, may be shown by a row."""
        studies = self.studies
        if (self.clip >= 0).all():
            shown = np.zeros(studies.num_films, bool)
            shown[self.film] = True
            return shown
        has_row = np.zeros(len(studies), bool)
        has_row[self.study_row] = True
        shown = has_row[studies.study_of_film()]
        return shown if self.kept is None else shown & self.kept

    def clips(self, unit: int) -> np.ndarray:
        """Numbers of the films of the unit's study that may be shown."""
        row = int(self.study_row[unit])
        first, num_clips = int(self.studies.first_clip[row]), int(self.studies.num_clips[row])
        if self.kept is None:
            return np.arange(num_clips)
        return np.flatnonzero(self.kept[first : first + num_clips])

    def shown_clips(self, unit: int, draw: np.random.Generator | None) -> tuple[int, ...]:
        """The films that a row shows of the unit: its own, or up to `num_videos` of its study (evenly spaced without a draw)."""
        if self.clip[unit] >= 0:
            return (int(self.clip[unit]),)
        clips = self.clips(unit)
        return tuple(int(clips[place]) for place in chosen_clips(len(clips), self.num_videos, draw))

    def shown_names(self, unit: int) -> list[str]:
        """Names `study.000` of the films that an evaluation shows of the unit."""
        return [f"{self.study_id(unit)}.{film:03d}" for film in self.shown_clips(unit, None)]

    def study_id(self, unit: int) -> str:
        """Keyed id of the unit's study."""
        return self.studies.key[self.study_row[unit]].decode()

    def name(self, unit: int) -> str:
        """Key that names a unit in tables, logs and the quarantine: `study` or `study.clip`."""
        clip = self.clip[unit]
        return self.study_id(unit) if clip < 0 else f"{self.study_id(unit)}.{clip:03d}"

    def patient(self, unit: int) -> str | None:
        """Keyed id of the unit's patient."""
        return self.studies.patient[self.study_row[unit]].decode() or None

    @property
    def patients(self) -> list[str]:
        """Distinct patients among those named, sorted."""
        return [patient.decode() for patient in np.unique(self.studies.patient[self.study_row]) if patient]


def units_of_split(
    studies: StudyTable, split: str, multi_video: bool, num_videos: int, kept: np.ndarray | None = None
) -> Units:
    """Clips (or studies, when `multi_video`) of a split in stored order. DataError when it has none."""
    has_film = films_kept(studies, kept) > 0
    in_split = studies.split == split_code(split)
    if not (in_split & has_film).any():
        why = (
            f"data.where keeps no film of split '{split}'" if in_split.any() else f"split '{split}' is empty"
        )
        raise DataError(f"{why}; splits of this folder: {studies.splits}", topic="empty-split")
    if multi_video:
        study_row = np.flatnonzero(in_split & has_film).astype(np.int32)
        return Units(split, num_videos, study_row, np.full(len(study_row), -1, np.int32), studies, kept)
    study_row = studies.study_of_film()
    films = np.flatnonzero(in_split[study_row] if kept is None else in_split[study_row] & kept)
    study_row = study_row[films]
    return Units(split, 1, study_row, (films - studies.first_clip[study_row]).astype(np.int32), studies, kept)


def films_kept(studies: StudyTable, kept: np.ndarray | None) -> np.ndarray:
    """Films of each study that a filter let pass."""
    if kept is None:
        return studies.num_clips
    before = np.concatenate([np.zeros(1, np.int32), np.cumsum(kept, dtype=np.int32)])
    return before[studies.first_clip + studies.num_clips] - before[studies.first_clip]
