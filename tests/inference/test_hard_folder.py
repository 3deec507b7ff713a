"""A study folder as it comes: what is no usable film is left out with a reason, and nobody is named by what is written or said."""

import csv
import html
import json
import stat
from pathlib import Path

import pydicom
import pytest

from deepcoro.inference import opened
from deepcoro.inference.audit import AUDIT, check_audit
from deepcoro.ingest.crosswalk import read_crosswalk
from deepcoro.ingest.film import FilmSource
from tests.inference.conftest import Predict
from tests.inference.reports import said_in
from tests.ingest.films import PLANTED, moving_bar, of_film, write_dicom
from tests.ingest.identities import found_in


@pytest.fixture
def answers(predict: Predict, hard_folder: Path, tmp_path: Path) -> tuple[Path, str]:
    """The output folder and all that was said."""
    private = ("--crosswalk", tmp_path / "private", "--sr", tmp_path / "reports")
    code, said, complained = predict(hard_folder, "--workers", 2, "--html", *private)
    assert code == 0, complained
    return tmp_path / "answers", said + complained


def test_a_folder_of_everything_gives_an_answer_and_a_reason_for_each_file(
    answers: tuple[Path, str], tmp_path: Path
) -> None:
    folder, said = answers
    (path,) = folder.glob("*.json")
    answer = json.loads(path.read_text())
    assert path.stem == answer["study"]
    assert [film["number"] for film in answer["films"]] == [2, 1]  # in the order of acquisition
    assert {each["number"]: each["reason"].split(":")[0] for each in answer["skipped"]} == {
        3: "secondary_capture",
        4: "structured_report",
        5: "single_frame",
        6: "truncated",
        7: "wrong_modality",
        8: "unsupported_kind",
        9: "unsupported_format",
        10: "unreadable",
        11: "burned_in_annotation",
        12: "unsupported_kind",
        13: "crashed_decoder",
    }
    assert all(film["caption"] is not None and film["shown"] for film in answer["films"])
    assert {finding["name"]: finding["higher_means"] for finding in answer["findings"]} == {
        "zero_shot/side": "side = right",
        "zero_shot/dominance": "dominance = left",
        "zero_shot/cto": "cto = 1",
    }
    assert "Traceback" not in said
    assert "p50" in said and "p95" in said and "% spent decoding" in said
    crosswalk = {entry.clip: entry.original_clip for entry in read_crosswalk(tmp_path / "private")}
    assert crosswalk[answer["films"][0]["clip"]] == "TREMBLAY-02"
    check_tables(folder, answer)
    check_page((folder / f"{answer['study']}.html").read_text(), answer)
    check_report(tmp_path / "reports" / f"{answer['study']}.dcm", answer)
    assert check_audit(folder / AUDIT) == 1
    check_nobody_is_named(folder, said)


def check_tables(folder: Path, answer: dict) -> None:
    """They say what the JSON says."""
    films, skipped, studies = (
        list(csv.DictReader((folder / f"{name}.csv").open())) for name in ("films", "skipped", "studies")
    )
    assert [row["clip"] for row in films] == [film["clip"] for film in answer["films"]]
    for row, film in zip(films, answer["films"], strict=True):
        assert float(row["zero_shot_cto_score"]) == pytest.approx(film["scores"]["zero_shot/cto"], abs=1e-6)
    assert [row["reason"] for row in skipped] == [each["reason"] for each in answer["skipped"]]
    assert [(row["study"], row["films"], row["skipped"]) for row in studies] == [(answer["study"], "2", "11")]


def check_page(page: str, answer: dict) -> None:
    """One file: a strip a film, every finding and every reason, nothing from elsewhere."""
    assert page.count("data:image/jpeg;base64,") == len(answer["films"])
    for each in [*answer["findings"], *answer["skipped"]]:
        assert html.escape(each.get("name") or each["reason"]) in page
        assert f"higher: {each['higher_means']}" in page if "higher_means" in each else True
    assert "Research only" in page and "http:" not in page and "https:" not in page


