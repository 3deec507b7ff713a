"""demo/tiny_probe from end to end, and 90 heads over studies with labels missing: the same curve and weights under every engine."""

import json
from pathlib import Path

import pytest
import torch

from deepcoro.checkpoint import Checkpoint
from deepcoro.run_record import last_start
from tests.launch import SILENT, losses, main_on_rank, main_on_this_rank, metrics
from tests.ranks import Ranks

SLOW = {"zero1", "zero2"}
ENGINES = [
    pytest.param(engine, marks=pytest.mark.slow if engine in SLOW else ())
    for engine in ("ddp", "zero1", "zero2", "zero3_whole")
]
KINDS = {"cto": "bce", "film": "focal", "dominance": "ce", "stenosis": "huber", "lvef": "mae"}
COLUMNS = {"film": "cto", "stenosis": "max_stenosis"}
HEADS = [f"{kind}_{number}" for kind in KINDS for number in range(18)]
NINETY = {
    "head_structure": {head: 3 if head.startswith("dominance") else 1 for head in HEADS},
    "loss_structure": {f"{kind}_*": loss for kind, loss in KINDS.items()},
    "head_weights": {"stenosis_*": 0.02, "lvef_*": 0.02},
    "head_column": {f"{kind}_*": COLUMNS.get(kind, kind) for kind in KINDS},
    "head_lr": {"cto_3": 2e-3},
    "head_weight_decay": {"cto_*": 0.0},
    "class_weights": {"cto_*": "balanced"},
    "labels_map": {"dominance_*": {"right": 0, "left": 1, "co": 2}},
    "level": {"film_*": "clip"},
}
# What films of a study disagree on is not assessed: most stenoses, a third of the occlusions.
WORDS = (
    *SILENT,
    f"objectives={json.dumps({'linear_probing': NINETY})}",
    *("data.fields.labels.conflict=drop", "pooler.view_dropout=0", "max_steps=3", "batch_size=2"),
)


def probe(shards: Path, run_dir: Path, *words: str) -> list[str]:
    return ["demo/tiny_probe", f"data.shards={shards}", f"run_dir={run_dir}", *words]


@pytest.fixture(scope="module")
def alone(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 heads on one process, with the studies of both ranks."""
    folder = tmp_path_factory.mktemp("ninety")
    assert main_on_this_rank("ddp", *probe(tiny_shards, folder, *WORDS, "batch_size=4")) == 0
    return folder


@pytest.mark.parametrize("engine", ENGINES)
def test_ninety_heads_train_on_two_ranks_as_on_one_under_every_engine(
    alone: Path, tiny_shards: Path, two_ranks: Ranks, tmp_path: Path, engine: str
) -> None:
    assert two_ranks.run(main_on_rank, engine, *probe(tiny_shards, tmp_path, *WORDS)) == [0, 0]
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-5)
    mine, theirs = (Checkpoint(each / "checkpoints" / "step_3").weights() for each in (tmp_path, alone))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert len([name for name in mine if name.endswith("linear.bias")]) == 90


def test_each_head_is_logged_without_its_weight(alone: Path) -> None:
    lines = [line for line in metrics(alone) if "train/loss" in line]
    of_heads = [{key for key in line if key.endswith("_loss")} for line in lines]
    assert {f"train/linear_probing/lvef_{number}_loss" for number in range(18)} <= of_heads[0]
    total = sum(
        loss * (0.02 if "stenosis" in key or "lvef" in key else 1.0)
        for key, loss in lines[0].items()
        if key.endswith("_loss")
    )
    assert lines[0]["train/linear_probing/loss"] == pytest.approx(total, rel=1e-5)


def test_gradients_of_two_micro_steps_are_those_of_one(
    alone: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    words = probe(tiny_shards, tmp_path, *WORDS, "gradient_accumulation_steps=2")
    assert main_on_this_rank("ddp", *words) == 0
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-5)


def test_the_shipped_probe_trains_and_is_evaluated(tiny_shards: Path, tmp_path: Path) -> None:
    assert main_on_this_rank("ddp", *probe(tiny_shards, tmp_path, "max_steps=2")) == 0
    assert main_on_this_rank("ddp", *probe(tiny_shards, tmp_path, "run_mode=val", "checkpoint=last")) == 0
    assert (tmp_path / "report.html").is_file()
    assert last_start(tmp_path)["conflicting_labels"]["train"]["max_stenosis"] > 0
    of_val = json.loads((tmp_path / "results" / "shards_val.json").read_text())
    assert of_val["conflicting_labels"]["max_stenosis"] > 0
    assert any("disagree on a label, the highest counts" in note for note in of_val["notes"])
    weights = Checkpoint(tmp_path / "checkpoints" / "step_2").weights()
    assert not [name for name in weights if name.startswith("towers.text.")]
    assert {
        name.split(".")[3] for name in weights if name.startswith("objectives.linear_probing.heads.")
    } == {*("cto", "film_cto", "dominance", "max_stenosis", "lvef")}
