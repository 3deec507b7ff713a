"""Averages of the weights over the steps of a run, which often measure better than the weights of its last step."""

from collections.abc import Sequence

import pydantic
import torch
from torch import Tensor

from deepcoro.config import Block

KEY = "average"
"""Beside AdamW's moments: in its state, and in a checkpoint as `NAME/average`."""


class Config(Block):
    """Averages kept beside the weights that train. Evaluation, prediction, export and warm starts read them in place of the weights."""

    decay: float | None = pydantic.Field(default=None, gt=0, lt=1)
    """What an average keeps of itself in each step; the rest it takes from the weight as the step left it (0.999 to 0.9999 in long runs).
    After n steps never more than (1 + n) / (10 + n), so that the start is forgotten. null = no averages. They take one more fp32 copy of
    what trains, divided over ranks as AdamW's moments are, and while an evaluation runs a second model."""


def decay_after(steps: int, decay: float) -> float:
    """What an average keeps of itself in the step that is the `steps`-th of the run."""
    return min(decay, (1 + steps) / (10 + steps))


@torch.no_grad()
def move(averages: Sequence[Tensor], weights: Sequence[Tensor], decay: float) -> None:
    """Pairs of one shape and device; pieces of tensors do as well as whole ones."""
    torch._foreach_lerp_(list(averages), list(weights), 1 - decay)
