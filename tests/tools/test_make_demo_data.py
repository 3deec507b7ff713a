"""The command that makes demo data: a folder that is complete, consistent, repeatable - or refused."""

import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))
import make_demo_data  # noqa: E402


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "tiny"
    assert make_demo_data.main([str(path), "--patients", "12", "--workers", "1"]) == 0
    return path


def test_every_row_has_its_film_and_every_film_its_row(folder):
    rows = read_csv(folder / "dataset.csv")
    assert sorted(row["FileName"] for row in rows) == sorted(
        str(path.relative_to(folder)) for path in (folder / "films").iterdir()
    )
    assert {"FileName", "PatientID", "StudyInstanceUID", "Split", "Report", "side", "view"} <= set(rows[0])
    assert {Path(row["FileName"]).suffix for row in rows} == {".avi", ".dcm"}


def test_a_patient_is_in_one_split_and_tables_agree(folder):
    rows = read_csv(folder / "dataset.csv")
    split_of = {row["patient_id"]: row["split"] for row in read_csv(folder / "patients.csv")}
    assert all(row["Split"] == split_of[row["PatientID"]] for row in rows)
    assert {row["Split"] for row in rows} == {"train", "val", "test"}
    studies = {row["study_id"]: row for row in read_csv(folder / "studies.csv")}
    reports = {(row["study_id"], row["side"]): row["text"] for row in read_csv(folder / "reports.csv")}
    videos = {row["FileName"]: row for row in read_csv(folder / "videos.csv")}
    labels = {row["study_id"]: row for row in read_csv(folder / "labels.csv")}
    for row in rows:
        study = row["StudyInstanceUID"]
        assert row["Report"] == reports[study, row["side"]]
        assert studies[study]["patient_id"] == row["PatientID"]
        assert videos[row["FileName"]]["view"] == row["view"]
        own = {
            key: value
            for key, value in row.items()
            if key.endswith("_stenosis") and key != "max_stenosis" and value
        }
        assert own and all(labels[study][key] == value for key, value in own.items())
        assert (row["cto"] == "1") == ("Chronic total occlusion" in row["Report"])


def test_dicom_files_and_rows_agree_on_who_and_from_where(folder):
    import pydicom

    rows = [row for row in read_csv(folder / "dataset.csv") if row["FileName"].endswith(".dcm")]
    for row in rows:
        dataset = pydicom.dcmread(folder / row["FileName"])
        assert dataset.PatientID == row["PatientID"] and dataset.StudyInstanceUID == row["StudyInstanceUID"]
        assert float(dataset.PositionerPrimaryAngle) == float(row["primary_angle"])
        assert dataset.pixel_array.shape == (10, 64, 64)


def test_workers_do_not_change_a_byte(folder, tmp_path):
    assert make_demo_data.main([str(tmp_path / "again"), "--patients", "12", "--workers", "2"]) == 0
    assert digest(tmp_path / "again") == digest(folder)


def test_more_patients_leave_the_first_ones_as_they_were(folder, tmp_path):
    assert make_demo_data.main([str(tmp_path / "fewer"), "--patients", "3", "--workers", "1"]) == 0
    films = digest(tmp_path / "fewer" / "films")
    assert films.items() <= digest(folder / "films").items()


def test_the_same_command_again_finds_its_work_done(folder):
    before = digest(folder)
    stamps = [path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))]
    assert make_demo_data.main([str(folder), "--patients", "12", "--workers", "1"]) == 0
    assert digest(folder) == before
    assert [path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))] == stamps


def test_an_interrupted_folder_is_finished(folder, tmp_path):
    cut = tmp_path / "cut"
    assert make_demo_data.main([str(cut), "--patients", "3", "--workers", "1"]) == 0
    complete = digest(cut)
    (cut / "dataset.csv").unlink()
    next((cut / "films").iterdir()).write_bytes(b"half a film")
    assert make_demo_data.main([str(cut), "--patients", "3", "--workers", "1"]) == 0
    assert digest(cut) == complete


def test_another_recipe_in_the_same_folder_is_refused(folder, capsys):
    assert make_demo_data.main([str(folder), "--patients", "12", "--seed", "1"]) == 2
    assert "another preset, seed, size or format" in capsys.readouterr().err


def test_wrong_arguments_are_one_line_and_exit_code_two(tmp_path, capsys):
    assert make_demo_data.main([str(tmp_path / "x"), "--preset", "huge"]) == 2
    assert make_demo_data.main([str(tmp_path / "x"), "--patients", "0"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2 and "allowed" in lines[0]
    assert not (tmp_path / "x").exists()


def test_the_preview_is_a_picture_of_films(tmp_path):
    from PIL import Image

    command = [
        str(tmp_path / "y"),
        "--patients",
        "1",
        "--workers",
        "1",
        "--preview",
        str(tmp_path / "sheet.png"),
    ]
    assert make_demo_data.main(command) == 0
    assert Image.open(tmp_path / "sheet.png").size == (5 * 256, 8 * (256 + 18))


def test_help_teaches_presets_outputs_and_the_next_command(capsys):
    with pytest.raises(SystemExit):
        make_demo_data.main(["--help"])
    text = capsys.readouterr().out
    assert "demo " in text and "dataset.csv" in text and "shard_dataset.py" in text


def test_the_key_is_hex_and_public(folder):
    key = (folder / "demo.key").read_text().strip()
    assert len(bytes.fromhex(key)) == 32


def test_libraries_beneath_tell_nothing_over_the_progress_bar(tmp_path):
    asked = f"import logging, make_demo_data; make_demo_data.main(['{tmp_path}', '--patients', '1', '--workers', '1'])"
    told = subprocess.run(
        [sys.executable, "-c", f"{asked}; print(logging.getLogger('openjpeg').getEffectiveLevel())"],
        cwd=TOOLS,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.endswith("\n30\n") and "films in" in told.stderr
