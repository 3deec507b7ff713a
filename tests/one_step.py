"""One optimiser step of a run's model, on any cut of the same rows into ranks and micro-batches, read back to be compared."""

from collections.abc import Mapping
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
from deepcoro.data.stream import Fetch
from deepcoro.engine import Engine, start_accelerator
from deepcoro.features import Features
from deepcoro.optim import build_optimizer
from deepcoro.run_config import RunConfig, load_run_config
from deepcoro.step import train_step
from tests.launch import SILENT, STEADY, as_launched
from tests.ranks import Ranks

ROWS = 8
# With micro-batches of two rows the second has none that is valid, and the third one.
BAD = (2, 3, 5)
FINDINGS = "objectives.contrastive.positives={type: findings, threshold: 0.2}"
LOSSES = {
    "clip": ("demo/tiny", "objectives.contrastive.loss.type=clip"),
    "siglip": ("demo/tiny", "objectives.contrastive.loss.type=siglip"),
    "likened": ("demo/tiny", "objectives.contrastive.loss.type=clip", FINDINGS),
    # captions and masked modelling are of the second run; contrastive learning is siglip's there, by findings
    "multitask": ("demo/tiny_multitask", "objectives.contrastive.loss.type=siglip", FINDINGS),
}
"""What is trained: the config, and words for it."""
WEIGHTS = {"contrastive": 0.7, "squares": 1.0, "captioning": 0.5, "masked_modeling": 0.25}
# nothing is scaled down: the first moments after one step then hold the gradient
UNCLIPPED = ("optim.max_grad_norm=1e9",)


@dataclass(frozen=True)
class Cut:
    """How the rows of a step lie on ranks and micro-batches."""

    shares: tuple[tuple[int, ...], ...]
    """Rows of each micro-batch, of each rank."""

    @property
    def num_rows(self) -> int:
        return sum(map(sum, self.shares))

    def positions(self, rank: int) -> list[range]:
        """Of each micro-batch of a rank: all ranks' first micro-batches come first, as in training."""
        start, mine = 0, []
        for of_ranks in zip(*self.shares, strict=True):
            before = start + sum(of_ranks[:rank])
            mine.append(range(before, before + of_ranks[rank]))
            start += sum(of_ranks)
        return mine


def even(ranks: int, accumulation: int, rows: int = ROWS) -> Cut:
    return Cut(((rows // ranks // accumulation,) * accumulation,) * ranks)


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


def config_of(shards: Path, run_dir: Path, cut: Cut, *words: str, name: str = "demo/tiny") -> RunConfig:
    first = cut.shares[0]
    sizes = (f"batch_size={max(first)}", f"gradient_accumulation_steps={len(first)}")
    where = (f"data.shards={shards}", f"run_dir={run_dir}")
    return load_run_config(find_config(name), [*where, *SILENT, *UNCLIPPED, *sizes, *words])


def prepared(
    config: RunConfig, cut: Cut, dtype: torch.dtype, with_squares: bool
) -> tuple[Engine, list[dict]]:
    """The engine and this rank's first window; rows at BAD positions could not be read."""
    accelerator = start_accelerator(config)
    assert accelerator.num_processes == len(cut.shares)
    parts = build_parts(config, make_tokenizer=True)
    units = parts.shards.units("train", False, 1)
    plan = Plan(Shuffled(units.shard, config.seed), cut.num_rows)
    fetch = Fetch(parts.shards, units, parts.fields, config.seed)
    positions = cut.positions(accelerator.process_index)
    window = [fetch[[plan.row(position) for position in each]].batch for each in positions]
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
    cut: Cut,
    dtype: torch.dtype = torch.float32,
    with_squares: bool = False,
) -> Step:
    with as_launched(engine_name):
        engine, window = prepared(config, cut, dtype, with_squares)
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


class Steps:
    """First steps by what is trained, cut, form, number format and engine; another objective beside the contrastive one. Each is taken
    once, and one rank speaks for all.
    """

    def __init__(self, shards: Path, folder: Path, ranks: Mapping[int, Ranks]) -> None:
        self._shards, self._folder, self._ranks = shards, folder, ranks
        self._taken: dict[tuple, Step] = {}

    def __call__(
        self,
        loss: str,
        cut: Cut,
        form: str = "dense",
        dtype: torch.dtype = torch.float64,
        engine: str = "ddp",
    ) -> Step:
        asked = (loss, cut, form, dtype, engine)
        if asked not in self._taken:
            self._taken[asked] = self._step(*asked)
        return self._taken[asked]

    def _step(self, loss: str, cut: Cut, form: str, dtype: torch.dtype, engine: str) -> Step:
        name, *words = LOSSES[loss]
        tiles = (f"objectives.contrastive.form={form}", "objectives.contrastive.tile=2")
        config = config_of(self._shards, self._folder, cut, *STEADY, *words, *tiles, name=name)
        # masked modelling takes the sparse pass for itself
        arguments = (engine, config, cut, dtype, loss != "multitask")
        if len(cut.shares) == 1:
            return first_step(0, *arguments)
        return self._ranks[len(cut.shares)].run(first_step, *arguments)[-1]


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
