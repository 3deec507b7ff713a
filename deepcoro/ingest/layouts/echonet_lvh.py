"""EchoNet-LVH: parasternal long-axis films with wall thicknesses and diameters (Duffy et al. 2022, JAMA Cardiology 7:386)."""

import logging
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from deepcoro.config import DataError
from deepcoro.ingest.layout_files import Record, as_table, inside, number, records
from deepcoro.ingest.table import Table

logger = logging.getLogger(__name__)

NAME = "echonet_lvh"
MODALITY = "US"
SOURCE = "EchoNet-LVH, echonet.github.io/lvh"
LICENCE = (
    "Stanford University Dataset Research Use Agreement: non-commercial, no redistribution of films or shards"
)
LABELS = ("ivsd_cm", "lvidd_cm", "lvpwd_cm", "lvids_cm", "ed_frame", "es_frame")

_CALCULATIONS = {"IVSd": "ivsd_cm", "LVIDd": "lvidd_cm", "LVPWd": "lvpwd_cm", "LVIDs": "lvids_cm"}
_LIST = "MeasurementsList.csv"
_COLUMNS = ("FileName", "StudyInstanceUID", "Split", "view", *LABELS)


def read(folder: Path) -> Table:
    """`MeasurementsList.csv` (several rows a film become one) and `Batch1` to `Batch4`. Patients are not named. The given split wins."""
    measured: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in records(
        inside(folder, NAME, _LIST), ("HashedFileName", "Calc", "CalcValue", "Frame", "split")
    ):
        measured[row["HashedFileName"].removesuffix(".avi")].append(row)
    places = {path.stem: path.relative_to(folder).as_posix() for path in sorted(folder.glob("Batch*/*.avi"))}
    unlisted = len(places.keys() - measured.keys())
    if unlisted:
        logger.warning(
            "%d films have no row in MeasurementsList.csv, so no split: they are left out", unlisted
        )
    return as_table(_COLUMNS, _rows(measured, places), NAME)


def _rows(measured: dict[str, list[dict[str, str]]], places: dict[str, str]) -> Iterator[Record]:
    for place, (film, rows) in enumerate(measured.items(), start=1):
        splits = sorted({row["split"].lower() for row in rows})
        if len(splits) > 1:
            raise DataError(
                f"film {place} of MeasurementsList.csv is in two splits ({'/'.join(splits)}); correct it"
            )
        yield {
            "FileName": places.get(film, f"Batch1/{film}.avi"),
            "StudyInstanceUID": f"{NAME}/{film}",
            "Split": splits[0],
            "view": "PLAX",
            "ed_frame": _frame(rows, diastole=True),
            "es_frame": _frame(rows, diastole=False),
            **{label: _mean(rows, name) for name, label in _CALCULATIONS.items()},
        }


def _mean(rows: list[dict[str, str]], calculation: str) -> float | None:
    """A film may be measured more than once."""
    values = [
        number(row, "CalcValue", _LIST) for row in rows if row["Calc"] == calculation and row["CalcValue"]
    ]
    return sum(values) / len(values) if values else None


def _frame(rows: list[dict[str, str]], diastole: bool) -> int | None:
    """The frame that was measured first."""
    last = "d" if diastole else "s"
    measured = [row for row in rows if row["Calc"] in _CALCULATIONS and row["Calc"].endswith(last)]
    return int(number(measured[0], "Frame", _LIST)) if measured else None
