"""The skip path of a block that halves its grid: the spatial 3x3 maximum of token-major patches, dense or visible only."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from deepcoro.kernels.cached_pieces import cached_pieces
from deepcoro.kernels.depthwise import touched
from deepcoro.kernels.pool_layout import PoolLayout
from deepcoro.kernels.triton_use import takes_triton

SAME_FRAME = slice(9, 18)
"""Of the 27 taps of a layout's tables those of the output's own frame."""
ORDER = (4, 3, 2, 1, 0, 5, 6, 7, 8)
"""Of equal maxima the first in raster order wins, as in torch's max_pool2d: from the centre, which is always there, back
over the taps that beat it when equal, then on over those that do not. A winner is noted as its place in this order, so
that a later winner has the larger number: masked assignments take six times as long as a maximum."""
CENTRE = 4


@torch.compiler.disable
def max_pool_tokens(
    tokens: Float[Tensor, "batch token channel"], layout: PoolLayout
) -> Float[Tensor, "batch token_out channel"]:
    """Maximum over the 3x3 cells around each output, frame by frame, of what is visible; the class token passes unchanged.

    The cell at an output's own place must be visible (it is: a mask unit is hidden on all grids or on none). A window that holds a
    NaN gives NaN, and its gradient to a winner among the other cells. One launch each way on CUDA where triton imports.
    """
    return _MaxPool.apply(tokens, layout)


class _MaxPool(torch.autograd.Function):
    """Keeps which tap won, a byte an output, where max_pool2d keeps its input and eight bytes."""

    @staticmethod
    def forward(ctx, tokens, layout):
        if takes_triton(tokens):
            from deepcoro.kernels.triton_max_pooling import pool

            out, winner = pool(tokens, layout)
        else:
            out, winner = _pool(tokens, layout)
        ctx.save_for_backward(winner)
        ctx.layout = layout
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (winner,) = ctx.saved_tensors
        if takes_triton(gradient):
            from deepcoro.kernels.triton_max_pooling import pool_backward

            return pool_backward(gradient, winner, ctx.layout), None
        return _pool_backward(gradient, winner, ctx.layout), None


def _pool(tokens: Tensor, layout: PoolLayout) -> tuple[Tensor, Tensor]:
    """The maxima, and the winner of each patch."""
    first = layout.num_class_tokens
    out = tokens.new_empty(len(tokens), layout.num_tokens_out, tokens.shape[2])
    out[:, :first] = tokens[:, :first]
    winner = torch.zeros_like(out[:, first:], dtype=torch.uint8, memory_format=torch.contiguous_format)
    for clips in cached_pieces(tokens):
        best = out[clips, first:]
        by_tap = _read(tokens[clips, first:], best, winner[clips], layout, clips)
        best.copy_(by_tap[CENTRE][0].reshape(best.shape))
        for place, tap in enumerate(ORDER[1:], start=1):
            values, best, won_by = by_tap[tap]
            wins = values >= best if tap < CENTRE else values > best
            torch.maximum(won_by, wins.view(torch.uint8) * place, out=won_by)
            torch.maximum(best, values, out=best)
    return out, winner


def _pool_backward(gradient: Tensor, winner: Tensor, layout: PoolLayout) -> Tensor:
    first = layout.num_class_tokens
    by_tokens = gradient.new_zeros(len(gradient), first + layout.num_patches_in, gradient.shape[2])
    by_tokens[:, :first] = gradient[:, :first]
    for clips in cached_pieces(by_tokens):
        _give_back(gradient[clips, first:], winner[clips], by_tokens[clips, first:], layout, clips)
    return by_tokens


def _read(
    rows: Tensor, best: Tensor, winner: Tensor, layout: PoolLayout, clips: slice
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each tap what it reads, and the places of `best` and `winner` that read it."""
    if layout.neighbours is None:
        film, size = _on_grid(rows, layout.grid_in), layout.grid_out
        best, winner = _on_grid(best, size), _on_grid(winner, size)
        return [
            (cells, best[outputs], winner[outputs])
            for _, cells, outputs in touched(film, size[1:], layout.stride)
        ]
    hidden = rows.new_full((len(rows), 1, rows.shape[2]), -torch.inf)
    rows = torch.cat((rows, hidden), dim=1)
    return [(_picked(rows, column), best, winner) for column in _columns(layout.neighbours[clips])]


def _give_back(by_best: Tensor, winner: Tensor, into: Tensor, layout: PoolLayout, clips: slice) -> None:
    """Adds each output's gradient to the row that won it."""
    if layout.readers is None:
        film, size = _on_grid(into, layout.grid_in), layout.grid_out
        by_best, winner = _on_grid(by_best, size), _on_grid(winner, size)
        for tap, (_, cells, outputs) in enumerate(touched(film, size[1:], layout.stride)):
            won = winner[outputs] == ORDER.index(tap)
            cells.addcmul_(by_best[outputs], won.to(cells.dtype))
        return
    for tap, column in enumerate(_columns(layout.readers[clips])):
        by_row = F.pad(by_best * (winner == ORDER.index(tap)).to(by_best.dtype), (0, 0, 0, 1))
        into += _picked(by_row, column)


def _columns(table: Tensor) -> tuple[Tensor, ...]:
    """The nine taps of the output's own frame, each [clip, row]."""
    return table[..., SAME_FRAME].unbind(2)


def _picked(rows: Tensor, column: Tensor) -> Tensor:
    """Rows [clip, row, channel] that a column names in each clip; -1, hidden, is the last one."""
    clips, num_rows = rows.shape[:2]
    first = torch.arange(0, clips * num_rows, num_rows, device=rows.device)
    flat = (column % num_rows + first[:, None]).flatten()
    return rows.flatten(0, 1).index_select(0, flat).view(clips, -1, rows.shape[2])


def _on_grid(rows: Tensor, grid: tuple[int, ...]) -> Tensor:
    return rearrange(rows, "b (t h w) c -> b t h w c", h=grid[1], w=grid[2])
