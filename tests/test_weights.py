"""Weights to start from, named by file, checkpoint or run."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deepcoro.config import ConfigError
from deepcoro.weights import FILE, read_weights


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for step in (1, 2):
        folder = tmp_path / "checkpoints" / f"step_{step}"
        folder.mkdir(parents=True)
        state = {"towers.video.norm.weight": torch.tensor([float(step)]), "towers.text.x": torch.zeros(1)}
        save_file(state, folder / FILE)
    (tmp_path / "checkpoints" / "latest").write_text("step_2")
    return tmp_path


def test_a_run_gives_its_best_checkpoint_and_without_one_its_newest(run_dir: Path) -> None:
    assert read_weights(run_dir, "towers.video.") == {"norm.weight": torch.tensor([2.0])}
    (run_dir / "checkpoints" / "best").write_text("step_1")
    assert read_weights(run_dir, "towers.video.") == {"norm.weight": torch.tensor([1.0])}


def test_a_checkpoint_folder_and_a_file_are_read_as_they_are(run_dir: Path) -> None:
    folder = run_dir / "checkpoints" / "step_1"
    assert read_weights(folder, "towers.video.") == read_weights(folder / FILE, "towers.video.")


def test_a_torch_file_may_wrap_its_state_and_hold_one_tower_alone(tmp_path: Path) -> None:
    torch.save({"state_dict": {"norm.weight": torch.ones(1)}}, tmp_path / "tower.pt")
    assert read_weights(tmp_path / "tower.pt", "towers.video.") == {"norm.weight": torch.ones(1)}


def test_a_path_that_holds_no_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match="neither a file .* nor an exported folder, nor a checkpoint folder nor a run folder",
    ):
        read_weights(tmp_path, "towers.video.")
