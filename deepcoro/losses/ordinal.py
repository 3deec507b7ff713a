"""Cumulative logits: classes in an order, such as none < mild < moderate < severe, of which labels may be missing.

McCullagh 1980, "Regression models for ordinal data": output k is the logit that the class is above k, so the outputs of a row fall.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from deepcoro.assessed import LabelLoss, assessed, weight_of_label
from deepcoro.config import Block
from deepcoro.heads import Task


def ordinal_loss(
    outputs: Float[Tensor, "row head threshold"],
    target: Float[Tensor, "row head"],
    class_weights: Float[Tensor, "head class"] | None = None,
) -> Float[Tensor, "row head"]:
    """Minus the logarithm of the chance of the true class, its number in the order; there is a class more than thresholds."""
    given = assessed(outputs, target)
    losses = -given.of_class(log_class_probabilities(_falling(given.outputs, given.known)))
    return given.only(losses * weight_of_label(given.target, class_weights))


def log_class_probabilities(
    cumulative: Float[Tensor, "*label threshold"],
) -> Float[Tensor, "*label class"]:
    """Of logits that fall along the thresholds. sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)) loses no digits."""
    above = functional.pad(functional.logsigmoid(cumulative), (1, 0))
    not_above = functional.pad(functional.logsigmoid(-cumulative), (0, 1))
    gap = cumulative[..., :-1] - cumulative[..., 1:]
    return above + not_above + functional.pad(torch.log(-torch.expm1(-gap)), (1, 1))


def _falling(outputs: Tensor, known: Tensor) -> Tensor:
    """What a label that is not known was blanked to, all zeros, does not fall and would have an infinite logarithm."""
    steps = torch.arange(outputs.shape[-1], dtype=outputs.dtype, device=outputs.device)
    return torch.where(known[..., None], outputs, -steps)


class Config(Block):
    """Ordered classes: one score and learned thresholds between the classes."""

    type: Literal["ordinal"] = "ordinal"
    """Which loss this is."""
    tasks: ClassVar[tuple[Task, ...]] = ("ordinal_classification",)

    def build(self) -> LabelLoss:
        return ordinal_loss
