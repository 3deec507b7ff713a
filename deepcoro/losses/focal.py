"""The focal loss, binary and of several classes: what is already told apart counts less. Lin et al. 2017, arXiv:1708.02002.

Its alpha is the class weights here. The binary form has one output, that of several classes one a class.
"""

import functools
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from deepcoro.assessed import LabelLoss, assessed, weight_of_label
from deepcoro.config import Block
from deepcoro.heads import Task


def focal_loss(
    outputs: Float[Tensor, "row head output"],
    target: Float[Tensor, "row head"],
    class_weights: Float[Tensor, "head class"] | None = None,
    gamma: float = 2.0,
) -> Float[Tensor, "row head"]:
    """Cross-entropy times (1 - chance given to the true class)^gamma; the target is 0 or 1, or the number of the class."""
    given = assessed(outputs, target)
    if outputs.shape[-1] == 1:
        logit = given.outputs[..., 0]
        cross_entropy = functional.softplus(torch.where(given.target > 0.5, -logit, logit))
    else:
        cross_entropy = -given.of_class(given.outputs.log_softmax(dim=-1))
    # a root has no gradient at 0, which a sure and right answer reaches in floating point
    missed = (-torch.expm1(-cross_entropy)).clamp(min=torch.finfo(cross_entropy.dtype).tiny)
    return given.only(missed**gamma * cross_entropy * weight_of_label(given.target, class_weights))


class Config(Block):
    """Focal loss, for findings that are rare or mostly easy."""

    type: Literal["focal"] = "focal"
    """Which loss this is."""
    tasks: ClassVar[tuple[Task, ...]] = ("binary_classification", "multiclass_classification")
    gamma: float = Field(2.0, ge=0)
    """How much less easy cases count; 0 is cross-entropy."""

    def build(self) -> LabelLoss:
        return functools.partial(focal_loss, gamma=self.gamma)
