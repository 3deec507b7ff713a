"""Where the queries and keys of an attention stand: on two grids over the same film, whole or in part."""

from dataclasses import dataclass
from functools import cache

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from deepcoro.kernels.grid import Grid


@dataclass(frozen=True, eq=False)
class AttentionLayout:
    """The grids of queries and keys; a class token, if any, comes first on both sides and stands nowhere.

    Without positions every cell is there, frame by frame and row by row. With them (the sparse path) clip b has the patches
    at the given flat raster positions, the same number for each clip: `PoolLayout.positions_out` of the two poolings.
    """

    query_grid: Grid
    key_grid: Grid
    has_class_token: bool = True
    query_positions: Int[Tensor, "batch patch"] | None = None
    key_positions: Int[Tensor, "batch key_patch"] | None = None

    @property
    def is_sparse(self) -> bool:
        return self.query_positions is not None or self.key_positions is not None

    def query_patches(self, tokens: Tensor) -> Tensor:
        """The queries [batch, patch, head, column] that stand somewhere, as a view."""
        return tokens[:, int(self.has_class_token) :]

    def query_cells(self, device: torch.device) -> Int[Tensor, "any patch 3"]:
        """Frame, row and column of each query patch; one clip for all where all cells are there."""
        return _cells(self.query_grid, self.query_positions, device)

    def key_cells(self, device: torch.device) -> Int[Tensor, "any key_patch 3"]:
        return _cells(self.key_grid, self.key_positions, device)

    def relative_indices(self, device: torch.device) -> list[Int[Tensor, "query key"]]:
        """`relative_index` along time, height and width."""
        pairs = zip(self.query_grid, self.key_grid, strict=True)
        return [_index_on(queries, keys, device) for queries, keys in pairs]


def relative_index(num_queries: int, num_keys: int) -> Int[Tensor, "query key"]:
    """Row of a table of 2 * max(queries, keys) - 1 relative positions for each pair, the coarser axis stretched over the finer."""
    query_step = max(num_keys / num_queries, 1.0)
    key_step = max(num_queries / num_keys, 1.0)
    query = torch.arange(num_queries)[:, None] * query_step
    key = (num_keys - 1 - torch.arange(num_keys))[None] * key_step
    return (query + key).long()


def write_one_hots(keys: Float[Tensor, "batch key head axes"], layout: AttentionLayout, frames: int) -> None:
    """Fills each key's row, column and frame (modulo `frames`) as three one-hots side by side; zeros for the class token."""
    cells = layout.key_cells(keys.device)
    height, width = layout.key_grid[1:]
    keys.zero_()
    patches = keys[:, int(layout.has_class_token) :]
    columns = torch.stack(
        (cells[..., 1], height + cells[..., 2], height + width + cells[..., 0] % frames), dim=-1
    )
    columns = rearrange(columns, "b k hot -> b k 1 hot").expand(*patches.shape[:3], 3)
    patches.scatter_(-1, columns, 1.0)


def _cells(grid: Grid, positions: Tensor | None, device: torch.device) -> Tensor:
    if positions is None:
        return _all_cells(grid, device)
    _, height, width = grid
    # torch.unravel_index copies its factors to the device in every call
    row = positions.to(device) // width
    return torch.stack((row // height, row % height, positions.to(device) % width), dim=-1)


@cache
def _all_cells(grid: Grid, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        axes = [torch.arange(size, device=device) for size in grid]
        return torch.cartesian_prod(*axes)[None]


@cache
def _index_on(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Kept on the device, which the reference implementation copies there in every forward."""
    with torch.inference_mode(False):
        return relative_index(num_queries, num_keys).to(device)
