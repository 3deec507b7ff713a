"""The studies of a folder or of a table, before any pixel is decoded: which file belongs to which study, under keyed ids."""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from deepcoro.config import DataError
from deepcoro.ingest.aliases import canonical_column
from deepcoro.ingest.columns import Roles, find_roles
from deepcoro.ingest.crosswalk import Entry
from deepcoro.ingest.film import FilmSource, Rejection, StudySource
from deepcoro.ingest.identity import Identity
from deepcoro.ingest.label_reader import LabelReader
from deepcoro.ingest.labels import read_rules
from deepcoro.ingest.studies import original_clip, read_studies
from deepcoro.ingest.table import read_table
from deepcoro.sample import Scope


@dataclass(frozen=True)
class FoundStudy:
    """A study to be read, and what was refused before any file was opened."""

    source: StudySource
    refused: tuple[Rejection, ...] = ()
    left_out: tuple[FilmSource, ...] = ()
    """The films that were refused."""
    original: str = ""
    """What the keyed study id stands for; for the owner's crosswalk alone."""
    original_patient: str = ""
    """The same of the patient; empty where no header tells it."""
    scan_s: float = 0.0
    """Its share of the wall time of reading the headers of a folder, by files."""

    def crosswalk(self, folder: Path) -> list[Entry]:
        """Which keyed id stands for which file, for its owner."""
        study = self.source
        return [
            Entry(
                film.clip,
                study.study,
                study.patient or "",
                original_clip(film.path, folder),
                self.original,
                self.original_patient,
                str(film.path),
            )
            for film in (*study.films, *self.left_out)
        ]


class _Owner(NamedTuple):
    """Whom a header says that the file belongs to; empty where it does not."""

    study: str = ""
    patient: str = ""
    film: str = ""
    """SOPInstanceUID: the same in every copy of the film."""


def studies_of_folder(folder: Path, identity: Identity) -> list[FoundStudy]:
    """Every file below the folder, by the study that its header names; a file that names none goes with those beside it.

    Files are numbered over the whole folder in the order of their names; that number is the `row` of a film. A study whose files name
    two patients is refused as a whole, and of a film that lies there twice the copies are refused. DataError for a folder without a file.
    """
    began, folder = time.perf_counter(), folder.resolve()
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise DataError("the folder holds no file; give the folder that a study was exported to")
    owners = _with_strays({path: _owner(path) for path in paths}, folder)
    groups: dict[str, list[tuple[int, Path]]] = {}
    for number, path in enumerate(paths, start=1):
        groups.setdefault(owners[path].study, []).append((number, path))
    found = [_found(study, files, owners, folder, identity) for study, files in groups.items()]
    a_file_s = (time.perf_counter() - began) / len(paths)
    return [replace(each, scan_s=a_file_s * len(files)) for each, files in zip(found, groups.values(), strict=True)]  # fmt: skip


def study_of_film(path: Path, identity: Identity) -> FoundStudy:
    """One file as a study of one film. Where no header names the study, it goes by the name of the file."""
    began, path = time.perf_counter(), path.resolve()
    owner = _owner(path)
    study = owner.study or f"film {path.name}"
    found = _found(study, [(1, path)], {path: owner}, path.parent, identity)
    return replace(found, scan_s=time.perf_counter() - began)


def _found(
    study: str,
    files: Sequence[tuple[int, Path]],
    owners: Mapping[Path, _Owner],
    folder: Path,
    identity: Identity,
) -> FoundStudy:
    films = tuple(
        FilmSource(row=number, path=path, clip=identity.keyed("clip", original_clip(path, folder)))
        for number, path in files
    )
    key, patients = identity.keyed("study", study), {owners[path].patient for _, path in files} - {""}
    if len(patients) > 1:
        reason = f"mixed_patients: files of this study name {len(patients)} patients"
        refused = tuple(Rejection(film.row, film.clip, reason) for film in films)
        return FoundStudy(StudySource(key, "inference", ()), refused, films, study)
    kept, refused = _without_copies(films, owners)
    patient = next(iter(patients), "")
    source = StudySource(key, "inference", kept, identity.keyed("patient", patient) if patient else None)
    copies = {each.row for each in refused}
    left_out = tuple(film for film in films if film.row in copies)
    return FoundStudy(source, refused, left_out, study, patient)


