"""Small attention problems with the block shapes of MViTv2-S, and what a backend makes of them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from deepcoro.kernels.attention_layout import AttentionLayout
from deepcoro.kernels.attention_plan import AttentionPlan, plan_attention
from deepcoro.kernels.grid import Grid
from deepcoro.kernels.rel_pos_attention import rel_pos_attention
from deepcoro.mvit.shapes import VARIANTS

# films: 4 frames of 64 px, 12 of 48 (as 12 of 192 at a quarter), 1 frame, an odd number of frames of odd height and width
EMBEDDED = [(2, 16, 16), (6, 12, 12), (1, 8, 8), (3, 7, 9)]


def block_grids() -> list[tuple[Grid, Grid]]:
    """Query and key grids of every distinct block of mvit_v2_s over small films."""
    shapes = [shape for grid in EMBEDDED for shape in VARIANTS["mvit_v2_s"].block_shapes(grid)]
    return list(dict.fromkeys((shape.query_grid, shape.key_grid) for shape in shapes))


class Case(NamedTuple):
    """Leaves at `dim` columns; k is not scaled."""

    q: Tensor
    k: Tensor
    v: Tensor
    tables: tuple[Tensor, Tensor, Tensor]
    layout: AttentionLayout

    def to(self, dtype: torch.dtype) -> "Case":
        def copied(leaf: Tensor) -> Tensor:
            return leaf.detach().to(dtype).requires_grad_()

        tables = tuple(copied(table) for table in self.tables)
        return Case(copied(self.q), copied(self.k), copied(self.v), tables, self.layout)


def num_cells(grid: Grid) -> int:
    return grid[0] * grid[1] * grid[2]


def some_cells(grid: Grid, generator: torch.Generator, batch: int, share: float = 0.4) -> Tensor:
    """The same number of cells for each clip, not the same ones."""
    count = max(1, int(share * num_cells(grid)))
    drawn = [torch.randperm(num_cells(grid), generator=generator)[:count].sort().values for _ in range(batch)]
    return torch.stack(drawn)


def make_case(
    queries: Grid, keys: Grid, *, has_class_token=True, is_sparse=False, heads=2, dim=16, table_std=0.3
) -> Case:
    generator = torch.Generator().manual_seed(0)
    positions = [some_cells(grid, generator, 2) if is_sparse else None for grid in (queries, keys)]
    layout = AttentionLayout(queries, keys, has_class_token, *positions)
    counts = [
        int(has_class_token) + (num_cells(grid) if where is None else where.shape[1])
        for grid, where in zip((queries, keys), positions, strict=True)
    ]

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    q, k, v = draw(2, counts[0], heads, dim), draw(2, counts[1], heads, dim), draw(2, counts[1], heads, dim)
    tables = tuple(
        (table_std * draw(2 * max(pair) - 1, dim)).detach().requires_grad_()
        for pair in zip(queries, keys, strict=True)
    )
    return Case(q, k, v, tables, layout)


def attend(case: Case, plan: AttentionPlan, add_queries: bool = False) -> Tensor:
    """With fresh buffers of the plan's widths, as the pooling writes them."""
    q, k, v = case.q * 1.0, case.k * plan.dim**-0.5, case.v
    q, k = (F.pad(part, (0, plan.width - plan.dim)) for part in (q, k))
    v = F.pad(v, (0, plan.value_width - plan.dim))
    return rel_pos_attention(q, k, v, case.tables, case.layout, plan, add_queries=add_queries)


def values_and_gradients(
    case: Case, backend: str, *, split_keys: bool | None = None, add_queries: bool = False
) -> dict[str, Tensor]:
    plan = plan_attention(case.layout, case.q, case.q.shape[-1], backend, split_keys=split_keys)
    out = attend(case, plan, add_queries)
    weights = random_weights(out)
    leaves = [case.q, case.k, case.v, *case.tables]
    gradients = torch.autograd.grad((out * weights).sum(), leaves)
    return dict(zip(("out", "q", "k", "v", "R_t", "R_h", "R_w"), (out.detach(), *gradients), strict=True))


def random_weights(out: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)


def relative_error(found: Tensor, truth: Tensor) -> float:
    """Of the norms; absolute below a norm of 1: all gradients but one vanish where there is one key."""
    return ((found.double() - truth.double()).norm() / truth.double().norm().clamp(min=1.0)).item()
