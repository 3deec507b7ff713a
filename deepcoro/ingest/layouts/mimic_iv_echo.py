"""MIMIC-IV-ECHO 1.0 (and 0.1, which has no measurements): transthoracic echo of 4,579 patients, DICOM (doi 10.13026/nrjh-5r77)."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from deepcoro.ingest.columns import number_of_cell
from deepcoro.ingest.layout_files import Record, as_table, inside, records
from deepcoro.ingest.table import Table

NAME = "mimic_iv_echo"
MODALITY = "US"
SOURCE = "MIMIC-IV-ECHO, physionet.org, doi 10.13026/nrjh-5r77"
LICENCE = "PhysioNet Credentialed Health Data License and its data use agreement: no redistribution of films or shards"
LABELS = ("lvef",)

_RANGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)\s*%?\s*")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def read(folder: Path) -> Table:
    """`echo-record-list.csv`, `echo-study-list.csv` and, where it is there, `structured-measurement.csv.gz`.

    Still images of the studies (spectral Doppler) are refused when they are opened, as `single_frame`. Dates are not read.
    """
    listed = inside(folder, NAME, "echo-record-list.csv", "echo-record-list.csv.gz")
    values = _measurements(folder)
    names = sorted({name for found in values.values() for name in found})
    columns = ("FileName", "PatientID", "StudyInstanceUID", *names)
    return as_table(columns, _rows(listed, values), NAME)


def _rows(listed: Path, values: Mapping[str, Mapping[str, float]]) -> Iterator[Record]:
    for row in records(listed, ("subject_id", "study_id", "dicom_filepath")):
        study = row["study_id"]
        yield {
            "FileName": row["dicom_filepath"],
            "PatientID": f"{NAME}/{row['subject_id']}",
            "StudyInstanceUID": f"{NAME}/{study}",
            **values.get(study, {}),
        }


def _measurements(folder: Path) -> dict[str, dict[str, float]]:
    """Study -> measurement -> value, for what is a number in transthoracic echo; readings of one name are averaged."""
    measured = next((path for path in sorted(folder.glob("structured-measurement.csv*"))), None)
    studies = folder / "echo-study-list.csv"
    if measured is None or not studies.is_file():
        return {}
    listed = records(studies, ("study_id",))
    study_of = {row["measurement_id"]: row["study_id"] for row in listed if row.get("measurement_id")}
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in records(measured, ("measurement_id", "test_type", "measurement", "result")):
        study = study_of.get(row["measurement_id"])
        if study is None or row["test_type"].lower() != "tte" or not _NAME.fullmatch(row["measurement"]):
            continue
        value = _value(row["result"])
        if value is not None:
            found[study][row["measurement"]].append(value)
    return {
        study: {name: sum(each) / len(each) for name, each in names.items()} for study, names in found.items()
    }


def _value(result: str) -> float | None:
    """A number, or the middle of a range such as `50-55`; text (`> 75`, `not seen`) is not assessed."""
    between = _RANGE.fullmatch(result)
    if between:
        return (float(between[1]) + float(between[2])) / 2
    return number_of_cell(result.strip().removesuffix("%").strip() or None)
