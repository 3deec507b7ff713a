"""Averages of the weights: by hand from the weights of every step, under every engine, stopped and resumed, and read by what evaluates."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from deepcoro import averages
from deepcoro.build import build_model, build_parts
from deepcoro.checkpoint import Checkpoint
from deepcoro.config import find_config
from deepcoro.run_config import load_run_config
from deepcoro.weights import read_averages, read_weights
from tests.launch import METRICS, STEADY, losses, main_on_rank, main_on_this_rank, metrics, tiny
from tests.ranks import Ranks

STEPS = 3
UNIFORMITY = (
    f"evaluate.metrics={{{', '.join(f'{name}: false' for name in METRICS if name != 'alignment_uniformity')}, "
    "alignment_uniformity: {bootstrap_samples: 2}}",
    "evaluate.by=[]",
)
WORDS = (
    *(*STEADY, *UNIFORMITY, f"max_steps={STEPS}", "checkpoint.every_steps=1", "checkpoint.keep=9"),
    # the tower's lower half begins to train after the first step
    *("ema.decay=0.2", "optim.lr=0.01", "freeze=[{until_step: 1, video: 0.5}]"),
)
ENGINES = ("ddp", "zero2", "zero3_whole")


def saved(run_dir: Path, step: int) -> Checkpoint:
    return Checkpoint(run_dir / "checkpoints" / f"step_{step}")


@pytest.fixture(scope="module")
def runs(tiny_shards: Path, two_ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("averages")
    assert main_on_this_rank("ddp", *tiny(tiny_shards, folder / "alone", *WORDS, "batch_size=8")) == 0
    for engine in ENGINES:
        words = tiny(tiny_shards, folder / engine, *WORDS)
        assert two_ranks.run(main_on_rank, engine, *words) == [0, 0]
    return {name: folder / name for name in ("alone", *ENGINES)}


@pytest.fixture(scope="module")
def started(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights before the first step."""
    name, *overrides = tiny(tiny_shards, tmp_path_factory.mktemp("started"), *WORDS)
    config = load_run_config(find_config(name), overrides)
    return build_model(config, build_parts(config, make_tokenizer=True)).state_dict()


def by_hand(run_dir: Path, before: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of a parameter from when it begins to train."""
    kept: dict[str, torch.Tensor] = {}
    for step, share in zip(range(1, STEPS + 1), (2 / 11, 0.2, 0.2), strict=True):
        weights = saved(run_dir, step).weights()
        for name in read_averages(saved(run_dir, step).folder):
            kept[name] = share * kept.get(name, before[name]) + (1 - share) * weights[name]
        before = weights
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alone", *ENGINES])
def test_a_checkpoint_holds_the_averages_of_the_weights_of_every_step(
    runs: dict[str, Path], started: dict[str, torch.Tensor], name: str
) -> None:
    found = read_averages(saved(runs[name], STEPS).folder)
    moments = saved(runs[name], STEPS).moments()
    assert set(found) == {each.removesuffix("/exp_avg") for each in moments if each.endswith("/exp_avg")}
    assert set(read_averages(saved(runs[name], 1).folder)) < set(found), "some began to train later"
    torch.testing.assert_close(found, by_hand(runs[name], started), rtol=1e-5, atol=1e-7)
    weights = saved(runs[name], STEPS).weights()
    assert not torch.allclose(*(each["towers.video.norm.weight"] for each in (found, weights)), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_two_ranks_measure_averages_as_one_process_does(runs: dict[str, Path], engine: str) -> None:
    assert losses(runs[engine]) == pytest.approx(losses(runs["alone"]), rel=1e-5)
    found, alone = (evaluated(metrics(runs[name])) for name in (engine, "alone"))
    assert found and found == pytest.approx(alone, rel=1e-4, abs=1e-4)


def evaluated(lines: list[dict]) -> dict[str, float]:
    return {
        key.removeprefix("val/"): value
        for line in lines
        for key, value in line.items()
        if key.startswith("val/alignment_uniformity/") and "_ci_" not in key
    }


@pytest.mark.slow
def test_evaluation_by_itself_reads_what_evaluation_in_training_did(
    runs: dict[str, Path], tiny_shards: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(runs["zero3_whole"], tmp_path / "run")
    words = tiny(tiny_shards, run_dir, *WORDS, "run_mode=val", "checkpoint=last")
    assert main_on_this_rank("ddp", *words) == 0
    found = json.loads((run_dir / "results.json").read_text())
    in_training = evaluated(metrics(runs["zero3_whole"]))
    assert {key: found[key] for key in in_training} == pytest.approx(in_training, rel=1e-5, abs=1e-6)
    folder = saved(run_dir, STEPS).folder
    averaged = Checkpoint(folder).evaluated_weights()
    assert any(not torch.equal(value, averaged[name]) for name, value in Checkpoint(folder).weights().items())
    tower = read_weights(folder, "towers.video.")
    assert tower and all(
        torch.equal(value, averaged[f"towers.video.{name}"]) for name, value in tower.items()
    )


@pytest.mark.slow
def test_a_run_goes_on_with_its_averages_under_another_engine(
    runs: dict[str, Path], tiny_shards: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(runs["zero2"], tmp_path / "run")
    shutil.rmtree(run_dir / "checkpoints" / f"step_{STEPS}")
    words = tiny(tiny_shards, run_dir, *WORDS)
    assert two_ranks.run(main_on_rank, "zero3_whole", *words) == [0, 0]
    found, whole = (read_averages(saved(each, STEPS).folder) for each in (run_dir, runs["zero2"]))
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)


def test_without_a_decay_there_are_none(tiny_shards: Path, tmp_path: Path) -> None:
    words = tiny(tiny_shards, tmp_path, *WORDS, "ema.decay=null", "max_steps=1", "freeze=[]")
    assert main_on_this_rank("ddp", *words) == 0
    step = saved(tmp_path, 1)
    assert read_averages(step.folder) == {} and not [each for each in step.moments() if "average" in each]
    torch.testing.assert_close(step.evaluated_weights(), step.weights(), rtol=0, atol=0)


def test_an_average_forgets_its_start_soon_and_then_keeps_what_was_asked() -> None:
    assert [averages.decay_after(steps, 0.5) for steps in (1, 8, 1000)] == [2 / 11, 0.5, 0.5]
    kept, weights = [torch.zeros(2), torch.ones(3)], [torch.ones(2), torch.zeros(3)]
    averages.move(kept, weights, 0.75)
    assert [each.tolist() for each in kept] == [[0.25] * 2, [0.75] * 3]
