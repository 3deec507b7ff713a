"""Rotary positions in three axes: an option without tables, at the native width of a head.

Each axis turns its share of a head's channels, in pairs, by coordinate times frequency (Su et al. 2021, arXiv:2104.09864;
axial as in Heo et al. 2024, arXiv:2403.13298, base 100). Scores then depend on the difference of the coordinates alone.
Queries and keys on grids of unequal resolution share coordinates: those of the finer grid, in which the coarser one's
cells stand at fractions or multiples, as `relative_index` stretches them.
"""

from functools import cache

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from deepcoro.kernels.attention_layout import AttentionLayout, Grid
from deepcoro.kernels.attention_plan import AttentionPlan
from deepcoro.kernels.rel_pos_attention import rel_pos_attention

BASE = 100.0


def rotary_attention(
    q: Float[Tensor, "batch query head width"],
    k: Float[Tensor, "batch key head width"],
    v: Float[Tensor, "batch key head value_width"],
    layout: AttentionLayout,
    plan: AttentionPlan,
    *,
    add_queries: bool = False,
) -> Float[Tensor, "batch query head dim"]:
    """Attention of rotated queries and keys; `plan_attention(..., relative=False)`, q and k as `rel_pos_attention` takes them.

    The class token stands at the origin and is not turned. `add_queries` adds the queries as they were before rotation.
    """
    angles_q, angles_k = rotary_angles(layout, plan.dim, q.device)
    turned = rotate(q, angles_q, layout), rotate(k, angles_k, layout)
    out = rel_pos_attention(*turned, v, None, layout, plan)
    if not add_queries:
        return out
    first = int(layout.has_class_token)
    return torch.cat((out[:, :first], out[:, first:] + q[:, first:, :, : plan.dim]), dim=1)


def rotary_angles(
    layout: AttentionLayout, dim: int, device: torch.device
) -> tuple[Float[Tensor, "any patch pair"], Float[Tensor, "any key_patch pair"]]:
    """The angle of each pair of channels, for queries and for keys, in radians."""
    finer = tuple(max(pair) for pair in zip(layout.query_grid, layout.key_grid, strict=True))
    cells = (layout.query_cells(device), layout.key_cells(device))
    grids = (layout.query_grid, layout.key_grid)
    return tuple(
        _angles(cell, _steps(grid, finer), dim, device) for cell, grid in zip(cells, grids, strict=True)
    )


def rotate(
    tokens: Float[Tensor, "batch token head width"],
    angles: Float[Tensor, "any patch pair"],
    layout: AttentionLayout,
) -> Float[Tensor, "batch token head width"]:
    """Channels i and i + pairs of each patch turned by angle i; other columns and the class token stay."""
    return _Rotate.apply(tokens, angles, int(layout.has_class_token))


class _Rotate(torch.autograd.Function):
    """Keeps the angles alone: the gradient is turned back."""

    @staticmethod
    def forward(ctx, tokens: Tensor, angles: Tensor, first: int) -> Tensor:
        ctx.save_for_backward(angles)
        ctx.first = first
        return _turned(tokens, angles, first)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (angles,) = ctx.saved_tensors
        return _turned(gradient, -angles, ctx.first), None, None


def _turned(tokens: Tensor, angles: Tensor, first: int) -> Tensor:
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    angles = rearrange(angles, "b p pair -> b p 1 pair")
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    num_pairs = angles.shape[-1]
    turned = tokens.clone()
    left, right = tokens[:, first:, :, : 2 * num_pairs].to(dtype).chunk(2, dim=-1)
    turned[:, first:, :, :num_pairs] = left * cos - right * sin
    turned[:, first:, :, num_pairs : 2 * num_pairs] = left * sin + right * cos
    return turned


def _steps(grid: Grid, finer: Grid) -> tuple[float, ...]:
    """How far apart neighbouring cells stand, in cells of the finer grid."""
    return tuple(fine / size for fine, size in zip(finer, grid, strict=True))


def _angles(cells: Tensor, steps: tuple[float, ...], dim: int, device: torch.device) -> Tensor:
    coordinates = cells * torch.tensor(steps, dtype=torch.float64, device=device)
    parts = [
        coordinates[..., axis, None] * frequencies
        for axis, frequencies in enumerate(_frequencies(dim, device))
    ]
    return torch.cat(parts, dim=-1)


@cache
def _frequencies(dim: int, device: torch.device) -> list[Tensor]:
    """Per axis, radians a cell: from 1 down to about 1 / BASE; height and width share what time leaves over."""
    num_pairs = dim // 2
    time = num_pairs // 3
    height = (num_pairs - time) // 2
    counts = (time, height, num_pairs - time - height)
    with torch.inference_mode(False):
        return [
            BASE ** -(torch.arange(count, dtype=torch.float64, device=device) / max(count, 1))
            for count in counts
        ]
