"""q . R along each axis, the columns that fold relative positions into the queries, and its gradients.

Whole grids: each axis has one product per position on it. Some cells only: one product with all rows of the tables, of which
each query then keeps those of its own position.
"""

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from deepcoro.kernels.attention_layout import AttentionLayout

Tables = tuple[Float[Tensor, "_ dim"], Float[Tensor, "_ dim"], Float[Tensor, "_ dim"]]
"""Relative positions along time, height and width: 2 * max(queries, keys on that axis) - 1 rows each."""

Terms = tuple[Tensor, Tensor, Tensor]
"""Per axis [batch, patch, head, key position on that axis]."""


def query_terms(q: Float[Tensor, "batch patch head dim"], tables: Tables, layout: AttentionLayout) -> Terms:
    """q . R[query position, key position] along time, height and width, for queries that stand somewhere."""
    if layout.query_positions is None:
        return _terms_of_grid(q, tables, layout)
    return _terms_of_cells(q, tables, layout)


def query_terms_backward(
    by_terms: Terms,
    q: Float[Tensor, "batch patch head dim"],
    tables: Tables,
    layout: AttentionLayout,
    by_q: Float[Tensor, "batch patch head dim"],
) -> Tables:
    """Adds the gradient of q to `by_q` and returns those of the tables."""
    if layout.query_positions is None:
        return _terms_of_grid_backward(by_terms, q, tables, layout, by_q)
    return _terms_of_cells_backward(by_terms, q, tables, layout, by_q)


def _as_grid(patches: Tensor, layout: AttentionLayout) -> Tensor:
    frames, height, _ = layout.query_grid
    return rearrange(patches, "b (t h w) n c -> b t h w n c", t=frames, h=height)


def _terms_of_grid(q: Tensor, tables: Tables, layout: AttentionLayout) -> Terms:
    grid = _as_grid(q, layout)
    terms = []
    for axis, table, index in zip("thw", tables, layout.relative_indices(q.device), strict=True):
        term = einsum(grid, table[index], f"b t h w n c, {axis} k c -> b t h w n k")
        terms.append(rearrange(term, "b t h w n k -> b (t h w) n k"))
    return tuple(terms)


def _terms_of_grid_backward(
    by_terms: Terms, q: Tensor, tables: Tables, layout: AttentionLayout, by_q: Tensor
) -> Tables:
    grid, by_grid = _as_grid(q, layout), _as_grid(by_q, layout)
    by_tables = []
    indices = layout.relative_indices(q.device)
    for axis, by_term, table, index in zip("thw", by_terms, tables, indices, strict=True):
        by_term = _as_grid(by_term, layout)
        by_grid += einsum(by_term, table[index], f"b t h w n k, {axis} k c -> b t h w n c")
        by_pair = einsum(by_term, grid, f"b t h w n k, b t h w n c -> {axis} k c")
        by_tables.append(_add_rows(by_pair, index, len(table)))
    return tuple(by_tables)


def _add_rows(by_pair: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """The sum of the gradients of all pairs that share a row, as a product: index_add is not deterministic on CUDA."""
    # torch's one_hot looks for the largest index, wherever it may
    hots = (index[..., None] == torch.arange(num_rows, device=index.device)).to(by_pair.dtype)
    return einsum(hots, by_pair, "q k row, q k c -> row c")


def _terms_of_cells(q: Tensor, tables: Tables, layout: AttentionLayout) -> Terms:
    # in two axes: matmul of a strided q in four would lay the tables out anew for every token
    every = rearrange(q, "b p n c -> (b p n) c") @ torch.cat(tables).T
    every = every.view(*q.shape[:-1], -1)
    indices = _rows_of_cells(tables, layout, q.shape[2])
    return tuple(every.gather(-1, index) for index in indices)


def _terms_of_cells_backward(
    by_terms: Terms, q: Tensor, tables: Tables, layout: AttentionLayout, by_q: Tensor
) -> Tables:
    rows = torch.cat(tables)
    by_every = q.new_zeros(*q.shape[:-1], len(rows))
    for by_term, index in zip(by_terms, _rows_of_cells(tables, layout, q.shape[2]), strict=True):
        by_every.scatter_(-1, index, by_term)  # a query's rows are distinct
    by_q += by_every @ rows
    by_rows = einsum(by_every, q, "b p n row, b p n c -> row c")
    return by_rows.split([len(table) for table in tables])


def _rows_of_cells(tables: Tables, layout: AttentionLayout, num_heads: int) -> list[Tensor]:
    """Per axis [batch, patch, head, key position]: rows of the three tables laid end to end."""
    cells = layout.query_cells(tables[0].device)
    starts = (0, len(tables[0]), len(tables[0]) + len(tables[1]))
    rows = []
    for axis, index in enumerate(layout.relative_indices(cells.device)):
        row = index[cells[..., axis]] + starts[axis]
        rows.append(rearrange(row, "b p k -> b p 1 k").expand(-1, -1, num_heads, -1))
    return rows
