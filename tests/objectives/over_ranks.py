"""An objective's loss and gradients over ranks, as the training loop takes them."""

from typing import Any

import torch

from deepcoro.features import Features


def loss_and_gradients(
    objective: torch.nn.Module, features: Features, batch: dict[str, Any], world_size: int
) -> dict[str, torch.Tensor]:
    """`loss` and the gradient of each parameter by name, of sum * world size / count, averaged over ranks."""
    count = objective.count(batch)
    if world_size > 1:
        torch.distributed.all_reduce(count)
    total = (objective(features, batch)["sum"] * world_size / count.clamp(min=1)).sum().reshape(1)
    total.backward()
    found = {"loss": total.detach()} | {name: each.grad for name, each in objective.named_parameters()}
    for value in found.values() if world_size > 1 else ():
        torch.distributed.all_reduce(value)
        value /= world_size
    return found
