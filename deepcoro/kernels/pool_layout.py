"""What a pooling is: its filter, and where tokens stand before and after it: all cells of a grid, or the visible ones."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deepcoro.kernels.grid import Grid, num_cells, strided
from deepcoro.kernels.pair_convolution import TapPairs, tap_pairs
from deepcoro.kernels.unit_rows import UnitRows

TAPS = 27
"""Cells under a 3x3x3 filter, in (t, h, w) raster order."""


@dataclass(frozen=True, eq=False)
class PoolLayout:
    """Geometry of one pooling: stride 1 in time, `stride` in space, half-kernel padding.

    Dense when the positions are None: patches run in raster order. Sparse otherwise: `positions_in` [batch, patch] and
    `positions_out` [batch, patch_out] are the cells (flat raster index on their grid, each once in a row) that are
    visible; a filter sees zeros where a cell is hidden. A class token, if any, is the first token and is not pooled. `units`, where
    given, are those whose tokens these are: on CUDA the tables follow from them in one launch each.
    """

    grid_in: Grid
    stride: int
    has_class_token: bool = True
    positions_in: Int[Tensor, "batch patch"] | None = None
    positions_out: Int[Tensor, "batch patch_out"] | None = None
    units: UnitRows | None = None

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"pooling stride is {self.stride}; allowed: 1 and more")
        if (self.positions_in is None) != (self.positions_out is None):
            raise ValueError("a sparse layout needs positions_in and positions_out, a dense one neither")

    @property
    def grid_out(self) -> Grid:
        return strided(self.grid_in, self.stride)

    @property
    def is_sparse(self) -> bool:
        return self.positions_in is not None

    @property
    def num_class_tokens(self) -> int:
        return int(self.has_class_token)

    @property
    def num_patches_in(self) -> int:
        return num_cells(self.grid_in) if self.positions_in is None else self.positions_in.shape[1]

    @property
    def num_patches_out(self) -> int:
        return num_cells(self.grid_out) if self.positions_out is None else self.positions_out.shape[1]

    @property
    def num_tokens_out(self) -> int:
        return self.num_class_tokens + self.num_patches_out

    def to(self, device: torch.device | str) -> "PoolLayout":
        """The same layout with its positions on `device`."""
        if self.positions_in is None or self.positions_out is None:
            return self
        moved = (each.to(device) for each in (self.positions_in, self.positions_out))
        return PoolLayout(self.grid_in, self.stride, self.has_class_token, *moved)

    # Tables are made when first asked for: only gathering forms read them.
    @functools.cached_property
    def neighbours(self) -> Int[Tensor, "batch patch_out 27"] | None:
        """For each output and tap the row of the input's patch axis, -1 where hidden or outside; None when dense."""
        if self.positions_in is None or self.positions_out is None:
            return None
        if self.units is not None and self.units.takes_triton:
            return self._table_of_units(turned=False)
        return neighbours(self.positions_in, self.positions_out, self.grid_in, self.grid_out, self.stride)

    def pairs(self, clips: slice) -> list[TapPairs]:
        """For each tap the rows it joins in some clips of a sparse layout; made on the host when first asked for."""
        key = (clips.start, clips.stop)
        if key not in self._pairs:
            self._pairs[key] = tap_pairs(self.neighbours[clips], self.num_patches_in)
        return self._pairs[key]

    @functools.cached_property
    def _pairs(self) -> dict[tuple[int, int], list[TapPairs]]:
        return {}

    @functools.cached_property
    def readers(self) -> Int[Tensor, "batch patch 27"] | None:
        """The table turned round: for each input and tap the output row that reads it there, or -1; None when dense."""
        if self.positions_in is None or self.positions_out is None:
            return None
        if self.units is not None and self.units.takes_triton:
            return self._table_of_units(turned=True)
        return readers(self.positions_in, self.positions_out, self.grid_in, self.grid_out, self.stride)

    def _table_of_units(self, turned: bool) -> Tensor:
        from deepcoro.kernels import triton_unit_tables

        side_in = self.grid_in[1] // self.units.grid[1]
        sides = (side_in // self.stride, side_in)
        return triton_unit_tables.table(self.units, *(reversed(sides) if turned else sides), turned=turned)


class PoolFilter(NamedTuple):
    """One 3x3x3 filter a channel of a head, shared by the heads, and the LayerNorm over each head after it."""

    weight: Float[Tensor, "dim 1 3 3 3"]
    norm_weight: Float[Tensor, " dim"]
    norm_bias: Float[Tensor, " dim"]


class PoolPlan(NamedTuple):
    """All but tensors that a form of pooling needs to know."""

    layout: PoolLayout
    width: int
    scale: float
    eps: float


def neighbours(
    positions_in: Int[Tensor, "batch patch"],
    positions_out: Int[Tensor, "batch patch_out"],
    grid_in: Grid,
    grid_out: Grid,
    stride: int,
) -> Int[Tensor, "batch patch_out 27"]:
    """Row of the input's patch axis under each tap of each output, -1 where that cell is hidden or outside (int32).

    Made on the positions' device without a transfer to the host.
    """
    frame, row, column = _coordinates(positions_out, grid_out)
    shift_t, shift_h, shift_w = _tap_shifts(positions_out.device)
    cells = (frame + shift_t, row * stride + shift_h, column * stride + shift_w)
    return _look_up(positions_in, grid_in, cells, _inside(cells, grid_in))


def readers(
    positions_in: Int[Tensor, "batch patch"],
    positions_out: Int[Tensor, "batch patch_out"],
    grid_in: Grid,
    grid_out: Grid,
    stride: int,
) -> Int[Tensor, "batch patch 27"]:
    """Row of the output's patch axis that reads each input under each tap, -1 where none does: `neighbours` transposed (int32)."""
    frame, row, column = _coordinates(positions_in, grid_in)
    shift_t, shift_h, shift_w = _tap_shifts(positions_in.device)
    row, column = row - shift_h, column - shift_w
    on_stride = (row % stride == 0) & (column % stride == 0)
    cells = (
        frame - shift_t,
        row.div(stride, rounding_mode="floor"),
        column.div(stride, rounding_mode="floor"),
    )
    return _look_up(positions_out, grid_out, cells, _inside(cells, grid_out) & on_stride)


def _look_up(positions: Tensor, grid: Grid, cells: tuple[Tensor, Tensor, Tensor], known: Tensor) -> Tensor:
    batch, outside = len(positions), num_cells(grid)
    rows = torch.arange(positions.shape[1], dtype=torch.int32, device=positions.device)
    row_of_cell = rows.new_full((batch, outside + 1), -1)
    row_of_cell.scatter_(1, positions.long(), rows.expand(batch, -1))
    frame, row, column = cells
    flat = torch.where(known, (frame * grid[1] + row) * grid[2] + column, outside)
    return row_of_cell.gather(1, flat.flatten(1)).view(flat.shape)


def _coordinates(positions: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Frame, row and column of flat positions, each [batch, patch, 1]."""
    flat = positions.long()[..., None]
    in_frame = flat % (grid[1] * grid[2])
    return flat // (grid[1] * grid[2]), in_frame // grid[2], in_frame % grid[2]


def _tap_shifts(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Offset of each tap from the centre along t, h and w, each [27]."""
    tap = torch.arange(TAPS, device=device)
    return tap // 9 - 1, tap // 3 % 3 - 1, tap % 3 - 1


def _inside(cells: tuple[Tensor, Tensor, Tensor], grid: Grid) -> Tensor:
    inside = [(cell >= 0) & (cell < size) for cell, size in zip(cells, grid, strict=True)]
    return inside[0] & inside[1] & inside[2]
