"""Films with the prompts that the predecessor's tables give them."""

import pytest

from deepcoro.config import ConfigError, DataError
from deepcoro.ingest.prompts_table import with_prompts
from deepcoro.ingest.table import read_table, with_column

TEXTS = "text_id,prompt_text,prompt_type\nT1,severe stenosis of the mid LAD,abnormal\nT2,The left main is normal.,normal\n"


def films(tmp_path, ids, texts=TEXTS):
    (tmp_path / "texts.csv").write_text(texts)
    (tmp_path / "videos.csv").write_text(
        "FileName,study_id,positive_text_ids\n" + "".join(f"{n}.avi,s,{i}\n" for n, i in enumerate(ids))
    )
    return with_prompts(read_table(tmp_path / "videos.csv"), tmp_path / "texts.csv")


def test_a_film_has_its_prompts_as_sentences_and_one_without_has_no_report(tmp_path):
    table = films(tmp_path, ["T2|T1", "T1|T1", "", "x,too,many"])
    assert table.columns == ("FileName", "study_id", "positive_text_ids", "Report")
    assert [row and row["Report"] for row in table.rows] == [
        "The left main is normal. severe stenosis of the mid LAD.", "severe stenosis of the mid LAD.", None, None,
    ]  # fmt: skip
    assert table.rows[3] is None, "a malformed row stays one"
    assert table.picker(["Report", "FileName"])(table.rows[1])[1] == "1.avi"


def test_a_prompt_that_is_not_there_or_there_twice_is_an_error(tmp_path):
    with pytest.raises(DataError, match="row 2: 1 of its 2 prompts are not in --texts"):
        films(tmp_path, ["T1", "T1|T9"])
    with pytest.raises(DataError, match="row 3: its text_id is there twice"):
        films(tmp_path, ["T1"], TEXTS + "T1,again,normal\n")
    with pytest.raises(ConfigError, match="no column 'prompt_text'"):
        films(tmp_path, ["T1"], "text_id,text\nT1,x\n")


def test_prompts_need_their_column_and_a_table_without_reports(tmp_path):
    table = films(tmp_path, ["T1"])
    with pytest.raises(ConfigError, match="a column 'Report' already"):
        with_prompts(table, tmp_path / "texts.csv")
    (tmp_path / "plain.csv").write_text("FileName\na.avi\n")
    with pytest.raises(ConfigError, match="positive_text_ids"):
        with_prompts(read_table(tmp_path / "plain.csv"), tmp_path / "texts.csv")
    assert with_column(table, "Split", ["test"]).rows[0]["Split"] == "test"
