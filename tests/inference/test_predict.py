"""What goes into a study's DICOM Structured Report: everything that its JSON says of a finding."""

from pathlib import Path

import pydicom
import pytest

from deepcoro.inference.predict import _write_report
from deepcoro.inference.prediction import FilmAnswer, Finding, Model, Seconds, StudyAnswer
from deepcoro.ingest.crosswalk import Entry
from tests.inference.reports import NEEDS_DCMTK, dumped, said_in
from tests.ingest.films import moving_bar, write_dicom

OF_TWO_FILMS = {"lowest": 0.0, "highest": 1.0, "num_films": 2}
CALLED = {"kind": "probability", "probability": 0.55, "threshold": 0.3, **OF_TWO_FILMS}
FINDINGS = [
    Finding(name="probe/cto", score=0.4, call="abstained", **CALLED),
    Finding(name="probe/stent", score=0.0, call="negative", **CALLED),
    Finding(name="probe/calcif", kind="probability", score=0.5, threshold=0.3, fixed_on="films", film_calls={"positive": 2}, **OF_TWO_FILMS),  # fmt: skip
    Finding(name="probe/thrombus", kind="probability", score=0.2, **OF_TWO_FILMS),
    Finding(name="probe/dominance", kind="class", word="left", score=0.7, **OF_TWO_FILMS),
    Finding(name="probe/lvef", kind="value", unit="%", score=60, **OF_TWO_FILMS),
    Finding(name="probe/syntax", kind="value", score=12, **OF_TWO_FILMS),
    Finding(name="zero_shot/side", score=-0.1, higher_means="side = right", **OF_TWO_FILMS),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The report of a study whose model says one thing of each kind."""
    write_dicom(tmp_path / "film.dcm", moving_bar(3, 16, 16))
    film = FilmAnswer(clip="c", number=1, num_frames=3, frame_rate_fps=15.0, view=None, side=None, shown=True)
    answer = StudyAnswer(
        study="s",
        patient="p",
        patient_in_training="no",
        model=Model(name="first", step=5, digest="d", data="f", deepcoro="0"),
        films=[film],
        findings=FINDINGS,
        seconds=Seconds(decode=1.0, model=1.0),
    )
    entry = Entry("c", "s", "p", "film.dcm", "1.2.3", "MRN", str(tmp_path / "film.dcm"))
    _write_report(tmp_path, answer, [entry])
    return tmp_path / "s.dcm"


def test_a_report_says_class_call_recalibration_threshold_unit_and_what_a_score_speaks_for(path):
    fixed = {"recalibrated probability": 0.55, "threshold": 0.3}
    assert said_in(pydicom.dcmread(path)) == {
        "probe/cto": (0.4, {"call": "abstained", **fixed}),
        "probe/stent": (0.0, {"call": "negative", **fixed}),
        "probe/calcif": (
            0.5,
            {"threshold fixed on": "films", "threshold": 0.3, "films called positive": 2.0},
        ),
        "probe/thrombus": (0.2, {}),
        "probe/dominance": ("left", {"probability": 0.7}),
        "probe/lvef": ("60 %", {}),
        "probe/syntax": (12.0, {}),
        "zero_shot/side": (-0.1, {"higher means": "side = right"}),
    }


@NEEDS_DCMTK
def test_another_reader_takes_classes_and_properties(path):
    shown = dumped(path)
    assert '"probe/dominance")=(left' in shown and '"call")=(abstained' in shown
