"""What encoding one clip costs whoever does it: FLOPs of the products, and the bytes that the products cannot help moving.

FLOPs are two a multiplication and addition (published figures of video models count one). Bytes are read once and written once a
product, attention map, norms, GELU and residual sums counted as fused away: a bound that no layer-by-layer encoder goes below.
"""

import math
from dataclasses import dataclass

from deepcoro.mvit.shapes import BlockShape

PATCH_VALUES = 3 * 3 * 7 * 7
"""Values under one filter of the patch embedding: colour, frames, rows, columns."""
POOL_TAPS = 27


@dataclass(frozen=True)
class Work:
    """Of one forward pass; backward is twice as much of both."""

    flops: float
    values: float
    """Numbers read or written; times the bytes of one they are the least traffic."""

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.values + other.values)


def clip_work(shapes: list[BlockShape], visible: float = 1.0) -> Work:
    """Work of one clip in an encoder of `shapes`, of which the fraction `visible` of all patches is encoded."""
    patches = visible * math.prod(shapes[0].grid)
    work = _product(patches, PATCH_VALUES, shapes[0].dim_in)
    for shape in shapes:
        work += _block_work(shape, visible)
    return work


def _block_work(shape: BlockShape, visible: float) -> Work:
    """The class token counts as one more token."""
    tokens, queries, keys = (
        1 + visible * math.prod(grid) for grid in (shape.grid, shape.query_grid, shape.key_grid)
    )
    pooled = (queries + 2 * keys) * shape.dim_out
    work = _product(tokens, shape.dim_in, 3 * shape.dim_out)
    work += Work(2 * POOL_TAPS * pooled, 3 * tokens * shape.dim_out + pooled)
    # scores and their sum over values, and the queries times the tables of relative positions
    attention = 4 * queries * keys * shape.dim_out + 2 * queries * sum(shape.key_grid) * shape.dim_out
    work += Work(attention, pooled + queries * shape.dim_out)
    work += _product(queries, shape.dim_out, shape.dim_out)
    if shape.dim_in != shape.dim_out:
        work += _product(tokens, shape.dim_in, shape.dim_out)
    work += _product(queries, shape.dim_out, 4 * shape.dim_out)
    return work + _product(queries, 4 * shape.dim_out, shape.dim_out)


def _product(rows: float, dim_in: int, dim_out: int) -> Work:
    return Work(2 * rows * dim_in * dim_out, rows * (dim_in + dim_out))