def check_report(path: Path, answer: dict) -> None:
    """With the true ids of the two films that were used, for its owner alone."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    report = pydicom.dcmread(path)
    assert report.PatientID == PLANTED["PatientID"] and report.SOPClassUID.name == "Comprehensive SR Storage"
    told = {
        each["name"]: (pytest.approx(each["score"], rel=1e-5), {"higher means": each["higher_means"]})
        for each in answer["findings"]
    }
    assert said_in(report) == told and b"Research only" in path.read_bytes()


def check_nobody_is_named(folder: Path, said: str) -> None:
    for path in folder.rglob("*"):
        assert not found_in(path.name, path.read_bytes()), path.name
    named = found_in("log", said.encode())
    assert not named


def test_a_study_without_a_usable_film_has_an_answer_without_findings(
    predict: Predict, tmp_path: Path
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    write_dicom(folder / "one.dcm", moving_bar(num_frames=1))
    code, _, complained = predict(folder)
    assert code == 0, complained
    (path,) = (tmp_path / "answers").glob("*.json")
    answer = json.loads(path.read_text())
    assert (answer["films"], answer["findings"], len(answer["skipped"])) == ([], [], 1)


def test_files_of_two_patients_under_one_study_are_refused_as_a_whole(
    predict: Predict, tmp_path: Path
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    write_dicom(folder / "a.dcm", moving_bar())
    write_dicom(folder / "b.dcm", moving_bar(), PatientID="SOMEBODY-ELSE")
    code, _, complained = predict(folder)
    assert code == 0, complained
    rows = list(csv.DictReader((tmp_path / "answers" / "skipped.csv").open()))
    assert [row["reason"] for row in rows] == ["mixed_patients: files of this study name 2 patients"] * 2


def test_studies_of_one_folder_are_told_apart_by_their_headers(predict: Predict, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    (folder / "b").mkdir(parents=True)
    write_dicom(folder / "one.dcm", moving_bar())
    write_dicom(folder / "two.dcm", moving_bar(), StudyInstanceUID=PLANTED["StudyInstanceUID"] + ".1")
    write_dicom(folder / "b" / "three.dcm", moving_bar(), **of_film(3))
    (folder / "b" / "notes.txt").write_text("goes with three.dcm")
    code, _, complained = predict(folder)
    assert code == 0, complained
    rows = list(csv.DictReader((tmp_path / "answers" / "studies.csv").open()))
    assert sorted((row["films"], row["skipped"]) for row in rows) == [("1", "0"), ("2", "1")]


@pytest.mark.parametrize(
    ("source", "told"), [("films/none", "neither a folder nor a table"), ("films", "holds no file")]
)
def test_nothing_to_read_is_one_line(predict: Predict, tmp_path: Path, source: str, told: str) -> None:
    (tmp_path / "films").mkdir()
    code, _, complained = predict(tmp_path / source)
    assert code == 2 and told in complained and "Traceback" not in complained


def test_answers_are_never_written_among_the_films(predict: Predict, tmp_path: Path) -> None:
    write_dicom(tmp_path / "one.dcm", moving_bar())
    code, _, complained = predict(tmp_path)
    assert code == 2 and "inside the folder of films" in complained


@pytest.mark.parametrize("name", ["film.npz", "film.npy", "FILM.NII.GZ", "film.nii"])
def test_a_file_that_tells_no_modality_is_not_opened_to_look_for_one(name: str, monkeypatch) -> None:
    """To open an array is to read all of it; it is read once, where it is decoded."""
    opens: list[Path] = []
    monkeypatch.setattr(opened, "open_film", lambda path, accept_burned_in: opens.append(path))
    settings = opened.settings_of(1, "XA", False, "sector")
    assert opened._refused_by_header(FilmSource(row=1, path=Path(name), clip="a"), settings) is None
    assert opens == []
