"""Which mask units of each clip are visible, and where the tokens in them stand, unit by unit and row by row inside a unit."""

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from deepcoro.kernels.grid import Grid, num_cells
from deepcoro.kernels.triton_use import triton_imports


@dataclass(frozen=True, eq=False)
class UnitRows:
    """Units are the cells of a grid; on a finer one each has `side` x `side` tokens."""

    grid: Grid
    visible: Int[Tensor, "clip unit"]
    """Ascending indices of the kept units."""

    @functools.cached_property
    def ranks(self) -> Int[Tensor, "clip cell"]:
        """Of each unit its place among the kept ones, -1 where hidden (int32)."""
        clips, kept = self.visible.shape
        places = torch.arange(kept, dtype=torch.int32, device=self.visible.device)
        hidden = places.new_full((clips, num_cells(self.grid)), -1)
        return hidden.scatter_(1, self.visible, places.expand(clips, kept))

    @property
    def takes_triton(self) -> bool:
        """Whether positions and tables are made by kernels of their own."""
        return self.visible.is_cuda and triton_imports()
