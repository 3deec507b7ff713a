"""A step that is not finite: AdamW, teachers' and batch norm's state stay bit for bit, whoever calls the step."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from deepcoro import distributed
from deepcoro.config import ConfigError
from deepcoro.engine import _refuse_unchecked_gradients
from deepcoro.finite import GuardedSteps, RunningStatistics, step_if_finite, with_its_gradient


def trained(fused: bool, steps: int = 2) -> tuple[nn.Linear, torch.optim.AdamW]:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    adamw = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=fused)
    for _ in range(steps):
        layer(torch.ones(1, 3)).sum().backward()
        adamw.step()
    return layer, adamw


def everything(layer: nn.Linear, adamw: torch.optim.AdamW) -> list[torch.Tensor]:
    state = [value for each in adamw.state.values() for value in each.values()]
    return [each.detach().clone() for each in (*layer.parameters(), *state)]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_adamw_leaves_weights_moments_and_its_count_where_the_norm_is_not_finite(
    fused: bool, norm: float
) -> None:
    layer, adamw = trained(fused)
    before = everything(layer, adamw)
    step_if_finite(adamw, torch.tensor(norm))
    adamw.step()
    torch.testing.assert_close(everything(layer, adamw), before, rtol=0, atol=0)


@pytest.mark.parametrize("fused", [True, False])
def test_the_step_after_a_skipped_one_is_the_step_without_it(fused: bool) -> None:
    layer, adamw = trained(fused)
    layer.weight.grad.fill_(torch.nan)
    step_if_finite(adamw, torch.tensor(torch.nan))
    adamw.step()
    adamw.zero_grad()
    layer(torch.ones(1, 3)).sum().backward()
    step_if_finite(adamw, torch.tensor(1.0))
    adamw.step()
    oracle, other = trained(fused)
    other.zero_grad()
    oracle(torch.ones(1, 3)).sum().backward()
    other.step()
    torch.testing.assert_close(everything(layer, adamw), everything(oracle, other), rtol=0, atol=0)


def test_steps_that_somebody_else_takes_are_judged_by_their_gradients() -> None:
    layer, adamw = trained(fused=True)
    guard, before = GuardedSteps(adamw), everything(layer, adamw)
    layer.bias.grad[0] = torch.inf
    adamw.step()
    assert not guard.norm.isfinite()
    torch.testing.assert_close(everything(layer, adamw), before, rtol=0, atol=0)
    layer.bias.grad[0] = 1.0
    adamw.step()
    assert guard.norm.isfinite() and not torch.equal(layer.bias, before[1])


def test_a_loss_that_is_not_finite_has_a_gradient_that_is_not_either() -> None:
    for value, is_sound in ((1.0, True), (torch.nan, False), (torch.inf, False)):
        weight = torch.ones(1, requires_grad=True)
        share = weight + torch.tensor([value])  # whose own gradient is 1 in each case
        with_its_gradient(share).sum().backward()
        assert bool(weight.grad.isfinite()) == is_sound
        assert not is_sound or (weight.grad == 1 and torch.equal(with_its_gradient(share), share))


def test_batch_norm_forgets_what_it_saw_in_a_step_that_did_not_count() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    statistics = RunningStatistics(model)
    model(torch.full((4, 2), torch.nan))
    statistics.keep_if(torch.tensor(False))
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    model(torch.randn(4, 2))
    statistics.keep_if(torch.tensor(True))
    assert model[0].num_batches_tracked == 1 and not torch.equal(
        model[0].running_mean, before["0.running_mean"]
    )


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (
            {"zero_optimization": {"stage": 2, "compute_grad_norm": False}},
            "zero_optimization.compute_grad_norm",
        ),
        ({"bf16": {"enabled": True, "check_grad_overflow": False}}, "bf16.check_grad_overflow"),
    ],
)
def test_a_deepspeed_config_that_would_let_a_nan_through_is_refused(settings: dict, key: str) -> None:
    _refuse_unchecked_gradients({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}})
    with pytest.raises(ConfigError, match=key):
        _refuse_unchecked_gradients(settings)


def start_group(folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)


def test_a_run_ends_the_process_group_that_it_made_also_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), distributed.own_group():
        start_group(tmp_path)
        raise KeyError
    assert not dist.is_initialized()
    start_group(tmp_path)
    try:
        with distributed.own_group():
            pass
        assert dist.is_initialized(), "one that was there before stays"
    finally:
        dist.destroy_process_group()
