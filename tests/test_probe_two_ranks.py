"""Heads evaluated on two ranks, one of them with fewer studies or none in the last batch: to the last digit what one process says."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.launch import CONSTANT_LR, main_on_rank, main_on_this_rank
from tests.ranks import Ranks
from tests.test_probe_run import HEADS, folder_of

pytestmark = pytest.mark.slow

SPLITS = ["train"] * 4 + ["val"] * 5 + ["test"] * 7
FEW = ", ".join(
    f"{name}: {{bootstrap_samples: 20}}" for name in ("classification", "regression", "calibration")
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("uneven") / "shards", SPLITS, True)


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step, so that heads say something."""
    run_dir = tmp_path_factory.mktemp("two_ranks") / "trained"
    assert main_on_this_rank("ddp", *words(shards, run_dir), "max_steps=1") == 0
    return run_dir


def words(shards: Path, run_dir: Path) -> list[str]:
    return [
        *("demo/tiny_probe", f"data.shards={shards}", f"run_dir={run_dir}", *CONSTANT_LR),
        *(HEADS.replace("\n", " "), "pooler={type: attention, hidden_dim: 8}", f"evaluate.metrics={{{FEW}}}"),
        # films of a study that differ in number, and an interval a patient
        *("evaluate.by_min_patients=1", "evaluate.by=[dominance]", "checkpoint=last"),
    ]


def evaluated(run_dir: Path) -> dict[str, Any]:
    """What val, test and inference left: numbers, thresholds, tables, what was said of each row."""
    found: dict[str, Any] = {}
    for split in ("val", "test"):
        record = json.loads((run_dir / "results" / f"shards_{split}.json").read_text())
        kept = ("metrics", "notes", "data_summary", "patient_overlap")
        found |= {f"{split} {key}": record[key] for key in kept}
        found[f"{split} table"] = (run_dir / "predictions" / f"shards_{split}.csv").read_text()
        with np.load(run_dir / "predictions" / f"shards_{split}_scored.npz", allow_pickle=False) as scored:
            found[f"{split} scored"] = {name: scored[name].tobytes() for name in scored.files}
    found["inference table"] = (run_dir / "inferred.csv").read_text()
    (thresholds,) = (run_dir / "calibration").glob("*.json")
    return found | {"thresholds": json.loads(thresholds.read_text())["heads"]}


@pytest.mark.parametrize("batch_size", [2, 3])
def test_two_ranks_measure_heads_to_the_last_digit_as_one_process_does(
    trained: Path, shards: Path, two_ranks: Ranks, tmp_path: Path, batch_size: int
) -> None:
    """Of five and seven studies in batches of two or three a rank: the last batch leaves a rank without any, or with fewer."""
    for name in ("one", "two"):
        shutil.copytree(trained, tmp_path / name)
    for mode in ("inference", "val", "test"):
        more = (f"run_mode={mode}", f"evaluate.batch_size={batch_size}", "inference.splits=[test]")
        assert main_on_this_rank("ddp", *words(shards, tmp_path / "one"), *more) == 0
        assert two_ranks.run(main_on_rank, "ddp", *words(shards, tmp_path / "two"), *more) == [0, 0]
        if mode == "inference":
            for name in ("one", "two"):
                (tmp_path / name / "predictions" / "shards_test.csv").rename(tmp_path / name / "inferred.csv")
    one, two = evaluated(tmp_path / "one"), evaluated(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, expected in one.items():
        assert two[name] == expected, name
    for name in ("test table", "inference table"):
        assert one[name].count("\n") == 1 + SPLITS.count("test")
    assert {"linear_probing/cto/auroc", "linear_probing/lvef/mae"} <= one["test metrics"].keys()
    assert any(name.endswith("cto/sensitivity") for name in one["test metrics"])
