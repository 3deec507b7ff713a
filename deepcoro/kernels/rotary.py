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

from deepcoro.kernels.attention_layout import AttentionLayout
from deepcoro.kernels.attention_plan import AttentionPlan
from deepcoro.kernels.grid import Grid
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
    turned = rotate(q, layout, plan.dim, of_keys=False), rotate(k, layout, plan.dim, of_keys=True)
    out = rel_pos_attention(*turned, v, None, layout, plan)
    if not add_queries:
        return out
    first = int(layout.has_class_token)
    return torch.cat((out[:, :first], out[:, first:] + q[:, first:, :, : plan.dim]), dim=1)


def rotate(
    tokens: Float[Tensor, "batch token head width"], layout: AttentionLayout, dim: int, *, of_keys: bool
) -> Float[Tensor, "batch token head width"]:
    """Channels i and i + dim / 2 of each patch turned by its angle i; other columns and the class token stay."""
    return _Rotate.apply(tokens, layout, dim, of_keys)


class _Rotate(torch.autograd.Function):
    """Keeps nothing: the gradient is turned back by the same tables."""

    @staticmethod
    def forward(ctx, tokens: Tensor, layout: AttentionLayout, dim: int, of_keys: bool) -> Tensor:
        ctx.where = (layout, dim, of_keys)
        return _turned(tokens, 1.0, *ctx.where)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _turned(gradient, -1.0, *ctx.where), None, None, None


def _turned(tokens: Tensor, direction: float, layout: AttentionLayout, dim: int, of_keys: bool) -> Tensor:
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    cos, sin = _turns_of_patches(layout, dim, of_keys, dtype, tokens.device)
    turned = tokens.clone()
    patches, num_pairs = tokens[:, int(layout.has_class_token) :], dim // 2
    left, right = patches[..., : 2 * num_pairs].to(dtype).chunk(2, dim=-1)
    into = turned[:, int(layout.has_class_token) :]
    into[..., :num_pairs] = left * cos - direction * right * sin
    into[..., num_pairs : 2 * num_pairs] = right * cos + direction * left * sin
    return turned


def _turns_of_patches(
    layout: AttentionLayout, dim: int, of_keys: bool, dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    """Cosine and sine of each patch's angles, [1 or batch, patch, 1, pair]."""
    finer = tuple(max(pair) for pair in zip(layout.query_grid, layout.key_grid, strict=True))
    grid = layout.key_grid if of_keys else layout.query_grid
    positions = layout.key_positions if of_keys else layout.query_positions
    turns = _turns_of_grid(grid, finer, dim, dtype, device)
    rows = (turn[None] if positions is None else turn[positions] for turn in turns)
    return [rearrange(each, "b p pair -> b p 1 pair") for each in rows]


@cache
def _turns_of_grid(
    grid: Grid, finer: Grid, dim: int, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "cell pair"], Float[Tensor, "cell pair"]]:
    """Made once for each grid of an encoder: coordinates count cells of the finer grid."""
    with torch.inference_mode(False), torch.no_grad():
        axes = [
            torch.arange(size, dtype=torch.float64) * fine / size
            for size, fine in zip(grid, finer, strict=True)
        ]
        coordinates = torch.cartesian_prod(*axes)
        angles = [
            coordinates[:, axis, None] * frequencies for axis, frequencies in enumerate(_frequencies(dim))
        ]
        angle = torch.cat(angles, dim=-1)
        return angle.cos().to(device, dtype), angle.sin().to(device, dtype)


def _frequencies(dim: int) -> list[Float[Tensor, " pair"]]:
    """Per axis, radians a cell: from 1 down to about 1 / BASE; height and width share what time leaves over."""
    num_pairs = dim // 2
    time = num_pairs // 3
    height = (num_pairs - time) // 2
    counts = (time, height, num_pairs - time - height)
    return [BASE ** -(torch.arange(count, dtype=torch.float64) / max(count, 1)) for count in counts]
