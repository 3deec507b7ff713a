"""The kernels that pool visible tokens on CUDA; triton_sparse_pooling.py launches them. Neighbours come from tables.

A program takes ROWS rows of (token, head) of one clip; a row is the channels of one head. One launch serves the three parts of a
projection: programs are dealt to parts in order. Counts are given at run time, so that one compilation serves all blocks. Sums are in
fp32 and in a fixed order. The kernels are not type checked: a wrapper around them is no source to Triton.
"""

from typing import no_type_check

import triton
import triton.language as tl

from deepcoro.kernels.triton_dense_gradients import store_norm_shares, through_norm
from deepcoro.kernels.triton_dense_pooling import (
    number_of_part,
    of_part,
    part_of,
    plain,
    row_of,
    write_normed,
)


@triton.jit
@no_type_check
def _values_under(source, token_step, table, valid, SHAPE: tl.constexpr):
    """What each row reads under the tap at which `table` [ROWS] stands: [ROWS, columns] in fp32, zero where there is nothing."""
    CLASS_TOKENS: tl.constexpr = SHAPE[2]
    DIM: tl.constexpr = SHAPE[3]
    columns = tl.arange(0, SHAPE[4])[None, :]
    row = tl.load(table, mask=valid, other=-1)
    addresses = source + (row + CLASS_TOKENS) * token_step
    mask = (row >= 0)[:, None] & (columns < DIM)
    return tl.load(addresses[:, None] + columns, mask=mask, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def _pool_rows(source, token_step, weight, table, place, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Pooled values [ROWS, columns] in fp32; `source` [ROWS] stands at each row's clip and head, `table` [ROWS] at its first tap."""
    CLASS_TOKENS: tl.constexpr = SHAPE[2]
    DIM: tl.constexpr = SHAPE[3]
    COLUMNS: tl.constexpr = SHAPE[4]
    token, valid = place
    columns = tl.arange(0, COLUMNS)[None, :]
    is_patch = valid & (token >= CLASS_TOKENS)
    # of the tile's whole shape: a row of weights would be passed around through shared memory, with a barrier for each tap
    weights = weight + columns + tl.zeros((ROWS, 1), tl.int32)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for triple in range(9):  # unrolled whole it would take minutes to compile
        for side in tl.static_range(3):
            tap = triple * 3 + side
            values = _values_under(source, token_step, table + tap, is_patch, SHAPE)
            total += values * tl.load(weights + tap * DIM, mask=columns < DIM, other=0.0)
    if CLASS_TOKENS:
        is_class_token = (valid & (token < CLASS_TOKENS))[:, None] & (columns < DIM)
        addresses = (source + token * token_step)[:, None] + columns
        total += tl.load(addresses, mask=is_class_token, other=0.0).to(tl.float32)
    return total


@triton.jit
@no_type_check
def forward_kernel(pointers, strides, heads, parts, numbers, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    CLASS_TOKENS: tl.constexpr = SHAPE[2]
    DIM: tl.constexpr = SHAPE[3]
    ALIGNED: tl.constexpr = SHAPE[5]
    projected, filters, tables, results = pointers
    eps, scales, widths = numbers
    heads = plain(heads)
    part, block = part_of(tl.program_id(0), parts[0])
    num_patches = number_of_part(parts[1], part)
    clip = tl.program_id(1).to(tl.int64)
    rows = block * ROWS + tl.arange(0, ROWS)
    token, head = rows // heads, rows % heads
    valid = token < CLASS_TOKENS + num_patches
    source = projected + clip * (plain(strides[0]) * ALIGNED) + part * (plain(strides[2]) * ALIGNED)
    source += head * (plain(strides[3]) * ALIGNED)
    weight = filters + part * (29 * DIM)
    table = of_part(tables, part) + (clip * num_patches + token - CLASS_TOKENS) * 27
    pooled = _pool_rows(source, plain(strides[1]) * ALIGNED, weight, table, (token, valid), SHAPE, ROWS)
    scale = of_part(scales, part)
    norm = (row_of(weight + 27 * DIM, ROWS, SHAPE) * scale, row_of(weight + 28 * DIM, ROWS, SHAPE) * scale)
    units = number_of_part(widths, part)
    out = of_part(results, part)
    out += (clip * ((CLASS_TOKENS + num_patches) * heads) + rows) * (units * ALIGNED)
    write_normed(pooled, norm, (eps, units), out, valid, SHAPE, ROWS)


@triton.jit
@no_type_check
def _norm_backward_of_rows(pointers, strides, heads, parts, told, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Writes the gradients by the pooled values of some rows; returns their shares of those by the norm's gain and shift."""
    CLASS_TOKENS: tl.constexpr = SHAPE[2]
    DIM: tl.constexpr = SHAPE[3]
    ALIGNED: tl.constexpr = SHAPE[5]
    projected, filters, tables, gradients, by_pooled, by_tokens = pointers
    of_tokens, of_gradient, of_class = strides
    eps, scale, part, block = told
    num_patches = number_of_part(parts[1], part)
    clip = tl.program_id(1).to(tl.int64)
    rows = block * ROWS + tl.arange(0, ROWS)
    token, head = rows // heads, rows % heads
    valid = token < CLASS_TOKENS + num_patches
    source = projected + clip * (plain(of_tokens[0]) * ALIGNED) + part * (plain(of_tokens[2]) * ALIGNED)
    source += head * (plain(of_tokens[3]) * ALIGNED)
    weight = filters + part * (29 * DIM)
    table = of_part(tables, part) + (clip * num_patches + token - CLASS_TOKENS) * 27
    pooled = _pool_rows(source, plain(of_tokens[1]) * ALIGNED, weight, table, (token, valid), SHAPE, ROWS)
    columns = tl.arange(0, SHAPE[4])[None, :]
    in_head = columns < DIM
    by_results = of_part(gradients, part) + clip * (number_of_part(of_gradient[0], part) * ALIGNED)
    by_results += token * (number_of_part(of_gradient[1], part) * ALIGNED)
    by_results += head * (number_of_part(of_gradient[2], part) * ALIGNED)
    mask = valid[:, None] & in_head
    by_out = tl.load(by_results[:, None] + columns, mask=mask, other=0.0).to(tl.float32) * scale
    by_rows, normed = through_norm(pooled, by_out, row_of(weight + 27 * DIM, ROWS, SHAPE), eps, SHAPE)
    written = by_rows.to(by_pooled.dtype.element_ty)
    first = (number_of_part(parts[3], part).to(tl.int64) + clip * num_patches) * heads
    addresses = by_pooled + (first + rows - CLASS_TOKENS * heads)[:, None] * DIM + columns
    tl.store(addresses, written, mask=mask & (token >= CLASS_TOKENS)[:, None])
    if CLASS_TOKENS:
        # their way through the pooling ends here
        by_tokens += clip * (plain(of_class[0]) * ALIGNED) + part * (plain(of_class[2]) * ALIGNED)
        of_rows = by_tokens + token * (plain(of_class[1]) * ALIGNED) + head * (plain(of_class[3]) * ALIGNED)
        tl.store(of_rows[:, None] + columns, written, mask=mask & (token < CLASS_TOKENS)[:, None])
    return by_out * normed, by_out


@triton.jit
@no_type_check
def norm_backward_kernel(pointers, strides, heads, parts, numbers, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Gradients by the pooled values and class tokens, and a share of those by the norm's weights."""
    COLUMNS: tl.constexpr = SHAPE[4]
    projected, filters, tables, gradients, by_pooled, by_tokens, shares = pointers
    tensors = (projected, filters, tables, gradients, by_pooled, by_tokens)
    eps, scales = numbers
    heads = plain(heads)
    part, program = part_of(tl.program_id(0), parts[0])
    scale = of_part(scales, part)
    steps = number_of_part(parts[2], part)
    by_gain = tl.zeros((ROWS, COLUMNS), tl.float32)
    by_shift = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(steps):
        told = (eps, scale, part, program * steps + step)
        more = _norm_backward_of_rows(tensors, strides, heads, parts, told, SHAPE, ROWS)
        by_gain += more[0]
        by_shift += more[1]
    store_norm_shares(shares, by_gain, by_shift, SHAPE)


@triton.jit
@no_type_check
def token_gradient_kernel(pointers, strides, counts, parts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Each input patch gathers from the outputs that read it, all heads side by side: no two programs write one place."""
    CLASS_TOKENS: tl.constexpr = SHAPE[2]
    DIM: tl.constexpr = SHAPE[3]
    COLUMNS: tl.constexpr = SHAPE[4]
    ALIGNED: tl.constexpr = SHAPE[5]
    by_pooled, filters, tables, by_projected = pointers
    heads, num_patches = plain(counts[0]), plain(counts[1])
    clip, part = tl.program_id(1).to(tl.int64), tl.program_id(2)
    blocks = tl.cdiv(heads * DIM, COLUMNS)
    patch = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)
    valid = patch < num_patches
    span = (tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    in_heads = span < heads * DIM
    table = of_part(tables, part) + (clip * num_patches + patch) * 27
    first = number_of_part(parts[3], part).to(tl.int64) + clip * number_of_part(parts[1], part)
    by_pooled += first * (heads * DIM)
    weights = filters + part * (29 * DIM) + span % DIM + tl.zeros((ROWS, 1), tl.int32)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for triple in range(9):
        for side in tl.static_range(3):
            tap = triple * 3 + side
            row = tl.load(table + tap, mask=valid, other=-1)
            addresses = (by_pooled + row * (heads * DIM))[:, None] + span
            mask = (row >= 0)[:, None] & in_heads
            values = tl.load(addresses, mask=mask, other=0.0).to(tl.float32)
            total += values * tl.load(weights + tap * DIM, mask=in_heads, other=0.0)
    by_tokens = by_projected + clip * (plain(strides[0]) * ALIGNED) + part * (plain(strides[2]) * ALIGNED)
    by_tokens += (patch + CLASS_TOKENS) * (plain(strides[1]) * ALIGNED)
    total = total.to(by_projected.dtype.element_ty)
    tl.store(by_tokens[:, None] + span, total, mask=valid[:, None] & in_heads)


@triton.jit
@no_type_check
def weight_gradient_kernel(pointers, strides, heads, parts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Shares of the gradient by three taps side by side in a row: their inputs lie next to each other."""
    DIM: tl.constexpr = SHAPE[3]
    COLUMNS: tl.constexpr = SHAPE[4]
    ALIGNED: tl.constexpr = SHAPE[5]
    projected, by_pooled, tables, shares = pointers
    heads = plain(heads)
    part, program = part_of(tl.program_id(0), parts[0])
    num_patches, steps = number_of_part(parts[1], part), number_of_part(parts[2], part)
    clip, triple = tl.program_id(1).to(tl.int64), tl.program_id(2)
    projected += clip * (plain(strides[0]) * ALIGNED) + part * (plain(strides[2]) * ALIGNED)
    token_step, head_step = plain(strides[1]) * ALIGNED, plain(strides[3]) * ALIGNED
    by_pooled += (number_of_part(parts[3], part).to(tl.int64) + clip * num_patches) * (heads * DIM)
    table = of_part(tables, part) + clip * num_patches * 27 + triple * 3
    columns = tl.arange(0, COLUMNS)
    left = tl.zeros((ROWS, COLUMNS), tl.float32)
    middle = tl.zeros((ROWS, COLUMNS), tl.float32)
    right = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(steps):
        rows = (program * steps + step) * ROWS + tl.arange(0, ROWS)
        patch = rows // heads
        valid = patch < num_patches
        source = projected + rows % heads * head_step
        taps = table + patch * 27
        mask = valid[:, None] & (columns < DIM)[None, :]
        addresses = (by_pooled + rows * DIM)[:, None] + columns[None, :]
        by_rows = tl.load(addresses, mask=mask, other=0.0).to(tl.float32)
        left += by_rows * _values_under(source, token_step, taps, valid, SHAPE)
        middle += by_rows * _values_under(source, token_step, taps + 1, valid, SHAPE)
        right += by_rows * _values_under(source, token_step, taps + 2, valid, SHAPE)
    share = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    shares += (share * 27 + triple * 3) * DIM + columns
    tl.store(shares, tl.sum(left, axis=0), mask=columns < DIM)
    tl.store(shares + DIM, tl.sum(middle, axis=0), mask=columns < DIM)
    tl.store(shares + 2 * DIM, tl.sum(right, axis=0), mask=columns < DIM)
