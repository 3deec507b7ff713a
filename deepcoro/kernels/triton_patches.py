"""Patches of a film as the rows of a matrix, gathered on CUDA by one launch: the embedding of patches is then a matrix product.

A filter of 3x7x7 begins 3 pixels left of every fourth pixel. Rows hold eight pixels a line, from 4 to the left, so that loads and
stores are vectors: 8 of 56 columns have no pixel of the filter. They are zeros, but the first, which is 1 and takes the bias.
Runs on CPU under TRITON_INTERPRET=1. The kernels are not type checked: a wrapper around them is no source to Triton.
"""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepcoro.kernels.grid import Grid

ROWS = 16
WARPS = 8


class Shape(NamedTuple):
    """What the kernel is compiled for; it reads this by number, in this order."""

    frames: int
    height: int
    width: int
    grid_height: int
    grid_width: int
    side: int
    """Patches along a side of a mask unit; 0 when all patches are shown, and the grid is then that of patches, else of units."""
    row_width: int
    columns: int


@triton.jit
@no_type_check
def _place(row, visible, valid, SHAPE: tl.constexpr):
    """Frame, row and column on the grid of patches of what stands in a row; `visible` points to the units of its clip."""
    HEIGHT: tl.constexpr = SHAPE[3]
    WIDTH: tl.constexpr = SHAPE[4]
    SIDE: tl.constexpr = SHAPE[5]
    cell = row
    if SIDE:
        cell = tl.load(visible + row // (SIDE * SIDE), mask=valid, other=0).to(tl.int32)
    frame = cell // (HEIGHT * WIDTH)
    height = cell // WIDTH % HEIGHT
    width = cell % WIDTH
    if SIDE:
        height = height * SIDE + row // SIDE % SIDE
        width = width * SIDE + row % SIDE
    return frame, height, width


@triton.jit
@no_type_check
def _gather_kernel(pointers, counts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    FRAMES: tl.constexpr = SHAPE[0]
    HEIGHT: tl.constexpr = SHAPE[1]
    WIDTH: tl.constexpr = SHAPE[2]
    GRID_HEIGHT: tl.constexpr = SHAPE[3]
    GRID_WIDTH: tl.constexpr = SHAPE[4]
    SIDE: tl.constexpr = SHAPE[5]
    ROW_WIDTH: tl.constexpr = SHAPE[6]
    COLUMNS: tl.constexpr = SHAPE[7]
    video, visible, shown, rows = pointers
    num_patches, num_units, num_cells = counts
    clip = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)[None, :]
    valid = row < num_patches
    visible += clip * num_units
    frame, height, width = _place(row, visible, valid, SHAPE)
    line = column // 8
    frame = frame[:, None] * 2 - 1 + line // 7 % 3
    height = height[:, None] * 4 - 3 + line % 7
    width = width[:, None] * 4 - 4 + column % 8
    mask = valid[:, None] & (column < ROW_WIDTH)
    inside = mask & (frame >= 0) & (frame < FRAMES) & (height >= 0) & (height < HEIGHT)
    inside = inside & (width >= 0) & (width < WIDTH)
    if SIDE:
        cell = (frame // 2 * GRID_HEIGHT + height // (4 * SIDE)) * GRID_WIDTH + width // (4 * SIDE)
        is_shown = tl.load(shown + clip * num_cells + cell, mask=inside, other=0) != 0
    video += clip * (ROW_WIDTH // 168 * FRAMES * HEIGHT * WIDTH)
    pixel = ((line // 21 * FRAMES + frame) * HEIGHT + height) * WIDTH + width
    pixels = tl.load(video + pixel, mask=inside, other=0.0)
    if SIDE:
        pixels = tl.where(is_shown, pixels, 0.0)  # after loading: by this mask loads would be no vectors
    # a pixel that no filter reads must not meet its zero: it may be infinite
    pixels = tl.where(column % 8 == 0, tl.where(column == 0, 1.0, 0.0).to(pixels.dtype), pixels)
    rows += (clip * num_patches + row[:, None]) * ROW_WIDTH
    tl.store(rows + column, pixels, mask=mask)


def gather_patches(video: Tensor, grid: Grid, units: tuple[Tensor, Tensor, int] | None) -> Tensor:
    """Rows [clip patch, column] of contiguous films. `units`: which units of a grid of units each film shows (indices, and a cell
    each), and their side; then `grid` is theirs.
    """
    clips, channels, *size = video.shape
    visible, shown, side = (video, video, 0) if units is None else units
    num_patches = grid[0] * grid[1] * grid[2] if units is None else visible.shape[1] * side**2
    row_width = channels * 168
    shape = Shape(*size, *grid[1:], side, row_width, triton.next_power_of_2(row_width))
    rows = video.new_empty(clips * num_patches, row_width)
    counts = (num_patches, visible.shape[1], grid[0] * grid[1] * grid[2])
    with torch.cuda.device_of(video):
        _gather_kernel[triton.cdiv(num_patches, ROWS), clips](
            (video, visible, shown, rows), counts, shape, ROWS, num_warps=WARPS
        )
    return rows
