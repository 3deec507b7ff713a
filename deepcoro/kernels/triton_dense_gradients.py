"""The kernels for the gradients of pooling whole grids on CUDA; see triton_dense_pooling.py, whose tiles they take."""

from typing import no_type_check

import triton
import triton.language as tl

from deepcoro.kernels.triton_dense_pooling import (
    add_taps,
    in_frames,
    no_totals,
    normalise,
    number_of_part,
    of_part,
    only_if,
    part_of,
    plain,
    pool,
    row_of,
    tile_of,
)


@triton.jit
@no_type_check
def through_norm(pooled, by_out, gain, eps, SHAPE: tl.constexpr):
    """The gradient by the pooled values, and the normed values."""
    DIM: tl.constexpr = SHAPE[3]
    normed, factor = normalise(pooled, eps, SHAPE)
    by_normed = by_out * gain
    mean = tl.sum(by_normed, axis=1) / DIM
    slope = tl.sum(by_normed * normed, axis=1) / DIM
    return (by_normed - mean[:, None] - normed * slope[:, None]) * factor[:, None], normed


@triton.jit
@no_type_check
def store_norm_shares(shares, by_gain, by_shift, SHAPE: tl.constexpr):
    """What a program added up of the gradients by the norm's gain and shift, in its place among all programs'."""
    DIM: tl.constexpr = SHAPE[3]
    columns = tl.arange(0, SHAPE[4])
    share = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    shares += share * 2 * DIM + columns
    tl.store(shares, tl.sum(by_gain, axis=0), mask=columns < DIM)
    tl.store(shares + DIM, tl.sum(by_shift, axis=0), mask=columns < DIM)


