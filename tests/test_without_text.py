"""Runs in which nobody reads texts: no tokenizer, no text tower, no field of texts, in every run mode and under every engine."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from deepcoro import command_line
from tests.launch import losses, main_on_rank, metrics
from tests.ranks import Ranks


def words(shards: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        *("demo/tiny", f"data.shards={shards}", f"run_dir={run_dir}", "max_steps=3", "batch_size=4"),
        "objectives={masked_modeling: {decoder_layers: 1, decoder_dim: 48}}",
        *("evaluate.best_metric_mode=min", "evaluate.best_metric=masked_modeling/error"),
        *("checkpoint.every_steps=1", "evaluate.num_examples=1", *more),
    ]


@pytest.fixture(scope="module")
def run_dir(other_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training on one process."""
    folder = tmp_path_factory.mktemp("no_text") / "run"
    assert command_line.main(words(other_shards, folder)) == 0
    return folder


def test_checkpoint_and_run_folder_hold_nothing_of_a_text_tower(run_dir: Path) -> None:
    weights = load_file(run_dir / "checkpoints" / "step_3" / "weights.safetensors")
    assert any(name.startswith("towers.video.") for name in weights)
    assert not [name for name in weights if name.startswith("towers.text")]
    assert not (run_dir / "tokenizer").exists()
    assert (run_dir / "report.html").is_file()
    lowest = min((line[key], line["step"]) for line in metrics(run_dir) for key in line if key == "val/masked_modeling/error")  # fmt: skip
    assert (run_dir / "checkpoints" / "best").read_text() == f"step_{lowest[1]}"


@pytest.mark.parametrize("run_mode", ["val", "test"])
def test_its_checkpoint_is_evaluated(run_dir: Path, other_shards: Path, run_mode: str) -> None:
    assert command_line.main(words(other_shards, run_dir, f"run_mode={run_mode}")) == 0
    assert list((run_dir / "predictions").glob(f"*_{run_mode}.csv"))


@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3_whole"])
def test_two_ranks_have_the_curve_of_one(
    run_dir: Path, other_shards: Path, two_ranks: Ranks, tmp_path: Path, engine: str
) -> None:
    given = words(other_shards, tmp_path, "batch_size=2")
    assert two_ranks.run(main_on_rank, engine, *given) == [0, 0]
    assert losses(tmp_path) == pytest.approx(losses(run_dir), rel=1e-5)
