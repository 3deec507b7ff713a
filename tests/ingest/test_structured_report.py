"""A report never lands in the wrong record: what the films' own headers say of patient and study is what counts."""

from datetime import datetime
from pathlib import Path

import pydicom
import pytest

from deepcoro.config import DataError
from deepcoro.ingest.crosswalk import Entry
from deepcoro.ingest.structured_report import Measurement, write_report
from tests.ingest.films import moving_bar, write_dicom

UID = "1.2.826.0.1.3680043.9.7133.1"


def entries(folder: Path, *headers: dict[str, str | None]) -> list[Entry]:
    """Films of one study of the user's table, with these elements in their headers."""
    found = []
    for number, header in enumerate(headers):
        path = folder / f"{number}.dcm"
        write_dicom(path, moving_bar(3, 16, 16), **{"PatientID": "MRN-1", "StudyInstanceUID": f"{UID}.1", "SeriesInstanceUID": f"{UID}.2", "SOPInstanceUID": f"{UID}.3.{number}", **header})  # fmt: skip
        found.append(Entry(f"c{number}", "s", "p", path.name, f"{UID}.9", "MRN-table", str(path)))
    return found


def report(folder: Path, films: list[Entry]) -> pydicom.Dataset:
    write_report(
        folder / "report.dcm", films, [Measurement("cto_score", 0.5)], "model", datetime(2026, 11, 26)
    )
    return pydicom.dcmread(folder / "report.dcm")


def test_films_of_two_patients_under_one_study_are_refused(tmp_path):
    films = entries(tmp_path, {}, {"PatientID": "MRN-2"})
    with pytest.raises(DataError, match="name 2 patients in their headers") as caught:
        report(tmp_path, films)
    assert "MRN" not in str(caught.value) and not (tmp_path / "report.dcm").exists()


def test_films_of_two_studies_of_the_archive_are_evidence_of_each(tmp_path):
    found = report(tmp_path, entries(tmp_path, {}, {"StudyInstanceUID": f"{UID}.7"}, {}))
    films_of = {
        study.StudyInstanceUID: [each.ReferencedSOPInstanceUID for series in study.ReferencedSeriesSequence for each in series.ReferencedSOPSequence]
        for study in found.CurrentRequestedProcedureEvidenceSequence
    }  # fmt: skip
    assert films_of == {f"{UID}.1": [f"{UID}.3.0", f"{UID}.3.2"], f"{UID}.7": [f"{UID}.3.1"]}
    assert found.StudyInstanceUID == f"{UID}.1"


def test_a_header_that_does_not_say_which_film_it_is_counts_as_none(tmp_path):
    found = report(tmp_path, entries(tmp_path, {"SeriesInstanceUID": None}))
    assert (found.PatientID, found.StudyInstanceUID) == ("MRN-table", f"{UID}.9")
    assert "CurrentRequestedProcedureEvidenceSequence" not in found