@triton.jit
@no_type_check
def _norm_backward_of_tile(pointers, strides, film, parts, numbers, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Writes the gradients by the pooled values of a tile; returns its shares of those by the norm's gain and shift."""
    FRAMES: tl.constexpr = SHAPE[0]
    CLASS_TOKENS: tl.constexpr = SHAPE[2]
    DIM: tl.constexpr = SHAPE[3]
    COLUMNS: tl.constexpr = SHAPE[4]
    ALIGNED: tl.constexpr = SHAPE[5]
    projected, filters, gradients, by_pooled, by_tokens = pointers
    heads, num_frames, height, width = plain(film[0]), plain(film[1]), plain(film[2]), plain(film[3])
    eps, scale, part, number, active = numbers
    row, column, valid, number, tile = tile_of(number, part, parts, ROWS)
    valid = only_if(active, valid)
    first = tl.program_id(1) * FRAMES
    clip, head = (number // heads).to(tl.int64), number % heads
    of_tokens, of_gradient, of_class = strides
    token_step = plain(of_tokens[1]) * ALIGNED
    tokens = projected + clip * (plain(of_tokens[0]) * ALIGNED)
    tokens += part * (plain(of_tokens[2]) * ALIGNED) + head * (plain(of_tokens[3]) * ALIGNED)
    weight = filters + part * (29 * DIM)
    source = tokens + (CLASS_TOKENS + (first * height * width).to(tl.int64)) * token_step
    place = (row, column, valid, number_of_part(parts[0], part))
    totals = pool(source, weight, place, token_step, (height, width, first, num_frames), SHAPE, ROWS)
    gain = row_of(weight + 27 * DIM, ROWS, SHAPE)
    columns = tl.arange(0, COLUMNS)[None, :]
    in_head = columns < DIM
    height_out, width_out = number_of_part(parts[1], part), number_of_part(parts[2], part)
    by_results = of_part(gradients, part) + clip * (number_of_part(of_gradient[0], part) * ALIGNED)
    by_results += head * (number_of_part(of_gradient[2], part) * ALIGNED)
    row_step = number_of_part(of_gradient[1], part) * ALIGNED
    by_pooled += (number_of_part(parts[7], part) + clip * num_frames * height_out * width_out) * (heads * DIM)
    by_gain = tl.zeros((ROWS, COLUMNS), tl.float32)
    by_shift = tl.zeros((ROWS, COLUMNS), tl.float32)
    for frame in tl.static_range(FRAMES):
        patch = ((first + frame) * height_out + row) * width_out + column
        mask = only_if(first + frame < num_frames, valid[:, None] & in_head)
        addresses = by_results + (CLASS_TOKENS + patch).to(tl.int64)[:, None] * row_step + columns
        by_out = tl.load(addresses, mask=mask, other=0.0).to(tl.float32) * scale
        by_rows, normed = through_norm(totals[frame], by_out, gain, eps, SHAPE)
        by_gain += by_out * normed
        by_shift += by_out
        addresses = by_pooled + (patch.to(tl.int64) * heads + head)[:, None] * DIM + columns
        tl.store(addresses, by_rows.to(by_pooled.dtype.element_ty), mask=mask)
    if CLASS_TOKENS:
        # their way through the pooling ends here
        is_first = (tl.arange(0, ROWS) == 0)[:, None] & in_head
        mask = only_if(active & (tile == 0) & (first == 0), is_first)
        nowhere = tl.zeros((ROWS, 1), tl.int32) + columns
        values = tl.load(tokens + nowhere, mask=mask, other=0.0).to(tl.float32)
        by_out = tl.load(by_results + nowhere, mask=mask, other=0.0).to(tl.float32) * scale
        by_rows, normed = through_norm(values, by_out, gain, eps, SHAPE)
        by_gain += by_out * normed
        by_shift += by_out
        by_tokens += (
            clip * (plain(of_class[0]) * ALIGNED)
            + part * (plain(of_class[1]) * ALIGNED)
            + head * (plain(of_class[2]) * ALIGNED)
        )
        tl.store(by_tokens + nowhere, by_rows.to(by_tokens.dtype.element_ty), mask=mask)
    return by_gain, by_shift


@triton.jit
@no_type_check
def norm_backward_kernel(pointers, strides, film, parts, numbers, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Gradients by the pooled values and class tokens, and a share of those by the norm's weights."""
    COLUMNS: tl.constexpr = SHAPE[4]
    eps, scales = numbers
    projected, filters, gradients, by_pooled, by_tokens, shares = pointers
    tensors = (projected, filters, gradients, by_pooled, by_tokens)
    part, number = part_of(tl.program_id(0), parts[4])
    steps, items = number_of_part(parts[5], part), number_of_part(parts[6], part)
    by_gain = tl.zeros((ROWS, COLUMNS), tl.float32)
    by_shift = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(steps):
        item = number * steps + step
        told = (eps, of_part(scales, part), part, item, item < items)
        more = _norm_backward_of_tile(tensors, strides, film, parts, told, SHAPE, ROWS)
        by_gain += more[0]
        by_shift += more[1]
    store_norm_shares(shares, by_gain, by_shift, SHAPE)


@triton.jit
@no_type_check
def token_gradient_kernel(pointers, strides, film, parts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Each input cell gathers from the outputs that read it. Cells of a tile lie `stride` apart: the same taps reach them all."""
    FRAMES: tl.constexpr = SHAPE[0]
    CLASS_TOKENS: tl.constexpr = SHAPE[2]
    DIM: tl.constexpr = SHAPE[3]
    COLUMNS: tl.constexpr = SHAPE[4]
    ALIGNED: tl.constexpr = SHAPE[5]
    by_pooled, filters, by_projected = pointers
    heads, num_frames, height, width = plain(film[0]), plain(film[1]), plain(film[2]), plain(film[3])
    part, number = part_of(tl.program_id(0), parts[4])
    stride, height_out, width_out = (
        number_of_part(parts[0], part),
        number_of_part(parts[1], part),
        number_of_part(parts[2], part),
    )
    blocks = tl.cdiv(heads * DIM, COLUMNS)
    block, number = number % blocks, number // blocks
    down_by, number = number % stride, number // stride
    right_by, number = number % stride, number // stride
    row, column, _, clip, _ = tile_of(number, part, parts, ROWS)
    clip = clip.to(tl.int64)
    valid = (row * stride + down_by < height) & (column * stride + right_by < width)
    first = tl.program_id(1) * FRAMES
    span = block * COLUMNS + tl.arange(0, COLUMNS)
    in_heads = (span < heads * DIM)[None, :]
    span = span[None, :]
    plane = height_out * width_out
    row_step = heads * DIM
    by_pooled += (number_of_part(parts[7], part) + (clip * num_frames + first) * plane) * row_step
    along = (plane.to(tl.int64) * row_step, first, num_frames)
    weight = filters + part * (29 * DIM) + 18 * DIM
    totals = no_totals(FRAMES, ROWS, COLUMNS)
    for down in range((down_by + 1) % stride, 3, stride):
        y = row + (down_by + 1 - down) // stride
        for across in range((right_by + 1) % stride, 3, stride):
            x = column + (right_by + 1 - across) // stride
            inside = (y >= 0) & (y < height_out) & (x >= 0) & (x < width_out)
            cells = (y * width_out + x) * row_step
            values = in_frames(by_pooled, cells, inside, (span, in_heads), along, SHAPE)
            weights = (weight + (down * 3 + across) * DIM, -9 * DIM)
            totals = add_taps(totals, values, weights, (span % DIM, in_heads), SHAPE, ROWS)
    by_tokens = by_projected + clip * (plain(strides[0]) * ALIGNED) + part * (plain(strides[2]) * ALIGNED)
    token_step = plain(strides[1]) * ALIGNED
    for frame in tl.static_range(FRAMES):
        patch = ((first + frame) * height + row * stride + down_by) * width + column * stride + right_by
        addresses = by_tokens + (CLASS_TOKENS + patch).to(tl.int64)[:, None] * token_step + span
        exists = only_if(first + frame < num_frames, valid[:, None] & in_heads)
        tl.store(addresses, totals[frame].to(by_projected.dtype.element_ty), mask=exists)


@triton.jit
@no_type_check
def _weight_gradient_of_tile(totals, sources, place, steps, film, SHAPE: tl.constexpr):
    """Adds a tile's products to the 27 totals, of taps in the order (h, w, t)."""
    FRAMES: tl.constexpr = SHAPE[0]
    WHOLE: tl.constexpr = SHAPE[1]
    source, by_pooled, columns = sources
    row, column, valid, stride, width_out = place
    token_step, row_step, plane_out = steps
    height, width, first, num_frames = film
    by_rows = ()
    for frame in tl.static_range(FRAMES):
        exists = only_if(first + frame < num_frames, valid[:, None] & columns[1])
        cells = (row * width_out + column) * row_step
        found = tl.load(by_pooled + frame * plane_out + cells[:, None] + columns[0], mask=exists, other=0.0)
        by_rows = by_rows + (found.to(tl.float32),)
    frame_step = (height * width).to(tl.int64) * token_step
    sums = ()
    for tap in tl.static_range(9):
        y = row * stride + (tap // 3 - 1)
        x = column * stride + (tap % 3 - 1)
        inside = valid & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        cells = (y * width + x) * token_step
        values = in_frames(source, cells, inside, columns, (frame_step, first, num_frames), SHAPE)
        for time in tl.static_range(3):
            total = totals[tap * 3 + time]
            for frame in tl.static_range(FRAMES):
                # four deep: totals are registers, which Triton only names by numbers of unrolled loops
                if not WHOLE or (frame + time > 0 and frame + time < FRAMES + 1):
                    total += by_rows[frame] * values[frame + time]
            sums = sums + (total,)
    return sums


@triton.jit
@no_type_check
def weight_gradient_kernel(pointers, strides, film, parts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Shares of the gradients by the 27 taps of some channels."""
    FRAMES: tl.constexpr = SHAPE[0]
    CLASS_TOKENS: tl.constexpr = SHAPE[2]
    DIM: tl.constexpr = SHAPE[3]
    COLUMNS: tl.constexpr = SHAPE[4]
    ALIGNED: tl.constexpr = SHAPE[5]
    projected, by_pooled, shares = pointers
    heads, num_frames, height, width = plain(film[0]), plain(film[1]), plain(film[2]), plain(film[3])
    part, program = part_of(tl.program_id(0), parts[4])
    items, per_program = number_of_part(parts[6], part), number_of_part(parts[5], part)
    height_out, width_out = number_of_part(parts[1], part), number_of_part(parts[2], part)
    first = tl.program_id(1) * FRAMES
    span = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    columns = (span[None, :], (span < DIM)[None, :])
    token_step = plain(strides[1]) * ALIGNED
    projected += part * (plain(strides[2]) * ALIGNED)
    projected += (CLASS_TOKENS + (first * height * width).to(tl.int64)) * token_step
    plane_out = height_out * width_out
    steps = (token_step, heads * DIM, plane_out.to(tl.int64) * (heads * DIM))
    by_pooled += (number_of_part(parts[7], part).to(tl.int64) + first * plane_out) * (heads * DIM)
    totals = no_totals(27, ROWS, COLUMNS)
    for step in range(per_program):
        item = program * per_program + step
        row, column, valid, number, _ = tile_of(item, part, parts, ROWS)
        clip, head = (number // heads).to(tl.int64), number % heads
        source = projected + clip * (plain(strides[0]) * ALIGNED) + head * (plain(strides[3]) * ALIGNED)
        by_rows = by_pooled + clip * num_frames * plane_out * (heads * DIM) + head * DIM
        place = (row, column, only_if(item < items, valid), number_of_part(parts[0], part), width_out)
        told = (height, width, first, num_frames)
        totals = _weight_gradient_of_tile(totals, (source, by_rows, columns), place, steps, told, SHAPE)
    share = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    shares += share * 27 * DIM + span
    for tap in tl.static_range(9):
        for time in tl.static_range(3):
            tl.store(shares + (time * 9 + tap) * DIM, tl.sum(totals[tap * 3 + time], axis=0), mask=span < DIM)


@triton.jit
@no_type_check
def sum_shares_kernel(pointers, starts, DIM: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    """The gradients by a part's filter from the shares of its programs: [dim, 27] and [2, dim]."""
    shares, norm_shares, by_weights, by_norms = pointers
    vector, part = tl.program_id(0), tl.program_id(1)
    columns = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    if vector < 27:
        first, last = number_of_part(starts[0], part), number_of_part(starts[1], part)
        source, step = shares + vector * DIM, 27 * DIM
    else:
        first, last = number_of_part(starts[2], part), number_of_part(starts[3], part)
        source, step = norm_shares + (vector - 27) * DIM, 2 * DIM
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(first, last, ROWS):
        rows = start + tl.arange(0, ROWS)
        mask = (rows < last)[:, None] & (columns < DIM)[None, :]
        total += tl.load(source + rows.to(tl.int64)[:, None] * step + columns[None, :], mask=mask, other=0.0)
    result = tl.sum(total, axis=0)
    if vector < 27:
        tl.store(by_weights + (part * DIM + columns) * 27 + vector, result, mask=columns < DIM)
    else:
        tl.store(by_norms + (part * 2 + vector - 27) * DIM + columns, result, mask=columns < DIM)
