"""Training over several folders, tables and filters: what the run remembers, logs and refuses."""

import csv
import json
from pathlib import Path

import pytest

from deepcoro.checkpoint import Checkpoint
from deepcoro.data.film_table import read_films
from tests.launch import CONSTANT_LR, SILENT, STEADY, losses, main_on_rank, main_on_this_rank, metrics, tiny
from tests.ranks import Ranks

QUICK = (*SILENT, *STEADY, *CONSTANT_LR, "checkpoint.every_steps=2", "max_steps=2")


@pytest.fixture
def table(tiny_shards: Path, tmp_path: Path) -> Path:
    """A new label of every study, in the order of their ids."""
    studies = sorted(set(read_films(tiny_shards, ["study"])["study"].to_pylist()))
    path = tmp_path / "labels.csv"
    path.write_text("study,grade\n" + "".join(f"{study},{n % 3}\n" for n, study in enumerate(studies)))
    return path


def test_a_balanced_filtered_run_with_a_table_says_what_it_drew_and_from_what(
    tiny_shards: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run_dir = tmp_path / "run"
    words = ("data.balance=label", "data.balance_by=grade", "data.where=grade != 2", f"data.tables=[{table}]")
    assert main_on_this_rank("ddp", *tiny(tiny_shards, run_dir, *QUICK, *words)) == 0
    last = metrics(run_dir)[-1]
    assert last["data/grade/0/drawn"] == last["data/grade/1/drawn"] == last["step"] * 2
    record = json.loads((run_dir / "data.json").read_text())
    [joined] = record["tables"]
    assert joined["name"] == "labels.csv" and joined["matched"] == joined["rows"]
    assert record["where"] == "grade != 2" and record["splits"]["train"]["dropped"] > 0
    assert str(tmp_path) not in (run_dir / "data.json").read_text()
    saved = Checkpoint(run_dir / "checkpoints" / "step_2").state()["data"]
    assert saved["tables"] == record["tables"] and saved["fingerprint"] == record["fingerprint"]
    assert "data.where keeps" in capsys.readouterr().err


def test_a_run_goes_on_where_its_table_moved_and_not_where_it_changed(
    tiny_shards: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = tiny(tiny_shards, tmp_path / "run", *QUICK)
    assert main_on_this_rank("ddp", *words, f"data.tables=[{table}]") == 0
    moved = table.rename(tmp_path / "moved.csv")
    assert main_on_this_rank("ddp", *words, f"data.tables=[{moved}]", "max_steps=3") == 0
    moved.write_text(moved.read_text().replace(",0\n", ",1\n"))
    assert main_on_this_rank("ddp", *words, f"data.tables=[{moved}]", "max_steps=4") == 2
    assert "trained with fingerprint" in capsys.readouterr().err
    moved.write_text("study,grade\nACC-17,1\n")
    assert main_on_this_rank("ddp", *words, f"data.tables=[{moved}]", "max_steps=4") == 2
    assert "tools/relink.py --to_keyed" in capsys.readouterr().err


def test_a_patient_whom_a_table_puts_in_two_splits_stops_the_run_before_it_starts(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    films = read_films(tiny_shards, ["study", "patient"]).to_pylist()
    studies: dict[str, set[str]] = {}
    for film in films:
        studies.setdefault(film["patient"], set()).add(film["study"])
    patient, (one, other, *_) = next((who, sorted(each)) for who, each in studies.items() if len(each) > 1)
    table = tmp_path / "splits.csv"
    table.write_text(f"study,Split\n{one},train\n{other},test\n")
    words = tiny(tiny_shards, tmp_path / "run", *QUICK, f"data.tables=[{table}]")
    assert main_on_this_rank("ddp", *words) == 2
    message = capsys.readouterr().err
    assert "train and test share 1" in message and patient not in message


def mixed(shards: Path, other: Path, run_dir: Path, *words: str) -> list[str]:
    sources = f"data.sources={{a: {{shards: {shards}, weight: 0.75}}, b: {{shards: {other}, weight: 0.25}}}}"
    return ["demo/tiny", f"run_dir={run_dir}", sources, *QUICK, *words]


def test_two_ranks_draw_from_weighted_sources_what_one_draws_and_go_on_from_it(
    tiny_shards: Path, other_shards: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    alone = mixed(tiny_shards, other_shards, tmp_path / "alone", "batch_size=8", "max_steps=4")
    assert main_on_this_rank("ddp", *alone) == 0
    last = metrics(tmp_path / "alone")[-1]
    assert (last["data/a/drawn"], last["data/b/drawn"]) == (24.0, 8.0)
    two = tmp_path / "two"
    assert main_on_this_rank("ddp", *mixed(tiny_shards, other_shards, two, "batch_size=8")) == 0
    on_two = mixed(tiny_shards, other_shards, two, "batch_size=4", "max_steps=4")
    assert two_ranks.run(main_on_rank, "ddp", *on_two) == [0, 0]
    assert losses(two) == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
    assert metrics(two)[-1]["data/b/epoch"] == last["data/b/epoch"]


def test_evaluation_over_sources_names_the_source_of_every_row(
    tiny_shards: Path, other_shards: Path, tmp_path: Path
) -> None:
    words = mixed(tiny_shards, other_shards, tmp_path / "run")
    assert main_on_this_rank("ddp", *words) == 0
    assert main_on_this_rank("ddp", *words, "run_mode=test") == 0
    [path] = (tmp_path / "run" / "predictions").glob("a+b_test.csv")
    rows = list(csv.DictReader(path.open()))
    films = {name: len(read_films(folder)) for name, folder in (("a", tiny_shards), ("b", other_shards))}
    found = [row["label_source"] for row in rows]
    assert set(found) == set(films) and all(0 < found.count(name) < films[name] for name in films)
