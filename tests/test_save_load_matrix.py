"""A checkpoint of any engine on one or two ranks is the same model under any other: weights and moments bit for bit, evaluation, what follows."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from deepcoro import checkpoint, train
from deepcoro.config import find_config
from deepcoro.engine import start_accelerator
from deepcoro.readings import read_numbers
from deepcoro.run_config import load_run_config
from deepcoro.run_state import Run
from deepcoro.step import train_step
from tests.launch import CONSTANT_LR, METRICS, STEADY, as_launched, main_on_rank, metrics, tiny
from tests.ranks import Ranks
from tools import export_encoder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ENGINES = ("ddp", "zero0", "zero1", "zero2", "zero3_whole")
PLACES = [(engine, world_size) for world_size in (1, 2) for engine in ENGINES]
SAVED_AT, STEPS = 2, 4
TEACHER = "objectives.masked_modeling.teacher.encoder."
# An EMA teacher is saved and loaded too; its loss shows whether it was.
WORDS = (
    *(*STEADY, *CONSTANT_LR, f"max_steps={STEPS}", f"checkpoint.every_steps={SAVED_AT}"),
    "objectives={contrastive: {embed_dim: 32}, masked_modeling: {latent: ema, ema_momentum: 0.7, decoder_layers: 1, "
    "decoder_dim: 24, decoder_heads: 2}}",
    "loss_weights={masked_modeling: 0.5}",
    f"evaluate.every_steps={SAVED_AT}",
    f"evaluate.metrics={{{', '.join(f'{name}: false' for name in METRICS if name != 'alignment_uniformity')}, "
    "alignment_uniformity: {bootstrap_samples: 2}}",
    "evaluate.by=[]",
)


@dataclass(frozen=True)
class Continued:
    """What a loader says of a checkpoint; weights and moments on rank 0 alone."""

    evaluation: dict[str, float]
    losses: list[float]
    weights: dict[str, torch.Tensor]
    moments: dict[str, torch.Tensor]


def words_of(shards: Path, run_dir: Path, world_size: int) -> list[str]:
    return tiny(shards, run_dir, *WORDS, f"batch_size={8 // world_size}")


def continued_from_each(rank: int, engine: str, words: list[str], folders: list[Path]) -> list[Continued]:
    name, *overrides = words
    config = load_run_config(find_config(name), overrides)
    with as_launched(engine):
        training = train._prepare(config, start_accelerator(config))
        return [_continued(training, checkpoint.Checkpoint(folder)) for folder in folders]


def _continued(training: Run, saved: checkpoint.Checkpoint) -> Continued:
    """As a phase begins: another engine, filled from the folder."""
    accelerator = training.engine.accelerator
    training.engine.release()
    train._build_engine(training, accelerator, saved)
    train._resume(training, saved)
    weights, moments = training.engine.full_weights(), training.engine.full_moments()
    heard = _Heard()
    train._evaluate(training, heard)
    batches, losses = iter(training.stream), []
    for step in range(SAVED_AT, STEPS):
        training.progress.step = step
        window = [next(batches)]
        weights_of_losses = training.timetable.loss_weights(step)
        record = train_step(training.engine, window, step, train._lr(training), weights_of_losses)
        losses.append(read_numbers(training, record, window)["train/loss"])
    return Continued(heard.numbers, losses, weights, moments)


class _Heard:
    """Stands for a tracker."""

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self.numbers = numbers

    def log_films(self, step: int, films: list) -> None:
        """None are asked for."""


@pytest.fixture(scope="module")
def groups(two_ranks: Ranks) -> Iterator[dict[int, Ranks]]:
    one = Ranks(1)  # under DeepSpeed a single process is a group, too
    yield {1: one, 2: two_ranks}
    one.end()


@pytest.fixture(scope="module")
def runs(
    tiny_shards: Path, groups: dict[int, Ranks], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, int], Path]:
    """Each place's own run, uninterrupted."""
    folder = tmp_path_factory.mktemp("matrix")
    made = {}
    for engine, world_size in PLACES:
        run_dir = made[engine, world_size] = folder / f"{engine}_{world_size}"
        words = words_of(tiny_shards, run_dir, world_size)
        assert groups[world_size].run(main_on_rank, engine, *words) == [0] * world_size
    return made


def saved_by(run_dir: Path) -> checkpoint.Checkpoint:
    return checkpoint.find(run_dir / "checkpoints", f"step_{SAVED_AT}")


def own(run_dir: Path) -> tuple[dict[str, float], list[float]]:
    """What the run that saved said itself: its evaluation at that step and the losses after it."""
    lines = metrics(run_dir)
    evaluation = {
        key: value
        for line in lines
        if line["step"] == SAVED_AT
        for key, value in line.items()
        if key.startswith("val/")
    }
    return evaluation, [
        line["train/loss"] for line in lines if line["step"] > SAVED_AT and "train/loss" in line
    ]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place[0]}-{place[1]}")
def test_every_checkpoint_is_the_same_model_wherever_it_is_loaded(
    tiny_shards: Path,
    groups: dict[int, Ranks],
    runs: dict[tuple[str, int], Path],
    tmp_path: Path,
    place: tuple[str, int],
) -> None:
    engine, world_size = place
    words = words_of(tiny_shards, tmp_path / "loader", world_size)
    folders = [saved_by(run_dir).folder for run_dir in runs.values()]
    answers: list[list[Any]] = groups[world_size].run(continued_from_each, engine, words, folders)
    for run_dir, continued in zip(runs.values(), answers[0], strict=True):
        saved = saved_by(run_dir)
        assert any(name.startswith(TEACHER) for name in continued.weights)
        torch.testing.assert_close(continued.weights, saved.weights(), rtol=0, atol=0)
        torch.testing.assert_close(continued.moments, saved.moments(), rtol=0, atol=0)
        evaluation, losses = own(run_dir)
        assert evaluation and continued.evaluation == pytest.approx(evaluation, rel=1e-6, abs=1e-6)
        assert continued.losses == pytest.approx(losses, rel=1e-5)


def test_every_checkpoint_exports_the_same_encoder(runs: dict[tuple[str, int], Path], tmp_path: Path) -> None:
    encoders = {}
    for place, run_dir in runs.items():
        folder = tmp_path / f"{place[0]}_{place[1]}"
        assert export_encoder.main([str(run_dir), str(folder), "--checkpoint", f"step_{SAVED_AT}"]) == 0
        encoders[place] = load_file(folder / "model.safetensors")
        weights = saved_by(run_dir).weights()
        of_tower = {name.removeprefix("towers.video."): value for name, value in weights.items()}
        for name, value in encoders[place].items():
            torch.testing.assert_close(value, of_tower[name], rtol=0, atol=0)
        shutil.rmtree(folder)
    first, *others = encoders.values()
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-4, atol=1e-5)
