"""What a residual MLP does to rows of channels between its products, on CUDA: each step reads and writes memory once.

Steps of backward also give the sum of their result over the rows, the gradient of a bias, which costs nothing while the values
are in registers. A program adds up some columns of its own rows in fp32, torch adds the programs: the same order each time.
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
"""Elements, and warps, of a program at a time."""

PROGRAMS = 132 * 12
"""Where rows are summed: a multiple of what runs at once on an H100 or H200, at three, four or six programs a multiprocessor."""

WIDTHS = (256, 128, 64)
"""Columns of a program: those that waste fewest lanes."""


class Tiles(NamedTuple):
    """What a kernel is compiled for; the kernels read it by number, in this order."""

    width: int
    columns: int
    rows: int
    across: int
    """Programs side by side; they come one after another in the grid, whose first axis alone is long enough for all rows."""


@triton.jit
@no_type_check
def _place(step, num_rows, TILES: tl.constexpr):
    """Rows of a program's block at a step, the offsets of its elements in dense rows, and which of them there are."""
    WIDTH: tl.constexpr = TILES[0]
    COLUMNS: tl.constexpr = TILES[1]
    ROWS: tl.constexpr = TILES[2]
    ACROSS: tl.constexpr = TILES[3]
    block = step * (tl.num_programs(0) // ACROSS) + tl.program_id(0) // ACROSS
    columns = tl.program_id(0) % ACROSS * COLUMNS + tl.arange(0, COLUMNS)
    row = block * ROWS + tl.arange(0, ROWS)
    mask = (row < num_rows)[:, None] & (columns < WIDTH)
    return row, row.to(tl.int64)[:, None] * WIDTH + columns, mask


@triton.jit
@no_type_check
def _store_share(shares, total, TILES: tl.constexpr):
    WIDTH: tl.constexpr = TILES[0]
    COLUMNS: tl.constexpr = TILES[1]
    ACROSS: tl.constexpr = TILES[3]
    columns = tl.program_id(0) % ACROSS * COLUMNS + tl.arange(0, COLUMNS)
    shares += tl.program_id(0) // ACROSS * WIDTH + columns
    tl.store(shares, tl.sum(total, axis=0), mask=columns < WIDTH)


@triton.jit(do_not_specialize=["num_rows", "steps"])
@no_type_check
def _sum_kernel(pointers, num_rows, steps, TILES: tl.constexpr):
    rows, shares = pointers
    COLUMNS: tl.constexpr = TILES[1]
    ROWS: tl.constexpr = TILES[2]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(steps):
        _, offsets, mask = _place(step, num_rows, TILES)
        total += tl.load(rows + offsets, mask=mask, other=0.0).to(tl.float32)
    _store_share(shares, total, TILES)


@triton.jit(do_not_specialize=["num_rows", "steps", "tokens"])
@no_type_check
def _scale_kernel(pointers, num_rows, steps, tokens, TILES: tl.constexpr, HAS_FACTORS: tl.constexpr):
    rows, factors, out, shares = pointers
    COLUMNS: tl.constexpr = TILES[1]
    ROWS: tl.constexpr = TILES[2]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(steps):
        row, offsets, mask = _place(step, num_rows, TILES)
        values = tl.load(rows + offsets, mask=mask, other=0.0).to(tl.float32)
        if HAS_FACTORS:
            values *= tl.load(factors + row // tokens, mask=row < num_rows, other=0.0)[:, None]
        tl.store(out + offsets, values.to(out.dtype.element_ty), mask=mask)
        total += values
    _store_share(shares, total, TILES)


@triton.jit
@no_type_check
def _normal(values, PRECISE: tl.constexpr):
    """The standard normal distribution: its mass below each value, and its density.

    For half precision the tail is Abramowitz and Stegun's 7.1.26 (error 1e-7), which shares its exponential with the density:
    with an error function of its own the kernel waits for arithmetic, not for memory.
    """
    shape = tl.exp2(values * values * -0.7213475204444817)  # exp(-x * x / 2)
    if PRECISE:
        below = 0.5 + 0.5 * tl.erf(values * 0.7071067811865476)
    else:
        at = 1.0 / (1.0 + 0.2316418882 * tl.abs(values))
        tail = 0.5307027145 * at - 0.7265760135
        tail = (tail * at + 0.7107068705) * at - 0.142248368
        tail = (tail * at + 0.127414796) * at * shape
        below = tl.where(values < 0, tail, 1.0 - tail)
    return below, shape * 0.3989422804014327


@triton.jit(do_not_specialize=["num_rows", "steps"])
@no_type_check
def _gelu_backward_kernel(
    pointers, num_rows, steps, TILES: tl.constexpr, WRITES_ACTIVATION: tl.constexpr, PRECISE: tl.constexpr
):
    hidden, gradient, activation, shares = pointers
    COLUMNS: tl.constexpr = TILES[1]
    ROWS: tl.constexpr = TILES[2]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(steps):
        _, offsets, mask = _place(step, num_rows, TILES)
        values = tl.load(hidden + offsets, mask=mask, other=0.0).to(tl.float32)
        by_values = tl.load(gradient + offsets, mask=mask, other=0.0).to(tl.float32)
        below, density = _normal(values, PRECISE)
        if WRITES_ACTIVATION:
            tl.store(activation + offsets, (values * below).to(activation.dtype.element_ty), mask=mask)
        by_values *= below + values * density
        tl.store(gradient + offsets, by_values.to(gradient.dtype.element_ty), mask=mask)
        total += by_values
    _store_share(shares, total, TILES)


@triton.jit(do_not_specialize=["num_rows", "tokens"])
@no_type_check
def _add_kernel(pointers, num_rows, tokens, TILES: tl.constexpr, HAS_FACTORS: tl.constexpr):
    rows, branch, factors, out = pointers
    row, offsets, mask = _place(0, num_rows, TILES)
    values = tl.load(rows + offsets, mask=mask, other=0.0).to(tl.float32)
    more = tl.load(branch + offsets, mask=mask, other=0.0).to(tl.float32)
    if HAS_FACTORS:
        more *= tl.load(factors + row // tokens, mask=row < num_rows, other=0.0)[:, None]
    tl.store(out + offsets, (values + more).to(out.dtype.element_ty), mask=mask)


def sum_rows(rows: Float[Tensor, "row width"]) -> Float[Tensor, " width"]:
    """Sum over the rows in fp32."""
    rows = rows.contiguous()
    tiles, grid, steps, shares = _plan(rows)
    with torch.cuda.device_of(rows):
        _sum_kernel[grid]((rows, shares), len(rows), steps, tiles, num_warps=WARPS)
    return shares.sum(0)


def scale_rows(
    rows: Float[Tensor, "row width"], factors: Float[Tensor, " clip"] | None, dtype: torch.dtype
) -> tuple[Float[Tensor, "row width"], Float[Tensor, " width"]]:
    """Rows times the factor of their clip (an equal number of rows each) in `dtype`, and their sum in fp32."""
    rows = rows.contiguous()
    if factors is None and rows.dtype == dtype:
        return rows, sum_rows(rows)
    tiles, grid, steps, shares = _plan(rows)
    out = torch.empty_like(rows, dtype=dtype)
    pointers = (rows, rows if factors is None else factors, out, shares)
    with torch.cuda.device_of(rows):
        _scale_kernel[grid](
            *(pointers, len(rows), steps, _rows_of_a_clip(rows, factors), tiles, factors is not None),
            num_warps=WARPS,
        )
    return out, shares.sum(0)


def gelu_backward_(
    gradient: Float[Tensor, "row width"], hidden: Float[Tensor, "row width"], needs_activation: bool = True
) -> tuple[Float[Tensor, "row width"] | None, Float[Tensor, " width"]]:
    """Turns the gradient by gelu(hidden) into that by `hidden`, in place. Returns gelu(hidden) and the sum of the gradient's rows."""
    if not gradient.is_contiguous():
        raise ValueError("the gradient by gelu's result is overwritten: it must be contiguous")
    hidden = hidden.contiguous()
    tiles, grid, steps, shares = _plan(hidden)
    activation = torch.empty_like(hidden) if needs_activation else None
    pointers = (hidden, gradient, hidden if activation is None else activation, shares)
    with torch.cuda.device_of(hidden):
        _gelu_backward_kernel[grid](
            *(pointers, len(hidden), steps, tiles, needs_activation, hidden.dtype == torch.float32),
            num_warps=WARPS,
        )
    return activation, shares.sum(0)


def add_branch(
    rows: Float[Tensor, "row width"],
    branch: Float[Tensor, "row width"],
    factors: Float[Tensor, " clip"] | None,
    dtype: torch.dtype,
) -> Float[Tensor, "row width"]:
    """Rows plus the branch times the factor of its clip, in `dtype`."""
    rows, branch = rows.contiguous(), branch.contiguous()
    tiles, out = _tiles(rows.shape[1]), torch.empty_like(rows, dtype=dtype)
    pointers = (rows, branch, rows if factors is None else factors, out)
    with torch.cuda.device_of(rows):
        _add_kernel[(triton.cdiv(len(rows), tiles.rows) * tiles.across,)](
            *(pointers, len(rows), _rows_of_a_clip(rows, factors), tiles, factors is not None),
            num_warps=WARPS,
        )
    return out


def _plan(rows: Tensor) -> tuple[Tiles, tuple[int], int, Tensor]:
    """Tiles, number of programs, blocks of rows that each takes, and room for the sums of those that stand side by side."""
    num_rows, width = rows.shape
    tiles = _tiles(width)
    blocks = triton.cdiv(num_rows, tiles.rows)
    steps = triton.cdiv(blocks, max(1, PROGRAMS // tiles.across))
    down = triton.cdiv(blocks, max(1, steps))
    return tiles, (down * tiles.across,), steps, rows.new_empty(down, width, dtype=torch.float32)


def _tiles(width: int) -> Tiles:
    columns = min(WIDTHS, key=lambda columns: (triton.cdiv(width, columns) * columns, -columns))
    return Tiles(width, columns, TILE // columns, triton.cdiv(width, columns))


def _rows_of_a_clip(rows: Tensor, factors: Tensor | None) -> int:
    return 1 if factors is None else max(1, len(rows) // max(1, len(factors)))
