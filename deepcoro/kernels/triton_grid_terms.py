"""The kernels for positions of whole grids; triton_position_terms.py launches them.

All queries of one token, of every clip and head, have the same position, and so the same few rows of the tables: a program
takes ROWS of them, and its products are as small as what they give. The tables' gradients are summed up by place in a frame,
those of time by row of the table, then over the places of each row in a fixed order.
"""

from typing import no_type_check

import triton
import triton.language as tl

from deepcoro.kernels.triton_attention_rows import write_one_hots


@triton.jit
@no_type_check
def _rows_of_token(first, num_rows, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Clip and head of each row of a token, and whether there is one, as columns."""
    HEADS: tl.constexpr = SHAPE[1]
    rows = (first + tl.arange(0, ROWS))[:, None]
    return (rows // HEADS).to(tl.int64), rows % HEADS, rows < num_rows


@triton.jit
@no_type_check
def _rows_of_terms(rows_of_terms, token, term, SHAPE: tl.constexpr):
    """The tables' row behind each term of a token; -1 where there is none, as for all of the class token."""
    FRAMES: tl.constexpr = SHAPE[4]
    HEIGHT: tl.constexpr = SHAPE[5]
    WIDTH: tl.constexpr = SHAPE[6]
    SPACE: tl.constexpr = SHAPE[8] + SHAPE[9]
    ROOM: tl.constexpr = SHAPE[10]
    cell = token - SHAPE[0]
    row = FRAMES + cell // WIDTH % HEIGHT
    column = FRAMES + HEIGHT + cell % WIDTH
    place = tl.where(term < SHAPE[8], row, tl.where(term < SPACE, column, cell // (HEIGHT * WIDTH)))
    exists = (term < ROOM) & (cell + tl.zeros(term.shape, tl.int32) >= 0)
    return tl.load(rows_of_terms + place * ROOM + term, mask=exists, other=-1).to(tl.int32)


@triton.jit
@no_type_check
def _write_terms(pointers, strides, program, counts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    DIM: tl.constexpr = SHAPE[2]
    KEY_FRAMES: tl.constexpr = SHAPE[7]
    SPACE: tl.constexpr = SHAPE[8] + SHAPE[9]
    ROOM: tl.constexpr = SHAPE[10]
    q, tables, rows_of_terms, apart = pointers
    num_rows, num_tokens = counts
    token = program % num_tokens
    clip, head, valid = _rows_of_token(program // num_tokens * ROWS, num_rows, SHAPE, ROWS)
    columns = tl.arange(0, SHAPE[3])
    q += clip * strides[0] + token * strides[1] + head * strides[2]
    queries = tl.load(q + columns[None, :], mask=valid & (columns < DIM)[None, :], other=0.0)
    term = tl.arange(0, ROOM)
    found = _rows_of_terms(rows_of_terms, token, term, SHAPE)
    mask = (found >= 0)[None, :] & (columns < DIM)[:, None]
    table = tl.load(tables + found[None, :] * DIM + columns[:, None], mask=mask, other=0.0)
    terms = tl.dot(queries, table, input_precision="ieee").to(q.dtype.element_ty)
    tl.store(q + DIM + term[None, :], terms, mask=valid & (term < SHAPE[11])[None, :])
    if SHAPE[12] < KEY_FRAMES:
        apart += ((clip * num_tokens + token) * SHAPE[1] + head) * KEY_FRAMES
        of_time = (term >= SPACE) & (term < SPACE + KEY_FRAMES)
        tl.store(apart + (term - SPACE)[None, :], terms, mask=valid & of_time[None, :])


@triton.jit
@no_type_check
def complete_kernel(
    pointers,
    strides,
    counts,
    num_programs,
    SHAPE: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_OF_KEYS: tl.constexpr,
):
    """The first `num_programs` programs complete queries, the others keys."""
    program = tl.program_id(0)
    if program < num_programs:
        _write_terms(pointers[:4], strides[:3], program, counts[:2], SHAPE, ROWS)
    else:
        first = (program - num_programs) * ROWS_OF_KEYS
        write_one_hots(pointers[4:], strides[3:], first, counts[2:], SHAPE, ROWS_OF_KEYS)


@triton.jit
@no_type_check
def by_queries_kernel(
    pointers, strides, counts, SHAPE: tl.constexpr, WITH_RESIDUAL: tl.constexpr, ROWS: tl.constexpr
):
    """All that flows into the queries, in place of the gradient that the kernel (of the first part) gave."""
    DIM: tl.constexpr = SHAPE[2]
    SPACE: tl.constexpr = SHAPE[8] + SHAPE[9]
    FRAMES_PER_PART: tl.constexpr = SHAPE[12]
    PARTS: tl.constexpr = 2 if SHAPE[12] < SHAPE[7] else 1
    one, other, by_out, tables, rows_of_terms = pointers
    num_rows, num_tokens = counts
    token = tl.program_id(0) % num_tokens
    clip, head, valid = _rows_of_token(tl.program_id(0) // num_tokens * ROWS, num_rows, SHAPE, ROWS)
    columns = tl.arange(0, SHAPE[3])[None, :]
    in_head = valid & (columns < DIM)
    one += clip * strides[0] + token * strides[1] + head * strides[2]
    other += clip * strides[3] + token * strides[4] + head * strides[5]
    total = tl.load(one + columns, mask=in_head, other=0.0).to(tl.float32)
    if PARTS == 2:
        total += tl.load(other + columns, mask=in_head, other=0.0).to(tl.float32)
    if WITH_RESIDUAL:
        by_out += clip * strides[6] + token * strides[7] + head * strides[8]
        mask = in_head & (token + tl.zeros((ROWS, 1), tl.int32) >= SHAPE[0])
        total += tl.load(by_out + columns, mask=mask, other=0.0).to(tl.float32)
    if SHAPE[15]:
        term = tl.arange(0, SHAPE[20])
        for part in tl.static_range(PARTS):
            moved = tl.where(term < SPACE, term, term + part * FRAMES_PER_PART)
            found = _rows_of_terms(rows_of_terms, token, moved, SHAPE)
            found = tl.where(term < SPACE + FRAMES_PER_PART, found, -1)
            source = other if part else one
            by_terms = tl.load(
                source + DIM + term[None, :], mask=valid & (term < SHAPE[11])[None, :], other=0.0
            )
            # columns behind no term may hold anything
            by_terms = tl.where((found >= 0)[None, :], by_terms, 0.0)
            mask = (found >= 0)[:, None] & (columns < DIM)
            table = tl.load(tables + found[:, None] * DIM + columns, mask=mask, other=0.0)
            total = tl.dot(by_terms, table, total, input_precision="ieee")
    tl.store(one + columns, total.to(one.dtype.element_ty), mask=in_head)


@triton.jit
@no_type_check
def _by_space(of_part, valid, SHAPE: tl.constexpr):
    """A part's gradients of the columns of height and width, [ROWS, SPACE_SLOTS]."""
    SPACE: tl.constexpr = SHAPE[8] + SHAPE[9]
    term = tl.arange(0, SHAPE[18])[None, :]
    # loads as far as there are columns are whole, those as far as there are terms are not
    found = tl.load(of_part + SHAPE[2] + term, mask=valid & (term < SHAPE[11]), other=0.0)
    return tl.where(term < SPACE, found, 0.0)


@triton.jit
@no_type_check
def _by_time(one, other, term, valid, SHAPE: tl.constexpr):
    """Gradients of the columns of time, each at the row of the table that made it, [ROWS, TIME_SLOTS]."""
    FRAMES_PER_PART: tl.constexpr = SHAPE[12]
    SPACE: tl.constexpr = SHAPE[8] + SHAPE[9]
    in_one = valid & ((term >= 0) & (term < SPACE + FRAMES_PER_PART))[None, :]
    found = tl.load(one + SHAPE[2] + term[None, :], mask=in_one, other=0.0)
    if SHAPE[7] > FRAMES_PER_PART:
        in_other = valid & (term >= SPACE + FRAMES_PER_PART)[None, :]
        more = tl.load(other + SHAPE[2] + term[None, :] - FRAMES_PER_PART, mask=in_other, other=0.0)
        found = tl.where(in_other, more, found)
    return found


@triton.jit
@no_type_check
def by_places_kernel(pointers, strides, counts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Shares of the tables' gradients: of a place in a frame, some clips and heads, all frames; rows of time, then terms of space."""
    DIM: tl.constexpr = SHAPE[2]
    PLACES: tl.constexpr = SHAPE[5] * SHAPE[6]
    SPACE: tl.constexpr = SHAPE[8] + SHAPE[9]
    TIME_ROWS: tl.constexpr = SHAPE[13]
    PADDED: tl.constexpr = (SHAPE[15] + SHAPE[16] - 1) // SHAPE[16] * SHAPE[16]
    # Triton 3.6 takes no element of a tuple inside a shape
    COLUMNS: tl.constexpr = SHAPE[3]
    SPACE_SLOTS: tl.constexpr = SHAPE[18]
    TIME_SLOTS: tl.constexpr = SHAPE[19]
    q, one, other, terms_of_rows, shares = pointers
    num_rows, steps = counts
    columns = tl.arange(0, COLUMNS)[None, :]
    of_space, of_time = tl.arange(0, SPACE_SLOTS), tl.arange(0, TIME_SLOTS)
    by_space = tl.zeros((SPACE_SLOTS, COLUMNS), tl.float32)
    by_time = tl.zeros((TIME_SLOTS, COLUMNS), tl.float32)
    for step in range(SHAPE[4] * steps):
        frame = step // steps
        token = SHAPE[0] + frame * PLACES + tl.program_id(0)
        first = (tl.program_id(1) * steps + step % steps) * ROWS
        clip, head, valid = _rows_of_token(first, num_rows, SHAPE, ROWS)
        of_q = q + (clip * strides[0] + token * strides[1] + head * strides[2])
        of_one = one + (clip * strides[3] + token * strides[4] + head * strides[5])
        of_other = other + (clip * strides[6] + token * strides[7] + head * strides[8])
        queries = tl.load(of_q + columns, mask=valid & (columns < DIM), other=0.0)
        term = tl.load(terms_of_rows + frame * PADDED + of_time, mask=of_time < TIME_ROWS, other=-1).to(
            tl.int32
        )
        spread = _by_time(of_one, of_other, term, valid, SHAPE)
        by_time = tl.dot(tl.trans(spread), queries, by_time, input_precision="ieee")
        by_space = tl.dot(
            tl.trans(_by_space(of_one, valid, SHAPE)), queries, by_space, input_precision="ieee"
        )
        if SHAPE[12] < SHAPE[7]:
            more = tl.trans(_by_space(of_other, valid, SHAPE))
            by_space = tl.dot(more, queries, by_space, input_precision="ieee")
    share = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64)
    shares += share * ((TIME_ROWS + SPACE) * DIM)
    in_head = columns < DIM
    tl.store(
        shares + of_time[:, None] * DIM + columns, by_time, mask=(of_time < TIME_ROWS)[:, None] & in_head
    )
    shares += TIME_ROWS * DIM
    tl.store(shares + of_space[:, None] * DIM + columns, by_space, mask=(of_space < SPACE)[:, None] & in_head)


@triton.jit
@no_type_check
def sum_places_kernel(pointers, counts, SHAPE: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr):
    """A row of the tables' gradients: the sum over the shares of all places that have it."""
    DIM: tl.constexpr = SHAPE[2]
    WIDTH: tl.constexpr = SHAPE[6]
    TIME_ROWS: tl.constexpr = SHAPE[13]
    SPACE: tl.constexpr = SHAPE[8] + SHAPE[9]
    PADDED: tl.constexpr = (SHAPE[15] + SHAPE[16] - 1) // SHAPE[16] * SHAPE[16]
    shares, terms_of_rows, by_tables = pointers
    num_shares, chunks = counts
    row = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((TILE, COLUMNS), tl.float32)
    for first in range(0, num_shares, TILE):
        share = first + tl.arange(0, TILE)
        place = share // chunks
        of_height = SHAPE[4] + place // WIDTH
        of_width = SHAPE[4] + SHAPE[5] + place % WIDTH
        axis = tl.where(row < TIME_ROWS + SHAPE[14], of_height, of_width)
        term = tl.load(terms_of_rows + axis * PADDED + row, mask=share < num_shares, other=-1).to(tl.int32)
        slot = tl.where(row < TIME_ROWS, row, tl.where(term >= 0, TIME_ROWS + term, -1))
        addresses = (
            shares + (share.to(tl.int64) * (TIME_ROWS + SPACE) + slot)[:, None] * DIM + columns[None, :]
        )
        mask = ((share < num_shares) & (slot >= 0))[:, None] & (columns < DIM)[None, :]
        total += tl.load(addresses, mask=mask, other=0.0)
    tl.store(by_tables + row * DIM + columns, tl.sum(total, axis=0), mask=columns < DIM)
