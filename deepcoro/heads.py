"""What says one finding of a vector: a linear map, or one score with learned thresholds for ordered classes. Everything is fp32 at least."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Task = Literal["binary_classification", "multiclass_classification", "ordinal_classification", "regression"]

_NARROWEST = 1e-3
"""Least distance of two thresholds: classes keep a chance in floating point."""


class LinearHead(nn.Module):
    """One logit for a finding that is there or not, one a class, or a number in the label's unit."""

    def __init__(self, dim: int, num_outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim, num_outputs)
        # small, so that at first a head says little more than its bias
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

        self.register_buffer("unit", torch.ones(1))

    def forward(self, vectors: Float[Tensor, "*row dim"]) -> Float[Tensor, "*row output"]:
        return self.linear(self.dropout(vectors)) * self.unit

    @torch.no_grad()
    def start_with_shares(self, shares: Sequence[float]) -> None:
        """The head says at first how frequent each class is."""
        logs = torch.tensor(shares).log()
        self.linear.bias.copy_(logs if len(self.linear.bias) > 1 else logs[1:] - logs[:1])

    @torch.no_grad()
    def start_with_numbers(self, mean: float, deviation: float) -> None:
        """The head says the mean at first, and learns in units of the deviation: else it would take AdamW thousands of steps to
        reach an ejection fraction of 55."""
        self.unit.fill_(deviation)
        self.linear.bias.fill_(mean / deviation)


class OrdinalHead(nn.Module):
    """The logit that the class is above each of the thresholds between them: a score of the vector minus rising numbers, the same for all
    vectors (proportional odds, McCullagh 1980).
    """

    def __init__(self, dim: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(dim, 1, bias=False)
        nn.init.trunc_normal_(self.score.weight, std=0.02)
        self.thresholds = nn.Parameter(_unrolled([1 / num_classes] * num_classes))

    @torch.no_grad()
    def start_with_shares(self, shares: Sequence[float]) -> None:
        """The head says at first how frequent each class is."""
        self.thresholds.copy_(_unrolled(shares))

    def forward(self, vectors: Float[Tensor, "*row dim"]) -> Float[Tensor, "*row threshold"]:
        steps = functional.softplus(self.thresholds[1:]) + _NARROWEST
        rising = torch.cat([self.thresholds[:1], steps]).cumsum(0)
        return self.score(self.dropout(vectors)) - rising


def _unrolled(shares: Sequence[float]) -> Float[Tensor, "threshold"]:
    """The first threshold and what gives the distances of the others, where a score of 0 has the classes in these shares."""
    below = [sum(shares[: number + 1]) for number in range(len(shares) - 1)]
    rising = [math.log(chance / (1 - chance)) for chance in below]
    steps = [
        max(after - before - _NARROWEST, 1e-6) for before, after in zip(rising, rising[1:], strict=False)
    ]
    return torch.tensor([rising[0], *(step + math.log(-math.expm1(-step)) for step in steps)])
