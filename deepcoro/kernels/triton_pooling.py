"""Token-major pooling on CUDA: depthwise 3x3x3 convolution and LayerNorm in one pass, results at attention's width.

Forward keeps nothing but the tokens: backward makes the pooled values again, which costs less than to store and read them. Whole
grids (triton_dense_pooling.py and triton_dense_gradients.py) and visible tokens (triton_sparse_pooling.py) take one launch a
kernel for queries, keys and values together. All sums are in fp32 and in a fixed order, so gradients are the same each time. Runs on CPU under
TRITON_INTERPRET=1.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from deepcoro.kernels import triton_dense_gradients as gradient_kernels
from deepcoro.kernels import triton_dense_pooling as kernels
from deepcoro.kernels import triton_sparse_pooling as sparse
from deepcoro.kernels.pool_layout import PoolFilter, PoolLayout, PoolPlan
from deepcoro.kernels.triton_parts import (
    PARTS,
    Shares,
    alignment,
    columns_of,
    in_units,
    odd,
    pack,
    padded,
    steps_of,
    sum_shares,
)
from deepcoro.kernels.triton_use import dense_channels

FRAMES = 8
"""That one thread sums up, at most."""
REGISTERS = 168
"""Of a thread, so that twelve warps share a multiprocessor, not eight."""
ROWS = 8
WARPS = 4
ROWS_OF_NORM = 8
WARPS_OF_NORM = 4
CELLS_OF_TOKEN_GRADIENT = 1024
WARPS_OF_TOKEN_GRADIENT = 4
ROWS_OF_WEIGHT_GRADIENT = 8
WARPS_OF_WEIGHT_GRADIENT = 2
COLUMNS_OF_WEIGHT_GRADIENT = 32
SHARES_OF_NORM = 2048
SHARES_OF_WEIGHT_GRADIENT = 512
"""Programs of a part at most, each of which writes its share of the gradient by the filter."""


class Deal(NamedTuple):
    """How programs are dealt to the parts of a launch."""

    given: tuple[tuple[int, ...], ...]
    """As kernels read them by number: of each part stride, height, width, tiles' width, first program, steps of a program, tiles
    in all, and where its patches start among those of all parts."""
    starts: tuple[int, ...]
    num_programs: int


class _Geometry(NamedTuple):
    """Of the grids that the parts of a launch are pooled to."""

    batch: int
    heads: int
    frames: int
    grids: tuple[tuple[int, int, int], ...]
    """Stride, height and width a part."""


@functools.lru_cache(maxsize=1024)
def _deal(
    geometry: _Geometry, rows: int, most_programs: int, columns: int | None = None, whole: int = 1
) -> Deal:
    """`columns`: tiles are of cells that lie `stride` apart, and of so many of the `whole` columns of all heads."""
    starts, steps, items, tile_widths, offsets, num_programs, num_patches = [], [], [], [], [], 0, 0
    for stride, height, width in geometry.grids:
        step = stride if columns is None else 1
        tile_width, tiles = _tile_width(height, width, step, rows)
        per_tile = geometry.heads if columns is None else stride**2 * triton.cdiv(whole, columns)
        items.append(tiles * per_tile * geometry.batch)
        steps.append(max(1, triton.cdiv(items[-1], most_programs)))
        starts.append(num_programs)
        tile_widths.append(tile_width)
        offsets.append(num_patches)
        num_programs += triton.cdiv(items[-1], steps[-1])
        num_patches += geometry.batch * geometry.frames * height * width
    starts += [num_programs] * (PARTS - len(starts))
    given = (*zip(*geometry.grids, strict=True), tile_widths, starts, steps, items, offsets)
    return Deal(tuple(odd(padded(each)) for each in given), tuple(starts), num_programs)


@functools.cache
def _tile_width(height: int, width: int, stride: int, rows: int) -> tuple[int, int]:
    """Width of the tiles of so many places that read least, and their number; to sum up a place costs like reading five."""
    best = None
    for tile_width in (2**power for power in range(rows.bit_length())):
        tile_height = rows // tile_width
        tiles = triton.cdiv(height, tile_height) * triton.cdiv(width, tile_width)
        read = ((tile_height - 1) * stride + 3) * ((tile_width - 1) * stride + 3)
        cost = tiles * (5 * rows + read)
        if best is None or cost < best[0]:
            best = (cost, tile_width, tiles)
    return best[1:]


def pool_parts(
    projected: Tensor, filters: Sequence[PoolFilter], plans: Sequence[PoolPlan]
) -> tuple[Tensor, ...]:
    """Each part of a projection [batch, token, part, head, dim], pooled."""
    return _PoolParts.apply(projected, tuple(plans), *(each for of_part in filters for each in of_part))


class _PoolParts(torch.autograd.Function):
    """Keeps the projection, and the filters as the kernels read them."""

    @staticmethod
    def forward(ctx, projected, plans, *filters):
        ctx.plans = plans
        results, packs = [], []
        for parts in _launches(plans):
            pool = sparse.pool if plans[parts.start].layout.is_sparse else _pool
            packs.append(pack(_filters(filters, parts)))
            results += pool(dense_channels(projected[:, :, parts]), packs[-1], plans[parts])
        ctx.save_for_backward(projected, *packs)
        return tuple(results)

    @staticmethod
    def backward(ctx, *gradients):
        projected, *packs = ctx.saved_tensors
        by_projected, by_filters = None, []
        if ctx.needs_input_grad[0]:
            by_projected = torch.empty_like(projected, memory_format=torch.contiguous_format)
        for parts, packed in zip(_launches(ctx.plans), packs, strict=True):
            backward = sparse.pool_backward if ctx.plans[parts.start].layout.is_sparse else _pool_backward
            by_filters += backward(
                [dense_channels(each) for each in gradients[parts]],
                dense_channels(projected[:, :, parts]),
                packed,
                ctx.plans[parts],
                None if by_projected is None else by_projected[:, :, parts],
            )
        return by_projected, None, *by_filters


def _launches(plans: Sequence[PoolPlan]) -> list[slice]:
    """Parts that go together: up to three neighbours of the same tokens."""
    launches: list[slice] = []
    for number, plan in enumerate(plans):
        first = launches[-1].start if launches else number
        if 0 < number - first < PARTS and _go_together(plans[first].layout, plan.layout):
            launches[-1] = slice(first, number + 1)
        else:
            launches.append(slice(number, number + 1))
    return launches


def _go_together(one: PoolLayout, other: PoolLayout) -> bool:
    same = (one.grid_in, one.has_class_token) == (other.grid_in, other.has_class_token)
    return same and one.positions_in is other.positions_in


def _filters(filters: Sequence[Tensor], parts: slice) -> list[PoolFilter]:
    return [PoolFilter(*filters[3 * number : 3 * number + 3]) for number in range(parts.start, parts.stop)]


def _pool(projected: Tensor, packed: Tensor, plans: Sequence[PoolPlan]) -> list[Tensor]:
    geometry, film, layout = _geometry(projected, plans), _film(projected, plans), plans[0].layout
    batch, heads = projected.shape[0], projected.shape[3]
    results = [projected.new_empty(batch, plan.layout.num_tokens_out, heads, plan.width) for plan in plans]
    if not batch:
        return results
    shape, groups = _shape(layout, projected, alignment(projected, [plan.width for plan in plans]))
    deal = _deal(geometry, ROWS, 2**31)
    widths = [plan.width for plan in plans]
    with torch.cuda.device_of(projected):
        kernels.forward_kernel[deal.num_programs, groups](
            (projected, packed, padded(results)),
            in_units(steps_of(projected), shape),
            film,
            deal.given,
            (plans[0].eps, padded([plan.scale for plan in plans]), in_units(padded(widths), shape)),
            *(shape, ROWS),
            num_warps=WARPS,
            maxnreg=REGISTERS,
        )
    return results


def _pool_backward(
    gradients: list[Tensor],
    projected: Tensor,
    packed: Tensor,
    plans: Sequence[PoolPlan],
    into: Tensor | None,
) -> list[Tensor]:
    """Gradients by the filters; that by the projection is written to `into`, unless None."""
    dim = projected.shape[-1]
    by_weights = packed.new_empty(PARTS, dim, 1, 3, 3, 3)
    by_norms = by_weights.new_empty(PARTS, 2, dim)
    if len(projected):
        by_pooled, norm_shares = _norm_backward(gradients, projected, packed, plans, into)
        if into is not None:
            _token_gradient(by_pooled, packed, plans, into)
        shares = _weight_gradient(by_pooled, projected, plans)
        sum_shares(shares, norm_shares, by_weights, by_norms)
    else:
        by_weights.zero_(), by_norms.zero_()
    return [each for number in range(len(plans)) for each in (by_weights[number], *by_norms[number])]


def _shares(deal: Deal, groups: int, like: Tensor, vectors: int) -> Shares:
    values = like.new_empty(deal.num_programs * groups, vectors, like.shape[-1], dtype=torch.float32)
    starts = [start * groups for start in deal.starts]
    return Shares(values, tuple(starts), (*starts[1:], len(values)))


def _norm_backward(
    gradients: list[Tensor],
    projected: Tensor,
    packed: Tensor,
    plans: Sequence[PoolPlan],
    into: Tensor | None,
) -> tuple[Tensor, Shares]:
    """The gradients by the pooled values of all parts, one after the other; those by class tokens are written to `into`."""
    layout, (batch, _, _, heads, dim) = plans[0].layout, projected.shape
    if into is None:
        into = projected.new_empty(batch, layout.num_class_tokens, len(plans), heads, dim)
    steps = [steps_of(gradient) for gradient in gradients]
    of_class = steps_of(into)
    aligned = alignment(projected, [*of_class, *(number for each in steps for number in each)])
    shape, groups = _shape(layout, projected, aligned)
    deal = _deal(_geometry(projected, plans), ROWS_OF_NORM, SHARES_OF_NORM)
    num_patches = sum(plan.layout.num_patches_out for plan in plans)
    by_pooled = projected.new_empty(batch * num_patches, heads, dim)
    shares = _shares(deal, groups, projected, 2)
    with torch.cuda.device_of(projected):
        gradient_kernels.norm_backward_kernel[deal.num_programs, groups](
            (projected, packed, padded(gradients), by_pooled, into, shares.values),
            (
                in_units(steps_of(projected), shape),
                tuple(in_units(each, shape) for each in zip(*padded(steps), strict=True)),
                in_units((of_class[0], of_class[2], of_class[3]), shape),
            ),
            *(_film(projected, plans), deal.given),
            (plans[0].eps, padded([plan.scale for plan in plans])),
            *(shape, ROWS_OF_NORM),
            num_warps=WARPS_OF_NORM,
            maxnreg=REGISTERS,
        )
    return by_pooled, shares


def _token_gradient(by_pooled: Tensor, packed: Tensor, plans: Sequence[PoolPlan], into: Tensor) -> None:
    whole = into.shape[3] * into.shape[4]
    columns = columns_of(whole)
    shape, groups = _shape(plans[0].layout, into, alignment(into))
    rows = CELLS_OF_TOKEN_GRADIENT // columns
    deal = _deal(_geometry(into, plans), rows, 2**31, columns, whole)
    with torch.cuda.device_of(into):
        gradient_kernels.token_gradient_kernel[deal.num_programs, groups](
            *((by_pooled, packed, into), in_units(steps_of(into), shape), _film(into, plans), deal.given),
            *(shape._replace(columns=columns), rows),
            num_warps=WARPS_OF_TOKEN_GRADIENT,
            maxnreg=REGISTERS,
        )


def _weight_gradient(by_pooled: Tensor, projected: Tensor, plans: Sequence[PoolPlan]) -> Shares:
    rows, dim = ROWS_OF_WEIGHT_GRADIENT, projected.shape[-1]
    columns = min(COLUMNS_OF_WEIGHT_GRADIENT, max(16, triton.next_power_of_2(dim)))
    shape, groups = _shape(plans[0].layout, projected, alignment(projected))
    deal = _deal(_geometry(projected, plans), rows, SHARES_OF_WEIGHT_GRADIENT)
    shares = _shares(deal, groups, projected, 27)
    with torch.cuda.device_of(projected):
        gradient_kernels.weight_gradient_kernel[deal.num_programs, groups, triton.cdiv(dim, columns)](
            *((projected, by_pooled, shares.values), in_units(steps_of(projected), shape)),
            *(_film(projected, plans), deal.given, shape._replace(columns=columns), rows),
            num_warps=WARPS_OF_WEIGHT_GRADIENT,
        )
    return shares


def _geometry(projected: Tensor, plans: Sequence[PoolPlan]) -> _Geometry:
    grids = tuple((plan.layout.stride, *plan.layout.grid_out[1:]) for plan in plans)
    return _Geometry(len(projected), projected.shape[3], plans[0].layout.grid_in[0], grids)


def _film(projected: Tensor, plans: Sequence[PoolPlan]) -> tuple[int, ...]:
    return odd((projected.shape[3], *plans[0].layout.grid_in))


def _shape(layout: PoolLayout, tokens: Tensor, aligned: int) -> tuple[kernels.Shape, int]:
    """What a kernel is compiled for, and the number of groups of frames."""
    dim, num_frames = tokens.shape[-1], layout.grid_in[0]
    groups = triton.cdiv(num_frames, FRAMES)
    frames = triton.cdiv(num_frames, groups)
    columns = max(16, triton.next_power_of_2(dim))
    return kernels.Shape(frames, int(groups == 1), layout.num_class_tokens, dim, columns, aligned), groups
