"""Cross-entropy of one class among several, of which labels may be missing."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from deepcoro.assessed import LabelLoss, assessed, weight_of_label
from deepcoro.config import Block
from deepcoro.heads import Task


def ce_loss(
    outputs: Float[Tensor, "row head class"],
    target: Float[Tensor, "row head"],
    class_weights: Float[Tensor, "head class"] | None = None,
) -> Float[Tensor, "row head"]:
    """Of one logit a class; the target is the number of the class."""
    given = assessed(outputs, target)
    losses = -given.of_class(given.outputs.log_softmax(dim=-1))
    return given.only(losses * weight_of_label(given.target, class_weights))


class Config(Block):
    """Cross-entropy: one output a class, whose softmax is the probability of each."""

    type: Literal["ce"] = "ce"
    """Which loss this is."""
    tasks: ClassVar[tuple[Task, ...]] = ("multiclass_classification",)

    def build(self) -> LabelLoss:
        return ce_loss
