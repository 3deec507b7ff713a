"""The Huber loss of a measured number, of which labels may be missing: squares near the truth, distances far from it."""

import functools
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from deepcoro.assessed import LabelLoss, assessed
from deepcoro.config import Block
from deepcoro.heads import Task


def huber_loss(
    outputs: Float[Tensor, "row head 1"],
    target: Float[Tensor, "row head"],
    class_weights: None = None,
    delta: float = 1.0,
) -> Float[Tensor, "row head"]:
    """Half the square of the error up to `delta`, in the label's unit, and delta * (error - delta / 2) beyond. Huber 1964."""
    given = assessed(outputs, target)
    losses = functional.huber_loss(given.outputs[..., 0], given.target, reduction="none", delta=delta)
    return given.only(losses)


class Config(Block):
    """Huber loss, for numbers of which some are far off (or wrong)."""

    type: Literal["huber"] = "huber"
    """Which loss this is."""
    tasks: ClassVar[tuple[Task, ...]] = ("regression",)
    delta: float = Field(1.0, gt=0)
    """Error at which squares turn into distances, in the label's unit: of percent 5 is sensible, 0.1 is nearly `mae`."""

    def build(self) -> LabelLoss:
        return functools.partial(huber_loss, delta=self.delta)
