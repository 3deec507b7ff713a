"""The kernels that pool whole grids on CUDA; triton_pooling.py launches them.

A row of a tile is one place of a frame, and one thread sums up all frames of a group there (all of a film of up to eight): each
value is read and converted 9 times, not 27, each weight once a thread, and whether a neighbour exists is asked 9 times. One launch
serves the three parts of a projection: programs are dealt to parts in order. Geometry is given at run time, so that one
compilation serves all blocks. Sums are in fp32 and in a fixed order.
"""

from typing import NamedTuple, no_type_check

import triton
import triton.language as tl


class Shape(NamedTuple):
    """What a kernel is compiled for; the kernels read it by number, in this order."""

    frames: int
    """Of a group: a thread sums up this many."""
    whole: int
    """1: the group is the film, and nothing lies before or after it."""
    class_tokens: int
    dim: int
    columns: int
    """Of a tile, a power of two."""
    aligned: int
    """Steps in memory are given in units of so many elements: the compiler has to know by what they can be divided."""


@triton.jit
@no_type_check
def of_part(values, part):
    return tl.where(part == 0, values[0], tl.where(part == 1, values[1], values[2]))


@triton.jit
@no_type_check
def plain(number):
    """A whole number as it is meant: in tuples all are given as odd ones past 1, since Triton compiles anew for 1 and for 16, 32..."""
    return (number - 3) >> 1


@triton.jit
@no_type_check
def number_of_part(numbers, part):
    return plain(of_part(numbers, part))


@triton.jit
@no_type_check
def only_if(condition, mask):
    """A mask that is empty unless a scalar holds."""
    # the interpreter cannot spread a scalar comparison
    return mask & (tl.zeros(mask.shape, tl.int32) + tl.where(condition, 1, 0) > 0)


@triton.jit
@no_type_check
def part_of(program, starts):
    """Which part a program works on, and its number there."""
    part = (program >= plain(starts[1])).to(tl.int32) + (program >= plain(starts[2])).to(tl.int32)
    return part, program - number_of_part(starts, part)


@triton.jit
@no_type_check
def tile_of(number, part, parts, ROWS: tl.constexpr):
    """The places of the output's grid that a tile holds, whether they are on it, and the number with the tile taken out."""
    height = number_of_part(parts[1], part)
    width = number_of_part(parts[2], part)
    tile_width = number_of_part(parts[3], part)
    tile_height = ROWS // tile_width
    across = tl.cdiv(width, tile_width)
    tiles = across * tl.cdiv(height, tile_height)
    tile = number % tiles
    lane = tl.arange(0, ROWS)
    row = tile // across * tile_height + lane // tile_width
    column = tile % across * tile_width + lane % tile_width
    return row, column, (row < height) & (column < width), number // tiles, tile


@triton.jit
@no_type_check
def in_frames(source, cells, inside, columns, film, SHAPE: tl.constexpr):
    """What lies at one place a row in each frame of a group, in the one before and in the one after: [ROWS, columns], fp32."""
    FRAMES: tl.constexpr = SHAPE[0]
    WHOLE: tl.constexpr = SHAPE[1]
    frame_step, first, num_frames = film
    addresses = source + cells[:, None] + columns[0]
    mask = inside[:, None] & columns[1]
    values = ()
    for number in tl.static_range(FRAMES + 2):
        if WHOLE:
            if (number == 0) | (number == FRAMES + 1):
                values = values + (0.0,)
            else:
                found = tl.load(addresses + (number - 1) * frame_step, mask=mask, other=0.0)
                values = values + (found.to(tl.float32),)
        else:
            frame = first + number - 1
            exists = only_if((frame >= 0) & (frame < num_frames), mask)
            found = tl.load(addresses + (number - 1) * frame_step, mask=exists, other=0.0)
            values = values + (found.to(tl.float32),)
    return values


@triton.jit
@no_type_check
def add_taps(totals, values, weights, columns, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Three taps in time, in the order of the frames, of one place in space."""
    FRAMES: tl.constexpr = SHAPE[0]
    WHOLE: tl.constexpr = SHAPE[1]
    weight, step = weights
    # of the tile's whole shape: a row of weights would be passed around through shared memory, with a barrier for each tap
    addresses = weight + columns[0] + tl.zeros((ROWS, 1), tl.int32)
    before = tl.load(addresses, mask=columns[1], other=0.0)
    here = tl.load(addresses + step, mask=columns[1], other=0.0)
    after = tl.load(addresses + 2 * step, mask=columns[1], other=0.0)
    sums = ()
    for frame in tl.static_range(FRAMES):
        total = totals[frame] + values[frame + 1] * here
        if not WHOLE or frame > 0:
            total += values[frame] * before
        if not WHOLE or frame < FRAMES - 1:
            total += values[frame + 2] * after
        sums = sums + (total,)
    return sums


@triton.jit
@no_type_check
def no_totals(COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    totals = ()
    for _ in tl.static_range(COUNT):
        totals = totals + (tl.zeros((ROWS, COLUMNS), tl.float32),)
    return totals


@triton.jit
@no_type_check
def pool(source, weight, place, token_step, film, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """The pooled values of a tile of outputs, a tensor a frame; `source` stands at the head, its clip and group's first patch."""
    FRAMES: tl.constexpr = SHAPE[0]
    DIM: tl.constexpr = SHAPE[3]
    COLUMNS: tl.constexpr = SHAPE[4]
    row, column, valid, stride = place
    height, width, first, num_frames = film
    columns = (tl.arange(0, COLUMNS)[None, :], (tl.arange(0, COLUMNS) < DIM)[None, :])
    frame_step = (height * width).to(tl.int64) * token_step
    totals = no_totals(FRAMES, ROWS, COLUMNS)
    for down in range(3):
        y = row * stride + down - 1
        for across in tl.static_range(3):
            x = column * stride + (across - 1)
            inside = valid & (y >= 0) & (y < height) & (x >= 0) & (x < width)
            cells = (y * width + x) * token_step
            values = in_frames(source, cells, inside, columns, (frame_step, first, num_frames), SHAPE)
            weights = (weight + (down * 3 + across) * DIM, 9 * DIM)
            totals = add_taps(totals, values, weights, columns, SHAPE, ROWS)
    return totals


@triton.jit
@no_type_check
def normalise(pooled, eps, SHAPE: tl.constexpr):
    """Values of mean 0 and variance 1, zero past the head's channels, and the factor that made them so."""
    DIM: tl.constexpr = SHAPE[3]
    COLUMNS: tl.constexpr = SHAPE[4]
    in_head = (tl.arange(0, COLUMNS) < DIM)[None, :]
    mean = tl.sum(pooled, axis=1) / DIM
    centred = tl.where(in_head, pooled - mean[:, None], 0.0)
    factor = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / DIM + eps)
    return centred * factor[:, None], factor


