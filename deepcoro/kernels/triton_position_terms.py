"""The columns of relative positions around a library's attention kernel on CUDA, and their gradients, in one pass each.

A program takes ROWS rows of (clip, token, head). Each query is multiplied with all rows of the three tables, laid end to end,
and keeps the products of its own position; backward spreads the gradients over the rows of the tables in the same way. So
whole grids and visible cells run in the same kernels, and which row belongs to which column is looked up. Sums are in fp32
and in a fixed order. Runs on CPU under TRITON_INTERPRET=1.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Int16
from torch import Tensor

from deepcoro.kernels.attention_layout import AttentionLayout, relative_index
from deepcoro.kernels.attention_plan import AttentionPlan
from deepcoro.kernels.grid import Grid

ROWS, WARPS = 64, 8
ROWS_OF_QUERIES, WARPS_OF_QUERIES = 64, 8
ROWS_OF_TABLES, WARPS_OF_TABLES = 64, 8
MAX_TABLE_ROWS = 128
"""Rows of the tables that are multiplied at once."""
PROGRAMS_OF_TABLES = 512
"""Shares of the tables' gradients: fixed, so that a sum is made in the same order on every GPU."""


class Shape(NamedTuple):
    """What a kernel is compiled for; the kernels read it by number, in this order."""

    class_tokens: int
    heads: int
    dim: int
    columns: int
    """`dim` up to a power of two."""
    frames: int
    height: int
    width: int
    key_frames: int
    key_height: int
    key_width: int
    room: int
    """Columns that a program handles after the first `dim`: a power of two."""
    in_queries: int
    """Columns after the first `dim` that are written into the queries."""
    frames_per_part: int
    time_rows: int
    height_rows: int
    table_rows: int
    """Of the three tables; zero without positions."""
    block: int
    sparse_queries: int
    sparse_keys: int


