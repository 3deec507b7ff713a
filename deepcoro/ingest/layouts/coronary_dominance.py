"""CoronaryDominance: 1,574 studies sorted by the dominance of the heart, npz (doi 10.57967/hf/4360)."""

import logging
from collections.abc import Iterator
from pathlib import Path

from deepcoro.ingest.layout_files import Record, as_table
from deepcoro.ingest.table import Table

logger = logging.getLogger(__name__)

NAME = "coronary_dominance"
MODALITY = "XA"
SOURCE = "CoronaryDominance, huggingface.co/datasets/BearSubj13/CoronaryDominance, doi 10.57967/hf/4360"
LICENCE = "CC0-1.0 on the record (an earlier revision said MIT)"
LABELS = ("dominance", "part", "quality")

_COLUMNS = ("FileName", "PatientID", "StudyInstanceUID", "main_structure", *LABELS)
_STRUCTURES = {"LCA": "Left Coronary", "RCA": "Right Coronary"}
_OVERLAPPING = "cardiosyntax"


def read(folder: Path) -> Table:
    """`PART/.../{Left,Right}_Dominance/STUDY/{LCA,RCA}/*.npz`, with PART such as main_normal, main_others, real_distribution.

    Folders between PART and the dominance are groups of quality. No split is given: it is drawn by patient. The films
    of `real` are CardioSYNTAX's, so a study's id is made as there: one key gives both the same patient and split.
    """
    return as_table(_COLUMNS, _rows(folder), NAME)


def _rows(folder: Path) -> Iterator[Record]:
    left_out = 0
    for path in sorted(folder.rglob("*_Dominance/*/*/*.npz")):
        *groups, dominance, study, artery, _ = path.relative_to(folder).parts
        side = dominance.removesuffix("_Dominance").lower()
        if artery.upper() not in _STRUCTURES or side not in ("left", "right"):
            left_out += 1
            continue
        part, *quality = groups or [folder.name]
        key = f"{_OVERLAPPING}/{study}"
        yield {
            "FileName": path.relative_to(folder).as_posix(),
            "PatientID": key,
            "StudyInstanceUID": key,
            "main_structure": _STRUCTURES[artery.upper()],
            "dominance": side,
            "part": part,
            "quality": quality[0] if quality else ("normal" if part.endswith("normal") else None),
        }
    if left_out:
        logger.warning("%s: %d films lie in a folder that is neither LCA nor RCA: left out", NAME, left_out)
