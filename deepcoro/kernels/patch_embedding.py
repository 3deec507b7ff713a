"""Overlapping space-time patches to tokens by a matrix product, for CUDA: no library has a fast convolution of three channels."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deepcoro.kernels.cached_pieces import pieces
from deepcoro.kernels.grid import Grid

KERNEL, STRIDE, PADDING = (3, 7, 7), (2, 4, 4), (1, 3, 3)
ROWS_BYTES = 2**28
"""Of the gathered patches that exist at a time; they are twice to six times the film."""


class ShownUnits(NamedTuple):
    """The mask units that each film shows; the pixels of others count as zero."""

    visible: Int[Tensor, "clip unit"]
    """Ascending indices on the grid of units."""
    shown: Bool[Tensor, "clip frame row column"]
    """The same, a cell each."""
    side: int
    """Patches along a side of a unit."""


def embed_patches(
    video: Float[Tensor, "clip channel frame height width"],
    weight: Float[Tensor, "dim channel 3 7 7"],
    bias: Float[Tensor, " dim"],
    grid: Grid,
    units: ShownUnits | None = None,
) -> Float[Tensor, "clip patch dim"]:
    """The convolution of stride 2x4x4 and half-kernel padding, token by token: of the whole `grid` in raster order, or of the patches of
    `units` alone, unit by unit. All three tensors have one format, that of the product. Keeps the film; its gradient is not made.
    """
    return _EmbedPatches.apply(video, weight, bias, grid, units)


class _EmbedPatches(torch.autograd.Function):
    """Backward gathers the patches again: kept, they would be five times the film."""

    @staticmethod
    def forward(ctx, video, weight, bias, grid, units):
        video = video.contiguous()
        matrix = F.pad(weight, (1, 0)).flatten(1)
        matrix[:, 0] = bias
        num_patches = grid[0] * grid[1] * grid[2] if units is None else units.visible.shape[1] * units.side**2
        out = video.new_empty(len(video), num_patches, len(weight))
        ctx.pieces = pieces(len(video), num_patches * matrix[0].nbytes, ROWS_BYTES)
        ctx.grid, ctx.side, ctx.filter_shape = grid, None if units is None else units.side, weight.shape
        for clips in ctx.pieces:
            torch.mm(_gather(video, grid, units, clips), matrix.T, out=out[clips].flatten(0, 1))
        ctx.save_for_backward(video, *([] if units is None else units[:2]))
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        video, *shown = ctx.saved_tensors
        units = ShownUnits(*shown, ctx.side) if shown else None
        dim, channels = ctx.filter_shape[:2]
        total = gradient.new_zeros(dim, channels * 168, dtype=torch.float32)
        for clips in ctx.pieces:
            total += gradient[clips].flatten(0, 1).T @ _gather(video, ctx.grid, units, clips)
        total = total.to(gradient.dtype)
        by_weight = rearrange(total, "dim (c t h w) -> dim c t h w", t=3, h=7, w=8)[..., 1:]
        return None, by_weight, total[:, 0], None, None


def _gather(video: Tensor, grid: Grid, units: ShownUnits | None, clips: slice) -> Tensor:
    from deepcoro.kernels.triton_patches import gather_patches

    if units is None:
        return gather_patches(video[clips], grid, None)
    shown = units.shown[clips].view(torch.uint8)
    return gather_patches(video[clips], tuple(shown.shape[1:]), (units.visible[clips], shown, units.side))
