"""Layer-wise decay of the learning rate in real runs: DDP and ZeRO on two ranks against one process, continued and logged."""

from pathlib import Path

import pytest
import torch

from deepcoro import checkpoint
from tests.launch import (
    CONSTANT_LR,
    SILENT,
    STEADY,
    losses,
    main_on_rank,
    main_on_this_rank,
    metrics,
    tiny,
)
from tests.ranks import Ranks

DECAY = ("optim.layer_decay=0.5", "optim.text_layer_decay=0.7", "optim.lr=0.003", *CONSTANT_LR)


def words(shards: Path, run_dir: Path, *more: str) -> list[str]:
    return tiny(shards, run_dir, *STEADY, *SILENT, *DECAY, *more)


def weights(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    return checkpoint.Checkpoint(run_dir / "checkpoints" / f"step_{step}").weights()


@pytest.fixture(scope="module")
def one_process(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("layer_decay") / "one"
    assert main_on_this_rank("ddp", *words(tiny_shards, run_dir, "max_steps=4", "batch_size=8")) == 0
    return run_dir


def test_every_layer_is_logged_under_its_name_with_its_rate(one_process: Path) -> None:
    line = metrics(one_process)[0]
    video = {key: value for key, value in line.items() if key.startswith("lr/video/")}
    assert video == {
        f"lr/video/layer_{number:02d}": pytest.approx(0.003 * 0.5 ** (4 - number)) for number in range(5)
    }
    assert line["lr/text/layer_00"] == pytest.approx(0.003 * 0.7)  # embedding and one block, no norm above
    assert line["lr/default"] == pytest.approx(0.003)


@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3"])
def test_two_ranks_decay_as_one_process_and_a_continued_run_goes_on_the_same(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path, one_process: Path, engine: str
) -> None:
    for max_steps in (2, 4):
        run = words(tiny_shards, tmp_path, f"max_steps={max_steps}")
        assert two_ranks.run(main_on_rank, engine, *run) == [0, 0]
    assert losses(tmp_path) == pytest.approx(losses(one_process), rel=1e-5)
    torch.testing.assert_close(weights(tmp_path, 4), weights(one_process, 4), rtol=1e-4, atol=1e-5)
