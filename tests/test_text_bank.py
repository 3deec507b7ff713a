"""The tables of texts and edges as they come, and as they should not."""

import logging
from pathlib import Path

import pyarrow
import pytest

from deepcoro.config import ConfigError, DataError
from deepcoro.sample import ClipRecord, StudyRecord, text_id
from deepcoro.text_bank import TextBank

TEXTS = "text_id,prompt_text,soft_weight\nT1,severe stenosis of the mid LAD,1\nT2,No stenosis.,0.5\nT3,no  STENOSIS.,\n7,right dominance,\n"
EDGES = "clip,study,text_id,weight\na0,,T1,0.5\na0,,T2,0.8\n,a,7,\nb1,,T3,0.3\nb1,,T2,1\n"


def bank_of(folder: Path, edges: str = EDGES, texts: str = TEXTS) -> TextBank:
    (folder / "texts.csv").write_text(texts)
    (folder / "edges.csv").write_text(edges)
    return TextBank(folder / "texts.csv", folder / "edges.csv")


def study(key: str) -> StudyRecord:
    clips = [
        ClipRecord(clip=f"{key}{number}", member="000.mjpg", frame_offsets=[0, 1], height=8, width=8)
        for number in range(2)
    ]
    return StudyRecord(study=key, clips=clips)


def said(bank: TextBank, key: str, *clips: int) -> dict[str, float]:
    return {bank.texts[row]: weight for row, weight in bank.positives_of(study(key), clips).items()}


def test_an_edge_weighs_its_weight_times_its_texts_and_two_ids_of_one_text_are_one(tmp_path):
    bank = bank_of(tmp_path)
    assert bank.texts == ["severe stenosis of the mid LAD", "No stenosis.", "right dominance"]
    assert bank.ids == [text_id(text) for text in bank.texts]
    of_film = {"severe stenosis of the mid LAD": 0.5, "No stenosis.": 0.4, "right dominance": 1.0}
    assert said(bank, "a", 0) == pytest.approx(of_film)
    assert said(bank, "a", 1) == {"right dominance": 1.0}, "an edge of the study is of all its films"
    assert said(bank, "a", 0, 1) == said(bank, "a", 0)
    assert said(bank, "b", 0) == {}
    assert said(bank, "b", 1) == {"No stenosis.": 0.5}, "the heavier of 0.3 x 1 and 1 x 0.5"


def test_ids_listed_in_one_cell_are_edges_too(tmp_path):
    listed = bank_of(tmp_path, "clip,positive_text_ids\na0,T1 | T2|T1\na1,\nb1,7\n")
    assert said(listed, "a", 0) == {"severe stenosis of the mid LAD": 1.0, "No stenosis.": 0.5}
    assert said(listed, "a", 1) == {}
    assert said(listed, "b", 1) == {"right dominance": 1.0}


def test_texts_are_scrubbed(tmp_path, caplog):
    bank = bank_of(tmp_path, texts=TEXTS + "T9,Patient: John Smith has a stenosis,\n")
    assert "Smith" not in " ".join(bank.texts)
    assert "identifiers" in caplog.text


def films(*clips: str) -> list[pyarrow.Table]:
    return [pyarrow.table({"clip": list(clips), "study": [clip[0] for clip in clips]})]


def test_edges_of_other_films_are_counted_and_a_table_of_none_is_refused(tmp_path, caplog):
    bank = bank_of(tmp_path)
    with caplog.at_level(logging.INFO):
        bank.join(films("a0", "a1"))
    assert "1 of 2 ids in 'clip' are of no film of this run" in caplog.text
    assert "0 of 1 ids in 'study'" in caplog.text
    with pytest.raises(DataError, match="no edge is of a film of this run.*relink.py"):
        bank.join(films("c0"))


def test_edges_to_texts_that_are_not_there_are_counted(tmp_path, caplog):
    bank = bank_of(tmp_path, EDGES + "a1,,T77,1\n")
    assert "edges.csv: 1 edges name texts" in caplog.text
    assert said(bank, "a", 1) == {"right dominance": 1.0}
    with pytest.raises(DataError, match="none of its 1 edges names a text"):
        bank_of(tmp_path, "clip,text_id\na1,T77\n")


@pytest.mark.parametrize(
    ("texts", "edges", "kind", "message"),
    [
        ("text_id,text\nT1,x\n", EDGES, ConfigError, "texts.csv has no column prompt_text"),
        (TEXTS, "video_id,text_id\nv,T1\n", ConfigError, "no column clip or study.*relink.py --to_keyed"),
        (TEXTS, "clip,weight\na0,1\n", ConfigError, "no column text_id or positive_text_ids"),
        (TEXTS + "T1,again,\n", EDGES, DataError, "texts.csv, row 5: its text_id is there twice"),
        (TEXTS + "T8,,\n", EDGES, DataError, "row 5: 'prompt_text' is empty"),
        (TEXTS + ",x,\n", EDGES, DataError, "row 5: 'text_id' is empty"),
        (TEXTS + "T8,x,0\n", EDGES, DataError, "row 5: 'soft_weight' is 0; give numbers above 0, up to 1"),
        (TEXTS, EDGES + ",,T1,1\n", DataError, "edges.csv, row 6: it names no clip and no study"),
        (TEXTS, EDGES + "a0,,,1\n", DataError, "row 6: 'text_id' is empty"),
        (TEXTS, EDGES + "a0,,T1,1.7\n", DataError, "row 6: 'weight' is 1.7"),
        (TEXTS, EDGES + "a0,,T1,nan.\n", DataError, "row 6: 'weight' is no number"),
        (TEXTS, EDGES + "a0,,T1\n", DataError, "row 6: it has more or fewer cells"),
    ],
)
def test_bad_tables_are_named_by_row_and_column(tmp_path, texts, edges, kind, message):
    with pytest.raises(kind, match=message):
        bank_of(tmp_path, edges, texts)


def test_the_digest_is_of_what_both_tables_hold(tmp_path):
    one = bank_of(tmp_path)
    assert one.sha256 == bank_of(tmp_path).sha256
    assert one.sha256 != bank_of(tmp_path, EDGES + "b0,,T1,1\n").sha256
    assert one.sha256 != bank_of(tmp_path, texts=TEXTS + "T8,x,1\n").sha256
