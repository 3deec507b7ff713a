"""Pools visible tokens on CUDA: launches the kernels of triton_sparse_kernels.py, each once for all parts of a projection."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from deepcoro.kernels import triton_sparse_kernels as kernels
from deepcoro.kernels.pool_layout import PoolPlan
from deepcoro.kernels.triton_dense_pooling import Shape
from deepcoro.kernels.triton_parts import (
    PARTS,
    Shares,
    alignment,
    columns_of,
    in_units,
    odd,
    padded,
    steps_of,
    sum_shares,
)

ROWS = 32
WARPS = 8
ROWS_OF_NORM = 8
WARPS_OF_NORM = 4
VALUES_OF_TOKEN_GRADIENT = 4096
WARPS_OF_TOKEN_GRADIENT = 8
ROWS_OF_WEIGHT_GRADIENT = 16
WARPS_OF_WEIGHT_GRADIENT = 4
SHARES_OF_NORM = 2048
SHARES_OF_WEIGHT_GRADIENT = 512
"""Programs of a part at most, each of which writes its share of the gradient by the filter; at least one a clip."""


class Deal(NamedTuple):
    """How the programs of a clip are dealt to the parts of a launch."""

    given: tuple[tuple[int, ...], ...]
    """As kernels read them by number: of each part its first program, the patches of a clip, the steps of a program, and where its
    patches start among those of all parts."""
    starts: tuple[int, ...]
    num_programs: int


class _Counts(NamedTuple):
    """Of what the parts of a launch are pooled to."""

    batch: int
    heads: int
    class_tokens: int
    patches: tuple[int, ...]


@functools.lru_cache(maxsize=1024)
def _deal(counts: _Counts, rows: int, most_programs: int) -> Deal:
    starts, steps, offsets, num_programs, num_patches = [], [], [], 0, 0
    for patches in counts.patches:
        blocks = triton.cdiv((counts.class_tokens + patches) * counts.heads, rows)
        steps.append(max(1, min(blocks, triton.cdiv(blocks * counts.batch, most_programs))))
        starts.append(num_programs)
        offsets.append(num_patches)
        num_programs += triton.cdiv(blocks, steps[-1])
        num_patches += patches * counts.batch
    starts += [num_programs] * (PARTS - len(starts))
    given = (starts, counts.patches, steps, offsets)
    return Deal(tuple(odd(padded(each)) for each in given), tuple(starts), num_programs)


def pool(projected: Tensor, packed: Tensor, plans: Sequence[PoolPlan]) -> list[Tensor]:
    """The parts of a projection [batch, token, part, head, dim], pooled; they share their visible tokens."""
    batch, heads = projected.shape[0], projected.shape[3]
    results = [projected.new_empty(batch, plan.layout.num_tokens_out, heads, plan.width) for plan in plans]
    if not batch:
        return results
    widths = [plan.width for plan in plans]
    shape = _shape(projected, plans, alignment(projected, widths))
    deal = _deal(_counts(projected, plans), ROWS, 2**31)
    with torch.cuda.device_of(projected):
        kernels.forward_kernel[deal.num_programs, batch](
            (projected, packed, _neighbours(plans), padded(results)),
            *(in_units(steps_of(projected), shape), *odd([heads]), deal.given),
            (plans[0].eps, padded([plan.scale for plan in plans]), in_units(padded(widths), shape)),
            *(shape, ROWS),
            num_warps=WARPS,
        )
    return results


def pool_backward(
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
        sum_shares(_weight_gradient(by_pooled, projected, plans), norm_shares, by_weights, by_norms)
    else:
        by_weights.zero_(), by_norms.zero_()
    return [each for number in range(len(plans)) for each in (by_weights[number], *by_norms[number])]


def _norm_backward(
    gradients: list[Tensor],
    projected: Tensor,
    packed: Tensor,
    plans: Sequence[PoolPlan],
    into: Tensor | None,
) -> tuple[Tensor, Shares]:
    """The gradients by the pooled values of all parts, one after the other; those by class tokens are written to `into`."""
    counts, (batch, _, _, heads, dim) = _counts(projected, plans), projected.shape
    if into is None:
        into = projected.new_empty(batch, counts.class_tokens, len(plans), heads, dim)
    steps, of_class = [steps_of(gradient) for gradient in gradients], steps_of(into)
    aligned = alignment(projected, [*of_class, *(number for each in steps for number in each)])
    shape = _shape(projected, plans, aligned)
    deal = _deal(counts, ROWS_OF_NORM, SHARES_OF_NORM)
    by_pooled = projected.new_empty(batch * sum(counts.patches), heads, dim)
    shares = _shares(deal, projected, 2)
    with torch.cuda.device_of(projected):
        kernels.norm_backward_kernel[deal.num_programs, batch](
            (projected, packed, _neighbours(plans), padded(gradients), by_pooled, into, shares.values),
            (
                in_units(steps_of(projected), shape),
                tuple(in_units(each, shape) for each in zip(*padded(steps), strict=True)),
                in_units(of_class, shape),
            ),
            *(*odd([heads]), deal.given, (plans[0].eps, padded([plan.scale for plan in plans]))),
            *(shape, ROWS_OF_NORM),
            num_warps=WARPS_OF_NORM,
        )
    return by_pooled, shares


def _token_gradient(by_pooled: Tensor, packed: Tensor, plans: Sequence[PoolPlan], into: Tensor) -> None:
    batch, _, _, heads, dim = into.shape
    columns = columns_of(heads * dim)
    rows = VALUES_OF_TOKEN_GRADIENT // columns
    shape = _shape(into, plans, alignment(into))._replace(columns=columns)
    patches = plans[0].layout.num_patches_in
    tables = padded([plan.layout.readers for plan in plans])
    blocks = triton.cdiv(patches, rows) * triton.cdiv(heads * dim, columns)
    with torch.cuda.device_of(into):
        kernels.token_gradient_kernel[blocks, batch, len(plans)](
            *((by_pooled, packed, tables, into), in_units(steps_of(into), shape), odd((heads, patches))),
            *(_deal(_counts(into, plans), rows, 2**31).given, shape, rows),
            num_warps=WARPS_OF_TOKEN_GRADIENT,
        )


def _weight_gradient(by_pooled: Tensor, projected: Tensor, plans: Sequence[PoolPlan]) -> Shares:
    counts, shape = _counts(projected, plans), _shape(projected, plans, alignment(projected))
    deal = _deal(counts._replace(class_tokens=0), ROWS_OF_WEIGHT_GRADIENT, SHARES_OF_WEIGHT_GRADIENT)
    shares = _shares(deal, projected, 27)
    with torch.cuda.device_of(projected):
        kernels.weight_gradient_kernel[deal.num_programs, len(projected), 9](
            (projected, by_pooled, _neighbours(plans), shares.values),
            *(in_units(steps_of(projected), shape), *odd([counts.heads]), deal.given),
            *(shape, ROWS_OF_WEIGHT_GRADIENT),
            num_warps=WARPS_OF_WEIGHT_GRADIENT,
        )
    return shares


def _shares(deal: Deal, projected: Tensor, vectors: int) -> Shares:
    batch, dim = len(projected), projected.shape[-1]
    values = projected.new_empty(deal.num_programs * batch, vectors, dim, dtype=torch.float32)
    starts = [start * batch for start in deal.starts]
    return Shares(values, tuple(starts), (*starts[1:], len(values)))


def _counts(projected: Tensor, plans: Sequence[PoolPlan]) -> _Counts:
    patches = tuple(plan.layout.num_patches_out for plan in plans)
    return _Counts(len(projected), projected.shape[3], plans[0].layout.num_class_tokens, patches)


def _shape(projected: Tensor, plans: Sequence[PoolPlan], aligned: int) -> Shape:
    dim = projected.shape[-1]
    columns = max(16, triton.next_power_of_2(dim))
    return Shape(1, 1, plans[0].layout.num_class_tokens, dim, columns, aligned)


def _neighbours(plans: Sequence[PoolPlan]) -> tuple[Tensor, ...]:
    return padded([plan.layout.neighbours for plan in plans])
