"""The page beside the shards says what is in them, and shows no name, path or text."""

import re
from dataclasses import replace

import numpy as np
import pytest

from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.grammar import render
from deepcoro.config import DataError
from deepcoro.data.datasheet import DATASHEET, render_datasheet, write_datasheet
from deepcoro.data.manifest import Encoding, read_splits
from deepcoro.data.withdrawal import withdraw
from deepcoro.data.writer import write_dataset
from deepcoro.ingest.film import Rejection
from tests.data.studies import SMALL, make_studies

LABELS = ["cto", "dominance", "lad_stenosis", "lvef"]


@pytest.fixture
def folder(tmp_path):
    studies = make_studies(tmp_path / "TREMBLAY", 6)
    labelled = []
    for number, study in enumerate(studies):
        labels = (("cto", float(number % 2)), ("dominance", ("left", "right", None)[number % 3]), ("lad_stenosis", 15.0 * number), ("lvef", None if number else 60.0))  # fmt: skip
        films = tuple(replace(film, labels=labels, text="Lavoie <b>normal</b>.") for film in study.films)
        labelled.append(replace(study, films=films))
    labelled[5].films[0].path.unlink()
    settings = SMALL.model_copy(update={"label_columns": LABELS, "split_rule": "drawn 80/10/10"})
    write_dataset(labelled, tmp_path / "out", settings, [Rejection(13, None, "duplicate_film: row 1")])
    return tmp_path / "out"


def cells(page: str, first: str) -> list[str]:
    """Text of the cells of the table row that begins with `first`."""
    row = next(row for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL) if f"<td>{first}</td>" in row)
    return [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL)]


def test_the_page_counts_what_the_folder_holds(folder):
    page = write_datasheet(folder).read_text()
    assert "11 films of 6 studies, 6 patients" in page and "drawn 80/10/10" in page
    assert cells(page, "train")[1:5] == ["3", "3", "6", "54.5 %"]
    assert cells(page, "cto")[1:7] == ["5", "11", "0.0 %", "45.5 %", "0.0 %", "100.0 %"]
    assert cells(page, "dominance = left")[1:4] == ["4", "8", "27.3 %"]
    assert cells(page, "lad_stenosis &gt;= 70")[1:3] == ["1", "11"]
    assert cells(page, "lvef")[1:4] == ["2", "9", "60"]
    assert cells(page, "missing_file") == ["missing_file", "failed", "1", "1"]
    assert cells(page, "duplicate_film")[1:3] == ["skipped", "1"]
    assert "1 texts are distinct" in page
    assert page.count("<circle") == 11 and page.count('src="data:image/jpeg;base64,') == 6


def test_the_page_names_nobody_and_asks_no_network(folder):
    page = write_datasheet(folder).read_text()
    for secret in ("TREMBLAY", "Lavoie", ".npy", str(folder)):
        assert secret not in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page) and "default-src 'none'" in page


def test_the_same_folder_gives_the_same_page_and_examples_are_as_many_as_asked(folder):
    assert render_datasheet(folder, 2) == render_datasheet(folder, 2)
    assert render_datasheet(folder, 2).count("<figure>") == 2
    assert "<h2>Example films" not in render_datasheet(folder, 0)


def test_a_folder_without_labels_texts_or_angles_has_a_page_too(tmp_path):
    studies = [
        replace(study, patient=None, films=tuple(replace(film, text=None, primary_angle_deg=None, labels=()) for film in study.films))
        for study in make_studies(tmp_path / "films", 2)
    ]  # fmt: skip
    settings = SMALL.model_copy(update={"label_columns": [], "encoding": Encoding(type="lossless")})
    write_dataset(studies, tmp_path / "out", settings)
    page = write_datasheet(tmp_path / "out").read_text()
    for told in (
        "No label columns.",
        "No texts.",
        "Every row gave a film.",
        "Patient split unverifiable",
        "lossless (zstd)",
    ):
        assert told in page
    assert "<circle" not in page and page.count("<figure>") == 2


def test_a_page_that_may_show_a_withdrawn_patient_is_removed(folder):
    write_datasheet(folder)
    withdraw(folder, read_splits(folder)[0].patient)
    assert not (folder / DATASHEET).exists()
    assert "5 studies, 5 patients" in write_datasheet(folder).read_text()


def test_texts_that_say_the_same_of_the_tree_are_counted_before_any_run(tmp_path):
    """Two wordings of one set of findings, one of another, and a text that the grammar does not read; a film has its study's."""
    left = SideFindings("left", "right", (Lesion("mid_lad", 75), Lesion("D1", 40)), normal=("left_main",))
    texts = [
        render(left),
        render(left, "french", np.random.default_rng(0)),
        render(SideFindings("right", no_significant_stenosis=True)),
        "Lavoie, see the letter.",
    ]
    studies = [
        replace(study, films=tuple(replace(film, text=text) for film in study.films))
        for study, text in zip(make_studies(tmp_path / "films", 4), texts, strict=True)
    ]
    write_dataset(studies, tmp_path / "out", SMALL)
    page = write_datasheet(tmp_path / "out", 0).read_text()
    assert "The 4 studies looked at have 4 distinct texts." in page
    assert "findings in 3 of them: 2 different sets of tree, segment and severity; 2 texts have a set" in page
    assert cells(page, "left/D1/mild, left/mid_lad/severe")[1:] == ["2"]
    assert "no narrowing" not in page and "Lavoie" not in page
    withdraw(tmp_path / "out", read_splits(tmp_path / "out")[0].patient)
    page = write_datasheet(tmp_path / "out", 0).read_text()
    assert "The 3 studies looked at have 3 distinct texts." in page


def test_without_a_data_set_there_is_no_page(tmp_path):
    with pytest.raises(DataError, match="holds no manifest"):
        write_datasheet(tmp_path)
    assert not (tmp_path / DATASHEET).exists()
