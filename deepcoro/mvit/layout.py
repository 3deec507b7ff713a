"""Where the tokens of each block stand: on every cell of its grid, or on those of the visible mask units alone.

A mask unit is one cell of the last grid: 2 frames and, in the published variants, 32x32 px. Kept tokens run unit by unit
(ascending), row by row inside a unit, so that a token's row follows from its unit's rank by arithmetic and the last grid,
one token a unit, comes out in ascending order. Where a grid is no whole number of units it is rounded up to one, so that
every clip keeps the same number of tokens; the cells past the picture's edge are marked as outside and never read.
Everything is computed on the device, once a forward pass, and shared by the blocks of equal shape.
"""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deepcoro.kernels.attention_layout import AttentionLayout
from deepcoro.kernels.grid import Grid
from deepcoro.kernels.pool_layout import PoolLayout
from deepcoro.kernels.unit_rows import UnitRows
from deepcoro.mvit.shapes import BlockShape
from deepcoro.pretended import is_pretended


@dataclass(frozen=True, eq=False)
class Edges:
    """Which tokens lie in the picture, where grids were rounded up to whole units."""

    tokens: Bool[Tensor, "clip patch"]
    queries: Bool[Tensor, "clip query"]
    keys: Bool[Tensor, "clip key"] | None
    """None where a unit has one key, which always lies in the picture."""


@dataclass(frozen=True, eq=False)
class BlockLayout:
    """What pooling and attention of one block need to know of its tokens."""

    query: PoolLayout
    """From the block's grid to that of its queries; the skip path takes the same way."""
    key: PoolLayout
    """From the block's grid to that of its keys and values."""
    attention: AttentionLayout
    edges: Edges | None = None
    """None where every token lies in the picture."""


def fill_outside(
    tokens: Float[Tensor, "clip token dim"], inside: Bool[Tensor, "clip patch"], value: float
) -> Float[Tensor, "clip token dim"]:
    """`value` where a patch lies past the picture's edge; a class token before the patches stays."""
    inside = F.pad(inside, (tokens.shape[1] - inside.shape[1], 0), value=True)
    return torch.where(rearrange(inside, "b l -> b l 1"), tokens, value)


def dense_layout(shape: BlockShape, has_class_token: bool) -> BlockLayout:
    """Every cell of the grid, in raster order."""
    return BlockLayout(
        PoolLayout(shape.grid, shape.query_stride, has_class_token),
        PoolLayout(shape.grid, shape.key_stride, has_class_token),
        AttentionLayout(shape.query_grid, shape.key_grid, has_class_token),
    )


@dataclass(frozen=True)
class VisibleUnits:
    """The kept cells of the last grid and, through them, the kept tokens of every finer grid."""

    grid: Grid
    """The last grid; its cells are the units."""
    side: int
    """Tokens along a side of a unit on the first grid, that of the patch embedding."""
    visible: Int[Tensor, "clip unit"]

    def __post_init__(self) -> None:
        check_visible(self.visible, self.grid)

    def whole_grid(self, side: int) -> Grid:
        """The grid whose units have `side` tokens a side, rounded up to whole units."""
        frames, height, width = self.grid
        return frames, height * side, width * side

    @functools.cached_property
    def rows(self) -> UnitRows:
        return UnitRows(self.grid, self.visible)

    def positions(self, side: int) -> Int[Tensor, "clip patch"]:
        """The flat raster index of each kept token on `whole_grid(side)`."""
        if self.rows.takes_triton:
            from deepcoro.kernels import triton_unit_tables

            return triton_unit_tables.positions(self.rows, side)
        return _raster(self.places(side), self.whole_grid(side))

    @functools.cached_property
    def cells(self) -> tuple[Int[Tensor, "clip unit"], Int[Tensor, "clip unit"], Int[Tensor, "clip unit"]]:
        """Frame, row and column of each kept unit on the last grid."""
        _, height, width = self.grid
        return self.visible // (height * width), self.visible // width % height, self.visible % width

    def places(self, side: int) -> Int[Tensor, "clip patch 3"]:
        """Frame, row and column of each kept token of the grid whose units have `side` tokens a side."""
        inner = torch.arange(side, device=self.visible.device)
        frame, row, column = (rearrange(cells, "b u -> b u 1 1") for cells in self.cells)
        parts = torch.broadcast_tensors(
            frame, row * side + rearrange(inner, "i -> i 1"), column * side + inner
        )
        return rearrange(torch.stack(parts, dim=-1), "b u i j place -> b (u i j) place")

    def shown(self) -> Bool[Tensor, "clip frame row column"]:
        """Which cells of the last grid are kept."""
        frames, height, width = self.grid
        hidden = torch.zeros(
            len(self.visible), frames * height * width, dtype=torch.bool, device=self.visible.device
        )
        shown = hidden.scatter(1, self.visible, True)
        return rearrange(shown, "b (t h w) -> b t h w", t=frames, h=height)


