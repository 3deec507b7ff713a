"""The columns of relative positions around a library's attention kernel on CUDA, and their gradients, in one pass each.

Queries on whole grids and on visible cells have kernels of their own, in triton_grid_terms.py and triton_cell_terms.py. Sums are
in fp32 and in a fixed order. Runs on CPU under TRITON_INTERPRET=1.
"""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from deepcoro.kernels import triton_cell_terms as of_cells
from deepcoro.kernels import triton_grid_terms as of_grids
from deepcoro.kernels.attention_layout import AttentionLayout
from deepcoro.kernels.attention_plan import AttentionPlan
from deepcoro.kernels.triton_attention_rows import Shape, counts_of, maps, shape_of, slots
from deepcoro.kernels.triton_use import dense_channels

ROWS_OF_CELLS, WARPS_OF_CELLS = 64, 4
MAX_TABLE_ROWS = 64
"""Rows of the tables that are multiplied at once for visible cells."""
PROGRAMS_OF_TABLES = 512
"""Shares of the tables' gradients: fixed, so that a sum is made in the same order on every GPU."""
MAX_ROWS_OF_TOKEN = 64
"""Of a token's clips and heads a program of whole grids takes so many at most: a tile as tall as there are rows wastes least."""
ROWS_OF_A_WARP, ROWS_OF_A_WARP_OF_QUERIES = 16, 8
ROWS_OF_KEYS = 64
PLACES_AND_CHUNKS = 768
"""Programs for the tables' gradients over whole grids, if there are rows enough."""
ROWS_OF_TABLES, ROWS_OF_A_WARP_OF_TABLES = 32, 8
SHARES_AT_ONCE, COLUMNS_AT_ONCE, WARPS_OF_SUMS = 256, 32, 8


