"""What every attention kernel looks like to the code that chooses one: softmax(q k^T) v of scale one, and its gradients."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from deepcoro.kernels.grid import Grid


class Attended(NamedTuple):
    """The result of a kernel's forward and what its backward wants to see again."""

    out: Tensor
    """[batch, query, head, value]."""
    logsumexp: Tensor | None
    """[batch, head, query] in fp32; None from a kernel that makes the softmax again and needs neither it nor `out`."""
    extras: tuple = ()
    """Small things a library hands from forward to backward."""


class AttentionProblem(NamedTuple):
    """All that the choice of a kernel may depend on; the same on every rank, so that every rank chooses alike."""

    dim: int
    query_grid: Grid
    key_grid: Grid
    is_relative: bool
    """Whether heads carry the columns of relative positions."""
    is_sparse: bool
    dtype: torch.dtype
    device: torch.device

    def __str__(self) -> str:
        queries, keys = ("x".join(map(str, grid)) for grid in (self.query_grid, self.key_grid))
        kind = "visible cells" if self.is_sparse else "all cells"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{queries} queries and {keys} keys ({kind}), dim {self.dim}, {dtype}, {self.device}"


@dataclass(frozen=True)
class AttentionKernel:
    """A kernel over q, k [batch, token, head, width] and v [batch, token, head, value], any strides but the last.

    `forward(q, k, v)` gives an `Attended`, `backward(by_out, q, k, v, attended)` the gradients of q, k and v. A kernel may
    write the last `num_spare` columns of q and k, which are zero when it gets them.
    """

    name: str
    forward: Callable[[Tensor, Tensor, Tensor], Attended]
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Attended], tuple[Tensor, Tensor, Tensor]]
    refusal: Callable[[AttentionProblem], str | None]
    """Why it cannot run a problem, as far as can be told without running it."""
    needs_wide_values: bool
    """Whether v must be as wide as q and k (its spare columns zero)."""
    widths: tuple[int, ...] = ()
    """The widths of q and k it is right and fast at; none named: any multiple of 8."""
    num_spare: int = 0
    max_width: int = 256


def half(dtype: torch.dtype) -> bool:
    return dtype in (torch.bfloat16, torch.float16)
