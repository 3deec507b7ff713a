"""Positions and tables of neighbours of the tokens in visible mask units, on CUDA: one launch each.

A token's row follows from its unit's rank among the kept ones, so that nothing but the ranks is looked up. Runs on CPU under
TRITON_INTERPRET=1. The kernels are not type checked: a wrapper around them is no source to Triton.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Int
from torch import Tensor

from deepcoro.kernels.triton_dense_pooling import plain
from deepcoro.kernels.triton_parts import odd
from deepcoro.kernels.unit_rows import UnitRows

ROWS = 64
WARPS = 4
ROWS_OF_POSITIONS = 1024


@triton.jit
@no_type_check
def _place(visible, row, valid, height, width, side):
    """Frame, row and column of the tokens with these numbers, on a grid of `side` tokens a unit's side."""
    inner = row % (side * side)
    unit = tl.load(visible + row // (side * side), mask=valid, other=0).to(tl.int32)
    y = unit // width % height * side + inner // side
    return unit // (height * width), y, unit % width * side + inner % side


@triton.jit(do_not_specialize=["num_units", "height", "width", "side"])
@no_type_check
def positions_kernel(visible, out, num_units, height, width, side, ROWS: tl.constexpr):
    clip = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    num_rows = num_units * side * side
    valid = row < num_rows
    frame, y, x = _place(visible + clip * num_units, row, valid, height, width, side)
    position = (frame * height * side + y) * (width * side) + x
    tl.store(out + clip * num_rows + row, position.to(out.dtype.element_ty), mask=valid)


@triton.jit
@no_type_check
def table_kernel(pointers, units, sides, TURNED: tl.constexpr, ROWS: tl.constexpr):
    """For each token and tap the row on the other grid: the one it reads, or where TURNED the one that reads it; -1 for none."""
    visible, ranks, table = pointers
    num_units, frames, height, width = plain(units[0]), plain(units[1]), plain(units[2]), plain(units[3])
    side, other_side = plain(sides[0]), plain(sides[1])
    clip = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    num_rows = num_units * side * side
    valid = row < num_rows
    frame, y, x = _place(visible + clip * num_units, row, valid, height, width, side)
    tap = tl.arange(0, 32)[None, :]
    down, across = tap // 3 % 3 - 1, tap % 3 - 1
    if TURNED:
        stride = side // other_side
        frame = frame[:, None] - (tap // 9 - 1)
        y, x = y[:, None] - down, x[:, None] - across
        read = (y % stride == 0) & (x % stride == 0) & (y >= 0) & (x >= 0)
        y, x = y // stride, x // stride
    else:
        stride = other_side // side
        frame = frame[:, None] + (tap // 9 - 1)
        y, x = y[:, None] * stride + down, x[:, None] * stride + across
        read = (y >= 0) & (x >= 0)
    in_table = valid[:, None] & (tap < 27)
    read = read & in_table & (frame >= 0) & (frame < frames)
    read = read & (y < height * other_side) & (x < width * other_side)
    cell = (frame * height + y // other_side) * width + x // other_side
    rank = tl.load(ranks + clip * (frames * height * width) + cell, mask=read, other=-1)
    found = (rank * other_side + y % other_side) * other_side + x % other_side
    table += (clip * num_rows + row[:, None]) * 27
    tl.store(table + tap, tl.where(rank >= 0, found, -1), mask=in_table)


def positions(units: UnitRows, side: int) -> Int[Tensor, "clip patch"]:
    """The flat raster index of each kept token on the grid whose units have `side` tokens a side."""
    visible = units.visible.contiguous()
    clips, kept = visible.shape
    out = visible.new_empty(clips, kept * side**2)
    if clips:
        with torch.cuda.device_of(visible):
            positions_kernel[triton.cdiv(out.shape[1], ROWS_OF_POSITIONS), clips](
                *(visible, out, kept, *units.grid[1:], side, ROWS_OF_POSITIONS), num_warps=WARPS
            )
    return out


def table(units: UnitRows, side: int, other_side: int, turned: bool) -> Int[Tensor, "clip patch 27"]:
    """For each token of the grid of `side` tokens a unit's side, and each tap, a row on that of `other_side` (int32, -1: none): the
    one that it reads as an output or, `turned`, the one that reads it as an input."""
    visible = units.visible.contiguous()
    clips, kept = visible.shape
    out = visible.new_empty(clips, kept * side**2, 27, dtype=torch.int32)
    if clips:
        with torch.cuda.device_of(visible):
            table_kernel[triton.cdiv(out.shape[1], ROWS), clips](
                *(
                    (visible, units.ranks, out),
                    odd((kept, *units.grid)),
                    odd((side, other_side)),
                    turned,
                    ROWS,
                ),
                num_warps=WARPS,
            )
    return out
