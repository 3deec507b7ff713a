"""The kernels for positions of visible cells; triton_position_terms.py launches them.

A program takes ROWS rows of (clip, token, head). Each query is multiplied with all rows of the three tables, laid end to end,
and keeps the products of its own position; backward spreads the gradients over the rows of the tables in the same way.
"""

from typing import no_type_check

import triton
import triton.language as tl

from deepcoro.kernels.triton_attention_rows import find_rows, write_one_hots


@triton.jit
@no_type_check
def _query_cells(positions, clip, token, is_patch, num_tokens, SHAPE: tl.constexpr):
    """Frame, row and column of each query as rows of the maps: frames first, then rows, then columns."""
    CLASS_TOKENS: tl.constexpr = SHAPE[0]
    FRAMES: tl.constexpr = SHAPE[4]
    HEIGHT: tl.constexpr = SHAPE[5]
    WIDTH: tl.constexpr = SHAPE[6]
    positions += clip * (num_tokens - CLASS_TOKENS) + token - CLASS_TOKENS
    place = tl.load(positions, mask=is_patch, other=0).to(tl.int32)
    frame = place // (HEIGHT * WIDTH)
    row = FRAMES + place // WIDTH % HEIGHT
    column = FRAMES + HEIGHT + place % WIDTH
    return frame[:, None], row[:, None], column[:, None]


