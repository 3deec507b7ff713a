"""CAMUS: apical two- and four-chamber half cycles of 500 patients, NIfTI (Leclerc et al. 2019, IEEE TMI 38:2198)."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from deepcoro.config import DataError
from deepcoro.ingest.layout_files import Record, as_table, by_number, lines_of, number
from deepcoro.ingest.table import Table

NAME = "camus"
MODALITY = "US"
SOURCE = "CAMUS, CREATIS, www.creatis.insa-lyon.fr/Challenge/camus"
LICENCE = "not known here: registration with CREATIS and its terms"
LABELS = ("lvef", "image_quality", "ed_frame", "es_frame")

_COLUMNS = ("FileName", "PatientID", "StudyInstanceUID", "Split", "view", "fps", *LABELS, "sex", "age")
_SPLITS = {"subgroup_training": "train", "subgroup_validation": "val", "subgroup_testing": "test"}
_VIEWS = {"2CH": "A2C", "4CH": "A4C"}


def read(folder: Path) -> Table:
    """`database_nifti/patientNNNN/`, and `database_split/` where it is there: it gives the split (all patients or none must be in it)."""
    nested = folder / "database_nifti"
    root = nested if nested.is_dir() else folder
    splits = _splits(folder / "database_split")
    patients = sorted((path for path in root.glob("patient*") if path.is_dir()), key=by_number)
    lost = sum(path.name not in splits for path in patients) if splits else 0
    if lost:
        raise DataError(
            f"{lost} of {len(patients)} patients are in no list of database_split; complete it, or remove it"
        )
    rows = (row for patient in patients for row in _rows(patient, folder, splits.get(patient.name)))
    return as_table(_COLUMNS, rows, NAME)


def _splits(folder: Path) -> dict[str, str]:
    splits: dict[str, str] = {}
    for name, split in _SPLITS.items():
        for patient in lines_of(folder / f"{name}.txt"):
            if splits.setdefault(patient, split) != split:
                raise DataError(
                    f"database_split puts a patient into two splits ({splits[patient]}/{split}); correct it"
                )
    return splits


def _rows(patient: Path, folder: Path, split: str | None) -> Iterator[Record]:
    for chamber, view in _VIEWS.items():
        film = patient / f"{patient.name}_{chamber}_half_sequence.nii.gz"
        told = _information(patient / f"Info_{chamber}.cfg")
        if not told and not film.is_file():
            continue
        yield {
            "FileName": film.relative_to(folder).as_posix(),
            "PatientID": f"{NAME}/{patient.name}",
            "StudyInstanceUID": f"{NAME}/{patient.name}",
            "Split": split,
            "view": view,
            "fps": told.get("FrameRate"),
            "lvef": told.get("EF"),
            "image_quality": told.get("ImageQuality"),
            "ed_frame": _from_zero(told, "ED"),
            "es_frame": _from_zero(told, "ES"),
            "sex": told.get("Sex"),
            "age": told.get("Age"),
        }


def _information(path: Path) -> Mapping[str, str]:
    """`Key: value` lines."""
    pairs = (line.partition(":") for line in lines_of(path))
    return {key.strip(): value.strip() for key, _, value in pairs if value.strip()}


def _from_zero(told: Mapping[str, str], key: str) -> int | None:
    """CAMUS counts frames from 1, a film here from 0."""
    return int(number(told, key, "Info_*.cfg")) - 1 if key in told else None
