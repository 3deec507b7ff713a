"""tools/predict.py around the model: every study of a batch is answered, no option does nothing, and it says what it does."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

import deepcoro.inference.predict  # noqa: F401  read before the tests replace what it answers with
from deepcoro.data.manifest import MANIFEST
from deepcoro.ingest.crosswalk import read_crosswalk
from tests.inference.stand_in import StandIn
from tests.ingest.films import PLANTED, moving_bar, of_film, write_dicom, write_video
from tests.tools.command import call_tool, load_tool

Ask = Callable[..., tuple[int, str]]
UID = PLANTED["StudyInstanceUID"]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch, capfd, caplog) -> Ask:
    """`tools/predict.py SOURCE ...` into tmp_path / "answers" with a stand-in for the model. Exit code, and all that was said."""
    caplog.set_level("INFO", "deepcoro")
    monkeypatch.setattr("deepcoro.inference.model.Answerer", StandIn)
    key = tmp_path / "id.key"
    key.write_text("0123456789abcdef0123456789abcdef\n")
    key.chmod(0o600)

    def call(source: Path, *words: object) -> tuple[int, str]:
        fixed = ("--checkpoint", "run", "--output", tmp_path / "answers")
        code, said, complained = call_tool("predict", (source, *fixed, *words), monkeypatch, capfd)
        return code, said + complained + caplog.text

    monkeypatch.setenv("DEEPCORO_KEY_FILE", str(key))
    return call


def film(path: Path, number: int, **elements: object) -> Path:
    """A DICOM film that is no other's copy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_dicom(path, moving_bar(), **of_film(number), **elements)


def rows_of(tmp_path: Path, table: str) -> list[dict[str, str]]:
    return list(csv.DictReader((tmp_path / "answers" / f"{table}.csv").open()))


def answers_in(tmp_path: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in (tmp_path / "answers").glob("*.json")]


def test_a_film_that_names_nobody_is_of_the_patient_that_its_study_names(ask: Ask, tmp_path: Path) -> None:
    film(tmp_path / "films" / "a.dcm", 1, PatientID="", AccessionNumber="")
    film(tmp_path / "films" / "b.dcm", 2)
    film(tmp_path / "films" / "c.dcm", 3, StudyInstanceUID=f"{UID}.1", PatientID="MRN-2")
    code, said = ask(tmp_path / "films", "--workers", 1, "--sr", tmp_path / "reports")
    assert code == 0, said
    reports = [pydicom.dcmread(path) for path in (tmp_path / "reports").glob("*.dcm")]
    assert {report.PatientID: report.AccessionNumber for report in reports} == {
        PLANTED["PatientID"]: PLANTED["AccessionNumber"],
        "MRN-2": PLANTED["AccessionNumber"],
    }


def test_a_report_that_cannot_be_written_is_a_line_and_the_other_studies_are_answered(
    ask: Ask, tmp_path: Path
) -> None:
    folder = tmp_path / "films"
    film(folder / "a" / "a.dcm", 1)
    (folder / "b").mkdir()
    np.save(folder / "b" / "b.npy", moving_bar())
    film(folder / "c" / "c.dcm", 2, StudyInstanceUID=f"{UID}.1")
    code, said = ask(folder, "--workers", 1, "--sr", tmp_path / "reports")
    assert code == 2 and "1 of 3 studies have no structured report (skipped.csv says why)" in said
    assert len(answers_in(tmp_path)) == len(rows_of(tmp_path, "studies")) == 3
    assert len(rows_of(tmp_path, "films")) == 3
    (row,) = rows_of(tmp_path, "skipped")
    assert row["reason"].startswith("no_structured_report: the study has no valid StudyInstanceUID")
    assert f"study {row['study']}: no structured report: the study has no valid" in said
    reported = {path.stem for path in (tmp_path / "reports").glob("*.dcm")}
    assert reported == {answer["study"] for answer in answers_in(tmp_path)} - {row["study"]}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--sr", "private"), "--sr: shards hold no true ids"),
        (("--crosswalk", "private"), "--crosswalk: shards hold no true ids"),
        (("--key_file", "id.key"), "--key_file: ids of shards are keyed already"),
        (("--modality", "XA"), "--modality: films of shards were chosen"),
        (("--accept_burned_in",), "--accept_burned_in: films of shards were chosen"),
        (("--echo_mask", "none"), "--echo_mask: films of shards were chosen"),
        (("--workers", "3"), "--workers: films of shards were chosen"),
        (("--neighbours", "9"), "--neighbours: there is no bank"),
    ],
)
def test_an_option_that_shards_leave_without_a_meaning_is_refused(
    ask: Ask, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / MANIFEST).write_text("{}")
    code, said = ask(tmp_path / "shards", *words)
    assert code == 2 and said.startswith(f"predict: {told}") and said.count("\n") == 1
    assert not (tmp_path / "answers").exists()


@pytest.mark.parametrize(("words", "told"), [(("--split", "test"), "--split"), (("--neighbours", "50"), "--neighbours")])  # fmt: skip
def test_an_option_that_films_leave_without_a_meaning_is_refused(
    ask: Ask, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    film(tmp_path / "films" / "a.dcm", 1)
    code, said = ask(tmp_path / "films", *words)
    assert code == 2 and said.startswith(f"predict: {told}: ") and said.count("\n") == 1


@pytest.mark.parametrize("tool", ["predict", "serve"])
@pytest.mark.parametrize("word", ["80", "0.49", "nan", "sure"])
def test_a_certainty_that_is_no_probability_is_refused(tool: str, word: str, capsys) -> None:
    words = ["films", "--output", "answers"] if tool == "predict" else []
    with pytest.raises(SystemExit) as ended:
        load_tool(tool).parse_arguments([*words, "--checkpoint", "run", "--certainty", word])
    assert ended.value.code == 2
    assert f"argument --certainty: '{word}' is no probability from 0.5 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["one.dcm", "one", "one.avi", "one.npy"])
def test_a_single_film_is_a_study_of_one_film(ask: Ask, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".avi":
        write_video(path, moving_bar(), "mjpeg", "yuvj420p")
    elif path.suffix == ".npy":
        np.save(path, moving_bar())
    else:
        film(path, 1)
    code, said = ask(path, "--workers", 1, "--crosswalk", tmp_path / "private")
    assert code == 0, said
    (answer,) = answers_in(tmp_path)
    assert [each["number"] for each in answer["films"]] == [1] and answer["skipped"] == []
    (entry,) = read_crosswalk(tmp_path / "private")
    assert (entry.original_clip, entry.study) == (name, answer["study"])


def test_two_films_of_no_header_given_one_by_one_are_two_studies(ask: Ask, tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, moving_bar())
        assert ask(tmp_path / name, "--workers", 1)[0] == 0
    assert len(answers_in(tmp_path)) == 2


def test_after_ctrl_c_it_says_that_it_starts_over(ask: Ask, tmp_path: Path, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    film(tmp_path / "films" / "a.dcm", 1)
    monkeypatch.setattr(StandIn, "answer", interrupted)
    code, said = ask(tmp_path / "films", "--workers", 1)
    assert code == 130 and "the same command starts over" in said and "to go on" not in said