@triton.jit
@no_type_check
def _write_terms(pointers, strides, first, counts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    CLASS_TOKENS: tl.constexpr = SHAPE[0]
    HEADS: tl.constexpr = SHAPE[1]
    DIM: tl.constexpr = SHAPE[2]
    KEY_FRAMES: tl.constexpr = SHAPE[7]
    KEY_HEIGHT: tl.constexpr = SHAPE[8]
    SPACE: tl.constexpr = SHAPE[8] + SHAPE[9]
    ROOM: tl.constexpr = SHAPE[10]
    TABLE_ROWS: tl.constexpr = SHAPE[15]
    BLOCK: tl.constexpr = SHAPE[16]
    q, tables, rows_of_terms, positions, apart = pointers
    clip, token, head, valid = find_rows(first, counts, SHAPE, ROWS)
    is_patch = valid & (token >= CLASS_TOKENS)
    frame, row, column = _query_cells(positions, clip, token, is_patch, counts[1], SHAPE)
    term = tl.arange(0, ROOM)[None, :]
    place = tl.where(term < KEY_HEIGHT, row, tl.where(term < SPACE, column, frame))
    found = tl.load(rows_of_terms + place * ROOM + term, mask=is_patch[:, None], other=-1).to(tl.int32)
    columns = tl.arange(0, SHAPE[3])
    q += (clip * strides[0] + token * strides[1] + head * strides[2])[:, None]
    queries = tl.load(q + columns[None, :], mask=is_patch[:, None] & (columns < DIM)[None, :], other=0.0)
    terms = tl.zeros((ROWS, ROOM), tl.float32)
    for start in tl.static_range(0, TABLE_ROWS, BLOCK):
        of_block = start + tl.arange(0, BLOCK)
        mask = (columns < DIM)[:, None] & (of_block < TABLE_ROWS)[None, :]
        table = tl.load(tables + of_block[None, :] * DIM + columns[:, None], mask=mask, other=0.0)
        every = tl.dot(queries, table, input_precision="ieee")
        inside = (found >= start) & (found < start + BLOCK)
        terms += tl.where(inside, tl.gather(every, tl.where(inside, found - start, 0), 1), 0.0)
    terms = terms.to(q.dtype.element_ty)
    tl.store(q + DIM + term, terms, mask=valid[:, None] & (term < SHAPE[11]))
    if SHAPE[12] < KEY_FRAMES:
        apart += ((clip * counts[1] + token) * HEADS + head)[:, None] * KEY_FRAMES
        of_time = (term >= SPACE) & (term < SPACE + KEY_FRAMES)
        tl.store(apart + (term - SPACE), terms, mask=valid[:, None] & of_time)


@triton.jit
@no_type_check
def complete_kernel(pointers, strides, counts, num_programs, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """The first `num_programs` programs complete queries, the others keys."""
    program = tl.program_id(0)
    if program < num_programs:
        _write_terms(pointers[:5], strides[:3], program * ROWS, counts[:2], SHAPE, ROWS)
    else:
        write_one_hots(pointers[5:], strides[3:], (program - num_programs) * ROWS, counts[2:], SHAPE, ROWS)


@triton.jit
@no_type_check
def _spread(one, other, terms_of_rows, cells, table_rows, is_patch, SHAPE: tl.constexpr):
    """Gradients of each query's columns at the rows of the tables that made them, [ROWS, BLOCK]; `other` is the second part's."""
    FRAMES_PER_PART: tl.constexpr = SHAPE[12]
    SPACE: tl.constexpr = SHAPE[8] + SHAPE[9]
    TIME_ROWS: tl.constexpr = SHAPE[13]
    PADDED: tl.constexpr = (SHAPE[15] + SHAPE[16] - 1) // SHAPE[16] * SHAPE[16]
    frame, row, column = cells
    of_row = table_rows[None, :]
    place = tl.where(of_row < TIME_ROWS, frame, tl.where(of_row < TIME_ROWS + SHAPE[14], row, column))
    term = tl.load(terms_of_rows + place * PADDED + of_row, mask=is_patch[:, None], other=-1).to(tl.int32)
    in_one = (term >= 0) & (term < SPACE + FRAMES_PER_PART)
    spread = tl.load(one + SHAPE[2] + term, mask=in_one, other=0.0)
    if SHAPE[7] > FRAMES_PER_PART:
        in_other = ((term >= 0) & (term < SPACE)) | (term >= SPACE + FRAMES_PER_PART)
        moved = tl.where(term < SPACE, term, term - FRAMES_PER_PART)
        more = tl.load(other + SHAPE[2] + moved, mask=in_other, other=0.0)
        spread = (spread.to(tl.float32) + more.to(tl.float32)).to(spread.dtype)
    return spread


@triton.jit
@no_type_check
def by_queries_kernel(
    pointers, strides, counts, SHAPE: tl.constexpr, WITH_RESIDUAL: tl.constexpr, ROWS: tl.constexpr
):
    """All that flows into the queries, in place of the gradient that the kernel (of the first part) gave."""
    CLASS_TOKENS: tl.constexpr = SHAPE[0]
    DIM: tl.constexpr = SHAPE[2]
    TABLE_ROWS: tl.constexpr = SHAPE[15]
    BLOCK: tl.constexpr = SHAPE[16]
    one, other, by_out, tables, terms_of_rows, positions = pointers
    clip, token, head, valid = find_rows(tl.program_id(0) * ROWS, counts, SHAPE, ROWS)
    is_patch = valid & (token >= CLASS_TOKENS)
    cells = _query_cells(positions, clip, token, is_patch, counts[1], SHAPE)
    columns = tl.arange(0, SHAPE[3])[None, :]
    in_head = valid[:, None] & (columns < DIM)
    one += (clip * strides[0] + token * strides[1] + head * strides[2])[:, None]
    other += (clip * strides[3] + token * strides[4] + head * strides[5])[:, None]
    total = tl.load(one + columns, mask=in_head, other=0.0).to(tl.float32)
    if SHAPE[12] < SHAPE[7]:
        total += tl.load(other + columns, mask=in_head, other=0.0).to(tl.float32)
    if WITH_RESIDUAL:
        by_out += (clip * strides[6] + token * strides[7] + head * strides[8])[:, None]
        mask = is_patch[:, None] & (columns < DIM)
        total += tl.load(by_out + columns, mask=mask, other=0.0).to(tl.float32)
    for start in tl.static_range(0, TABLE_ROWS, BLOCK):
        of_block = start + tl.arange(0, BLOCK)
        spread = _spread(one, other, terms_of_rows, cells, of_block, is_patch, SHAPE)
        mask = (of_block < TABLE_ROWS)[:, None] & (columns < DIM)
        table = tl.load(tables + of_block[:, None] * DIM + columns, mask=mask, other=0.0)
        total = tl.dot(spread, table, total, input_precision="ieee")
    tl.store(one + columns, total.to(one.dtype.element_ty), mask=in_head)


@triton.jit
@no_type_check
def by_tables_kernel(pointers, strides, counts, steps, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """A share of the tables' gradients, BLOCK rows of them, over `steps` blocks of queries."""
    DIM: tl.constexpr = SHAPE[2]
    BLOCK: tl.constexpr = SHAPE[16]
    # Triton 3.6 takes no element of a tuple inside a shape
    COLUMNS: tl.constexpr = SHAPE[3]
    q, one, other, terms_of_rows, positions, shares = pointers
    columns = tl.arange(0, SHAPE[3])[None, :]
    of_block = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK, COLUMNS), tl.float32)
    for step in range(steps):
        first = (tl.program_id(1) * steps + step) * ROWS
        clip, token, head, valid = find_rows(first, counts, SHAPE, ROWS)
        is_patch = valid & (token >= SHAPE[0])
        cells = _query_cells(positions, clip, token, is_patch, counts[1], SHAPE)
        of_q = q + (clip * strides[0] + token * strides[1] + head * strides[2])[:, None]
        of_one = one + (clip * strides[3] + token * strides[4] + head * strides[5])[:, None]
        of_other = other + (clip * strides[6] + token * strides[7] + head * strides[8])[:, None]
        queries = tl.load(of_q + columns, mask=is_patch[:, None] & (columns < DIM), other=0.0)
        spread = _spread(of_one, of_other, terms_of_rows, cells, of_block, is_patch, SHAPE)
        total = tl.dot(tl.trans(spread), queries, total, input_precision="ieee")
    shares += (tl.program_id(1) * SHAPE[15] + of_block[:, None]).to(tl.int64) * DIM
    tl.store(shares + columns, total, mask=(of_block < SHAPE[15])[:, None] & (columns < DIM))
