"""Accumulation with the gradient cache is one large batch: the same loss and gradients as a dense step of one process."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepcoro import distributed
from deepcoro import step as step_module
from deepcoro.build import build_model, build_parts
from deepcoro.config import find_config
from deepcoro.data.order import Shuffled
from deepcoro.data.plan import Plan
from deepcoro.data.stream import TrainingStream
from deepcoro.engine import Engine, start_accelerator
from deepcoro.features import Features
from deepcoro.gradient_cache import surrogate, window_gradients
from deepcoro.optim import build_optimizer
from deepcoro.run_config import RunConfig, load_run_config
from deepcoro.step import train_step
from tests.launch import SILENT, STEADY, as_launched, tiny
from tests.ranks import Ranks

ROWS = 8
# With micro-batches of two rows the second has none that is valid, and the third one.
BAD = (2, 3, 5)
LOSSES = {
    "clip": ("objectives.contrastive.loss.type=clip",),
    "siglip": ("objectives.contrastive.loss.type=siglip",),
    "likened": (
        "objectives.contrastive.loss.type=clip",
        "objectives.contrastive.positives={type: findings, threshold: 0.2}",
    ),
}
NOISY = (
    "towers.text.from_scratch.dropout=0.2",
    "towers.video.drop_path_rate=0.3",
    "towers.video.patch_dropout=0.5",
    "augment.noise_std=5",
    "augment.crop_min_scale=0.6",
)
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


Case = Callable[[str, int, int], Step]


@pytest.fixture(scope="module")
def case(tiny_shards: Path, two_ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The step in fp64, by loss, ranks and accumulation; another objective beside. Each is taken once."""
    folder = tmp_path_factory.mktemp("cache")

    @functools.cache
    def step_of(loss: str, ranks: int, accumulation: int) -> Step:
        words = (*STEADY, *cut(ranks, accumulation), *LOSSES[loss])
        arguments = ("ddp", config_of(tiny_shards, folder, *words), torch.float64, True)
        return first_step(0, *arguments) if ranks == 1 else two_ranks.run(first_step, *arguments)[0]

    return step_of


@pytest.mark.parametrize(
    ("loss", "ranks", "accumulation"),
    [("clip", 1, 4), ("clip", 2, 1), ("clip", 2, 4), ("siglip", 1, 4), ("siglip", 2, 4), ("likened", 2, 4)],
)
def test_loss_and_every_gradient_are_those_of_the_whole_batch(
    case: Case, loss: str, ranks: int, accumulation: int
) -> None:
    wanted = case(loss, 1, 1)
    assert_same(case(loss, ranks, accumulation), wanted, 1e-12)
    names = ["towers.video", "towers.text", "objectives.contrastive.logit_scale", "objectives.squares.gain"]
    for name in [*names, "objectives.contrastive.logit_bias"][: 5 if loss == "siglip" else 4]:
        assert any(key.startswith(name) and each.abs().max() > 0 for key, each in wanted.gradients.items())


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_metrics_are_of_the_whole_window(case: Case, loss: str) -> None:
    assert case(loss, 1, 4).metrics == pytest.approx(case(loss, 1, 1).metrics, rel=1e-6)


@pytest.mark.parametrize("engine", ["ddp", "zero1", "zero2", "zero3", "zero3_whole"])
def test_every_engine_takes_the_gradient_of_the_whole_batch(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path, case: Case, engine: str
) -> None:
    words = (*STEADY, *cut(2, 4), *LOSSES["siglip"])
    got = two_ranks.run(first_step, engine, config_of(tiny_shards, tmp_path, *words), torch.float32, True)
    assert_same(got[1], case("siglip", 1, 1), 1e-5)


def test_a_text_of_several_micro_batches_is_there_once(tiny_shards: Path, tmp_path: Path) -> None:
    """What makes the cases above strict: reports that micro-batches share, and a micro-batch where no row is valid."""
    config = config_of(tiny_shards, tmp_path, *STEADY, *cut(1, 4))
    with as_launched("ddp"):
        _, window = prepared(config, torch.float32, False)
    ids = [set(batch["report_id"][batch["valid"]].tolist()) for batch in window]
    assert len(set.union(*ids)) < sum(map(len, ids))
    assert [len(each) > 0 for each in ids] == [True, False, True, True]


def by_hand(config: RunConfig) -> Step:
    """The graphs of all micro-batches at once, joined: the definition of what the cache computes in two runs."""
    with as_launched("ddp"):
        engine, window = prepared(config, torch.float64, False)
    model = engine.model.train()
    contrastive, embedded = model.objectives["contrastive"], []
    for micro_step, batch in enumerate(window):
        step_module._seed(engine, 0, micro_step)
        embedded.append(model(batch, task="embed")["contrastive"])
    whole = {
        part: {name: torch.cat([each[part][name] for each in embedded]) for name in embedded[0][part]}
        for part in ("rows", "labels")
    }
    result = contrastive.loss_of(whole | {"shared": embedded[0]["shared"]})
    loss = result["sum"] / sum(contrastive.count(batch) for batch in window)
    (0.7 * loss).sum().backward()
    gradients = {name: each.grad for name, each in model.named_parameters() if each.requires_grad}
    return Step({"contrastive": loss.item()}, {}, gradients)


@pytest.mark.parametrize("chunk", ["null", "1"])
def test_with_dropout_it_is_the_gradient_of_all_graphs_at_once(
    tiny_shards: Path, tmp_path: Path, chunk: str
) -> None:
    config = config_of(tiny_shards, tmp_path, *NOISY, *cut(1, 4), f"clips_per_chunk={chunk}")
    assert_same(first_step(0, "ddp", config, torch.float64), by_hand(config), 1e-12)


def rows_of_both_runs(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[list[dict], list[dict]]:
    """What each micro-batch embeds in the first run and in the second, in a step with another objective beside."""
    first, second = [], []

    def spied_gradients(micro_batches: list, *rest: Any) -> Any:
        first.extend(each["rows"] for each in micro_batches)
        return window_gradients(micro_batches, *rest)

    def spied_surrogate(embedded: dict, gradients: dict) -> Tensor:
        second.append({name: each.detach() for name, each in embedded["rows"].items()})
        return surrogate(embedded, gradients)

    monkeypatch.setattr("deepcoro.step.window_gradients", spied_gradients)
    monkeypatch.setattr("deepcoro.model.surrogate", spied_surrogate)
    first_step(0, "ddp", config, with_squares=True)
    return first, second


def test_the_second_run_sees_what_the_first_saw(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beside an objective that draws numbers and runs the sparse pass, which the first run leaves out."""
    config = config_of(tiny_shards, tmp_path, *NOISY, *cut(1, 4))
    first, second = rows_of_both_runs(config, monkeypatch)
    assert len(first) == len(second) == 4
    for name in ("video", "text"):
        assert all(torch.equal(one[name], other[name]) for one, other in zip(first, second, strict=True))
    monkeypatch.setattr("deepcoro.step._seed", lambda *_: None)
    first, second = rows_of_both_runs(config, monkeypatch)
    for name in ("video", "text"):
        assert not any(torch.equal(one[name], other[name]) for one, other in zip(first, second, strict=True))
