"""Reports, texts and edges out of label columns, and what edges weigh."""

import csv

import numpy as np
import pytest

from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.grammar import parse
from deepcoro.config import DataError
from deepcoro.ingest.built_reports import Sentence
from deepcoro.ingest.built_texts import texts_and_edges, weighted
from deepcoro.ingest.scrubber import Scrubber
from deepcoro.ingest.table import Table
from deepcoro.text_bank import TextBank
from tests.tools.command import call_tool

ROWS = """\
FileName,StudyInstanceUID,main_structure,status,leftmain_stenosis,mid_lad_stenosis,mid_lad_calcif,prox_rca_stenosis,prox_rca_cto,dominance
a.avi,s1,Left Coronary,diagnostic,0,80,severe,90,1,right
b.avi,s1,Right Coronary,diagnostic,0,80,severe,90,1,right
c.avi,s2,Left Coronary,diagnostic,,30,none,20,0,right
d.avi,s2,Left Coronary,PCI,,95,none,20,0,right
e.avi,s2,Left Coronary,diagnostic,,40,none,20,0,right
f.avi,s3,Femoral,diagnostic,0,0,none,0,0,right
"""


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    def call(*words):
        code, said, error = call_tool("build_texts", words, monkeypatch, capsys)
        return code, said + error

    (tmp_path / "labels.csv").write_text(ROWS)
    return call


def rows_of(path):
    return list(csv.DictReader(path.open()))


def test_a_film_is_told_of_its_tree_and_a_study_of_both(build, tmp_path):
    assert build(tmp_path / "labels.csv", "--output", tmp_path / "built")[0] == 0
    films = {row["FileName"]: row["Report"] for row in rows_of(tmp_path / "built" / "reports.csv")}
    left = SideFindings(
        "left", "right", (Lesion("mid_lad", 80, calcification="severe"),), normal=("left_main",)
    )
    assert parse(films["a.avi"], strict=True) == left
    assert parse(films["b.avi"], strict=True).lesions == (Lesion("prox_rca", 100, cto=True),)
    assert parse(films["c.avi"], strict=True).lesions == (Lesion("mid_lad", 40),), "the worst of its rows"
    assert films["e.avi"] == films["c.avi"]
    assert films["d.avi"] == films["f.avi"] == "", "in the middle of a PCI; no coronary artery"
    assert (
        rows_of(tmp_path / "built" / "reports.csv")[2]["mid_lad_calcif"] == "none"
    ), "cells stay as they are"
    assert build(tmp_path / "labels.csv", "--output", tmp_path / "study", "--scope", "study")[0] == 0
    studies = [row["Report"] for row in rows_of(tmp_path / "study" / "reports.csv")]
    assert studies[0] == studies[1] == f"{films['a.avi']} {films['b.avi']}"


def test_texts_and_edges_are_what_the_field_of_texts_reads(build, tmp_path, monkeypatch, capsys):
    assert build(tmp_path / "labels.csv", "--output", tmp_path / "built")[0] == 0
    texts, edges = (rows_of(tmp_path / "built" / f"{name}.csv") for name in ("texts", "edges"))
    text_of = {row["text_id"]: row for row in texts}
    said = {text_of[row["text_id"]]["prompt_text"] for row in edges if row["FileName"] == "b.avi"}
    assert said == {"Right-dominant circulation.", "Chronic total occlusion of the proximal RCA."}
    kinds = {row["prompt_text"]: row["prompt_type"] for row in texts}
    assert kinds["Severe stenosis (80 %) of the mid LAD."] == "stenosis_severe"
    assert not any("coronary artery" in text for text in kinds), "true of half of all films"
    key = tmp_path / "id.key"
    key.write_text("0123456789abcdef0123456789abcdef\n")
    key.chmod(0o600)
    words = ("--to_keyed", tmp_path / "built" / "edges.csv", "--label_columns", "text_id", "weight")
    words += ("--key_file", key, "--output", tmp_path / "keyed.csv")
    assert call_tool("relink", words, monkeypatch, capsys)[0] == 0
    bank = TextBank(tmp_path / "built" / "texts.csv", tmp_path / "keyed.csv")
    assert sorted(bank.texts) == sorted(kinds)


