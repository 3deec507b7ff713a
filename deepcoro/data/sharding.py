"""What shards shall be: the settings, and which study goes into which tar, before any film is opened."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pydantic

from deepcoro.config import Block
from deepcoro.data.manifest import Encoding, shard_name
from deepcoro.ingest.film import StudySource
from deepcoro.sample import Scope


class Settings(Block):
    """How studies become shards."""

    encoding: Encoding = Encoding()
    """How frames are stored."""
    report_scope: Scope = "clip"
    """What one text of the table speaks of."""
    label_columns: list[str] = []
    """Names of the labels every film carries."""
    clips_per_shard: int = pydantic.Field(64, ge=1)
    """A tar is closed before it would hold more films than this (a study is never split)."""
    workers: int = pydantic.Field(1, ge=1)
    """Processes; 1 works in this one."""
    accept_burned_in: bool = False
    """Take DICOM films that declare names or dates burnt into the pixels."""
    overwrite: bool = False
    """Replace another data set that already lies in the output folder."""


@dataclass(frozen=True)
class Plan:
    """One tar to be: its studies and a digest of all that decides its bytes."""

    name: str
    studies: tuple[StudySource, ...]
    digest: str

    @property
    def num_films(self) -> int:
        return sum(len(study.films) for study in self.studies)


def plan_shards(studies: Sequence[StudySource], settings: Settings) -> list[Plan]:
    """Which study goes where: a function of the keyed ids and the number of films, never of timing or of what is rejected."""
    groups: list[list[StudySource]] = []
    films = settings.clips_per_shard
    for study in sorted(studies, key=lambda study: study.study):
        if films + len(study.films) > settings.clips_per_shard:
            groups.append([])
            films = 0
        groups[-1].append(study)
        films += len(study.films)
    names = [shard_name(number) for number in range(len(groups))]
    return [
        Plan(name, tuple(group), _digest(group, settings)) for name, group in zip(names, groups, strict=True)
    ]


def _digest(group: Sequence[StudySource], settings: Settings) -> str:
    """Changes when a film, its row or a setting that shapes the tar changes, not with the split. Paths enter as keyed ids."""
    shape = settings.model_dump(mode="json", include={"encoding", "report_scope", "accept_burned_in"})
    films = [
        (asdict(film) | {"path": _stamp(film.path)}, study.study, study.patient)
        for study in group
        for film in study.films
    ]
    return hashlib.sha256(json.dumps([shape, films], sort_keys=True).encode()).hexdigest()


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
