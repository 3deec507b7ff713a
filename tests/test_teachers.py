"""Teachers under every engine: the plain average of what the student was, step by step; and masked training is one training everywhere."""

from pathlib import Path

import pytest
import torch

from deepcoro.build import build_model, build_parts
from deepcoro.checkpoint import Checkpoint
from deepcoro.config import find_config
from deepcoro.run_config import load_run_config
from deepcoro.teachers import move_teachers, start_teachers
from tests.launch import SILENT, STEADY, losses, main_on_rank, main_on_this_rank, tiny
from tests.ranks import Ranks

TEACHER, STUDENT = "objectives.masked_modeling.teacher.encoder.", "towers.video."
MASKED = (
    "objectives={contrastive: {embed_dim: 32}, masked_modeling: {latent: ema, ema_momentum: 0.7, decoder_layers: 1, "
    "decoder_dim: 24, decoder_heads: 2}}",
    "loss_weights={masked_modeling: 0.5}",
    "checkpoint.every_steps=1",
    "checkpoint.keep=9",
    "max_steps=3",
)
ENGINES = ("ddp", "zero1", "zero2", "zero3", "zero3_whole")


@pytest.fixture(scope="module")
def alone(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process with the whole batch."""
    folder = tmp_path_factory.mktemp("alone")
    words = tiny(tiny_shards, folder, *STEADY, *SILENT, *MASKED, "batch_size=8")
    assert main_on_this_rank("ddp", *words) == 0
    return folder


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return Checkpoint(folder / "checkpoints" / f"step_{step}").weights()


def part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def assert_teacher_is_the_average(folder: Path, start: dict[str, torch.Tensor]) -> None:
    expected = start
    for step in (1, 2, 3):
        saved = weights(folder, step)
        student = part(saved, STUDENT)
        expected = {name: 0.7 * value + 0.3 * student[name] for name, value in expected.items()}
        torch.testing.assert_close(part(saved, TEACHER), expected, rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(value, start[name]) for name, value in expected.items())


def started(shards: Path, run_dir: Path) -> dict[str, torch.Tensor]:
    name, *overrides = tiny(shards, run_dir, *STEADY, *SILENT, *MASKED)
    config = load_run_config(find_config(name), overrides)
    return part(build_model(config, build_parts(config)).state_dict(), STUDENT)


def test_the_teacher_is_the_average_of_the_students(tiny_shards: Path, alone: Path) -> None:
    assert_teacher_is_the_average(alone, started(tiny_shards, alone))


@pytest.mark.parametrize("engine", ENGINES)
def test_two_ranks_train_masked_as_one_process_and_their_teacher_is_the_average(
    tiny_shards: Path, two_ranks: Ranks, alone: Path, tmp_path: Path, engine: str
) -> None:
    words = tiny(tiny_shards, tmp_path, *STEADY, *SILENT, *MASKED)
    assert two_ranks.run(main_on_rank, engine, *words) == [0, 0]
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-5)
    assert_teacher_is_the_average(tmp_path, started(tiny_shards, alone))
    torch.testing.assert_close(weights(tmp_path, 3), weights(alone, 3), rtol=1e-4, atol=1e-5)


def test_a_resumed_run_repeats_masks_and_teacher(tiny_shards: Path, alone: Path, tmp_path: Path) -> None:
    """A teacher that started anew, or other masks, would show in the third step."""
    words = tiny(tiny_shards, tmp_path, *STEADY, *SILENT, *MASKED, "batch_size=8", "optim.warmup_steps=0")
    whole, cut = (tmp_path / name for name in ("whole", "cut"))
    steady = "optim.final_lr_fraction=1.0"
    assert main_on_this_rank("ddp", *words, steady, f"run_dir={whole}") == 0
    for steps in (2, 3):
        assert main_on_this_rank("ddp", *words, steady, f"run_dir={cut}", f"max_steps={steps}") == 0
    assert losses(cut)[3] == losses(whole)[3]
    torch.testing.assert_close(weights(cut, 3), weights(whole, 3), rtol=0, atol=0)


def test_the_teacher_of_an_idle_objective_rests_and_becomes_the_student_when_it_begins(
    tiny_shards: Path, alone: Path
) -> None:
    name, *overrides = tiny(tiny_shards, alone, *STEADY, *SILENT, *MASKED)
    config = load_run_config(find_config(name), overrides)
    model = build_model(config, build_parts(config))
    before = {key: value.clone() for key, value in part(model.state_dict(), TEACHER).items()}
    with torch.no_grad():
        for parameter in model.towers["video"].parameters():
            parameter.add_(1)
    move_teachers(model, zero_stage=0, active={"contrastive"})
    torch.testing.assert_close(part(model.state_dict(), TEACHER), before, rtol=0, atol=0)
    start_teachers(model, ["contrastive", "masked_modeling"])
    state = model.state_dict()
    torch.testing.assert_close(part(state, TEACHER), part(state, STUDENT), rtol=0, atol=0)
