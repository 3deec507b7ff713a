"""The page that says whom a rule takes for whom, against counts made by hand."""

import re
from pathlib import Path
from unittest import mock

import pytest

from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.grammar import render
from deepcoro.build import Parts
from deepcoro.data.collection import Collection
from deepcoro.data.manifest import Encoding
from deepcoro.fields.report import Config as ReportConfig
from deepcoro.fields.texts import Config as TextsConfig
from deepcoro.positives_page import PAGE, write_positives
from deepcoro.run_config import RunConfig
from deepcoro.sample import Report
from tests.data.folder import moving_film, study_with, write_folder


def text_of(*lesions: tuple[str, int]) -> str:
    return render(SideFindings("left", lesions=tuple(Lesion(*each) for each in lesions)))


# two texts of one meaning, one that shares a finding with them, one of the grammar alone, one that it does not read, one twice
TEXTS = [
    *(text_of(("mid_lad", 75)), text_of(("mid_lad", 80)), text_of(("mid_lad", 72), ("D1", 30))),
    *(text_of(("om1", 95)), "Written <b>freely</b>.", text_of(("mid_lad", 75))),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reports = [[Report(scope="study", text=text)] for text in TEXTS] + [[]]
    studies = [
        study_with(f"study{number}", [moving_film(number, 2)], Encoding(), f"p{number}", reports=each)
        for number, each in enumerate(reports)
    ]
    return write_folder(tmp_path_factory.mktemp("page") / "shards", studies)


def page_of(shards: Path, run_dir: Path, rule: dict, field: object) -> str | None:
    config = RunConfig(
        data={"shards": shards}, run_dir=run_dir, objectives={"contrastive": {"positives": rule}}
    )
    parts = mock.Mock(spec=Parts, shards=Collection.open(config.data), fields={"report": field})
    path = write_positives(config, parts)
    return path and path.read_text()


def facts(page: str) -> dict[str, str]:
    return dict(re.findall(r"<tr><td>([^<]*)</td><td class=\"n\">([^<]*)</td></tr>", page))


def ruled(rule: dict) -> object:
    field = ReportConfig().build(mock.Mock())
    config = RunConfig(objectives={"contrastive": {"positives": rule}})
    field.describe = config.objectives["contrastive"].positives.describer(TEXTS)
    return field


def test_a_rule_is_shown_by_counts_and_pairs(shards, tmp_path):
    rule = {"type": "findings", "threshold": 0.4}
    page = page_of(shards, tmp_path, rule, ruled(rule))
    found = facts(page)
    assert found["Training samples looked at"] == "7 of 7"
    assert (found["with a text"], found["distinct texts"], found["distinct meanings"]) == ("6", "5", "4")
    assert found["texts that the rule reads nothing in (positives of equal ones only)"] == "1"
    assert found["texts without any other positive"] == "2"
    assert found["pairs of meanings that are positives"] == "1"
    # the two wordings have each other and the third, which has both
    quantiles = re.search(r"<tbody><tr>(<td class=\"n\">\d+</td>){5}</tr>", page).group(0)
    assert re.findall(r"\d+", re.sub("<[^>]*>", " ", quantiles)) == ["0", "0", "2", "2", "2"]
    examples = re.findall(r"<td class=\"n\">(\d\.\d\d)</td>", page)
    assert examples == ["1.00", "0.50"]
    assert "rule <strong>findings</strong>, threshold 0.4, details False" in page


def test_words_are_likened_too_and_texts_are_escaped(shards, tmp_path):
    rule = {"type": "similarity", "threshold": 0.05, "min_texts": 1}
    page = page_of(shards, tmp_path, rule, ruled(rule))
    assert int(facts(page)["pairs of meanings that are positives"]) > 3
    assert "<b>freely" not in page
    assert not re.search(r"(?:src|href)=\"(?!data:|report.html)", page)


def test_edges_are_shown_by_film(shards, tmp_path):
    (tmp_path / "texts.csv").write_text("text_id,prompt_text\nA,severe\nB,mild\nC,never\n")
    (tmp_path / "edges.csv").write_text("study,text_id,weight\nstudy0,A,1\nstudy0,B,0.25\nstudy3,B,1\n")
    tokenizer = mock.Mock()
    field = TextsConfig(texts=tmp_path / "texts.csv", edges=tmp_path / "edges.csv").build(tokenizer)
    page = page_of(shards, tmp_path, {"type": "report_id"}, field)
    found = facts(page)
    assert found["with an edge (the others take no part)"] == "2"
    assert found["distinct texts of the table"] == "3"
    assert found["of them positives of a sample looked at"] == "2"
    assert re.findall(r"<td class=\"n\">(\d\.\d\d)</td>", page) == ["1.00", "1.00", "0.25"]


def test_equal_reports_need_no_page(shards, tmp_path):
    assert page_of(shards, tmp_path, {"type": "report_id"}, ReportConfig().build(mock.Mock())) is None
    assert not (tmp_path / PAGE).exists()
