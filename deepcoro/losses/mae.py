"""The absolute error of a measured number, of which labels may be missing."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from deepcoro.assessed import LabelLoss, assessed
from deepcoro.config import Block
from deepcoro.heads import Task


def mae_loss(
    outputs: Float[Tensor, "row head 1"], target: Float[Tensor, "row head"], class_weights: None = None
) -> Float[Tensor, "row head"]:
    """In the label's unit."""
    given = assessed(outputs, target)
    return given.only((given.outputs[..., 0] - given.target).abs())


class Config(Block):
    """Mean absolute error: the output tends to the median of what the label may be."""

    type: Literal["mae"] = "mae"
    """Which loss this is."""
    tasks: ClassVar[tuple[Task, ...]] = ("regression",)

    def build(self) -> LabelLoss:
        return mae_loss