@triton.jit
@no_type_check
def row_of(vector, ROWS: tl.constexpr, SHAPE: tl.constexpr):
    """A vector over a head's channels, for each row of a tile."""
    DIM: tl.constexpr = SHAPE[3]
    columns = tl.arange(0, SHAPE[4])[None, :]
    return tl.load(vector + columns + tl.zeros((ROWS, 1), tl.int32), mask=columns < DIM, other=0.0)


@triton.jit
@no_type_check
def write_normed(pooled, norm, numbers, out, valid, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """`out` [ROWS] stands at the first column of each row."""
    COLUMNS: tl.constexpr = SHAPE[4]
    gain, shift = norm
    eps, units = numbers
    width = units * SHAPE[5]
    normed, _ = normalise(pooled, eps, SHAPE)
    columns = tl.arange(0, COLUMNS)[None, :]
    result = (normed * gain + shift).to(out.dtype.element_ty)
    # a comparison of units keeps the store whole: the compiler sees what they have in common
    tl.store(out[:, None] + columns, result, mask=valid[:, None] & (columns // SHAPE[5] < units))
    for first in range(COLUMNS, width, 16):
        spare = first + tl.arange(0, 16)[None, :]
        nothing = tl.zeros((ROWS, 16), out.dtype.element_ty)
        tl.store(out[:, None] + spare, nothing, mask=valid[:, None] & (spare < width))


@triton.jit
@no_type_check
def forward_kernel(pointers, strides, film, parts, numbers, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    FRAMES: tl.constexpr = SHAPE[0]
    CLASS_TOKENS: tl.constexpr = SHAPE[2]
    DIM: tl.constexpr = SHAPE[3]
    COLUMNS: tl.constexpr = SHAPE[4]
    ALIGNED: tl.constexpr = SHAPE[5]
    projected, filters, results = pointers
    heads, num_frames, height, width = plain(film[0]), plain(film[1]), plain(film[2]), plain(film[3])
    eps, scales, widths = numbers
    part, number = part_of(tl.program_id(0), parts[4])
    row, column, valid, number, tile = tile_of(number, part, parts, ROWS)
    first = tl.program_id(1) * FRAMES
    clip, head = (number // heads).to(tl.int64), number % heads
    token_step = plain(strides[1]) * ALIGNED
    tokens = projected + clip * (plain(strides[0]) * ALIGNED) + part * (plain(strides[2]) * ALIGNED)
    tokens += head * (plain(strides[3]) * ALIGNED)
    weight = filters + part * (29 * DIM)
    source = tokens + (CLASS_TOKENS + (first * height * width).to(tl.int64)) * token_step
    place = (row, column, valid, number_of_part(parts[0], part))
    totals = pool(source, weight, place, token_step, (height, width, first, num_frames), SHAPE, ROWS)
    scale = of_part(scales, part)
    norm = (row_of(weight + 27 * DIM, ROWS, SHAPE) * scale, row_of(weight + 28 * DIM, ROWS, SHAPE) * scale)
    units = number_of_part(widths, part)
    result_width = units * ALIGNED
    height_out, width_out = number_of_part(parts[1], part), number_of_part(parts[2], part)
    num_rows = CLASS_TOKENS + num_frames * height_out * width_out
    out = of_part(results, part) + (clip * num_rows * heads + head) * result_width
    for frame in tl.static_range(FRAMES):
        token = CLASS_TOKENS + ((first + frame) * height_out + row) * width_out + column
        exists = only_if(first + frame < num_frames, valid)
        rows = out + token.to(tl.int64) * heads * result_width
        write_normed(totals[frame], norm, (eps, units), rows, exists, SHAPE, ROWS)
    if (tile == 0) & (first == 0) & (CLASS_TOKENS > 0):
        is_first = tl.arange(0, ROWS) == 0
        columns = tl.arange(0, COLUMNS)[None, :]
        addresses = tokens + tl.zeros((ROWS, 1), tl.int32) + columns
        values = tl.load(addresses, mask=is_first[:, None] & (columns < DIM), other=0.0).to(tl.float32)
        rows = out + tl.zeros((ROWS,), tl.int64)
        write_normed(values, norm, (eps, units), rows, is_first, SHAPE, ROWS)
