"""CADICA: coronary angiography of 42 patients as PNG frames, with boxes of seven grades on key frames (arXiv:2402.00570)."""

import json
import logging
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deepcoro.angiography.vocabulary import severity_floor
from deepcoro.config import ConfigError, DataError
from deepcoro.ingest.layout_files import Record, as_table, by_number, inside, lines_of
from deepcoro.ingest.table import Table

logger = logging.getLogger(__name__)

NAME = "cadica"
MODALITY = "XA"
SOURCE = "CADICA v2, data.mendeley.com p9bpx9ctcv, arXiv:2402.00570"
LICENCE = "CC BY 4.0 as far as known; check the record, and cite the paper"
LABELS = ("selected", "lesion", "significant", "severe", "worst_grade", "lvef")

GRADES = {"p0_20": 0, "p20_50": 20, "p50_70": 50, "p70_90": 70, "p90_98": 90, "p99": 99, "p100": 100}
"""Grade of a box -> its smallest diameter stenosis, percent."""

_COLUMNS = ("FileName", "PatientID", "StudyInstanceUID", "fps", "main_structure", *LABELS)
_FPS = 10
_GROUPS = {"videosLCA": "Left Coronary", "videosLCA2": "Left Coronary", "videosRCA": "Right Coronary"}
_LESION: Mapping[str | None, int | None] = {"lesion": 1, "nonlesion": 0, None: None}


def read(folder: Path) -> Table:
    """`{selected,nonselected}Videos/pX/vY/input/*.png` with the lists and boxes beside them.

    Labels are of films, never of frames: key frames alone carry boxes, so a frame without one is no negative where the
    film has a lesion. A film without visible lesion (nonlesionVideos.txt) is negative for all; one that was not
    selected is not assessed. No split is given (the paper's own is by film): it is drawn by patient.
    """
    selected = inside(folder, NAME, "selectedVideos", "CADICA/selectedVideos")
    root = selected.parent
    sides = _projections(selected, root)
    clinical = _clinical(root / "metadata.xlsx")
    rows = [
        {**row, "FileName": path.relative_to(folder).as_posix()}
        for group in (selected, root / "nonselectedVideos")
        for path, row in _films(group, sides, clinical)
    ]
    return as_table(_COLUMNS, rows, NAME)


def _films(
    group: Path, sides: Mapping[str, str], clinical: Mapping[int, float]
) -> Iterator[tuple[Path, Record]]:
    """Folder of frames and what is known of the film."""
    for patient in sorted((path for path in group.glob("p*") if path.is_dir()), key=by_number):
        lists = _lists(patient)
        on_disk = {path.name for path in patient.glob("v*") if path.is_dir()}
        for video in sorted(on_disk | lists.keys(), key=lambda name: by_number(Path(name))):
            film = patient / video
            known = {
                "PatientID": f"{NAME}/{patient.name}",
                "StudyInstanceUID": f"{NAME}/{patient.name}",
                "fps": _FPS,
                "main_structure": sides.get(f"{patient.name}_{video}"),
                "selected": int(group.name == "selectedVideos"),
                "lvef": clinical.get(by_number(patient)[0]),
                **_findings(film, lists.get(video)),
            }
            yield film / "input", known


def _lists(patient: Path) -> dict[str, str]:
    """Video -> lesion or nonlesion."""
    kinds = {kind: set(lines_of(patient / f"{kind}Videos.txt")) for kind in ("lesion", "nonlesion")}
    both = kinds["lesion"] & kinds["nonlesion"]
    if both:
        raise DataError(
            f"{patient.name}: {len(both)} videos are in lesionVideos.txt and in nonlesionVideos.txt"
        )
    return {video: kind for kind, videos in kinds.items() for video in videos}


def _findings(film: Path, kind: str | None) -> Record:
    grades = _grades(film / "groundtruth") if kind == "lesion" else []
    worst = max(grades, key=lambda grade: GRADES[grade], default=None)
    percent = 0 if kind == "nonlesion" else None if worst is None else GRADES[worst]
    return {
        "lesion": _LESION[kind],
        "worst_grade": "no_lesion" if kind == "nonlesion" else worst,
        "significant": None if percent is None else int(percent >= severity_floor("moderate")),
        "severe": None if percent is None else int(percent >= severity_floor("severe")),
    }


def _grades(folder: Path) -> list[str]:
    """Grades of all boxes: rows `x y w h grade` of the key frames' files."""
    found = []
    for path in sorted(folder.glob("*.txt")):
        for line in lines_of(path):
            grade = re.split(r"[\s,]+", line)[-1]
            if grade not in GRADES:
                raise DataError(f"groundtruth/{path.name}: grade '{grade}' is none of {list(GRADES)}")
            found.append(grade)
    return found


def _projections(*folders: Path) -> dict[str, str]:
    """`pX_vY` -> structure, out of CADICAprojections.json where it is there."""
    path = next((each for folder in folders if (each := folder / "CADICAprojections.json").is_file()), None)
    if path is None:
        logger.warning("%s: no CADICAprojections.json, so the tree of each film is not known", NAME)
        return {}
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also of its code
        raise DataError(f"{path.name} is not valid JSON; download it again") from error
    if not isinstance(listed, dict):
        raise DataError(f"{path.name} holds no lists by name ({', '.join(_GROUPS)}); download it again")
    return {film: structure for group, structure in _GROUPS.items() for film in listed.get(group, ())}


def _clinical(path: Path) -> dict[int, float]:
    """Number of the patient -> left ventricular ejection fraction, percent. Empty where the sheet has no such columns."""
    if not path.is_file():
        return {}
    header, *rows = _sheet(path)
    names = [str(name or "").lower() for name in header]
    patient = next(
        (place for place, name in enumerate(names) if "patient" in name or name in ("id", "pid")), None
    )
    fraction = next((place for place, name in enumerate(names) if "lvef" in name or "ejection" in name), None)
    if patient is None or fraction is None:
        logger.warning(
            "%s: metadata.xlsx has no column of patients and ejection fractions; lvef is left out", NAME
        )
        return {}
    pairs = ((_digits(row[patient]), row[fraction]) for row in rows)
    return {
        number: float(value)
        for number, value in pairs
        if number is not None and isinstance(value, int | float)
    }


def _sheet(path: Path) -> list[tuple[Any, ...]]:
    try:
        import openpyxl
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError as error:
        raise ConfigError(
            "metadata.xlsx needs openpyxl: pip install 'deepcoro[layouts]'", topic="missing-packages"
        ) from error
    try:
        sheet = openpyxl.load_workbook(path, data_only=True).active
    except (zipfile.BadZipFile, KeyError, ValueError, InvalidFileException) as error:
        raise DataError(f"{path.name} is no workbook that can be read; download it again") from error
    return list(sheet.iter_rows(values_only=True)) or [()]


def _digits(cell: Any) -> int | None:
    found = re.search(r"\d+", str(cell if cell is not None else ""))
    return int(found[0]) if found else None
