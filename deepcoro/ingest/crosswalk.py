"""Which original hides behind which keyed id: a private table for the owner of the films, never beside the shards."""

import csv
import io
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from deepcoro import atomic
from deepcoro.config import ConfigError, DataError
from deepcoro.ingest.columns import Roles
from deepcoro.ingest.film import StudySource
from deepcoro.ingest.studies import original_clip
from deepcoro.ingest.table import Table

FILE = "crosswalk.csv"


class Entry(NamedTuple):
    """One film: keyed ids, and what they stand for in the user's own table."""

    clip: str
    study: str
    patient: str
    """Empty where the table names no patient."""
    original_clip: str
    """Path, relative to the table's folder where it lies below it."""
    original_study: str
    original_patient: str
    file: str
    """Where the film lay at sharding."""


def prepare_folder(folder: Path, output: Path) -> None:
    """Makes the private folder (0700). ConfigError when it lies in the shard folder or others may look into it."""
    if folder.resolve().is_relative_to(output.resolve()):
        raise ConfigError(
            f"--crosswalk {folder} lies inside the output folder, where whoever reads the shards would find it; put it elsewhere"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"--crosswalk {folder} cannot be made: {error.strerror}; choose another folder"
        ) from error
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"--crosswalk {folder} is open to others (mode {mode:o}): chmod 700 it first")


def entries_of(studies: Sequence[StudySource], table: Table, roles: Roles, folder: Path) -> list[Entry]:
    """The rows of the table that are films, with the ids that `read_studies` gave them."""
    folder, entries = folder.resolve(), []
    for study in studies:
        patients = [_cells(table, film.row)[roles.patient] for film in study.films if roles.patient]
        patient = next((each for each in patients if each), "")
        for film in study.films:
            cells = _cells(table, film.row)
            names = (original_clip(film.path, folder), str(cells[roles.study]), patient)
            entries.append(
                Entry(film.clip, study.study, study.patient or "", *names, str(film.path.absolute()))
            )
    return entries


def _cells(table: Table, row: int) -> Mapping[str, str | None]:
    cells = table.rows[row - 1]
    if cells is None:
        raise ValueError(f"row {row} is malformed and cannot be a film")
    return cells


def write_crosswalk(folder: Path, entries: Iterable[Entry]) -> None:
    """Writes `crosswalk.csv` (0600), whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Entry._fields)
    writer.writerows(sorted(entries))
    atomic.write_bytes(folder / FILE, text.getvalue().encode(), private=True)


def merge_crosswalk(folder: Path, entries: Iterable[Entry]) -> None:
    """Adds films to the crosswalk of earlier months; a film that it knows already is replaced. Parts of a job array may do so at once."""
    with atomic.locked(folder):
        known = {each.clip: each for each in read_crosswalk(folder)} if (folder / FILE).is_file() else {}
        write_crosswalk(folder, (known | {each.clip: each for each in entries}).values())


def read_crosswalk(folder: Path) -> list[Entry]:
    """All entries. DataError when the folder holds no crosswalk or another kind of table."""
    path = folder / FILE
    if not path.is_file():
        raise DataError(
            f"the folder holds no {FILE}; give the one that tools/shard_dataset.py --crosswalk wrote"
        )
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    if not lines or tuple(lines[0]) != Entry._fields or any(len(line) != len(lines[0]) for line in lines):
        raise DataError(f"{FILE} must have the columns {','.join(Entry._fields)}; restore it")
    return [Entry(*line) for line in lines[1:]]


def forget_patient(folder: Path, patient: str) -> list[Entry]:
    """Takes a withdrawn patient (keyed id) out of the crosswalk; returns the films that were theirs."""
    with atomic.locked(folder):
        entries = read_crosswalk(folder)
        theirs = [each for each in entries if each.patient == patient]
        if theirs:
            write_crosswalk(folder, [each for each in entries if each.patient != patient])
    return theirs
