"""Token-major pooling made for CPUs, run by any device: whole grids as 2-D convolutions, visible tokens (on a CPU) pair by pair."""

from collections.abc import Sequence

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from deepcoro.kernels.depthwise import FrameConvolution, SpacedConvolution
from deepcoro.kernels.grid import Grid, num_cells
from deepcoro.kernels.pair_convolution import PairConvolution
from deepcoro.kernels.pool_layout import PoolFilter, PoolLayout, PoolPlan
from deepcoro.kernels.precision import kernel_dtype


def pool(tokens: Tensor, pool_filter: PoolFilter, plan: PoolPlan) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and the pooled values and moments of the norm that backward needs; clip by clip, to stay in cache."""
    layout, (heads, dim) = plan.layout, tokens.shape[2:]
    num_rows = layout.num_tokens_out
    out = tokens.new_empty(len(tokens), num_rows, heads, plan.width)
    out[..., dim:] = 0
    pooled = tokens.new_empty(len(tokens), num_rows, heads, dim, dtype=kernel_dtype(tokens))
    moments = pool_filter.weight.new_empty(2, len(tokens), num_rows, heads, 1)
    norm = (pool_filter.norm_weight * plan.scale, pool_filter.norm_bias * plan.scale, plan.eps)
    convolution = _convolution(pool_filter.weight.to(pooled.dtype), layout, heads)
    for clip, rows in enumerate(pooled):
        class_token, patches = split_class_token(rows, layout)
        class_token[:], patches_in = split_class_token(tokens[clip], layout)
        patches[:] = convolution.forward(patches_in, clip)
        out[clip, ..., :dim], moments[0, clip], moments[1, clip] = torch.native_layer_norm(
            rows, (dim,), *norm
        )
    return out, pooled, moments


def pool_backward(
    gradient: Tensor,
    tokens: Tensor,
    pool_filter: PoolFilter,
    plan: PoolPlan,
    kept: Sequence[Tensor],
    into: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by the filter; that by the tokens is written to `into`, unless None."""
    layout, (heads, dim), (weight, *norm) = plan.layout, tokens.shape[2:], pool_filter
    pooled, moments = kept
    by_norm = torch.zeros_like(torch.stack(norm))
    by_weight = weight.new_zeros(heads * dim, 1, 3, 3, 3)
    convolution = _convolution(weight.to(pooled.dtype), layout, heads)
    scaled_norm = [each * plan.scale for each in norm]
    for clip, rows in enumerate(pooled):
        by_rows, *of_norm = torch.ops.aten.native_layer_norm_backward(
            # given bfloat16 it adds up the gradients of the norm's own weights in bfloat16
            gradient[clip, ..., :dim].to(weight.dtype).contiguous(),
            *(rows.to(weight.dtype), (dim,), *moments[:, clip], *scaled_norm, [True] * 3),
        )
        by_norm += torch.stack(of_norm)
        by_class_token, by_patches = split_class_token(by_rows, layout)
        patches_in, into_patches = split_class_token(tokens[clip], layout)[1], None
        if into is not None:
            class_token, into_patches = split_class_token(into[clip], layout)
            class_token[:] = by_class_token
        by_weight += convolution.backward(by_patches, patches_in, clip, into_patches)
    by_weight = reduce(by_weight, "(head dim) 1 t h w -> dim 1 t h w", "sum", dim=dim)
    return by_weight, *(by_norm * plan.scale)


def split_class_token(rows: Tensor, layout: PoolLayout) -> tuple[Tensor, Tensor]:
    """Class token (one or none) and patches of [token, head, dim], as views."""
    return rows[: layout.num_class_tokens], rows[layout.num_class_tokens :]


def _convolution(weight: Tensor, layout: PoolLayout, heads: int) -> "_OverFilms | _OverPairs":
    weight = repeat(weight, "dim one t h w -> (head dim) one t h w", head=heads)
    # pairs are counted on the host
    return (
        _OverPairs(weight, layout) if layout.is_sparse and not weight.is_cuda else _OverFilms(weight, layout)
    )


class _OverFilms:
    """The convolution of one clip's patches [patch, head, dim] on whole films, where hidden cells are zeros."""

    def __init__(self, weight: Tensor, layout: PoolLayout) -> None:
        form = SpacedConvolution if layout.stride > 2 else FrameConvolution
        self.convolution, self.layout = form(weight, layout.stride), layout

    def forward(self, patches: Tensor, clip: int) -> Tensor:
        film = to_film(patches, self.layout.positions_in, clip, self.layout.grid_in)
        return from_film(self.convolution.forward(film), self.layout.positions_out, clip, patches.shape[1])

    def backward(self, by_pooled: Tensor, patches: Tensor, clip: int, into: Tensor | None) -> Tensor:
        """Gradient by weight; that by the patches is written to `into`, unless None."""
        layout = self.layout
        by_film = to_film(by_pooled, layout.positions_out, clip, layout.grid_out)
        film = to_film(patches, layout.positions_in, clip, layout.grid_in)
        if into is None or layout.positions_in is None:
            target = None if into is None else to_film(into, None, clip, layout.grid_in)
            return self.convolution.backward(by_film, film, target)
        target = torch.empty_like(film)
        by_weight = self.convolution.backward(by_film, film, target)
        into[:] = from_film(target, layout.positions_in, clip, into.shape[1])
        return by_weight


class _OverPairs:
    """The same for visible cells alone."""

    def __init__(self, weight: Tensor, layout: PoolLayout) -> None:
        self.convolution, self.layout = PairConvolution(weight), layout

    def forward(self, patches: Tensor, clip: int) -> Tensor:
        rows = rearrange(patches, "p n c -> p (n c)")
        pooled = self.convolution.forward(rows, self.layout.pairs[clip], self.layout.num_patches_out)
        return rearrange(pooled, "p (n c) -> p n c", n=patches.shape[1])

    def backward(self, by_pooled: Tensor, patches: Tensor, clip: int, into: Tensor | None) -> Tensor:
        rows, by_rows = (rearrange(each, "p n c -> p (n c)") for each in (patches, by_pooled))
        by_patches, by_weight = self.convolution.backward(
            by_rows, rows, self.layout.pairs[clip], into is not None
        )
        if into is not None:
            into[:] = rearrange(by_patches, "p (n c) -> p n c", n=into.shape[1])
        return by_weight


def to_film(patches: Tensor, positions: Tensor | None, clip: int, grid: Grid) -> Tensor:
    """[patch, head, dim] of one clip as [t, h, w, head * dim]: a view when dense, copied among zeros when sparse."""
    patches = rearrange(patches, "p n c -> p (n c)")
    if positions is not None:
        cells = patches.new_zeros(num_cells(grid), patches.shape[-1])
        patches = cells.index_copy_(0, positions[clip].long(), patches)
    return rearrange(patches, "(t h w) c -> t h w c", h=grid[1], w=grid[2])


def from_film(film: Tensor, positions: Tensor | None, clip: int, heads: int) -> Tensor:
    """The patches [patch, head, dim] of a film."""
    rows = rearrange(film, "t h w c -> (t h w) c")
    if positions is not None:
        rows = rows.index_select(0, positions[clip].long())
    return rearrange(rows, "p (n c) -> p n c", n=heads)
