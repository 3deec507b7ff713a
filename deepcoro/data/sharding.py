"""What shards shall be: the settings, and which study goes into which tar, before any film is opened."""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pydantic

from deepcoro.config import Block
from deepcoro.data.manifest import Encoding, shard_name
from deepcoro.ingest.burned_in import EchoMask
from deepcoro.ingest.film import Modality, StudySource
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
    film_timeout_s: float = pydantic.Field(900.0, gt=0)
    """Longest time for one film, in processes of their own (a pool's, Ray's); then it is refused as `timed_out`."""
    accept_burned_in: bool = False
    """Take films that declare, or seem to hold, names or dates burnt into the pixels."""
    echo_mask: EchoMask = "sector"
    """What becomes of an echo film outside its sector: `sector` blackens it, `none` keeps it."""
    modality: Modality = "XA"
    """What films show that do not say it themselves (video, arrays, pictures)."""
    overwrite: bool = False
    """Replace another data set that already lies in the output folder."""
    append: bool = False
    """Add the films of another table to the data set that lies in the output folder; its shards stay as they are."""
    engine: Literal["local", "ray"] = "local"
    """Who writes: processes of this machine, or a Ray cluster (`RAY_ADDRESS`, else a local one) on a shared file system."""
    part: tuple[int, int] | None = None
    """K of N: write every N-th shard from the K-th on and conclude nothing."""
    conclude_only: bool = False
    """Open no film: all parts are there."""
    accept_duplicates: bool = False
    """Take films of different splits that look the same; they are counted and told."""
    split_rule: str = "given"
    """Where splits come from: `given` by the table, or `drawn 80/10/10`."""
    key_check: str | None = None
    """Tells whether two tables were keyed with one secret, without telling the secret."""

    def film_shape(self) -> dict:
        """The settings that decide what becomes of a film's pixels. Add yours here: a film made under others is made again."""
        return self.model_dump(mode="json", include={"encoding", "accept_burned_in", "echo_mask", "modality"})

    @property
    def is_drawn(self) -> bool:
        return self.split_rule.startswith("drawn")


@dataclass(frozen=True)
class Plan:
    """One tar to be."""

    name: str
    studies: tuple[StudySource, ...]
    settings: Settings

    @property
    def num_films(self) -> int:
        return sum(len(study.films) for study in self.studies)

    @functools.cached_property
    def digest(self) -> str:
        """Of all that decides its bytes: changes when a film, its row or a setting that shapes the tar changes, not with
        the split. Asks the disk for every film, so one part of many asks for its own films only."""
        return digest_of(self.studies, self.settings)


def plan_shards(studies: Sequence[StudySource], settings: Settings, first: int = 0) -> list[Plan]:
    """Which study goes where: a function of the keyed ids and the number of films, never of timing or of what is rejected.

    `first` is the number of the first shard: those before it hold earlier tables.
    """
    groups: list[list[StudySource]] = []
    films = settings.clips_per_shard
    for study in sorted(studies, key=lambda study: study.study):
        if films + len(study.films) > settings.clips_per_shard:
            groups.append([])
            films = 0
        groups[-1].append(study)
        films += len(study.films)
    return [
        Plan(shard_name(number), tuple(group), settings) for number, group in enumerate(groups, start=first)
    ]


def digest_of(studies: Sequence[StudySource], settings: Settings) -> str:
    """Of films, rows and settings; paths enter as keyed ids, size and time."""
    shape = settings.film_shape() | {"report_scope": settings.report_scope}
    films = [
        (asdict(film) | {"path": stamp(film.path)}, study.study, study.patient)
        for study in studies
        for film in study.films
    ]
    return hashlib.sha256(json.dumps([shape, films], sort_keys=True).encode()).hexdigest()


def stamp(path: Path) -> list[int]:
    """Size and time of a file, or of all files of a folder, by which a changed film is noticed; empty when it is not there."""
    try:
        if path.is_dir():
            listing = sorted((each.name, *_stamp(each)) for each in path.iterdir() if each.is_file())
            digest = hashlib.sha256(json.dumps(listing).encode()).digest()
            return [len(listing), int.from_bytes(digest[:8], "big")]
        return _stamp(path)
    except (OSError, ValueError):  # ValueError: a path that no disk can hold
        return []


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
