"""The skip path's 3x3 spatial maximum on CUDA: values and winners in one pass, gradients gathered in another.

A program takes some rows of one clip and a part of their channels. Neighbours come by arithmetic (dense) or from the layout's
tables (sparse). Backward goes by input rows: each adds up the outputs that it won, in a fixed order and in fp32, so that no two
programs write one place. Runs on CPU under TRITON_INTERPRET=1. The kernels are not type checked: a wrapper around them is no
source to Triton.
"""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepcoro.kernels.pool_layout import PoolLayout
from deepcoro.kernels.triton_use import dense_channels

TILE = 2048
"""Values that a program takes."""
WIDEST = 256
WARPS = 4


class Shape(NamedTuple):
    """What a kernel is compiled for; the kernels read it by number, in this order."""

    height: int
    width: int
    height_out: int
    width_out: int
    stride: int
    class_tokens: int
    channels: int
    columns: int
    """Channels of a program."""
    sparse: int


@triton.jit
@no_type_check
def _tile(num_tokens, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Clip, rows of the token axis, channels, and which of the rows and channels there are."""
    CHANNELS: tl.constexpr = SHAPE[6]
    COLUMNS: tl.constexpr = SHAPE[7]
    PARTS: tl.constexpr = (CHANNELS + COLUMNS - 1) // COLUMNS
    token = tl.program_id(0) // PARTS * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(0) % PARTS * COLUMNS + tl.arange(0, COLUMNS)
    return tl.program_id(1).to(tl.int64), token, channel, token < num_tokens, channel < CHANNELS


@triton.jit
@no_type_check
def _row_under_tap(patch, table, valid, TAP: tl.constexpr, SHAPE: tl.constexpr):
    """Row of the input's patch axis under one of nine taps of output `patch`, and whether there is one."""
    HEIGHT: tl.constexpr = SHAPE[0]
    WIDTH: tl.constexpr = SHAPE[1]
    HEIGHT_OUT: tl.constexpr = SHAPE[2]
    WIDTH_OUT: tl.constexpr = SHAPE[3]
    STRIDE: tl.constexpr = SHAPE[4]
    SPARSE: tl.constexpr = SHAPE[8]
    if SPARSE:
        found = tl.load(table + 9 + TAP, mask=valid, other=-1)
        inside = found >= 0
    else:
        row = patch // WIDTH_OUT % HEIGHT_OUT * STRIDE + (TAP // 3 - 1)
        column = patch % WIDTH_OUT * STRIDE + (TAP % 3 - 1)
        inside = valid & (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH)
        found = (patch // (HEIGHT_OUT * WIDTH_OUT) * HEIGHT + row) * WIDTH + column
    return found, inside


@triton.jit
@no_type_check
def _forward_kernel(pointers, strides, counts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    CLASS_TOKENS: tl.constexpr = SHAPE[5]
    CHANNELS: tl.constexpr = SHAPE[6]
    COLUMNS: tl.constexpr = SHAPE[7]
    tokens, table, out, winner = pointers
    num_tokens_out, num_patches_out = counts
    clip, token, channel, valid, in_channels = _tile(num_tokens_out, SHAPE, ROWS)
    patch = token - CLASS_TOKENS
    is_patch = valid & (patch >= 0)
    tokens += clip * strides[0]
    table += (clip * num_patches_out + patch) * 27
    row, inside = _row_under_tap(patch, table, is_patch, 4, SHAPE)
    row = tl.where(is_patch, row + CLASS_TOKENS, token)  # a class token is its own maximum
    mask = (valid & (inside | (patch < 0)))[:, None] & in_channels
    addresses = (tokens + row * strides[1])[:, None] + channel
    best = tl.load(addresses, mask=mask, other=float("-inf")).to(tl.float32)
    won_by = tl.zeros((ROWS, COLUMNS), tl.int32)
    for place in tl.static_range(1, 9):  # the order of max_pooling.ORDER
        row, inside = _row_under_tap(patch, table, is_patch, 4 - place if place <= 4 else place, SHAPE)
        addresses = (tokens + (row + CLASS_TOKENS) * strides[1])[:, None] + channel
        mask = inside[:, None] & in_channels
        values = tl.load(addresses, mask=mask, other=float("-inf")).to(tl.float32)
        wins = values >= best if place <= 4 else values > best
        wins = wins & mask
        won_by = tl.where(wins, place, won_by)
        best = tl.where(wins | (values != values), values, best)
    mask = valid[:, None] & in_channels
    out += (clip * num_tokens_out + token[:, None]) * CHANNELS
    tl.store(out + channel, best.to(out.dtype.element_ty), mask=mask)
    winner += (clip * num_patches_out + patch[:, None]) * CHANNELS
    tl.store(winner + channel, won_by.to(tl.uint8), mask=is_patch[:, None] & in_channels)


@triton.jit
@no_type_check
def _row_that_reads(patch, table, valid, NUMBER: tl.constexpr, SHAPE: tl.constexpr):
    """One of the output rows that can read input `patch`, as which winner it would know it, and whether there is one."""
    HEIGHT: tl.constexpr = SHAPE[0]
    WIDTH: tl.constexpr = SHAPE[1]
    HEIGHT_OUT: tl.constexpr = SHAPE[2]
    WIDTH_OUT: tl.constexpr = SHAPE[3]
    STRIDE: tl.constexpr = SHAPE[4]
    SPARSE: tl.constexpr = SHAPE[8]
    REACH: tl.constexpr = (STRIDE + 2) // STRIDE
    if SPARSE:
        found = tl.load(table + 9 + NUMBER, mask=valid, other=-1)
        tap = tl.zeros_like(found) + NUMBER
        inside = found >= 0
    else:
        in_row = patch // WIDTH % HEIGHT
        in_column = patch % WIDTH
        row = (in_row + 1) // STRIDE - NUMBER // REACH
        column = (in_column + 1) // STRIDE - NUMBER % REACH
        shift_h = in_row - row * STRIDE
        shift_w = in_column - column * STRIDE
        inside = valid & (shift_h <= 1) & (shift_w <= 1) & (row >= 0) & (column >= 0)
        inside = inside & (row < HEIGHT_OUT) & (column < WIDTH_OUT)
        tap = shift_h * 3 + shift_w + 4
        found = (patch // (HEIGHT * WIDTH) * HEIGHT_OUT + row) * WIDTH_OUT + column
    return found, tl.where(tap <= 4, 4 - tap, tap), inside


@triton.jit
@no_type_check
def _backward_kernel(pointers, strides, counts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    STRIDE: tl.constexpr = SHAPE[4]
    CLASS_TOKENS: tl.constexpr = SHAPE[5]
    CHANNELS: tl.constexpr = SHAPE[6]
    SPARSE: tl.constexpr = SHAPE[8]
    # outputs that can read one input: along an axis 3, 2 or 1 of them, as strides are 1, 2 or more
    READERS: tl.constexpr = 9 if SPARSE else ((STRIDE + 2) // STRIDE) * ((STRIDE + 2) // STRIDE)
    gradient, winner, table, by_tokens = pointers
    num_tokens, num_patches_out = counts
    clip, token, channel, valid, in_channels = _tile(num_tokens, SHAPE, ROWS)
    patch = token - CLASS_TOKENS
    is_patch = valid & (patch >= 0)
    gradient += clip * strides[0]
    winner += clip * num_patches_out * CHANNELS
    table += (clip * (num_tokens - CLASS_TOKENS) + patch) * 27
    is_class_token = (valid & (patch < 0))[:, None] & in_channels
    addresses = (gradient + token * strides[1])[:, None] + channel
    total = tl.load(addresses, mask=is_class_token, other=0.0).to(tl.float32)
    for number in tl.static_range(READERS):
        row, place, inside = _row_that_reads(patch, table, is_patch, number, SHAPE)
        mask = inside[:, None] & in_channels
        won_by = tl.load((winner + row * CHANNELS)[:, None] + channel, mask=mask, other=255)
        addresses = (gradient + (row + CLASS_TOKENS) * strides[1])[:, None] + channel
        by_best = tl.load(addresses, mask=mask, other=0.0).to(tl.float32)
        total += tl.where(won_by.to(tl.int32) == place[:, None], by_best, 0.0)
    by_tokens += (clip * num_tokens + token[:, None]) * CHANNELS
    mask = valid[:, None] & in_channels
    tl.store(by_tokens + channel, total.to(by_tokens.dtype.element_ty), mask=mask)


def pool(tokens: Tensor, layout: PoolLayout) -> tuple[Tensor, Tensor]:
    """The maxima [batch, token_out, channel] and, without class token, the place of each winner in the order of taps (uint8)."""
    tokens = dense_channels(tokens)
    shape = _shape(layout, tokens.shape[2])
    out = tokens.new_empty(len(tokens), layout.num_tokens_out, shape.channels)
    winner = tokens.new_empty(len(tokens), layout.num_patches_out, shape.channels, dtype=torch.uint8)
    table = layout.neighbours if layout.is_sparse else winner
    grid, rows = _programs(layout.num_tokens_out, len(tokens), shape)
    with torch.cuda.device_of(tokens):
        _forward_kernel[grid](
            *((tokens, table, out, winner), tokens.stride()[:2]),
            *((layout.num_tokens_out, layout.num_patches_out), shape, rows),
            num_warps=WARPS,
        )
    return out, winner


def pool_backward(gradient: Tensor, winner: Tensor, layout: PoolLayout) -> Tensor:
    """Gradient by the tokens [batch, token, channel]."""
    gradient = dense_channels(gradient)
    shape, num_tokens = _shape(layout, gradient.shape[2]), layout.num_class_tokens + layout.num_patches_in
    by_tokens = gradient.new_empty(len(gradient), num_tokens, shape.channels)
    table = layout.readers if layout.is_sparse else winner
    grid, rows = _programs(num_tokens, len(gradient), shape)
    with torch.cuda.device_of(gradient):
        _backward_kernel[grid](
            *((gradient, winner, table, by_tokens), gradient.stride()[:2]),
            *((num_tokens, layout.num_patches_out), shape, rows),
            num_warps=WARPS,
        )
    return by_tokens


def _shape(layout: PoolLayout, channels: int) -> Shape:
    # with tables the kernels know no grid: one compilation serves all
    geometry = (1,) * 5 if layout.is_sparse else (*layout.grid_in[1:], *layout.grid_out[1:], layout.stride)
    widest = (
        channels & -channels
    )  # the largest power of two that divides them: no program then has spare columns
    columns = min(widest if widest >= 32 else triton.next_power_of_2(channels), WIDEST)
    return Shape(*geometry, layout.num_class_tokens, channels, columns, int(layout.is_sparse))


def _programs(num_tokens: int, batch: int, shape: Shape) -> tuple[tuple[int, int], int]:
    """How many programs, and rows of each."""
    rows = max(1, TILE // shape.columns)
    return (triton.cdiv(num_tokens, rows) * triton.cdiv(shape.channels, shape.columns), batch), rows
