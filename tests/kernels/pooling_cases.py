"""Tokens, filters and layouts on which every form of pooling is held against the oracle."""

from typing import NamedTuple

import torch
from torch import Tensor

from deepcoro.kernels.grid import Grid, num_cells, strided
from deepcoro.kernels.pool_layout import PoolLayout
from deepcoro.kernels.token_pooling import PoolFilter


class Case(NamedTuple):
    grid: Grid
    stride: int
    heads: int = 2
    dim: int = 6
    class_token: bool = True
    share_visible: float = 1.0

    def layout(self, batch: int = 2) -> PoolLayout:
        if self.share_visible == 1.0:
            return PoolLayout(self.grid, self.stride, self.class_token)
        positions_in = random_positions(batch, self.grid, self.share_visible)
        positions_out = random_positions(batch, strided(self.grid, self.stride), self.share_visible)
        return PoolLayout(self.grid, self.stride, self.class_token, positions_in, positions_out)


def random_positions(batch: int, grid: Grid, share: float, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(batch, num_cells(grid), generator=generator)
    return scores.topk(max(1, round(share * num_cells(grid))), dim=1).indices.sort(dim=1).values


def make_tokens(case: Case, layout: PoolLayout, batch: int = 2) -> tuple[Tensor, PoolFilter]:
    """Tokens in fp64 as they lie inside a projection to queries, keys and values: a strided view."""
    generator = torch.Generator().manual_seed(0)
    rows = layout.num_class_tokens + layout.num_patches_in
    projected = torch.randn(
        batch, rows, 3, case.heads, case.dim, generator=generator, dtype=torch.float64, requires_grad=True
    )
    sizes = ((case.dim, 1, 3, 3, 3), (case.dim,), (case.dim,))
    weights = [
        torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True) for size in sizes
    ]
    return projected[:, :, 1], PoolFilter(*weights)
