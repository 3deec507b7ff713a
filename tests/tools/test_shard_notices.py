"""The closing words of tools/shard_dataset.py: what they tell of splits, reports and paths of one's own table, and that their advice works."""

import re
from pathlib import Path

import numpy as np
import pytest

from deepcoro.data import manifest as schema
from deepcoro.data.datasheet import DATASHEET
from deepcoro.data.film_table import read_films
from deepcoro.data.where import parse_where
from tests.data.studies import forbid_opening
from tests.tools.command import call_tool
from tests.tools.test_shard_dataset import make_rows, write_table


@pytest.fixture
def shard(tmp_path, monkeypatch, capsys):
    """Shards these rows into OUT and returns exit code, closing words and stderr."""
    (tmp_path / "id.key").write_text("0123456789abcdef0123456789abcdef\n")

    def shard(rows: list[dict], *words: object) -> tuple[int, str, str]:
        table = write_table(tmp_path / "data", rows)
        usual = (
            "--csv",
            table,
            "--output",
            tmp_path / "out",
            "--key_file",
            tmp_path / "id.key",
            "--workers",
            1,
        )
        return call_tool("shard_dataset", (*usual, *words), monkeypatch, capsys)

    return shard


def page(tmp_path: Path) -> str:
    return (tmp_path / "out" / DATASHEET).read_text().replace("&#39;", "'")


def test_films_without_a_report_are_counted_with_what_becomes_of_them(tmp_path, shard):
    rows = make_rows(tmp_path / "data")
    for number, empty in ((0, ""), (4, "None"), (5, "n/a")):
        rows[number]["Report"] = empty
    code, out, _ = shard(rows)
    told = "3 of 12 films have no report (studies without any: 1). That is unknown, not negative:"
    assert code == 0 and f"texts    {told}" in out and told in page(tmp_path)
    where = parse_where(re.search(r"data\.where='(.*?)'", out)[1])
    assert where.apply(read_films(tmp_path / "out")).films.sum() == 9


def test_a_report_on_every_film_and_on_none_are_told_apart(tmp_path, shard):
    rows = make_rows(tmp_path / "data")
    assert "texts  " not in shard(rows)[1]
    code, out, _ = shard([row | {"Report": ""} for row in rows], "--overwrite")
    assert code == 0 and "texts    No film has a report: contrastive learning" in out
    assert "No film has a report" in page(tmp_path)


def test_an_empty_split_is_told_once_and_the_advice_fills_it(tmp_path, shard, monkeypatch):
    rows = make_rows(tmp_path / "data")
    code, out, _ = shard([row | {"Split": "train"} for row in rows])
    assert code == 0
    for split, lacking in (("val", "nothing is measured while training"), ("test", "run_mode=test")):
        told = f"No film is in split '{split}': {lacking}"
        assert out.count(told) == 1 and page(tmp_path).count(told) == 1
        assert f"No row of the table says {split}, or no such row gave a film" in out
    forbid_opening(monkeypatch)
    code, out, err = shard(rows)
    assert code == 0 and "No film is in split" not in out + page(tmp_path), err


def test_a_split_whose_films_were_all_refused_is_empty_too(tmp_path, shard):
    rows = make_rows(tmp_path / "data")
    for number, row in enumerate(rows):
        if row["Split"] == "test":
            np.save(tmp_path / "data" / f"{number}.npy", np.zeros((24, 24), np.uint8))
    code, out, _ = shard(rows)
    assert code == 0 and "No film is in split 'test'" in out and "No film is in split 'val'" not in out


@pytest.mark.parametrize("split", ["test", "inference"])
def test_shards_for_evaluation_or_inference_alone_lack_nothing(tmp_path, shard, split):
    rows = [row | {"Split": split} for row in make_rows(tmp_path / "data", 4)]
    code, out, err = shard(rows, "--allow_constant_labels")
    assert code == 0 and "No film is in split" not in out, err


def test_few_patients_whom_the_draw_put_into_one_split_can_be_given_others(tmp_path, shard, monkeypatch):
    rows = make_rows(tmp_path / "data", 4, split=False)
    words = ("--allow_constant_labels",)
    code, out, _ = shard(rows, "--split_shares", "100/0/0", "--output", tmp_path / "one", *words)
    assert code == 0 and "No film is in split" not in out, "a share of 0 is meant"
    code, out, err = shard(rows, "--split_shares", "98/1/1", *words)
    assert code == 0 and "The draw put none of 2 there" in out, err
    forbid_opening(monkeypatch)
    split = ["train", "train", "val", "val"]
    code, out, err = shard([row | {"Split": each} for row, each in zip(rows, split, strict=True)], *words)
    assert code == 0 and schema.read_manifest(tmp_path / "out").counts.splits.keys() == {"train", "val"}, err
    assert "The table gives the split of each study" in out and "The table gives the split" in page(tmp_path)


def test_how_splits_were_drawn_is_told_and_more_rows_move_nobody(tmp_path, shard):
    rows = make_rows(tmp_path / "data", 24, split=False)
    assert shard(rows[:12], "--split_shares", "50/25/25")[0] == 0
    before = set(schema.read_splits(tmp_path / "out"))
    code, out, _ = shard(rows, "--split_shares", "50/25/25", "--overwrite")
    assert code == 0 and before < set(schema.read_splits(tmp_path / "out"))
    told = "drawn 50/25/25 (train/val/test, per cent) by a keyed hash of the patient, and of nothing else"
    assert told in out and told in page(tmp_path) and "Split column in the table wins" in out
    nameless = [{name: row[name] for name in row if name != "PatientID"} for row in rows]
    assert "of the patient (of the study, where no patient is named)" in shard(nameless, "--overwrite")[1]


def test_a_patient_in_two_splits_is_found_by_the_rows_of_the_table(tmp_path, shard):
    rows = [
        row | {"PatientID": f"P{number // 4}"} for number, row in enumerate(make_rows(tmp_path / "data", 20))
    ]
    code, _, err = shard(rows)
    assert code == 2
    assert "(test/train: 2 patient(s), test/val: 1 patient(s), train/val: 2 patient(s))" in err
    assert (
        "row 1 (train) and row 3 (val), row 5 (test) and row 7 (train), row 9 (val) and row 11 (test), ..."
        in err
    )
    assert "row 1 is the first under the header" in err and "P0" not in err


@pytest.mark.parametrize("start", ["D:\\films\\", "\\\\server\\films\\", "d:/films/"])
def test_paths_of_windows_are_told_with_what_to_do(tmp_path, shard, start):
    rows = make_rows(tmp_path / "data")
    of_windows = [row | {"FileName": start + row["FileName"]} for row in rows]
    code, _, err = shard(of_windows)
    assert (
        code == 2
        and "12 x missing_file; 12 paths are those of Windows" in err
        and str(tmp_path / "data") not in err
    )
    code, out, _ = shard([*of_windows[:4], *rows[4:]])
    assert code == 0 and "4 x missing_file (failed)\n         4 paths are those of Windows" in out
    assert "missing_file: a path of Windows" in (tmp_path / "out" / "rejected.csv").read_text()


def test_a_label_that_a_split_lacks_is_said_to_be_not_assessed(tmp_path, shard):
    rows = [
        row | {"cto": row["cto"] if row["Split"] == "train" else ""} for row in make_rows(tmp_path / "data")
    ]
    code, out, err = shard(rows, "--label_columns", "cto")
    assert code == 0 and re.search(r"cto: .*train 50\.0 % of \d+", out) and "val not assessed" in out, (
        out + err
    )
