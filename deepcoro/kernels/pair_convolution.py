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
    """Which rows a tap of the filter joins, clips one after the other; each occurs at most once on either side."""

    inputs: Int[Tensor, " pair"]
    outputs: Int[Tensor, " pair"]


def tap_pairs(neighbours: Int[Tensor, "clip out 27"], num_inputs: int) -> list[TapPairs]:
    """The pairs of some clips under each tap, from a table of each output's inputs (-1: none) in its clip. Waits for the device."""
    by_tap = rearrange(neighbours.long(), "clip out tap -> tap clip out")
    first = torch.arange(0, len(neighbours) * num_inputs, num_inputs, device=by_tap.device)
    inputs = rearrange(by_tap + first[:, None], "tap clip out -> tap (clip out)")
    joined = rearrange(by_tap >= 0, "tap clip out -> tap (clip out)")
    taps, outputs = joined.nonzero(as_tuple=True)
    counts = joined.sum(1).tolist()
    pairs = zip(inputs[taps, outputs].split(counts), outputs.split(counts), strict=True)
    return [TapPairs(*each) for each in pairs]


class PairConvolution:
    """Weights are [channel, 1, 3, 3, 3], tokens rows [token, channel] of some clips; sums are taken in fp32 or better."""

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
