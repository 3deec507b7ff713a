"""Accumulation with the gradient cache is one large batch: the same loss and gradients as a dense step of one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deepcoro import step as step_module
from deepcoro.gradient_cache import surrogate, window_gradients
from deepcoro.run_config import RunConfig
from tests.launch import STEADY, as_launched
from tests.one_step import Cut, Step, Steps, assert_same, config_of, even, first_step, prepared
from tests.ranks import Ranks

# ranks, and micro-batches of a rank, of other sizes than the others; with tiles of two rows none divides them
UNEVEN = Cut(((3, 1), (1, 3)))
QUARTERS = even(1, 4)
NOISY = (
    "towers.text.from_scratch.dropout=0.2",
    "towers.video.drop_path_rate=0.3",
    "towers.video.patch_dropout=0.5",
    "augment.noise_std=5",
    "augment.crop_min_scale=0.6",
)


@pytest.fixture(scope="module")
def taken(tiny_shards: Path, two_ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Steps:
    return Steps(tiny_shards, tmp_path_factory.mktemp("cache"), {2: two_ranks})


@pytest.mark.parametrize(
    ("loss", "cut", "form"),
    [
        ("clip", QUARTERS, "dense"),
        ("clip", even(2, 1), "dense"),
        ("clip", even(2, 4), "dense"),
        ("clip", even(2, 4), "ring"),
        ("clip", UNEVEN, "gather"),
        ("siglip", QUARTERS, "dense"),
        ("siglip", even(2, 4), "dense"),
        ("siglip", UNEVEN, "ring"),
        ("likened", even(2, 4), "dense"),
        ("likened", UNEVEN, "ring"),
    ],
)
def test_loss_and_every_gradient_are_those_of_the_whole_batch(
    taken: Steps, loss: str, cut: Cut, form: str
) -> None:
    wanted = taken(loss, even(1, 1))
    assert_same(taken(loss, cut, form), wanted, 1e-12)
    names = ["towers.video", "towers.text", "objectives.contrastive.logit_scale", "objectives.squares.gain"]
    for name in [*names, "objectives.contrastive.logit_bias"][: 5 if loss == "siglip" else 4]:
        assert any(key.startswith(name) and each.abs().max() > 0 for key, each in wanted.gradients.items())


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_metrics_are_of_the_whole_window(taken: Steps, loss: str) -> None:
    assert taken(loss, QUARTERS).metrics == pytest.approx(taken(loss, even(1, 1)).metrics, rel=1e-6)


def test_a_text_of_several_micro_batches_is_there_once(tiny_shards: Path, tmp_path: Path) -> None:
    """What makes the cases above strict: reports that micro-batches share, and a micro-batch where no row is valid."""
    config = config_of(tiny_shards, tmp_path, QUARTERS, *STEADY)
    with as_launched("ddp"):
        _, window = prepared(config, QUARTERS, torch.float32, False)
    ids = [set(batch["report_id"][batch["valid"]].tolist()) for batch in window]
    assert len(set.union(*ids)) < sum(map(len, ids))
    assert [len(each) > 0 for each in ids] == [True, False, True, True]


def by_hand(config: RunConfig) -> Step:
    """The graphs of all micro-batches at once, joined: the definition of what the cache computes in two runs."""
    with as_launched("ddp"):
        engine, window = prepared(config, QUARTERS, torch.float64, False)
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
    config = config_of(tiny_shards, tmp_path, QUARTERS, *NOISY, f"clips_per_chunk={chunk}")
    assert_same(first_step(0, "ddp", config, QUARTERS, torch.float64), by_hand(config), 1e-12)


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
    first_step(0, "ddp", config, QUARTERS, with_squares=True)
    return first, second


def test_the_second_run_sees_what_the_first_saw(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beside an objective that draws numbers and runs the sparse pass, which the first run leaves out."""
    config = config_of(tiny_shards, tmp_path, QUARTERS, *NOISY)
    first, second = rows_of_both_runs(config, monkeypatch)
    assert len(first) == len(second) == 4
    for name in ("video", "text"):
        assert all(torch.equal(one[name], other[name]) for one, other in zip(first, second, strict=True))
    monkeypatch.setattr("deepcoro.step._seed", lambda *_: None)
    first, second = rows_of_both_runs(config, monkeypatch)
    for name in ("video", "text"):
        assert not any(torch.equal(one[name], other[name]) for one, other in zip(first, second, strict=True))
