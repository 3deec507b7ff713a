"""Binary cross-entropy of a yes-or-no finding, of which labels may be missing."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from deepcoro.assessed import LabelLoss, assessed
from deepcoro.config import Block
from deepcoro.heads import Task


def bce_loss(
    outputs: Float[Tensor, "row head 1"],
    target: Float[Tensor, "row head"],
    class_weights: Float[Tensor, "head 2"] | None = None,
) -> Float[Tensor, "row head"]:
    """Of the logit that the finding is there. A target between 0 and 1 is a reader's doubt; the weights are those of no and of yes."""
    given = assessed(outputs, target)
    logit, chance = given.outputs[..., 0], given.target
    no, yes = (1.0, 1.0) if class_weights is None else class_weights.to(logit.dtype).unbind(1)
    losses = yes * chance * functional.softplus(-logit) + no * (1 - chance) * functional.softplus(logit)
    return given.only(losses)


class Config(Block):
    """Binary cross-entropy: one output, whose sigmoid is the probability of the finding."""

    type: Literal["bce"] = "bce"
    """Which loss this is."""
    tasks: ClassVar[tuple[Task, ...]] = ("binary_classification",)

    def build(self) -> LabelLoss:
        return bce_loss
