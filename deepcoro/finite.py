"""What happens on the device in an optimiser step whose loss or gradient is not a finite number: nothing changes, and nothing waits.

A loss that is not finite makes its gradient NaN, the exchange of gradients carries that to every rank, and so the one norm that all
ranks share says to all of them, in the same step, whether the step counts.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def with_its_gradient(share: Float[Tensor, "1"]) -> Float[Tensor, "1"]:
    """The same number, whose gradient is NaN where it is not finite. A masked or clamped NaN can have a gradient that looks sound."""
    return share * torch.where(share.detach().isfinite(), 1.0, torch.nan)


def step_if_finite(adamw: torch.optim.AdamW, norm: Float[Tensor, ""]) -> None:
    """Has AdamW's next step leave weights, moments and its count as they are when the gradients' norm is not finite.

    Fused, it decides on the device, as it does for automatic mixed precision. Else the norm is read here: on CUDA that waits.
    """
    if all(group.get("fused") for group in adamw.param_groups):
        adamw.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
    elif not norm.isfinite():
        adamw.zero_grad(
            set_to_none=True
        )  # AdamW passes over parameters without a gradient, also with its count


class GuardedSteps:
    """For an AdamW that somebody else steps (DeepSpeed without ZeRO): every step is judged by the gradients it finds."""

    def __init__(self, adamw: torch.optim.AdamW):
        self.norm = torch.ones(())
        """Of the last step's gradients, clipped already."""
        adamw.register_step_pre_hook(self._judge)

    def _judge(self, adamw: torch.optim.Optimizer, *arguments: Any) -> None:
        gradients = [each.grad for group in adamw.param_groups for each in group["params"]]
        self.norm = torch.nn.utils.get_total_norm([each for each in gradients if each is not None])
        step_if_finite(adamw, self.norm)


class RunningStatistics:
    """Batch norm keeps what it saw in a forward pass, before anybody knows whether the step counts."""

    def __init__(self, model: nn.Module):
        self._before = [(buffer, buffer.clone()) for buffer in _running_buffers(model)]

    @torch.no_grad()
    def keep_if(self, counts: Bool[Tensor, ""]) -> None:
        """Puts back what was there when this was made, unless the step counts."""
        for buffer, before in self._before:
            buffer.copy_(torch.where(counts, buffer, before))


def _running_buffers(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if getattr(module, "track_running_stats", False):
            yield from module.buffers(recurse=False)