def visible_units(shapes: list[BlockShape], visible: Int[Tensor, "clip unit"]) -> VisibleUnits:
    """The units `visible` (ascending indices on the last grid, as many for each clip) of an encoder of `shapes`."""
    return VisibleUnits(shapes[-1].query_grid, unit_sides(shapes)[0], visible)


def sparse_layouts(shapes: list[BlockShape], units: VisibleUnits, has_class_token: bool) -> list[BlockLayout]:
    """The layout of each block when only `units` are encoded. Raises ValueError where a key grid is coarser than the units."""
    poolings = _Poolings(units, has_class_token)
    made: dict[tuple[int, int, int], BlockLayout] = {}
    layouts = []
    for shape, side in zip(shapes, unit_sides(shapes), strict=True):
        key = (side, shape.query_stride, shape.key_stride)
        if key not in made:
            made[key] = _sparse_layout(shape, side, poolings)
        layouts.append(made[key])
    return layouts


class _Poolings:
    """What the blocks of one forward share: each list of positions is made once, and so are the tables of each pooling."""

    def __init__(self, units: VisibleUnits, has_class_token: bool) -> None:
        self.units, self.has_class_token = units, has_class_token
        self._positions: dict[int, Tensor] = {}
        self._poolings: dict[tuple[int, int], PoolLayout] = {}

    def positions(self, side: int) -> Int[Tensor, "clip patch"]:
        if side not in self._positions:
            self._positions[side] = self.units.positions(side)
        return self._positions[side]

    def pooling(self, side: int, stride: int) -> PoolLayout:
        """From the grid of `side` tokens a unit's side."""
        if (side, stride) not in self._poolings:
            positions = (self.positions(side), self.positions(side // stride))
            whole = self.units.whole_grid(side)
            layout = PoolLayout(whole, stride, self.has_class_token, *positions, self.units.rows)
            self._poolings[side, stride] = layout
        return self._poolings[side, stride]


def unit_sides(shapes: list[BlockShape]) -> list[int]:
    """Tokens along a side of a mask unit on the grid that enters each block."""
    sides, side = [], 1
    for number, shape in reversed(list(enumerate(shapes))):
        side *= shape.query_stride
        if side % shape.key_stride:
            raise ValueError(
                f"block {number} pools its keys by {shape.key_stride}, mask units have {side} tokens a side there; "
                "clips can be masked only where the key stride divides that number"
            )
        sides.append(side)
    return sides[::-1]


def check_visible(visible: Int[Tensor, "clip unit"], grid: Grid) -> None:
    """ValueError unless each row holds ascending indices of units; the values are looked at on a CPU alone (elsewhere that would wait for the device)."""
    num_units = math.prod(grid)
    if visible.ndim != 2 or visible.dtype != torch.int64 or not 1 <= visible.shape[1] <= num_units:
        raise ValueError(
            f"visible is {tuple(visible.shape)} {visible.dtype}; it holds 1 to {num_units} unit indices (int64) a clip"
        )
    if visible.device.type != "cpu" or is_pretended():
        return
    ascending = bool((visible.diff(dim=1) > 0).all())
    if not ascending or int(visible.min()) < 0 or int(visible.max()) >= num_units:
        raise ValueError(f"visible must list units in ascending order, each once, from 0 to {num_units - 1}")


def _sparse_layout(shape: BlockShape, side: int, poolings: _Poolings) -> BlockLayout:
    units, has_class_token = poolings.units, poolings.has_class_token
    sides = (side, side // shape.query_stride, side // shape.key_stride)
    query = poolings.pooling(side, shape.query_stride)
    key = poolings.pooling(side, shape.key_stride)
    grids = (shape.grid, shape.query_grid, shape.key_grid)
    if all(units.whole_grid(each) == grid for each, grid in zip(sides, grids, strict=True)):
        positions = (poolings.positions(each) for each in sides[1:])
        attention = AttentionLayout(shape.query_grid, shape.key_grid, has_class_token, *positions)
        return BlockLayout(query, key, attention)
    places = [units.places(each) for each in sides]
    # tokens past the edge count for nothing; on the edge they can be looked up in any table
    on_grid = [_raster(_clamped(each, grid), grid) for each, grid in zip(places[1:], grids[1:], strict=True)]
    attention = AttentionLayout(shape.query_grid, shape.key_grid, has_class_token, *on_grid)
    tokens, queries, keys = (_is_inside(each, grid) for each, grid in zip(places, grids, strict=True))
    edges = Edges(tokens, queries, None if sides[2] == 1 else keys)
    return BlockLayout(query, key, attention, edges)


def _raster(places: Tensor, grid: Grid) -> Tensor:
    frame, row, column = places.unbind(-1)
    return (frame * grid[1] + row) * grid[2] + column


def _clamped(places: Tensor, grid: Grid) -> Tensor:
    frame, row, column = places.unbind(-1)
    return torch.stack((frame, row.clamp(max=grid[1] - 1), column.clamp(max=grid[2] - 1)), dim=-1)


def _is_inside(places: Tensor, grid: Grid) -> Tensor:
    return (places[..., 1] < grid[1]) & (places[..., 2] < grid[2])
