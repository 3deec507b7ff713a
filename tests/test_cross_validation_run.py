"""Two folds out of a table, trained, evaluated and pooled: figures are those of the runs' own results, and every row is there once."""

import csv
import json
from pathlib import Path

import pytest

from deepcoro import command_line
from tests.test_probe_run import CACHED, folder_of, words
from tests.tools.command import call_tool

SPLITS = ["train"] * 8 + ["val"] * 4
KEYS = [f"linear_probing/{key}" for key in ("cto/auroc", "cto/brier", "lvef/mae", "dominance/macro_auroc")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One run a fold, evaluated at its end."""
    folder = tmp_path_factory.mktemp("folds")
    shards = folder_of(folder / "shards", SPLITS, True)
    rows = [f"p{split}{number},{number // 6}" for number, split in enumerate(SPLITS)]
    (folder / "folds.csv").write_text("\n".join(["patient,fold", *rows, ""]))
    found = [folder / f"fold_{fold}" for fold in (0, 1)]
    for fold, run in enumerate(found):
        more = (CACHED, f"data.tables=[{folder / 'folds.csv'}]", "data.fold.column=fold", f"data.fold.held_out={fold}")  # fmt: skip
        assert command_line.main(words(shards, run, *more)) == 0
        assert command_line.main([str(run / "config.yaml"), "run_mode=val", "checkpoint=last"]) == 0
    return found


def test_the_runs_of_two_folds_are_pooled(runs: list[Path], tmp_path: Path, monkeypatch, capsys) -> None:
    words_of_tool = (*runs, "--output", tmp_path, "--bootstrap_samples", 20)
    code, out, _ = call_tool("pool_folds", words_of_tool, monkeypatch, capsys)
    assert code == 0
    with (tmp_path / "folds.csv").open() as file:
        lines = {row["measure"]: row for row in csv.DictReader(file)}
    for place, run in enumerate(runs):
        own = json.loads((run / "results" / "shards_val.json").read_text())["metrics"]
        for key in KEYS:
            assert float(lines[key][f"fold={place}"]) == pytest.approx(own[key]), key
    with (tmp_path / "out_of_fold.csv").open() as file:
        studies = {row["study"]: row["fold"] for row in csv.DictReader(file)}
    assert studies == {f"study{number}": str(number // 6) for number in range(12)}
    assert lines["linear_probing/lvef/mae"]["num_not_assessed"] == "4"
    assert "missing" not in out and "end of training" not in out


def test_a_fold_alone_that_was_not_evaluated_is_told_its_command(
    runs: list[Path], tmp_path: Path, monkeypatch, capsys
) -> None:
    for path in (runs[1] / "results").glob("*_val.json"):
        path.rename(tmp_path / path.name)
    code, _, err = call_tool("pool_folds", (*runs, "--output", tmp_path / "out"), monkeypatch, capsys)
    assert code == 2
    assert f"{runs[1] / 'config.yaml'} run_mode=val checkpoint=last` does that" in err
