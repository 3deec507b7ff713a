"""LayerNorm over rows of 6 to 2048 channels on CUDA, each way in one pass over memory.

Forward writes the normed rows in the format of the product that reads them. Backward keeps nothing of forward: from the rows it
makes mean and deviation again in registers, and with them the rows' gradient, to which it may add another one (`plus`: the
residual's), the normed rows anew (for the gradient of the weight that reads them), and those of weight and bias.
Statistics and sums are in fp32; a program adds up its own rows and torch adds the programs, in a fixed order.
Runs on CPU under TRITON_INTERPRET=1. The kernels are not type checked: a wrapper around them is no source to Triton.
"""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

TILE = 4096
WARPS = 8
"""Elements, and warps, of a forward program."""

TILE_OF_BACKWARD = 2048
WARPS_OF_BACKWARD = 4
PROGRAMS_OF_BACKWARD = 132 * 12
"""A multiple of what runs at once on an H100 or H200; each adds up the gradients by weight and bias of the rows it takes."""


class NormGradients(NamedTuple):
    """`by_rows` [row dim] in the format of the rows; `by_weight`, `by_bias` [dim] in fp32; `normed` [row dim] if asked for."""

    by_rows: Tensor
    by_weight: Tensor
    by_bias: Tensor
    normed: Tensor | None


@triton.jit
@no_type_check
def _standardise(values, valid, eps, DIM: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows of mean 0 and variance 1, zero past the channels, and the factors that made them so; rows past the end stay zero."""
    in_row = tl.arange(0, COLUMNS) < DIM
    mean = tl.sum(values, axis=1) / DIM
    centred = tl.where(in_row, values - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / DIM
    factor = 1.0 / tl.sqrt(tl.where(valid, variance + eps, 1.0))
    return centred * factor[:, None], factor


@triton.jit(do_not_specialize=["num_rows"])
@no_type_check
def _norm_kernel(pointers, num_rows, eps, DIM: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    rows, weight, bias, out = pointers
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    in_row = columns < DIM
    valid = row < num_rows
    mask = valid[:, None] & in_row
    offsets = row[:, None] * DIM + columns
    values = tl.load(rows + offsets, mask=mask, other=0.0).to(tl.float32)
    normed, _ = _standardise(values, valid, eps, DIM, COLUMNS)
    gain = tl.load(weight + columns, mask=in_row, other=0.0).to(tl.float32)
    shift = tl.load(bias + columns, mask=in_row, other=0.0).to(tl.float32)
    tl.store(out + offsets, (normed * gain + shift).to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["num_rows", "steps"])
@no_type_check
def _norm_backward_kernel(
    pointers, num_rows, steps, eps, SHAPE: tl.constexpr, HAS_PLUS: tl.constexpr, WRITES_NORMED: tl.constexpr
):
    DIM: tl.constexpr = SHAPE[0]
    COLUMNS: tl.constexpr = SHAPE[1]
    ROWS: tl.constexpr = SHAPE[2]
    gradient, rows, plus, weight, bias, by_rows, again, shares = pointers
    columns = tl.arange(0, COLUMNS)
    in_row = columns < DIM
    gain = tl.load(weight + columns, mask=in_row, other=0.0).to(tl.float32)
    shift = tl.load(bias + columns, mask=in_row, other=0.0).to(tl.float32)
    by_weight = tl.zeros((ROWS, COLUMNS), tl.float32)
    by_bias = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(steps):
        block = step * tl.num_programs(0) + tl.program_id(0)
        row = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
        valid = row < num_rows
        mask = valid[:, None] & in_row
        offsets = row[:, None] * DIM + columns
        values = tl.load(rows + offsets, mask=mask, other=0.0).to(tl.float32)
        by_out = tl.load(gradient + offsets, mask=mask, other=0.0).to(tl.float32)
        if HAS_PLUS:
            more = tl.load(plus + offsets, mask=mask, other=0.0).to(tl.float32)
        normed, factor = _standardise(values, valid, eps, DIM, COLUMNS)
        by_weight += by_out * normed
        by_bias += by_out
        by_normed = by_out * gain
        mean = tl.sum(by_normed, axis=1) / DIM
        slope = tl.sum(by_normed * normed, axis=1) / DIM
        result = (by_normed - mean[:, None] - normed * slope[:, None]) * factor[:, None]
        if HAS_PLUS:
            result += more
        tl.store(by_rows + offsets, result.to(by_rows.dtype.element_ty), mask=mask)
        if WRITES_NORMED:
            normed = (normed * gain + shift).to(again.dtype.element_ty)
            tl.store(again + offsets, normed, mask=mask)
    shares += tl.program_id(0) * 2 * DIM + columns
    tl.store(shares, tl.sum(by_weight, axis=0), mask=in_row)
    tl.store(shares + DIM, tl.sum(by_bias, axis=0), mask=in_row)


def norm_rows(
    rows: Float[Tensor, "row dim"],
    weight: Float[Tensor, " dim"],
    bias: Float[Tensor, " dim"],
    eps: float,
    dtype: torch.dtype,
) -> Float[Tensor, "row dim"]:
    """LayerNorm of dense rows, computed in fp32 and written in `dtype`."""
    num_rows, dim = rows.shape
    rows = rows.contiguous()
    out = torch.empty_like(rows, dtype=dtype)
    columns, per_program = _tile(dim, TILE)
    with torch.cuda.device_of(rows):
        _norm_kernel[(triton.cdiv(num_rows, per_program),)](
            (rows, weight, bias, out), num_rows, eps, dim, columns, per_program, num_warps=WARPS
        )
    return out


def norm_rows_backward(
    gradient: Float[Tensor, "row dim"],
    rows: Float[Tensor, "row dim"],
    norm: tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]],
    eps: float,
    plus: Float[Tensor, "row dim"] | None = None,
    again: torch.dtype | None = None,
) -> NormGradients:
    """`gradient`: by the normed rows. `norm`: weight and bias. `plus`: what is added to the rows' gradient; `again`: the format
    in which the normed rows are wanted anew.
    """
    num_rows, dim = rows.shape
    gradient, rows = gradient.contiguous(), rows.contiguous()
    has_plus = plus is not None
    columns, per_program = _tile(dim, TILE_OF_BACKWARD)
    blocks = triton.cdiv(num_rows, per_program)
    steps = triton.cdiv(blocks, PROGRAMS_OF_BACKWARD)
    programs = triton.cdiv(blocks, max(steps, 1))
    by_rows = torch.empty_like(rows)
    normed = None if again is None else torch.empty_like(rows, dtype=again)
    shares = rows.new_empty(programs, 2, dim, dtype=torch.float32)
    plus = plus.contiguous() if has_plus else rows
    pointers = (gradient, rows, plus, *norm, by_rows, rows if normed is None else normed, shares)
    with torch.cuda.device_of(rows):
        _norm_backward_kernel[(programs,)](
            *(pointers, num_rows, steps, eps, (dim, columns, per_program), has_plus, again is not None),
            num_warps=WARPS_OF_BACKWARD,
        )
    return NormGradients(by_rows, *shares.sum(0), normed)


def _tile(dim: int, elements: int) -> tuple[int, int]:
    """Columns of a program, a power of two, and its rows."""
    columns = max(16, triton.next_power_of_2(dim))
    return columns, max(1, elements // columns)
