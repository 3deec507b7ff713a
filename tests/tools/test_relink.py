"""The command between a hospital's own ids and keyed ones."""

import csv
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from deepcoro.data.film_table import read_films
from deepcoro.data.tables import read_label_table
from deepcoro.ingest.identity import Identity
from tests.inference.reports import NEEDS_DCMTK, dumped
from tests.ingest.films import PLANTED, write_dicom
from tests.ingest.identities import textured
from tests.tools.command import call_tool, load_tool

ROOT = Path(__file__).resolve().parents[2]
KEY = "0123456789abcdef0123456789abcdef"
UID = "1.2.826.0.1.3680043.9.7133.1"


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*words: object):
        return call_tool("relink", words, monkeypatch, capsys)

    return run


def write_table(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows_of(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Shards of one DICOM study and one of arrays, made by the command, with their crosswalk."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "films").mkdir()
    rows = []
    for number in range(2):
        path = folder / "films" / f"{number}.dcm"
        # acquired in the reverse order of the table, so that the number of a film is not its row
        write_dicom(path, textured(number), StudyInstanceUID=f"{UID}.1", SeriesInstanceUID=f"{UID}.2", SOPInstanceUID=f"{UID}.3.{number}", AcquisitionTime=f"1{9 - number}0000")  # fmt: skip
        rows.append({"FileName": f"films/{number}.dcm", "PatientID": "MRN-1", "StudyInstanceUID": f"{UID}.1", "Split": "train", "cto": number})  # fmt: skip
    np.save(folder / "films" / "2.npy", textured(2))
    rows.append({"FileName": "films/2.npy", "PatientID": "MRN-2", "StudyInstanceUID": "own study 2", "Split": "val", "cto": 1})  # fmt: skip
    (folder / "id.key").write_text(KEY)
    words = ["--csv", write_table(folder / "films.csv", rows), "--output", folder / "shards", "--key_file", folder / "id.key", "--crosswalk", folder / "private", "--workers", "1"]  # fmt: skip
    subprocess.run([sys.executable, ROOT / "tools" / "shard_dataset.py", *words], check=True, capture_output=True)  # fmt: skip
    films = read_films(folder / "shards").to_pylist()
    counts: dict[str, int] = {}
    predictions = []
    for film in films:
        number = counts[film["study"]] = counts.get(film["study"], -1) + 1
        predictions.append({"clip": f"{film['study']}.{number:03d}", "study": film["study"], "split": "test", "zero_shot_cto_score": 0.5 + number, "zero_shot_cto_probability": 0.25, "label_cto": film["cto"], "predicted_text_1": "Normal."})  # fmt: skip
    write_table(folder / "predictions.csv", predictions)
    return folder


def test_a_table_with_own_ids_becomes_one_that_a_run_can_join(place, run, tmp_path, caplog):
    identity = Identity(KEY.encode())
    rows = [
        {"FileName": "films/0.dcm", "PatientID": "MRN-1", "StudyInstanceUID": f"{UID}.1", "AccessionNumber": "ACC1", "birth": "1955-03-12",
         "Split": "Val", "Report": "Dr Roy: CTO of the mid RCA.", "cto": "1", "mid_lad_stenosis": "!", "new_head": "7", "status": "Dr Gagné"},
        {"FileName": str(place / "films" / "2.npy"), "PatientID": "", "StudyInstanceUID": "own study 2", "AccessionNumber": "ACC2", "birth": "1960-01-01",
         "Split": "", "Report": "", "cto": "", "mid_lad_stenosis": "70", "new_head": "7734501", "status": "PCI"},
    ]  # fmt: skip
    table = write_table(tmp_path / "own.csv", rows)
    words = ("--key_file", place / "id.key", "--folder", place, "--output", tmp_path / "keyed.csv")
    labels = ("--label_columns", "cto", "*_stenosis", "new_head", "status")
    code, out, err = run("--to_keyed", table, *words, *labels)
    assert code == 0, err
    first, second = rows_of(tmp_path / "keyed.csv")
    assert first == {
        "clip": identity.keyed("clip", "films/0.dcm"), "study": identity.keyed("study", f"{UID}.1"), "patient": identity.keyed("patient", "MRN-1"),
        "cto": "1", "mid_lad_stenosis": "!", "new_head": "7", "status": "Dr [NAME]", "Split": "val", "Report": "Dr [NAME]: CTO of the mid RCA.",
    }  # fmt: skip
    assert (
        second["clip"] == identity.keyed("clip", "films/2.npy") and second["patient"] == second["cto"] == ""
    )
    assert second["new_head"] == "" and "1 cells of 'new_head' left out" in out and "2 x NAME" in out
    assert "AccessionNumber" in caplog.text and "birth" in caplog.text
    written = (tmp_path / "keyed.csv").read_text()
    assert not [each for each in ("MRN", "ACC1", "1955", "Roy", UID, "films") if each in written]
    joined = read_label_table(tmp_path / "keyed.csv")
    films = {film["clip"] for film in read_films(place / "shards").to_pylist()}
    assert joined.ids == ["clip", "study", "patient"] and set(joined.cells["clip"].to_pylist()) <= films


def test_a_table_of_studies_needs_no_films_and_takes_usual_labels_only(place, run, tmp_path):
    table = write_table(tmp_path / "own.csv", [{"cath": f"{UID}.1", "lvef": "55", "note": "voisine du maire"}])  # fmt: skip
    words = ("--to_keyed", table, "--key_file", place / "id.key", "--output", tmp_path / "keyed.csv")
    code, _, err = run(*words)
    assert code == 2 and "no column holds an id" in err and "--study_column" in err
    assert run(*words, "--study_column", "cath")[0] == 0
    assert rows_of(tmp_path / "keyed.csv") == [{"study": Identity(KEY.encode()).keyed("study", f"{UID}.1"), "lvef": "55"}]  # fmt: skip


def test_columns_are_found_as_in_sharding_and_a_table_of_broken_rows_is_told(place, run, tmp_path):
    table = write_table(tmp_path / "own.csv", [{"study instance uid": f"{UID}.1", "leftmain_calcification": "mild"}])  # fmt: skip
    words = ("--to_keyed", table, "--key_file", place / "id.key", "--output", tmp_path / "keyed.csv")
    assert run(*words)[0] == 0
    assert rows_of(tmp_path / "keyed.csv") == [{"study": Identity(KEY.encode()).keyed("study", f"{UID}.1"), "leftmain_calcification": "mild"}]  # fmt: skip
    table.write_text("StudyInstanceUID,lvef\n1,2,3\n4\n")
    code, _, err = run(*words)
    assert code == 2 and "each of the 2 rows has more or fewer cells than the header" in err


def test_predictions_get_their_originals_back_film_by_film(place, run, tmp_path):
    output = tmp_path / "predictions.csv"
    words = ("--to_original", place / "predictions.csv", "--crosswalk", place / "private", "--output", output)
    code, _, err = run(*words)
    assert code == 2 and "3 of 3 rows name films" in err and "--shards" in err and not output.exists()
    assert run(*words, "--shards", place / "shards")[0] == 0
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    rows = rows_of(output)
    by_film = {row["FileName"]: row for row in rows}
    assert set(by_film) == {"films/0.dcm", "films/1.dcm", "films/2.npy"}
    for name, patient, study, label in (("films/0.dcm", "MRN-1", f"{UID}.1", 0.0), ("films/1.dcm", "MRN-1", f"{UID}.1", 1.0), ("films/2.npy", "MRN-2", "own study 2", 1.0)):  # fmt: skip
        row = by_film[name]
        assert (row["PatientID"], row["StudyInstanceUID"]) == (patient, study)
        assert float(row["label_cto"]) == label and row["predicted_text_1"] == "Normal."
    # the film that was acquired first is 000, though the table lists it second
    assert by_film["films/1.dcm"]["zero_shot_cto_score"] == "0.5"
    assert not {"clip", "study", "patient"} & set(rows[0])


def test_there_and_back_is_the_same_table(place, run, tmp_path):
    rows = [{"FileName": "films/0.dcm", "PatientID": "MRN-1", "StudyInstanceUID": f"{UID}.1", "cto": "1"}, {"FileName": "films/2.npy", "PatientID": "MRN-2", "StudyInstanceUID": "own study 2", "cto": "0"}]  # fmt: skip
    table = write_table(tmp_path / "own.csv", rows)
    assert run("--to_keyed", table, "--key_file", place / "id.key", "--folder", place, "--output", tmp_path / "keyed.csv")[0] == 0  # fmt: skip
    assert run("--to_original", tmp_path / "keyed.csv", "--crosswalk", place / "private", "--output", tmp_path / "back.csv")[0] == 0  # fmt: skip
    assert [{name: row[name] for name in rows[0]} for row in rows_of(tmp_path / "back.csv")] == rows


def report(place: Path, run, output: Path, study: str = f"{UID}.1"):
    return run("--sr", place / "predictions.csv", "--study", study, "--model", "first, step_500", "--crosswalk", place / "private", "--output", output)  # fmt: skip


def items(sequence) -> list:
    return [each for item in sequence for each in (item, *items(item.get("ContentSequence", [])))]


def test_a_study_becomes_a_structured_report_with_true_ids(place, run, tmp_path):
    code, out, err = report(place, run, tmp_path / "report.dcm")
    assert code == 0 and "2 measurements" in out, err
    assert stat.S_IMODE((tmp_path / "report.dcm").stat().st_mode) == 0o600
    dataset = pydicom.dcmread(tmp_path / "report.dcm")
    # the patient of the film's own header, not the name that the table had for them
    assert (dataset.PatientID, str(dataset.PatientName)) == (PLANTED["PatientID"], PLANTED["PatientName"])
    assert dataset.StudyInstanceUID == f"{UID}.1" and dataset.StudyDate == PLANTED["StudyDate"]
    assert dataset.SOPClassUID.name == "Comprehensive SR Storage" and dataset.VerificationFlag == "UNVERIFIED"
    found = items(dataset.ContentSequence)
    numbers = {item.ConceptNameCodeSequence[0].CodeMeaning: float(item.MeasuredValueSequence[0].NumericValue) for item in found if item.ValueType == "NUM"}  # fmt: skip
    assert numbers == {"zero_shot_cto_score": 1.0, "zero_shot_cto_probability": 0.25}
    texts = " ".join(item.TextValue for item in found if item.ValueType == "TEXT")
    assert "Research only" in texts and "first, step_500" in texts
    images = {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in found if item.ValueType == "IMAGE"}  # fmt: skip
    assert images == {f"{UID}.3.0", f"{UID}.3.1"}


def test_what_heads_say_of_a_study_stands_in_its_structured_report(place, run, tmp_path):
    study = rows_of(place / "predictions.csv")[0]["study"]
    row = {"clip": study, "study": study, "split": "test", "cto_pred": "0.25", "cto_true": "", "lvef_pred": "55", "lvef_true": "60", "side_prob_left": "0.75", "side_prob_2": "0.5",
           "side_pred_class": "2", "side_true_class": "2", "label_cto": "1", "label_pred": "9", "old_prob_x": "9", "text_id": "7"}  # fmt: skip
    table = write_table(tmp_path / "probe.csv", [row])
    code, out, err = run("--sr", table, "--study", study, "--model", "probe", "--crosswalk", place / "private", "--output", tmp_path / "report.dcm")  # fmt: skip
    assert code == 0 and "4 measurements" in out, err
    found = items(pydicom.dcmread(tmp_path / "report.dcm").ContentSequence)
    numbers = {item.ConceptNameCodeSequence[0].CodeMeaning: float(item.MeasuredValueSequence[0].NumericValue) for item in found if item.ValueType == "NUM"}  # fmt: skip
    assert numbers == {"cto_pred": 0.25, "lvef_pred": 55.0, "side_prob_left": 0.75, "side_prob_2": 0.5}


@NEEDS_DCMTK
def test_another_reader_takes_the_structured_report(place, run, tmp_path):
    assert report(place, run, tmp_path / "report.dcm")[0] == 0
    shown = dumped(tmp_path / "report.dcm")
    assert 'contains NUM:(,,"zero_shot_cto_score")="1"' in shown and "Research only" in shown


def test_a_study_without_a_valid_uid_cannot_be_reported(place, run, tmp_path):
    code, _, err = report(place, run, tmp_path / "report.dcm", "own study 2")
    assert code == 2 and "no valid StudyInstanceUID" in err and not (tmp_path / "report.dcm").exists()
    code, _, err = report(place, run, tmp_path / "report.dcm", "nobody")
    assert code == 2 and "knows no such study" in err


def test_the_examples_of_the_help_are_commands_that_parse(monkeypatch):
    tool = load_tool("relink")
    commands = [line for line in tool.EXAMPLES.replace("\\\n", " ").splitlines() if "python " in line]
    assert len(commands) == 3
    for command in commands:
        monkeypatch.setattr(sys, "argv", shlex.split(command)[1:])
        tool.parse_arguments()
