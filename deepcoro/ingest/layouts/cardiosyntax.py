"""CardioSYNTAX: multi-view coronary angiography with SYNTAX scores of the whole and of each tree (arXiv:2407.19894)."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepcoro.config import ConfigError, DataError
from deepcoro.ingest.layout_files import Record, as_table
from deepcoro.ingest.table import Table

logger = logging.getLogger(__name__)

NAME = "cardiosyntax"
MODALITY = "XA"
SOURCE = "CardioSYNTAX, zenodo.org record 14005818, arXiv:2407.19894"
LICENCE = "not known here: read the terms on the record (academic, probably non-commercial)"
LABELS = ("syntax", "syntax_left", "syntax_right", "dominance")

_COLUMNS = ("FileName", "PatientID", "StudyInstanceUID", "Split", "main_structure", *LABELS)
_STRUCTURES = {"LCA": "Left Coronary", "RCA": "Right Coronary"}
_SPLITS = (("train", "train"), ("val", "val"), ("eval", "test"), ("test", "test"), ("holdout", "test"))


def read(folder: Path) -> Table:
    """JSON lists of studies beside the films. Files named train, val, test (of the lowest fold, where there are folds) give the split.

    A study is one patient's. Ids are those of the data set itself: CoronaryDominance's `real` part, which overlaps this
    one, gives the same study the same keyed id and, where splits are drawn, the same split.
    """
    splits = _files(folder)
    seen: dict[str, str | None] = {}
    rows: list[Record] = []
    for path, split in splits:
        for number, study in enumerate(_studies(path), start=1):
            rows += _rows(study, split, path, number, seen)
    return as_table(_COLUMNS, rows, NAME)


def _files(folder: Path) -> list[tuple[Path, str | None]]:
    """JSON files with the split that their name gives; all of them, or, where some name a split, only those of one fold."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ConfigError(
            f"--layout {NAME}: --source holds no .json; give the folder that holds the lists of studies"
        )
    named = [(path, split) for path in paths if (split := _split_of(path.stem)) is not None]
    if not named:
        return [(path, None) for path in paths]
    folds = sorted({fold for path, _ in named if (fold := _fold_of(path.stem)) is not None})
    if len(folds) > 1:
        logger.warning("%s: fold %d of %d is taken as the split", NAME, folds[0], len(folds))
    return [each for each in named if not folds or _fold_of(each[0].stem) in (folds[0], None)]


def _split_of(stem: str) -> str | None:
    words = re.split(r"[^a-z]+", stem.lower())
    return next((split for word, split in _SPLITS if any(each.startswith(word) for each in words)), None)


def _fold_of(stem: str) -> int | None:
    found = re.search(r"fold\D?(\d+)", stem.lower())
    return int(found[1]) if found else None


def _studies(path: Path) -> Sequence[Mapping[str, Any]]:
    try:
        studies = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} is not valid JSON ({error}); download it again") from error
    if not isinstance(studies, list) or not all(isinstance(study, dict) for study in studies):
        raise DataError(f"{path.name} holds no list of studies; move it out of --source")
    return studies


def _rows(
    study: Mapping[str, Any], split: str | None, path: Path, number: int, seen: dict[str, str | None]
) -> Iterator[Record]:
    key = study.get("study_id") or study.get("study_uid")
    if key is None:
        raise DataError(f"{path.name}: study {number} has neither study_id nor study_uid")
    earlier = seen.setdefault(str(key), split)
    if earlier != split:
        raise DataError(
            f"{path.name}: study {number} is in two splits ({earlier}/{split}); correct the lists"
        )
    films = list(_films(study))
    if not all(film for _, film in films):
        raise DataError(f"{path.name}: a film of study {number} has no path; download the list again")
    if not films:
        logger.warning("%s: study %d of %s lists no film", NAME, number, path.name)
    for structure, film in films:
        yield {
            "FileName": film,
            "PatientID": f"{NAME}/{study.get('patient_id') or key}",
            "StudyInstanceUID": f"{NAME}/{key}",
            "Split": split,
            "main_structure": structure,
            **{label: study.get(label) for label in LABELS},
        }


def _films(study: Mapping[str, Any]) -> Iterator[tuple[str | None, str | None]]:
    """(structure, path) of each film, in either version of the lists; the path is None where none is told."""
    for side, artery in (("left", "LCA"), ("right", "RCA")):
        for video in study.get(f"videos_{side}") or ():
            yield _STRUCTURES[artery], video.get("path")
    for video in study.get("videos") or ():
        yield _STRUCTURES.get(str(video.get("artery")).upper()), video.get("path")
