"""Depthwise 3x3x3 convolution over visible tokens alone, as a CPU takes it fast: tap by tap, the pairs of tokens it joins.

Of 27 taps a hidden neighbourhood leaves few: at 75 % hidden about ten. Pairs of a tap are gathered, weighted and added where
they belong, a few rows at a time that stay in cache; nothing is computed for hidden cells.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor


class TapPairs(NamedTuple):
    """Which rows of one clip a tap of the filter joins; each occurs at most once on either side."""

    inputs: Int[Tensor, " pair"]
    outputs: Int[Tensor, " pair"]


def tap_pairs(neighbours: Int[Tensor, "batch out 27"]) -> list[list[TapPairs]]:
    """For each clip its pairs under each tap, from a table of each output's inputs (-1: none). Waits for the device."""
    return [[_pairs_of(rows) for rows in rearrange(clip, "out tap -> tap out")] for clip in neighbours.long()]


def _pairs_of(rows: Tensor) -> TapPairs:
    (outputs,) = (rows >= 0).nonzero(as_tuple=True)
    return TapPairs(rows[outputs], outputs)


class PairConvolution:
    """Weights are [channel, 1, 3, 3, 3], tokens rows [token, channel] of one clip; sums are taken in fp32 or better."""

    def __init__(self, weight: Float[Tensor, "channel 1 3 3 3"]) -> None:
        precise = torch.promote_types(weight.dtype, torch.float32)
        self.filters = rearrange(weight.to(precise), "c 1 t h w -> (t h w) c").contiguous()

    def forward(
        self, rows: Float[Tensor, "input channel"], pairs: list[TapPairs], num_outputs: int
    ) -> Float[Tensor, "output channel"]:
        rows = rows.to(self.filters.dtype)
        out = rows.new_zeros(num_outputs, rows.shape[1])
        for weights, (inputs, outputs) in zip(self.filters, pairs, strict=True):
            out.index_add_(0, outputs, rows.index_select(0, inputs).mul_(weights))
        return out

    def backward(
        self,
        gradient: Float[Tensor, "output channel"],
        rows: Float[Tensor, "input channel"],
        pairs: list[TapPairs],
        needs_rows: bool,
    ) -> tuple[Float[Tensor, "input channel"] | None, Float[Tensor, "channel 1 3 3 3"]]:
        """Gradients by rows (None when not needed) and by weight."""
        gradient, rows = gradient.to(self.filters.dtype), rows.to(self.filters.dtype)
        by_rows = torch.zeros_like(rows) if needs_rows else None
        by_filters = torch.empty_like(self.filters)
        for tap, (inputs, outputs) in enumerate(pairs):
            by_outputs = gradient.index_select(0, outputs)
            by_filters[tap] = rows.index_select(0, inputs).mul_(by_outputs).sum(0)
            if by_rows is not None:
                by_rows.index_add_(0, inputs, by_outputs.mul_(self.filters[tap]))
        return by_rows, rearrange(by_filters, "(t h w) c -> c 1 t h w", t=3, h=3)
