"""Labels that may be missing: NaN is "not assessed", which is neither negative nor zero. What a loss of heads starts and ends with."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

LabelLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(outputs [row head output], target [row head], class weights [head class] or None) -> the loss of each label [row head], fp32 at
least, 0 where the target is NaN. Nothing is averaged: sums over rows, ranks and micro-batches / number of labels is the loss of a head.
"""


class Assessed(NamedTuple):
    """Outputs and targets without NaN, and which of them count."""

    outputs: Float[Tensor, "row head output"]
    target: Float[Tensor, "row head"]
    known: Bool[Tensor, "row head"]

    def of_class(self, said: Float[Tensor, "row head class"]) -> Float[Tensor, "row head"]:
        """What is said of the class that each target names."""
        return said.gather(-1, rearrange(self.target.long(), "row head -> row head 1")).squeeze(-1)

    def only(self, losses: Float[Tensor, "row head"]) -> Float[Tensor, "row head"]:
        """Zeros where the label is not known."""
        return torch.where(self.known, losses, 0)


def assessed(outputs: Float[Tensor, "row head output"], target: Float[Tensor, "row head"]) -> Assessed:
    """What is said of a label that is not known becomes 0, so that it reaches neither the loss nor, as NaN, its gradient."""
    known = ~target.isnan()
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    return Assessed(
        torch.where(known[..., None], outputs, 0), torch.where(known, target, 0).to(outputs.dtype), known
    )


def weight_of_label(
    target: Float[Tensor, "row head"], class_weights: Float[Tensor, "head class"] | None
) -> Float[Tensor, "row head"] | float:
    """Weight of the class that each target names; 1 without class weights."""
    if class_weights is None:
        return 1.0
    return class_weights.to(target.dtype).gather(1, target.long().T).T
