"""The kernels that pool visible tokens on CUDA; neighbours come from the layout's tables.

A program takes ROWS rows of (token, head) of one clip; a row is the channels of one head. All sums are in fp32 and in a fixed
order. The kernels are not type checked: a wrapper around them is no source to Triton.
"""

from collections.abc import Sequence
from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from einops import rearrange
from torch import Tensor

from deepcoro.kernels.pool_layout import PoolFilter, PoolLayout, PoolPlan

ROWS = 32
WARPS = 8
ROWS_OF_WEIGHT_GRADIENT = 16
STEPS_OF_WEIGHT_GRADIENT = 64
"""Blocks of rows that one program adds up before it writes its share of the gradient by the filter."""


class Shape(NamedTuple):
    """What a kernel is compiled for; the kernels read it by number, in this order. They know no grid: one serves all."""

    class_tokens: int
    heads: int
    dim: int
    columns: int
    width_of_result: int


@triton.jit
@no_type_check
def _pool_rows(pointers, token_stride, token, valid, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Pooled values [ROWS, columns] in fp32; the pointers to tokens and table stand at each row's clip and head, and output."""
    CLASS_TOKENS: tl.constexpr = SHAPE[0]
    DIM: tl.constexpr = SHAPE[2]
    COLUMNS: tl.constexpr = SHAPE[3]
    tokens, weight, table = pointers
    columns = tl.arange(0, COLUMNS)
    in_head = columns < DIM
    is_patch = valid & (token >= CLASS_TOKENS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for triple in range(9):  # unrolled whole it would take minutes to compile
        for side in tl.static_range(3):
            tap = triple * 3 + side
            values = _values_under(tokens, token_stride, table, is_patch, tap, SHAPE)
            total += values * tl.load(weight + tap * DIM + columns, mask=in_head, other=0.0)
    if CLASS_TOKENS:
        is_class_token = (valid & (token < CLASS_TOKENS))[:, None] & in_head
        values = tl.load((tokens + token * token_stride)[:, None] + columns, mask=is_class_token, other=0.0)
        total += values.to(tl.float32)
    return total


@triton.jit
@no_type_check
def _values_under(of_rows, token_stride, table, valid, tap, SHAPE: tl.constexpr):
    """What each output reads under a tap, [ROWS, columns] in fp32, zero where there is nothing."""
    CLASS_TOKENS: tl.constexpr = SHAPE[0]
    DIM: tl.constexpr = SHAPE[2]
    COLUMNS: tl.constexpr = SHAPE[3]
    columns = tl.arange(0, COLUMNS)
    row = tl.load(table + tap, mask=valid, other=-1)
    inside = row >= 0
    addresses = of_rows + (row + CLASS_TOKENS) * token_stride
    mask = inside[:, None] & (columns < DIM)
    return tl.load(addresses[:, None] + columns, mask=mask, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def _normalise(pooled, eps, SHAPE: tl.constexpr):
    """Values of mean 0 and variance 1, zero past the head's channels, and the factor that made them so."""
    DIM: tl.constexpr = SHAPE[2]
    COLUMNS: tl.constexpr = SHAPE[3]
    in_head = tl.arange(0, COLUMNS) < DIM
    mean = tl.sum(pooled, axis=1) / DIM
    centred = tl.where(in_head, pooled - mean[:, None], 0.0)
    factor = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / DIM + eps)
    return centred * factor[:, None], factor


@triton.jit
@no_type_check
def _forward_kernel(pointers, strides, counts, numbers, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    CLASS_TOKENS: tl.constexpr = SHAPE[0]
    HEADS: tl.constexpr = SHAPE[1]
    DIM: tl.constexpr = SHAPE[2]
    COLUMNS: tl.constexpr = SHAPE[3]
    RESULT_WIDTH: tl.constexpr = SHAPE[4]
    tokens, weight, norm_weight, norm_bias, table, out = pointers
    num_rows, num_patches = counts
    eps, scale = numbers
    clip = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = rows < num_rows
    token = rows // HEADS
    tokens += clip * strides[0] + rows % HEADS * strides[2]
    table += (clip * num_patches + token - CLASS_TOKENS) * 27
    pooled = _pool_rows((tokens, weight, table), strides[1], token, valid, SHAPE, ROWS)
    normed, _ = _normalise(pooled, eps, SHAPE)
    columns = tl.arange(0, COLUMNS)
    in_head = columns < DIM
    gain = tl.load(norm_weight + columns, mask=in_head, other=0.0) * scale
    shift = tl.load(norm_bias + columns, mask=in_head, other=0.0) * scale
    out += (clip * num_rows + rows[:, None]) * RESULT_WIDTH
    result = (normed * gain + shift).to(out.dtype.element_ty)
    tl.store(out + columns, result, mask=valid[:, None] & (columns < RESULT_WIDTH))
    for first in tl.static_range(COLUMNS, RESULT_WIDTH, 16):
        spare = first + tl.arange(0, 16)
        zeros = tl.zeros((ROWS, 16), out.dtype.element_ty)
        tl.store(out + spare, zeros, mask=valid[:, None] & (spare < RESULT_WIDTH))


@triton.jit
@no_type_check
def _norm_backward_kernel(pointers, strides, counts, numbers, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Gradients by the pooled values, by class tokens (their way ends here), and a share of those by the norm's weights."""
    CLASS_TOKENS: tl.constexpr = SHAPE[0]
    HEADS: tl.constexpr = SHAPE[1]
    DIM: tl.constexpr = SHAPE[2]
    COLUMNS: tl.constexpr = SHAPE[3]
    tokens, weight, norm_weight, table, gradient, by_pooled, by_tokens, shares = pointers
    num_rows, num_patches = counts
    eps, scale = numbers
    clip = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = rows < num_rows
    token = rows // HEADS
    head = rows % HEADS
    tokens += clip * strides[0] + head * strides[2]
    table += (clip * num_patches + token - CLASS_TOKENS) * 27
    pooled = _pool_rows((tokens, weight, table), strides[1], token, valid, SHAPE, ROWS)
    normed, factor = _normalise(pooled, eps, SHAPE)
    columns = tl.arange(0, COLUMNS)
    in_head = columns < DIM
    gradient += clip * strides[3] + token * strides[4] + head * strides[5]
    by_out = tl.load(gradient[:, None] + columns * strides[6], mask=valid[:, None] & in_head, other=0.0)
    by_out = by_out.to(tl.float32) * scale
    shares += (clip * tl.num_programs(0) + tl.program_id(0)) * 2 * DIM + columns
    tl.store(shares, tl.sum(by_out * normed, axis=0), mask=in_head)
    tl.store(shares + DIM, tl.sum(by_out, axis=0), mask=in_head)
    by_normed = by_out * tl.load(norm_weight + columns, mask=in_head, other=0.0)
    mean = tl.sum(by_normed, axis=1) / DIM
    slope = tl.sum(by_normed * normed, axis=1) / DIM
    by_rows = (by_normed - mean[:, None] - normed * slope[:, None]) * factor[:, None]
    by_rows = by_rows.to(by_pooled.dtype.element_ty)
    is_patch = (valid & (token >= CLASS_TOKENS))[:, None] & in_head
    patch_rows = clip * num_patches * HEADS + rows - CLASS_TOKENS * HEADS
    tl.store(by_pooled + patch_rows[:, None] * DIM + columns, by_rows, mask=is_patch)
    if CLASS_TOKENS:
        is_class_token = (valid & (token < CLASS_TOKENS))[:, None] & in_head
        by_tokens += clip * strides[7] + token * strides[8] + head * strides[9]
        tl.store(by_tokens[:, None] + columns, by_rows, mask=is_class_token)


@triton.jit
@no_type_check
def _token_gradient_kernel(pointers, strides, counts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Each input patch gathers from the outputs that read it: no two programs write one place."""
    CLASS_TOKENS: tl.constexpr = SHAPE[0]
    HEADS: tl.constexpr = SHAPE[1]
    DIM: tl.constexpr = SHAPE[2]
    COLUMNS: tl.constexpr = SHAPE[3]
    by_pooled, weight, table, by_tokens = pointers
    num_patches, num_patches_out = counts
    clip = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = rows < num_patches * HEADS
    patch = rows // HEADS
    head = rows % HEADS
    table += (clip * num_patches + patch) * 27
    by_pooled += (clip * num_patches_out * HEADS + head) * DIM
    columns = tl.arange(0, COLUMNS)
    in_head = columns < DIM
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for triple in range(9):
        for side in tl.static_range(3):
            tap = triple * 3 + side
            row = tl.load(table + tap, mask=valid, other=-1)
            inside = row >= 0
            addresses = (by_pooled + row * (HEADS * DIM))[:, None] + columns
            values = tl.load(addresses, mask=inside[:, None] & in_head, other=0.0).to(tl.float32)
            total += values * tl.load(weight + tap * DIM + columns, mask=in_head, other=0.0)
    by_tokens += clip * strides[0] + (patch + CLASS_TOKENS) * strides[1] + head * strides[2]
    total = total.to(by_tokens.dtype.element_ty)
    tl.store(by_tokens[:, None] + columns, total, mask=valid[:, None] & in_head)


@triton.jit
@no_type_check
def _weight_gradient_kernel(pointers, strides, counts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Shares of the gradient by three taps side by side in a row: their inputs lie next to each other."""
    HEADS: tl.constexpr = SHAPE[1]
    DIM: tl.constexpr = SHAPE[2]
    COLUMNS: tl.constexpr = SHAPE[3]
    tokens, by_pooled, table, shares = pointers
    num_patches, steps = counts
    clip = tl.program_id(1).to(tl.int64)
    triple = tl.program_id(2)
    tokens += clip * strides[0]
    by_pooled += clip * num_patches * HEADS * DIM
    columns = tl.arange(0, COLUMNS)
    in_head = columns < DIM
    left = tl.zeros((ROWS, COLUMNS), tl.float32)
    middle = tl.zeros((ROWS, COLUMNS), tl.float32)
    right = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(steps):
        rows = (tl.program_id(0) * steps + step) * ROWS + tl.arange(0, ROWS)
        valid = rows < num_patches * HEADS
        patch = rows // HEADS
        of_rows = tokens + rows % HEADS * strides[2]
        taps = table + (clip * num_patches + patch) * 27
        by_rows = tl.load(
            (by_pooled + rows * DIM)[:, None] + columns, mask=valid[:, None] & in_head, other=0.0
        ).to(tl.float32)
        left += by_rows * _values_under(of_rows, strides[1], taps, valid, triple * 3, SHAPE)
        middle += by_rows * _values_under(of_rows, strides[1], taps, valid, triple * 3 + 1, SHAPE)
        right += by_rows * _values_under(of_rows, strides[1], taps, valid, triple * 3 + 2, SHAPE)
    shares += ((clip * tl.num_programs(0) + tl.program_id(0)) * 27 + triple * 3) * DIM + columns
    tl.store(shares, tl.sum(left, axis=0), mask=in_head)
    tl.store(shares + DIM, tl.sum(middle, axis=0), mask=in_head)
    tl.store(shares + 2 * DIM, tl.sum(right, axis=0), mask=in_head)


def pool(projected: Tensor, filters: list[PoolFilter], plans: Sequence[PoolPlan]) -> list[Tensor]:
    """The one part of a projection [batch, token, 1, head, dim], pooled."""
    ((weight, *norm),), (plan,), tokens = filters, plans, projected[:, :, 0]
    layout, shape = plan.layout, _shape(plan.layout, tokens, plan.width)
    num_rows = layout.num_tokens_out * shape.heads
    out = tokens.new_empty(len(tokens), layout.num_tokens_out, shape.heads, plan.width)
    if len(tokens):
        with torch.cuda.device_of(tokens):
            _forward_kernel[triton.cdiv(num_rows, ROWS), len(tokens)](
                (tokens, _by_tap(weight), *norm, layout.neighbours, out),
                *(tokens.stride()[:3], (num_rows, layout.num_patches_out), (plan.eps, plan.scale)),
                *(shape, ROWS),
                num_warps=WARPS,
            )
    return [out]


def pool_backward(
    gradients: list[Tensor],
    projected: Tensor,
    filters: list[PoolFilter],
    plans: Sequence[PoolPlan],
    into: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by the one filter; that by the tokens is written to `into`, unless None."""
    ((weight, norm_weight, _),), (plan,), (gradient,), tokens = filters, plans, gradients, projected[:, :, 0]
    layout, weight, batch = plan.layout, _by_tap(weight), len(tokens)
    shape = _shape(layout, tokens, plan.width)
    num_rows = layout.num_tokens_out * shape.heads
    blocks = triton.cdiv(num_rows, ROWS)
    by_pooled = tokens.new_empty(batch, layout.num_patches_out, shape.heads, shape.dim)
    by_tokens = tokens.new_empty(batch, shape.class_tokens, shape.heads, shape.dim)
    by_tokens = by_tokens if into is None else into[:, :, 0]
    shares = weight.new_empty(batch * blocks, 2, shape.dim)
    with torch.cuda.device_of(tokens):
        if batch:
            _norm_backward_kernel[blocks, batch](
                (tokens, weight, norm_weight, layout.neighbours, gradient, by_pooled, by_tokens, shares),
                (*tokens.stride()[:3], *gradient.stride(), *by_tokens.stride()[:3]),
                *((num_rows, layout.num_patches_out), (plan.eps, plan.scale), shape, ROWS),
                num_warps=WARPS,
            )
        if batch and into is not None:
            _token_gradient_kernel[triton.cdiv(layout.num_patches_in * shape.heads, ROWS), batch](
                (by_pooled, weight, layout.readers, by_tokens),
                *(by_tokens.stride()[:3], (layout.num_patches_in, layout.num_patches_out), shape, ROWS),
                num_warps=WARPS,
            )
    return _weight_gradient(tokens, by_pooled, plan, shape), *shares.sum(0)


def _weight_gradient(tokens: Tensor, by_pooled: Tensor, plan: PoolPlan, shape: Shape) -> Tensor:
    blocks = triton.cdiv(plan.layout.num_patches_out * shape.heads, ROWS_OF_WEIGHT_GRADIENT)
    steps = min(blocks, STEPS_OF_WEIGHT_GRADIENT)
    programs = triton.cdiv(blocks, steps)
    shares = tokens.new_empty(len(tokens) * programs, 27, shape.dim, dtype=torch.float32)
    if len(tokens):
        with torch.cuda.device_of(tokens):
            _weight_gradient_kernel[programs, len(tokens), 9](
                *((tokens, by_pooled, plan.layout.neighbours, shares), tokens.stride()[:3]),
                *((plan.layout.num_patches_out, steps), shape, ROWS_OF_WEIGHT_GRADIENT),
            )
    return rearrange(shares.sum(0), "(t h w) dim -> dim 1 t h w", t=3, h=3)


def _shape(layout: PoolLayout, tokens: Tensor, width: int) -> Shape:
    heads, dim = tokens.shape[2:]
    return Shape(layout.num_class_tokens, heads, dim, max(16, triton.next_power_of_2(dim)), width)


def _by_tap(weight: Tensor) -> Tensor:
    return rearrange(weight, "dim 1 t h w -> (t h w) dim").contiguous()