@triton.jit
@no_type_check
def find_rows(first, counts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Clip, token and head of each row, and whether there is one."""
    HEADS: tl.constexpr = SHAPE[1]
    num_rows, num_tokens = counts
    rows = first + tl.arange(0, ROWS)
    token = rows // HEADS % num_tokens
    clip = (rows // (HEADS * num_tokens)).to(tl.int64)
    return clip, token, rows % HEADS, rows < num_rows


@triton.jit
@no_type_check
def _query_cells(positions, clip, token, is_patch, num_tokens, SHAPE: tl.constexpr):
    """Frame, row and column of each query as rows of the maps: frames first, then rows, then columns."""
    CLASS_TOKENS: tl.constexpr = SHAPE[0]
    FRAMES: tl.constexpr = SHAPE[4]
    HEIGHT: tl.constexpr = SHAPE[5]
    WIDTH: tl.constexpr = SHAPE[6]
    SPARSE: tl.constexpr = SHAPE[17]
    place = token - CLASS_TOKENS
    if SPARSE:
        positions += clip * (num_tokens - CLASS_TOKENS) + place
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
def _write_one_hots(pointers, strides, first, counts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    CLASS_TOKENS: tl.constexpr = SHAPE[0]
    KEY_HEIGHT: tl.constexpr = SHAPE[8]
    KEY_WIDTH: tl.constexpr = SHAPE[9]
    FRAMES_PER_PART: tl.constexpr = SHAPE[12]
    k, positions = pointers
    clip, token, head, valid = find_rows(first, counts, SHAPE, ROWS)
    is_patch = valid & (token >= CLASS_TOKENS)
    place = token - CLASS_TOKENS
    if SHAPE[18]:
        positions += clip * (counts[1] - CLASS_TOKENS) + place
        place = tl.load(positions, mask=is_patch, other=0).to(tl.int32)
    row = place // KEY_WIDTH % KEY_HEIGHT
    column = KEY_HEIGHT + place % KEY_WIDTH
    frame = KEY_HEIGHT + KEY_WIDTH + place // (KEY_HEIGHT * KEY_WIDTH) % FRAMES_PER_PART
    term = tl.arange(0, SHAPE[10])[None, :]
    hot = (term == row[:, None]) | (term == column[:, None]) | (term == frame[:, None])
    hot = (hot & is_patch[:, None]).to(k.dtype.element_ty)
    k += (clip * strides[0] + token * strides[1] + head * strides[2])[:, None]
    in_keys = term < KEY_HEIGHT + KEY_WIDTH + FRAMES_PER_PART
    tl.store(k + SHAPE[2] + term, hot, mask=valid[:, None] & in_keys)


@triton.jit
@no_type_check
def _complete_kernel(pointers, strides, counts, num_programs, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """The first `num_programs` programs complete queries, the others keys."""
    program = tl.program_id(0)
    if program < num_programs:
        _write_terms(pointers[:5], strides[:3], program * ROWS, counts[:2], SHAPE, ROWS)
    else:
        _write_one_hots(pointers[5:], strides[3:], (program - num_programs) * ROWS, counts[2:], SHAPE, ROWS)


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
def _by_queries_kernel(
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
def _by_tables_kernel(pointers, strides, counts, steps, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """A share of the tables' gradients, BLOCK rows of them, over `steps` blocks of queries."""
    DIM: tl.constexpr = SHAPE[2]
    BLOCK: tl.constexpr = SHAPE[16]
    q, one, other, terms_of_rows, positions, shares = pointers
    columns = tl.arange(0, SHAPE[3])[None, :]
    of_block = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    COLUMNS: tl.constexpr = SHAPE[3]
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


def complete(
    q: Tensor, k: Tensor, tables: Tensor, layout: AttentionLayout, plan: AttentionPlan
) -> Tensor | None:
    """Writes the columns after `dim` of q and k in place; with a key split returns those of time [batch, query, head, frame].

    `tables` [row, dim] are the three laid end to end: time, height, width.
    """
    shape = _shape(q, layout, plan)
    if tables.shape != (shape.table_rows, shape.dim):
        raise ValueError(f"tables are {tuple(tables.shape)}; expected {(shape.table_rows, shape.dim)}")
    is_split = shape.frames_per_part < shape.key_frames
    apart = q.new_empty(*q.shape[:3], shape.key_frames) if is_split else q
    rows_of_terms, _ = _maps(layout.query_grid, layout.key_grid, shape.room, shape.block, q.device)
    of_queries = (q, tables, rows_of_terms, _positions(layout.query_positions, q), apart)
    programs, more = (triton.cdiv(each.shape[:3].numel(), ROWS) for each in (q, k))
    with torch.cuda.device_of(q):
        _complete_kernel[(programs + more,)](
            (*of_queries, k, _positions(layout.key_positions, k)),
            *((*q.stride()[:3], *k.stride()[:3]), (*counts_of(q), *counts_of(k)), programs, shape, ROWS),
            num_warps=WARPS,
        )
    return apart if is_split else None


def by_queries(
    parts: Sequence[Tensor],
    by_out: Tensor | None,
    tables: Tensor | None,
    layout: AttentionLayout,
    plan: AttentionPlan,
) -> Tensor:
    """The gradient of the queries, in the first `dim` columns of the first part's, which it replaces: what the kernel gave for
    each part, what came through the columns of positions, and `by_out` through the residual, the class token's excepted.
    """
    one, other = _dense_channels(parts[0]), _dense_channels(parts[-1])
    shape = _shape(one, layout, plan, has_tables=tables is not None)
    terms_of_rows = one
    if tables is not None:
        _, terms_of_rows = _maps(layout.query_grid, layout.key_grid, shape.room, shape.block, one.device)
    added = one if by_out is None else _dense_channels(by_out)
    pointers = (one, other, added, one if tables is None else tables, terms_of_rows)
    with torch.cuda.device_of(one):
        _by_queries_kernel[(triton.cdiv(one.shape[:3].numel(), ROWS_OF_QUERIES),)](
            (*pointers, _positions(layout.query_positions, one)),
            (*one.stride()[:3], *other.stride()[:3], *added.stride()[:3]),
            *(counts_of(one), shape, int(by_out is not None), ROWS_OF_QUERIES),
            num_warps=WARPS_OF_QUERIES,
        )
    return one


def by_tables(q: Tensor, parts: Sequence[Tensor], layout: AttentionLayout, plan: AttentionPlan) -> Tensor:
    """The gradients of the three tables laid end to end, in fp32; `parts` as the kernel gave them, past the columns `dim`."""
    one, other = _dense_channels(parts[0]), _dense_channels(parts[-1])
    shape = _shape(q, layout, plan)
    blocks = triton.cdiv(q.shape[:3].numel(), ROWS_OF_TABLES)
    steps = triton.cdiv(blocks, PROGRAMS_OF_TABLES)
    programs = triton.cdiv(blocks, max(steps, 1))
    shares = q.new_empty(programs, shape.table_rows, shape.dim, dtype=torch.float32)
    _, terms_of_rows = _maps(layout.query_grid, layout.key_grid, shape.room, shape.block, q.device)
    with torch.cuda.device_of(q):
        _by_tables_kernel[triton.cdiv(shape.table_rows, shape.block), programs](
            (q, one, other, terms_of_rows, _positions(layout.query_positions, q), shares),
            (*q.stride()[:3], *one.stride()[:3], *other.stride()[:3]),
            *(counts_of(q), steps, shape, ROWS_OF_TABLES),
            num_warps=WARPS_OF_TABLES,
        )
    return shares.sum(0)


def _shape(q: Tensor, layout: AttentionLayout, plan: AttentionPlan, has_tables: bool = True) -> Shape:
    heads, dim = q.shape[2], plan.dim
    frames, height, width = layout.key_grid
    per_part = frames if plan.split is None else plan.split.frames_per_part
    rows = [2 * max(pair) - 1 for pair in zip(layout.query_grid, layout.key_grid, strict=True)]
    in_queries = plan.width - dim if plan.split is None else height + width + per_part
    return Shape(
        *(int(layout.has_class_token), heads, dim, max(16, triton.next_power_of_2(dim))),
        *(*layout.query_grid, *layout.key_grid),
        *(triton.next_power_of_2(max(frames + height + width, plan.width - dim)), in_queries, per_part),
        *(*rows[:2], sum(rows) if has_tables else 0),
        min(MAX_TABLE_ROWS, max(16, triton.next_power_of_2(sum(rows)))),
        *(int(layout.query_positions is not None), int(layout.key_positions is not None)),
    )


def counts_of(tokens: Tensor) -> tuple[int, int]:
    return tokens.shape[:3].numel(), tokens.shape[1]


def _positions(positions: Tensor | None, tokens: Tensor) -> Tensor:
    return tokens if positions is None else positions.to(tokens.device).contiguous()


def _dense_channels(tokens: Tensor) -> Tensor:
    return tokens if tokens.stride(-1) == 1 else tokens.contiguous()


@cache
def _maps(
    queries: Grid, keys: Grid, room: int, block: int, device: torch.device
) -> tuple[Int16[Tensor, "place term"], Int16[Tensor, "place row"]]:
    """For each frame, row and column of the queries: the tables' row behind each column, and the column behind each row; -1: none.

    The columns are those of height, width and time, the rows those of time, height and width.
    """
    num_rows = [2 * max(pair) - 1 for pair in zip(queries, keys, strict=True)]
    starts_of_terms = (keys[1] + keys[2], 0, keys[1])
    with torch.inference_mode(False):
        rows_of_terms = torch.full((sum(queries), room), -1, dtype=torch.int16)
        terms_of_rows = torch.full((sum(queries), -(-sum(num_rows) // block) * block), -1, dtype=torch.int16)
        for axis in range(3):
            row = sum(num_rows[:axis]) + relative_index(queries[axis], keys[axis])
            place = sum(queries[:axis]) + torch.arange(queries[axis])[:, None].expand_as(row)
            term = starts_of_terms[axis] + torch.arange(keys[axis])[None].expand_as(row)
            rows_of_terms[place, term] = row.to(torch.int16)
            terms_of_rows[place, row] = term.to(torch.int16)
        return rows_of_terms.to(device), terms_of_rows.to(device)
