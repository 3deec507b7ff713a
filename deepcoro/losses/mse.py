"""The squared error of a measured number, of which labels may be missing."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from deepcoro.assessed import LabelLoss, assessed
from deepcoro.config import Block
from deepcoro.heads import Task


def mse_loss(
    outputs: Float[Tensor, "row head 1"], target: Float[Tensor, "row head"], class_weights: None = None
) -> Float[Tensor, "row head"]:
    """In the square of the label's unit."""
    given = assessed(outputs, target)
    return given.only((given.outputs[..., 0] - given.target).square())


class Config(Block):
    """Mean squared error: the output tends to the mean of what the label may be."""

    type: Literal["mse"] = "mse"
    """Which loss this is."""
    tasks: ClassVar[tuple[Task, ...]] = ("regression",)

    def build(self) -> LabelLoss:
        return mse_loss