def complete(
    q: Tensor, k: Tensor, tables: Tensor, layout: AttentionLayout, plan: AttentionPlan
) -> Tensor | None:
    """Writes the columns after `dim` of q and k in place; with a key split returns those of time [batch, query, head, frame].

    `tables` [row, dim] are the three laid end to end: time, height, width.
    """
    shape = shape_of(q, layout, plan, MAX_TABLE_ROWS)
    if tables.shape != (shape.table_rows, shape.dim):
        raise ValueError(f"tables are {tuple(tables.shape)}; expected {(shape.table_rows, shape.dim)}")
    is_split = shape.frames_per_part < shape.key_frames
    apart = q.new_empty(*q.shape[:3], shape.key_frames) if is_split else q
    rows_of_terms, _ = maps(layout.query_grid, layout.key_grid, shape.room, shape.block, q.device)
    of_keys = (k, _positions(layout.key_positions, k))
    strides = (*q.stride()[:3], *k.stride()[:3])
    with torch.cuda.device_of(q):
        if layout.query_positions is None:
            counts, rows = _rows_of_tokens(q), _tile(q, MAX_ROWS_OF_TOKEN)
            programs, more = _programs(q, rows), triton.cdiv(counts_of(k)[0], ROWS_OF_KEYS)
            of_grids.complete_kernel[(programs + more,)](
                (q, tables, rows_of_terms, apart, *of_keys),
                *(strides, (*counts, *counts_of(k)), programs, shape, rows, ROWS_OF_KEYS),
                num_warps=max(rows // ROWS_OF_A_WARP, 1),
            )
        else:
            programs, more = (triton.cdiv(counts_of(each)[0], ROWS_OF_CELLS) for each in (q, k))
            of_cells.complete_kernel[(programs + more,)](
                (q, tables, rows_of_terms, _positions(layout.query_positions, q), apart, *of_keys),
                *(strides, (*counts_of(q), *counts_of(k)), programs, shape, ROWS_OF_CELLS),
                num_warps=WARPS_OF_CELLS,
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
    one, other = dense_channels(parts[0]), dense_channels(parts[-1])
    shape = shape_of(one, layout, plan, MAX_TABLE_ROWS, has_tables=tables is not None)
    rows_of_terms = terms_of_rows = one
    if tables is not None:
        rows_of_terms, terms_of_rows = maps(
            layout.query_grid, layout.key_grid, shape.room, shape.block, one.device
        )
    added = one if by_out is None else dense_channels(by_out)
    pointers = (one, other, added, one if tables is None else tables)
    strides = (*one.stride()[:3], *other.stride()[:3], *added.stride()[:3])
    with torch.cuda.device_of(one):
        if layout.query_positions is None:
            rows = _tile(one, MAX_ROWS_OF_TOKEN)
            of_grids.by_queries_kernel[(_programs(one, rows),)](
                (*pointers, rows_of_terms),
                *(strides, _rows_of_tokens(one), shape, int(by_out is not None), rows),
                num_warps=max(rows // ROWS_OF_A_WARP_OF_QUERIES, 1),
            )
        else:
            of_cells.by_queries_kernel[(triton.cdiv(counts_of(one)[0], ROWS_OF_CELLS),)](
                (*pointers, terms_of_rows, _positions(layout.query_positions, one)),
                *(strides, counts_of(one), shape, int(by_out is not None), ROWS_OF_CELLS),
                num_warps=WARPS_OF_CELLS,
            )
    return one


def by_tables(q: Tensor, parts: Sequence[Tensor], layout: AttentionLayout, plan: AttentionPlan) -> Tensor:
    """The gradients of the three tables laid end to end, in fp32; `parts` as the kernel gave them, past the columns `dim`."""
    pair = (dense_channels(parts[0]), dense_channels(parts[-1]))
    shape = shape_of(q, layout, plan, MAX_TABLE_ROWS)
    _, terms_of_rows = maps(layout.query_grid, layout.key_grid, shape.room, shape.block, q.device)
    form = _by_tables_of_grids if layout.query_positions is None else _by_tables_of_cells
    with torch.cuda.device_of(q):
        return form(q, pair, terms_of_rows, shape, layout)


def _by_tables_of_grids(
    q: Tensor, parts: tuple[Tensor, Tensor], terms_of_rows: Tensor, shape: Shape, layout: AttentionLayout
) -> Tensor:
    rows, places = _tile(q, ROWS_OF_TABLES), shape.height * shape.width
    num_rows = q.shape[0] * q.shape[2]
    blocks = triton.cdiv(num_rows, rows)
    steps = triton.cdiv(blocks, triton.cdiv(PLACES_AND_CHUNKS, places))
    chunks = triton.cdiv(blocks, max(steps, 1))
    num_slots = shape.time_rows + shape.key_height + shape.key_width
    shares = q.new_empty(places * chunks, num_slots, shape.dim, dtype=torch.float32)
    by_rows = q.new_empty(shape.table_rows, shape.dim, dtype=torch.float32)
    if chunks:
        of_grids.by_places_kernel[places, chunks](
            (q, *parts, terms_of_rows, shares),
            (*q.stride()[:3], *parts[0].stride()[:3], *parts[1].stride()[:3]),
            *((num_rows, steps), shape, rows),
            num_warps=max(rows // ROWS_OF_A_WARP_OF_TABLES, 1),
        )
    of_grids.sum_places_kernel[shape.table_rows, triton.cdiv(shape.dim, COLUMNS_AT_ONCE)](
        (shares, terms_of_rows, by_rows),
        *((places * chunks, max(chunks, 1)), shape, SHARES_AT_ONCE, COLUMNS_AT_ONCE),
        num_warps=WARPS_OF_SUMS,
    )
    return by_rows


def _by_tables_of_cells(
    q: Tensor, parts: tuple[Tensor, Tensor], terms_of_rows: Tensor, shape: Shape, layout: AttentionLayout
) -> Tensor:
    blocks = triton.cdiv(counts_of(q)[0], ROWS_OF_CELLS)
    steps = triton.cdiv(blocks, PROGRAMS_OF_TABLES)
    programs = triton.cdiv(blocks, max(steps, 1))
    shares = q.new_empty(programs, shape.table_rows, shape.dim, dtype=torch.float32)
    of_cells.by_tables_kernel[triton.cdiv(shape.table_rows, shape.block), programs](
        (q, *parts, terms_of_rows, _positions(layout.query_positions, q), shares),
        (*q.stride()[:3], *parts[0].stride()[:3], *parts[1].stride()[:3]),
        *(counts_of(q), steps, shape, ROWS_OF_CELLS),
        num_warps=WARPS_OF_CELLS,
    )
    return shares.sum(0)


def _rows_of_tokens(tokens: Tensor) -> tuple[int, int]:
    """Rows of a token, one a clip and head, and tokens."""
    return tokens.shape[0] * tokens.shape[2], tokens.shape[1]


def _tile(tokens: Tensor, most: int) -> int:
    return min(most, slots(_rows_of_tokens(tokens)[0]))


def _programs(tokens: Tensor, rows: int) -> int:
    num_rows, num_tokens = _rows_of_tokens(tokens)
    return num_tokens * triton.cdiv(num_rows, rows)


def _positions(positions: Tensor | None, tokens: Tensor) -> Tensor:
    return tokens if positions is None else positions.to(tokens.device).contiguous()
