"""Numbers as people read them: no minus before a zero, on any page."""

import re
from pathlib import Path

import pytest

from deepcoro import numerals
from deepcoro.bank import FoundReport, Reading
from deepcoro.inference.opened import OpenedStudy
from deepcoro.inference.prediction import Finding, Model, Seconds, StudyAnswer
from deepcoro.inference.study_page import study_page
from deepcoro.sample import StudyRecord
from deepcoro.search import FoundFilm
from deepcoro.search_page import Search, search_lines, write_search_page
from deepcoro.tool import number_lines

PACKAGE = Path(numerals.__file__).parent
LEAST = -0.0002
MINUS_ZERO = re.compile(r"-0(?:\.0+)?(?![\d.])")


@pytest.mark.parametrize("show", [numerals.number, numerals.percent, numerals.fraction, numerals.place, numerals.signed])  # fmt: skip
@pytest.mark.parametrize("value", [-0.0, LEAST])
def test_what_rounds_to_zero_has_no_minus(show, value: float) -> None:
    assert not MINUS_ZERO.search(show(value))


def test_numbers_have_the_decimals_signs_and_dashes_asked_for() -> None:
    assert [numerals.number(each) for each in (-0.0, 12345.0, -1.5, None)] == ["0", "12,345", "-1.500", "–"]
    assert [numerals.signed(each) for each in (LEAST, 0.25, -1.5)] == ["+0.000", "+0.250", "-1.500"]
    assert [numerals.significant(each) for each in (-0.0, LEAST, 54.321)] == ["0", "-0.0002", "54.32"]
    assert numerals.decimals(float("nan")) == numerals.signed(float("inf")) == "–"


def test_the_page_of_a_study_shows_no_minus_zero() -> None:
    finding = Finding(name="cto", kind="zero_shot", score=LEAST, lowest=LEAST, highest=0.01, num_films=2)
    answer = StudyAnswer(
        study="s",
        patient=None,
        patient_in_training="unknown",
        model=Model(name="run", step=1, digest="abcd", data="ef01", deepcoro="0"),
        films=[],
        findings=[finding],
        seconds=Seconds(decode=1, model=1),
    )
    page = study_page(answer, OpenedStudy(StudyRecord(study="s", clips=[]), []))
    assert ">+0.000<" in page and not MINUS_ZERO.search(page.partition("<h2>Findings</h2>")[2])


def test_a_search_shows_no_minus_zero(tmp_path: Path) -> None:
    film = FoundFilm("s0.000", "test", LEAST)
    near, reading = FoundReport("x", LEAST, 2), Reading("lvef", LEAST, 3, -0.0)
    search = Search(
        9, "step 1 (a)", film=film, films=[film], reports=[near], readings=[reading], num_neighbours=5
    )
    shown = [write_search_page(tmp_path / "a.html", search).read_text().partition("<main>")[2]]
    assert not MINUS_ZERO.search("".join([*shown, *search_lines(search)]))


def test_a_command_prints_no_minus_zero() -> None:
    (line,) = number_lines({"bias": -0.00002, "bias_ci_low": -0.00001, "bias_ci_high": 0.25})
    assert line.split()[1:] == ["0.0000", "(0.0000", "to", "0.2500)"]


def test_signs_are_written_in_one_place() -> None:
    """A format of its own, in a page or a table, would show a minus before a zero again."""
    others = [path for path in (*PACKAGE.rglob("*.py"), *PACKAGE.rglob("templates/*")) if path.name != "numerals.py"]  # fmt: skip
    assert [path.name for path in others if re.search(r"[%:]\+\.?\d?", path.read_text())] == []
