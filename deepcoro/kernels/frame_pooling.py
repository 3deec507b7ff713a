"""Token-major pooling made for CPUs, run by any device: whole grids as 2-D convolutions, visible tokens (on a CPU) pair by pair."""

from collections.abc import Sequence

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from deepcoro.kernels.cached_pieces import cached_pieces
from deepcoro.kernels.depthwise import FrameConvolution, SpacedConvolution
from deepcoro.kernels.grid import Grid, num_cells
from deepcoro.kernels.pair_convolution import PairConvolution
from deepcoro.kernels.pool_layout import PoolFilter, PoolLayout, PoolPlan
from deepcoro.kernels.precision import kernel_dtype
from deepcoro.pretended import is_pretended


def pool(tokens: Tensor, pool_filter: PoolFilter, plan: PoolPlan) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and the pooled values and moments of the norm that backward needs."""
    layout, (heads, dim) = plan.layout, tokens.shape[2:]
    num_rows = layout.num_tokens_out
    out = tokens.new_empty(len(tokens), num_rows, heads, plan.width)
    out[..., dim:] = 0
    pooled = tokens.new_empty(len(tokens), num_rows, heads, dim, dtype=kernel_dtype(tokens))
    moments = pool_filter.weight.new_empty(2, len(tokens), num_rows, heads, 1)
    norm = (pool_filter.norm_weight * plan.scale, pool_filter.norm_bias * plan.scale, plan.eps)
    convolution = _convolution(pool_filter.weight.to(pooled.dtype), layout, heads)
    for clips in cached_pieces(tokens, pooled.dtype):
        class_token, patches = split_class_token(pooled[clips], layout)
        class_token[:], patches_in = split_class_token(tokens[clips], layout)
        patches[:] = convolution.forward(patches_in, clips)
        out[clips, ..., :dim], moments[0, clips], moments[1, clips] = torch.native_layer_norm(
            pooled[clips], (dim,), *norm
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
    for clips in cached_pieces(tokens, pooled.dtype):
        by_rows, *of_norm = torch.ops.aten.native_layer_norm_backward(
            # given bfloat16 it adds up the gradients of the norm's own weights in bfloat16
            gradient[clips, ..., :dim].to(weight.dtype).contiguous(),
            *(pooled[clips].to(weight.dtype), (dim,), *moments[:, clips], *scaled_norm, [True] * 3),
        )
        by_norm += torch.stack(of_norm)
        by_class_token, by_patches = split_class_token(by_rows, layout)
        patches_in, into_patches = split_class_token(tokens[clips], layout)[1], None
        if into is not None:
            class_token, into_patches = split_class_token(into[clips], layout)
            class_token[:] = by_class_token
        by_weight += convolution.backward(by_patches, patches_in, clips, into_patches)
    by_weight = reduce(by_weight, "(head dim) 1 t h w -> dim 1 t h w", "sum", dim=dim)
    return by_weight, *(by_norm * plan.scale)


def split_class_token(rows: Tensor, layout: PoolLayout) -> tuple[Tensor, Tensor]:
    """Class token (one or none) and patches of [clip, token, head, dim], as views."""
    return rows[:, : layout.num_class_tokens], rows[:, layout.num_class_tokens :]


def _convolution(weight: Tensor, layout: PoolLayout, heads: int) -> "_OverFilms | _OverPairs":
    weight = repeat(weight, "dim one t h w -> (head dim) one t h w", head=heads)
    # pairs are counted on the host, from numbers
    counts = layout.is_sparse and not weight.is_cuda and not is_pretended()
    return _OverPairs(weight, layout) if counts else _OverFilms(weight, layout)


class _OverFilms:
    """The convolution of some clips' patches [clip, patch, head, dim] on whole films, where hidden cells are zeros."""

    def __init__(self, weight: Tensor, layout: PoolLayout) -> None:
        form = SpacedConvolution if layout.stride > 2 else FrameConvolution
        self.convolution, self.layout = form(weight, layout.stride), layout

    def forward(self, patches: Tensor, clips: slice) -> Tensor:
        layout = self.layout
        film = to_film(patches, _of(layout.positions_in, clips), layout.grid_in)
        return from_film(
            self.convolution.forward(film), _of(layout.positions_out, clips), heads=patches.shape[2]
        )

    def backward(self, by_pooled: Tensor, patches: Tensor, clips: slice, into: Tensor | None) -> Tensor:
        """Gradient by weight; that by the patches is written to `into`, unless None."""
        layout, positions_in = self.layout, _of(self.layout.positions_in, clips)
        by_film = to_film(by_pooled, _of(layout.positions_out, clips), layout.grid_out)
        film = to_film(patches, positions_in, layout.grid_in)
        if into is None or positions_in is None:
            target = None if into is None else to_film(into, None, layout.grid_in)
            return self.convolution.backward(by_film, film, target)
        target = torch.empty_like(film)
        by_weight = self.convolution.backward(by_film, film, target)
        into[:] = from_film(target, positions_in, into.shape[2])
        return by_weight


def _of(positions: Tensor | None, clips: slice) -> Tensor | None:
    return None if positions is None else positions[clips]


class _OverPairs:
    """The same for visible cells alone."""

    def __init__(self, weight: Tensor, layout: PoolLayout) -> None:
        self.convolution, self.layout = PairConvolution(weight), layout

    def forward(self, patches: Tensor, clips: slice) -> Tensor:
        num_rows = len(patches) * self.layout.num_patches_out
        pooled = self.convolution.forward(_as_rows(patches), self.layout.pairs(clips), num_rows)
        return rearrange(pooled, "(b p) (n c) -> b p n c", b=len(patches), n=patches.shape[2])

    def backward(self, by_pooled: Tensor, patches: Tensor, clips: slice, into: Tensor | None) -> Tensor:
        by_patches, by_weight = self.convolution.backward(
            _as_rows(by_pooled), _as_rows(patches), self.layout.pairs(clips), into is not None
        )
        if into is not None:
            into[:] = rearrange(by_patches, "(b p) (n c) -> b p n c", b=len(into), n=into.shape[2])
        return by_weight


def _as_rows(patches: Tensor) -> Tensor:
    return rearrange(patches, "b p n c -> (b p) (n c)")


def to_film(patches: Tensor, positions: Tensor | None, grid: Grid) -> Tensor:
    """[clip, patch, head, dim] as [t, clip, h, w, head * dim]: a view when dense, copied among zeros when sparse."""
    patches = rearrange(patches, "b p n c -> b p (n c)")
    if positions is not None:
        cells = patches.new_zeros(len(patches), num_cells(grid), patches.shape[-1])
        patches = cells.scatter_(1, _for_each(positions, patches), patches)
    return rearrange(patches, "b (t h w) c -> t b h w c", h=grid[1], w=grid[2])


def from_film(film: Tensor, positions: Tensor | None, heads: int) -> Tensor:
    """The patches [clip, patch, head, dim] of films."""
    rows = rearrange(film, "t b h w c -> b (t h w) c")
    if positions is not None:
        rows = rows.gather(1, _for_each(positions, rows))
    return rearrange(rows, "b p (n c) -> b p n c", n=heads)


def _for_each(positions: Tensor, rows: Tensor) -> Tensor:
    """The positions of rows for each of their channels, without a copy."""
    return repeat(positions.long(), "b p -> b p c", c=rows.shape[-1])
