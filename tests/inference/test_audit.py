"""The audit log: a line an answer, each sealing those before it."""

import datetime
import json
from pathlib import Path

import pytest

from deepcoro.config import DataError
from deepcoro.inference.audit import AuditLog, check_audit
from deepcoro.inference.opened import OpenedStudy
from deepcoro.inference.prediction import Model, Seconds, StudyAnswer
from deepcoro.sample import StudyRecord

NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


def answered(study: str) -> StudyAnswer:
    return StudyAnswer(
        study=study,
        patient=None,
        patient_in_training="unknown",
        model=Model(name="run", step=1, digest="abcd", data="ef01", deepcoro="0"),
        films=[],
        seconds=Seconds(decode=1, model=1),
    )


def log_of(path: Path, studies: list[str]) -> Path:
    log = AuditLog(path, lambda: NOON)
    for study in studies:
        opened = OpenedStudy(StudyRecord(study=study, clips=[]), [])
        log.note(answered(study), opened, b"what was written")
    return path


def test_a_line_names_time_study_weights_and_digests(tmp_path: Path) -> None:
    (line,) = log_of(tmp_path / "audit.jsonl", ["s1"]).read_text().splitlines()
    told = json.loads(line)
    assert (told["time"], told["study"], told["model"]) == ("2026-01-01T12:00:00+00:00", "s1", "abcd")
    assert len(told["answer_sha256"]) == len(told["films_sha256"]) == 64


def test_an_untouched_log_is_whole_also_when_several_runs_wrote_it(tmp_path: Path) -> None:
    log_of(tmp_path / "audit.jsonl", ["s1", "s2"])
    log_of(tmp_path / "audit.jsonl", ["s3"])
    assert check_audit(tmp_path / "audit.jsonl") == 3


@pytest.mark.parametrize("change", ["edited", "removed", "swapped", "no JSON"])
def test_a_log_that_somebody_changed_is_noticed(tmp_path: Path, change: str) -> None:
    path = log_of(tmp_path / "audit.jsonl", ["s1", "s2", "s3"])
    lines = path.read_text().splitlines()
    changed = {
        "edited": [lines[0], lines[1].replace("s2", "s4"), lines[2]],
        "removed": [lines[0], lines[2]],
        "swapped": [lines[1], lines[0], lines[2]],
        "no JSON": [lines[0], "s2", lines[2]],
    }[change]
    path.write_text("\n".join(changed) + "\n")
    with pytest.raises(DataError, match="line [12] of the audit log"):
        check_audit(path)


def test_a_line_that_was_cut_off_stops_the_log(tmp_path: Path) -> None:
    path = log_of(tmp_path / "audit.jsonl", ["s1", "s2"])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="last line"):
        log_of(path, ["s3"])