def test_ids_of_many_texts_are_not_taken_for_record_numbers():
    reports = [(Sentence(f"Text {number}.", "normal"),) for number in range(10_002)]
    cells = [f"{number}.avi" for number in range(len(reports))]
    table = Table(("FileName",), tuple({"FileName": cell} for cell in cells))
    texts, edges = texts_and_edges(table, ["FileName"], reports)
    scrubber = Scrubber()
    assert len({row["text_id"] for row in edges}) == len(texts) == 10_002
    assert all(scrubber.label("text_id", row["text_id"]) == row["text_id"] for row in texts[-2:])


def test_edges_weigh_by_the_effective_number_of_their_kind(build, tmp_path):
    edges = [{"text_id": "a"}] * 9 + [{"text_id": "b"}] * 2 + [{"text_id": "c"}]
    kinds = {"a": "normal", "b": "cto", "c": "thrombus"}
    made = [float(row["weight"]) for row in weighted(edges, kinds, 0.9, 100.0)]
    expected = np.array([1 / sum(0.9**k for k in range(count)) for count in [9] * 9 + [2] * 2 + [1]])
    np.testing.assert_allclose(made, expected / expected.max(), rtol=1e-5)
    capped = [float(row["weight"]) for row in weighted(edges, kinds, 0.9, 80.0)]
    assert capped[-1] == capped[-2] == 1 and capped[0] > made[0]
    assert {row["weight"] for row in weighted(edges, kinds, 0.0, 99.0)} == {"1"}
    with pytest.raises(DataError, match="1 of 2 edges"):
        weighted([{"text_id": "a"}, {"text_id": "x"}], kinds, 0.9, 99.0)
    (tmp_path / "texts.csv").write_text("text_id,prompt_text,prompt_type\na,No disease.,normal\nb,CTO.,cto\n")
    (tmp_path / "edges.csv").write_text("video_id,text_id,weight\nv1,a,1\nv2,a,1\nv2,b,1\n")
    words = (
        "--reweight",
        tmp_path / "edges.csv",
        "--texts",
        tmp_path / "texts.csv",
        "--beta",
        0.5,
        "--cap_percentile",
        100,
    )
    assert build(*words, "--output", tmp_path / "weighted")[0] == 0
    made = [float(row["weight"]) for row in rows_of(tmp_path / "weighted" / "edges.csv")]
    assert made == pytest.approx([2 / 3, 2 / 3, 1], rel=1e-5)


def test_what_cannot_be_built_is_refused_in_a_line(build, tmp_path):
    (tmp_path / "bare.csv").write_text("FileName,StudyInstanceUID\na.avi,s1\n")
    (tmp_path / "told.csv").write_text("FileName,StudyInstanceUID,Report,mid_lad_cto\na.avi,s1,CTO,1\n")
    (tmp_path / "odd.csv").write_text("FileName,StudyInstanceUID,side,mid_lad_cto\na.avi,s1,left,perhaps\n")
    output = ("--output", tmp_path / "built")
    for words, reason in (
        ((tmp_path / "bare.csv",), "no column speaks of a segment"),
        ((tmp_path / "told.csv",), "has reports already"),
        ((tmp_path / "odd.csv",), "mid_lad_cto"),
        ((), "give a table"),
        ((tmp_path / "bare.csv", "--beta", "1"), "0 <= beta < 1"),
        (("--reweight", tmp_path / "bare.csv"), "needs --texts"),
    ):
        code, said = build(*words, *output)
        assert code == 2 and reason in said, reason
    assert not (tmp_path / "built").exists()
