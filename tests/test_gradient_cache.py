"""Accumulation with the gradient cache is one large batch: the same loss and gradients as a dense step of one process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepcoro import distributed
from deepcoro.build import build_model, build_parts
from deepcoro.config import find_config
from deepcoro.data.order import Shuffled
from deepcoro.data.plan import Plan
from deepcoro.data.stream import TrainingStream
from deepcoro.engine import Engine, start_accelerator
from deepcoro.features import Features
from deepcoro.optim import build_optimizer
from deepcoro.run_config import RunConfig, load_run_config
from deepcoro.step import train_step
from tests.launch import SILENT, STEADY, as_launched, tiny
from tests.ranks import Ranks

ROWS = 8
# With micro-batches of two rows the second has none that is valid, and the third one.
BAD = (2, 3, 5)
LOSSES = ("clip", "siglip")
WEIGHTS = {"contrastive": 0.7, "squares": 1.0}
# nothing is scaled down: the first moments after one step then hold the gradient
UNCLIPPED = ("optim.max_grad_norm=1e9",)


@dataclass(frozen=True)
class Step:
    """One optimiser step, read back."""

    losses: dict[str, float]
    metrics: dict[str, float]
    gradients: dict[str, Tensor]


class Squares(nn.Module):
    """Another objective, of the dense and of the sparse pass; it draws random numbers, as masking does."""

    reads = frozenset({"clips", "visible"})

    def __init__(self, dim: int):
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 2, dim))

    def shown_units(self, batch: dict[str, Any], num_clips: int) -> Tensor:
        torch.rand(7)
        return torch.zeros(num_clips, 1, dtype=torch.int64)

    def forward(self, features: Features, batch: dict[str, Any]) -> dict[str, Tensor]:
        rows = [
            (each.aggregate() * self.gain).square().mean(dim=1) for each in (features.clips, features.visible)
        ]
        return {"sum": (sum(rows) * batch["valid"]).sum().reshape(1)}

    def count(self, batch: dict[str, Any]) -> Tensor:
        return batch["valid"].sum().reshape(1)


def config_of(shards: Path, run_dir: Path, *words: str) -> RunConfig:
    name, *overrides = tiny(shards, run_dir, *SILENT, *UNCLIPPED, *words)
    return load_run_config(find_config(name), overrides)


def cut(world_size: int, accumulation: int) -> tuple[str, str]:
    """Words that cut the eight rows so."""
    return (
        f"batch_size={ROWS // world_size // accumulation}",
        f"gradient_accumulation_steps={accumulation}",
    )


def prepared(config: RunConfig, dtype: torch.dtype, with_squares: bool) -> tuple[Engine, list[dict]]:
    """The engine and this rank's first window; rows at BAD positions could not be read."""
    accelerator = start_accelerator(config)
    parts = build_parts(config, make_tokenizer=True)
    units = parts.shards.units("train", False, 1)
    plan = Plan(
        Shuffled(units.shard, config.seed),
        config.batch_size,
        config.gradient_accumulation_steps,
        accelerator.process_index,
        accelerator.num_processes,
    )
    batches = iter(TrainingStream(parts.shards, units, parts.fields, plan))
    window = [next(batches) for _ in range(config.gradient_accumulation_steps)]
    for batch in window:
        batch["valid"] &= ~torch.isin(batch["position"], torch.tensor(BAD))
    model = build_model(config, parts)
    if with_squares:
        model.objectives["squares"] = Squares(model.towers["video"].dim)
    return Engine(accelerator, model.to(dtype), build_optimizer(model, config.optim), config), window


def first_step(
    rank: int,
    engine_name: str,
    config: RunConfig,
    dtype: torch.dtype = torch.float32,
    with_squares: bool = False,
) -> Step:
    with as_launched(engine_name):
        engine, window = prepared(config, dtype, with_squares)
        lr = {group["name"]: 1e-3 for group in engine.optimizer.param_groups}
        weights = {name: WEIGHTS[name] for name in engine.model.objectives}
        record = train_step(engine, window, 0, lr, weights)
        total = {name: float(distributed.sum_over_ranks(each)) for name, each in record.sums.items()}
        losses = {name: total[name] / record.counts[name].item() for name in total}
        metrics = {name: float(value) for name, value in record.metrics.items()}
        return Step(losses, metrics, gradients_of(engine))


def gradients_of(engine: Engine) -> dict[str, Tensor]:
    """From AdamW's first moments, which every engine can tell, at its precision."""
    share = 1 - engine.config.optim.betas[0]
    return {
        name: engine._moment(parameter, "exp_avg").detach().clone() / share
        for name, parameter in engine.model.named_parameters()
        if parameter.requires_grad
    }


def assert_same(got: Step, wanted: Step, tolerance: float) -> None:
    """Each loss and gradient relative to itself, but no finer than the tolerance of the whole gradient's norm."""
    assert got.losses == pytest.approx(wanted.losses, rel=tolerance)
    norm = torch.stack([each.double().norm() for each in wanted.gradients.values()]).norm()
    assert got.gradients.keys() == wanted.gradients.keys()
    errors = {
        name: (got.gradients[name].double() - each.double()).norm() for name, each in wanted.gradients.items()
    }
    assert torch.stack(list(errors.values())).norm() <= tolerance * norm, errors
    for name in ("logit_scale", "logit_bias"):
        name = f"objectives.contrastive.{name}"
        if name in errors:
            assert errors[name] <= 2 * tolerance * wanted.gradients[name].abs().max(), name


@pytest.fixture(scope="module")
def cases(tiny_shards: Path, two_ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple, Step]:
    """(loss, ranks, accumulation) -> the step in fp64; other objectives beside."""
    folder, found = tmp_path_factory.mktemp("cache"), {}
    for loss in LOSSES:
        for ranks, accumulation in ((1, 1), (1, 4), (2, 1), (2, 4)):
            words = (*STEADY, *cut(ranks, accumulation), f"objectives.contrastive.loss.type={loss}")
            config = config_of(tiny_shards, folder, *words)
            arguments = ("ddp", config, torch.float64, True)
            step = first_step(0, *arguments) if ranks == 1 else two_ranks.run(first_step, *arguments)[0]
            found[loss, ranks, accumulation] = step
    return found


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 4), (2, 1), (2, 4)])
def test_loss_and_every_gradient_are_those_of_the_whole_batch(
    cases: dict, loss: str, ranks: int, accumulation: int
) -> None:
    wanted = cases[loss, 1, 1]
    assert_same(cases[loss, ranks, accumulation], wanted, 1e-12)
    names = ["towers.video", "towers.text", "objectives.contrastive.logit_scale", "objectives.squares.gain"]
    for name in [*names, "objectives.contrastive.logit_bias"][: 5 if loss == "siglip" else 4]:
        assert any(key.startswith(name) and each.abs().max() > 0 for key, each in wanted.gradients.items())


@pytest.mark.parametrize("loss", LOSSES)
def test_metrics_are_of_the_whole_window(cases: dict, loss: str) -> None:
    assert cases[loss, 1, 4].metrics == pytest.approx(cases[loss, 1, 1].metrics, rel=1e-6)


@pytest.mark.parametrize("engine", ["ddp", "zero1", "zero2", "zero3", "zero3_whole"])
def test_every_engine_takes_the_gradient_of_the_whole_batch(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path, cases: dict, engine: str
) -> None:
    words = (*STEADY, *cut(2, 4), "objectives.contrastive.loss.type=siglip")
    got = two_ranks.run(first_step, engine, config_of(tiny_shards, tmp_path, *words), torch.float32, True)
    assert_same(got[1], cases["siglip", 1, 1], 1e-5)