def _without_copies(
    films: Sequence[FilmSource], owners: Mapping[Path, _Owner]
) -> tuple[tuple[FilmSource, ...], tuple[Rejection, ...]]:
    """Each film once, and its copies refused: a film that counts twice would weigh twice. Of files with one SOPInstanceUID the largest
    is kept, since one may be cut short; of other files those with the same bytes are one film.
    """
    sizes = {film.row: film.path.stat().st_size for film in films}
    alike = Counter(sizes[film.row] for film in films if not owners[film.path].film)
    groups: dict[str, list[FilmSource]] = {}
    for film in films:
        name, size = owners[film.path].film, sizes[film.row]
        if not name:  # most files have a size of their own, and need not be read to be told apart
            name = f"bytes {_digest(film.path)}" if size and alike[size] > 1 else f"file {film.row}"
        groups.setdefault(name, []).append(film)
    kept = {
        film.row: max(group, key=lambda each: sizes[each.row]) for group in groups.values() for film in group
    }
    refused = tuple(
        Rejection(film.row, film.clip, f"duplicate_film: the same film as file {kept[film.row].row}")
        for film in films
        if kept[film.row] is not film
    )
    return tuple(film for film in films if kept[film.row] is film), refused


def _digest(path: Path) -> str:
    """A file that cannot be read is like no other; who opens it says why."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return os.fspath(path)


def _owner(path: Path) -> _Owner:
    """Study, patient and film of a DICOM header; nothing of files that have none or a damaged one."""
    import pydicom

    from deepcoro.ingest.dicom import silence_pydicom
    from deepcoro.ingest.header import patient_named
    from deepcoro.ingest.open import has_dicom_preamble
    from deepcoro.ingest.pixels import DAMAGE

    silence_pydicom()
    try:
        if not has_dicom_preamble(path):
            return _Owner()
        header = pydicom.dcmread(
            path,
            stop_before_pixels=True,
            specific_tags=["StudyInstanceUID", "PatientID", "SOPInstanceUID"],
        )
        study, film = (str(header.get(name) or "") for name in ("StudyInstanceUID", "SOPInstanceUID"))
        return _Owner(study, patient_named(header), film)
    except DAMAGE:
        return _Owner()


def _with_strays(owners: dict[Path, _Owner], folder: Path) -> dict[Path, _Owner]:
    """Files of no study go with most of those in their folder; where none has a study, the folder itself is one."""
    studies: dict[Path, Counter[str]] = {}
    for path, owner in owners.items():
        if owner.study:
            studies.setdefault(path.parent, Counter())[owner.study] += 1
    whole = {owner.study for owner in owners.values()} - {""}
    only = whole.pop() if len(whole) == 1 else None
    return {path: owner if owner.study else owner._replace(study=_stray(path, studies, only, folder)) for path, owner in owners.items()}  # fmt: skip


def _stray(path: Path, studies: dict[Path, Counter[str]], only: str | None, folder: Path) -> str:
    if path.parent in studies:
        return studies[path.parent].most_common(1)[0][0]
    return only or f"folder {os.fspath(path.parent.relative_to(folder))}"


@dataclass(frozen=True)
class TableReading:
    """How a table is read, as by `tools/shard_dataset.py`."""

    columns: Mapping[str, str | None] = field(default_factory=dict)
    """Role -> name of a column; the others are looked for under their usual names."""
    with_labels: bool = False
    """Whether reports and labels are read too."""
    label_columns: Sequence[str] | None = None
    """Names or patterns; None = the usual ones and those of `asked`."""
    asked: Sequence[str] = ()
    """Canonical names of columns that are wanted where the table has them."""
    derive: Sequence[str] = ()
    """Thresholds of stenosis columns that become columns of their own, as `--derive` of `tools/shard_dataset.py`."""
    label_rules: Path | None = None
    """YAML: how cells are read."""
    report_scope: Scope = "clip"
    """What one text speaks of."""


def studies_of_table(
    file: Path, identity: Identity, how: TableReading = TableReading()  # noqa: B008 - frozen
) -> tuple[list[FoundStudy], list[Rejection]]:
    """The studies of a table, whatever their split, and the rows that name no usable film."""
    table = read_table(file, "auto")
    roles = find_roles(table.columns, dict(how.columns), how.label_columns if how.with_labels else [])
    if how.with_labels and how.label_columns is None:
        roles = roles.model_copy(update={"labels": _with_asked(roles, table.columns, how.asked)})
    unread = {"split": None} if how.with_labels else {"split": None, "report": None}
    roles = roles.model_copy(update=unread)
    labels = LabelReader(table, roles.labels, read_rules(how.label_rules), how.derive)
    studies, refused = read_studies(table, roles, file.parent, identity, how.report_scope, labels)
    found = []
    for study in studies:
        cells = table.rows[study.films[0].row - 1]
        patient = cells[roles.patient] if roles.patient else None
        found.append(FoundStudy(study, original=str(cells[roles.study]), original_patient=patient or ""))
    return found, refused


def _with_asked(roles: Roles, columns: Sequence[str], asked: Sequence[str]) -> tuple[str, ...]:
    """The label columns and those asked for, in the table's order; never one that holds paths, ids, splits or reports."""
    private = {roles.path, roles.study, roles.patient, roles.split, roles.report}
    wanted = [name for name in columns if name not in private and canonical_column(name) in set(asked)]
    return tuple(name for name in columns if name in {*roles.labels, *wanted})
