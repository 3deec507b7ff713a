"""Depthwise 3x3x3 pooling of token-major queries, keys and values with their LayerNorm, written at the width attention reads.

The pooling of MViTv2 (Li et al. 2022, arXiv:2112.01526) without a transposed copy: a token-major grid with its heads side
by side is a channels-last picture of `head * dim` channels. The same function pools visible tokens only.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor

from deepcoro.kernels.depthwise import FrameConvolution, SpacedConvolution
from deepcoro.kernels.pool_layout import Grid, PoolLayout, num_cells
from deepcoro.kernels.precision import autocast_dtype, kernel_dtype

TOKEN_POOLING_BACKENDS = ("auto", "torch", "conv3d")


class PoolFilter(NamedTuple):
    """One 3x3x3 filter a channel of a head, shared by the heads, and the LayerNorm over each head after it."""

    weight: Float[Tensor, "dim 1 3 3 3"]
    norm_weight: Float[Tensor, " dim"]
    norm_bias: Float[Tensor, " dim"]


def pool_tokens(
    tokens: Float[Tensor, "batch token head dim"],
    pool_filter: PoolFilter,
    layout: PoolLayout,
    *,
    width: int | None = None,
    scale: float = 1.0,
    eps: float = 1e-6,
    backend: str = "auto",
) -> Float[Tensor, "batch token_out head width"]:
    """LayerNorm(depthwise pooling) times `scale` in the first `dim` columns of a fresh buffer, zeros in the others.

    `tokens` may be any strided view, such as the queries inside a projection to queries, keys and values; it is never
    copied whole. The class token is normalised but not pooled. Backward does not read the result, so that a caller may
    write the spare columns in place. Computes in half precision where the device does, the norm in fp32; stores what
    autocast asks for.

    Backends: `torch` (2-D channels-last convolutions; runs everywhere), `conv3d` (the oracle: plain `F.conv3d` and
    `F.layer_norm` of a transposed copy, fp32 or fp64). `auto` is `torch`.
    """
    part = PoolPart(pool_filter, layout, tokens.shape[-1] if width is None else width, scale)
    return pool_projection(rearrange(tokens, "b l n c -> b l 1 n c"), [part], eps=eps, backend=backend)[0]


class PoolPart(NamedTuple):
    """How one part of a projection is pooled; as in `pool_tokens`."""

    pool_filter: PoolFilter
    layout: PoolLayout
    width: int
    scale: float = 1.0


def pool_projection(
    projected: Float[Tensor, "batch token part head dim"],
    parts: Sequence[PoolPart],
    *,
    eps: float = 1e-6,
    backend: str = "auto",
) -> tuple[Float[Tensor, "batch _ head _"], ...]:
    """`pool_tokens` of each part of a projection (queries, keys, values), whose gradient is written in one piece.

    Pooled part by part, the gradients of the parts would be stacked: another copy of the largest tensor of a block.
    """
    if backend not in TOKEN_POOLING_BACKENDS:
        raise ValueError(f"pooling backend is '{backend}'; allowed: {TOKEN_POOLING_BACKENDS}")
    for part in parts:
        _check(projected, part)
    projected = projected.to(autocast_dtype(projected))
    precise = torch.promote_types(projected.dtype, torch.float32)
    filters = [PoolFilter(*(each.to(precise) for each in part.pool_filter)) for part in parts]
    plans = [_Plan(part.layout, part.width, part.scale, eps) for part in parts]
    with torch.autocast(projected.device.type, enabled=False):
        if backend == "conv3d":
            tokens = projected.unbind(2)
            return tuple(_pool_conv3d(*each) for each in zip(tokens, filters, plans, strict=True))
        return _PoolProjection.apply(projected, plans, *itertools.chain(*filters))


class _Plan(NamedTuple):
    layout: PoolLayout
    width: int
    scale: float
    eps: float


def _check(projected: Tensor, part: PoolPart) -> None:
    layout, num_tokens, dim = part.layout, projected.shape[1], projected.shape[-1]
    expected = layout.num_class_tokens + layout.num_patches_in
    if num_tokens != expected:
        raise ValueError(
            f"{num_tokens} tokens for a layout of {expected} (grid {layout.grid_in}, "
            f"{'sparse' if layout.is_sparse else 'dense'}, class token: {layout.has_class_token})"
        )
    shape = tuple(part.pool_filter.weight.shape)
    if shape != (dim, 1, 3, 3, 3):
        raise ValueError(f"weight is {shape}; for heads of {dim}: ({dim}, 1, 3, 3, 3)")
    if part.width < dim:
        raise ValueError(f"width is {part.width}, below the {dim} channels of a head")


def _pool_conv3d(tokens: Tensor, pool_filter: PoolFilter, plan: _Plan) -> Tensor:
    """The oracle, by autograd, in the format of the filter."""
    layout, (heads, dim) = plan.layout, tokens.shape[2:]
    weight = repeat(pool_filter.weight, "dim one t h w -> (head dim) one t h w", head=heads)
    stride = (1, layout.stride, layout.stride)
    pooled = []
    for clip, rows in enumerate(tokens.to(weight.dtype)):
        class_token, patches = _split(rows, layout)
        film = rearrange(_to_film(patches, layout.positions_in, clip, layout.grid_in), "t h w c -> 1 c t h w")
        film = F.conv3d(film.contiguous(), weight, stride=stride, padding=1, groups=len(weight))
        film = rearrange(film, "1 c t h w -> t h w c")
        pooled.append(torch.cat((class_token, _from_film(film, layout.positions_out, clip, heads))))
    norm = (pool_filter.norm_weight, pool_filter.norm_bias)
    normed = F.layer_norm(torch.stack(pooled), (dim,), *norm, plan.eps) * plan.scale
    return F.pad(normed, (0, plan.width - dim)).to(tokens.dtype)


class _PoolProjection(torch.autograd.Function):
    """Keeps the projection, the pooled values and the moments of the norm."""

    @staticmethod
    def forward(ctx, projected, plans, *filters):
        ctx.plans, results, kept = plans, [], []
        for number, plan in enumerate(plans):
            pool_filter = PoolFilter(*filters[3 * number : 3 * number + 3])
            out, *pooled_and_moments = _pool(projected[:, :, number], pool_filter, plan)
            results.append(out)
            kept += pooled_and_moments
        ctx.save_for_backward(projected, *filters, *kept)
        return tuple(results)

    @staticmethod
    def backward(ctx, *gradients):
        projected, *saved = ctx.saved_tensors
        filters, kept = saved[: 3 * len(ctx.plans)], saved[3 * len(ctx.plans) :]
        by_projected = None
        if ctx.needs_input_grad[0]:
            by_projected = torch.empty_like(projected, memory_format=torch.contiguous_format)
        by_filters = []
        for number, (plan, gradient) in enumerate(zip(ctx.plans, gradients, strict=True)):
            by_filters += _pool_backward(
                gradient,
                projected[:, :, number],
                PoolFilter(*filters[3 * number : 3 * number + 3]),
                plan,
                _Kept(*kept[2 * number : 2 * number + 2]),
                None if by_projected is None else by_projected[:, :, number],
            )
        return by_projected, None, *by_filters


class _Kept(NamedTuple):
    pooled: Float[Tensor, "batch token_out head dim"]
    moments: Float[Tensor, "two batch token_out head 1"]


def _pool(tokens: Tensor, pool_filter: PoolFilter, plan: _Plan) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and the pooled values and moments of the norm that backward needs; clip by clip, to stay in cache."""
    layout, (heads, dim) = plan.layout, tokens.shape[2:]
    num_rows = layout.num_class_tokens + layout.num_patches_out
    out = tokens.new_empty(len(tokens), num_rows, heads, plan.width)
    out[..., dim:] = 0
    pooled = tokens.new_empty(len(tokens), num_rows, heads, dim, dtype=kernel_dtype(tokens))
    moments = pool_filter.weight.new_empty(2, len(tokens), num_rows, heads, 1)
    norm = (pool_filter.norm_weight * plan.scale, pool_filter.norm_bias * plan.scale, plan.eps)
    convolution = _convolution(pool_filter.weight.to(pooled.dtype), layout, heads)
    for clip, rows in enumerate(pooled):
        class_token, patches = _split(rows, layout)
        class_token[:], patches_in = _split(tokens[clip], layout)
        film = _to_film(patches_in, layout.positions_in, clip, layout.grid_in)
        patches[:] = _from_film(convolution.forward(film), layout.positions_out, clip, heads)
        out[clip, ..., :dim], moments[0, clip], moments[1, clip] = torch.native_layer_norm(
            rows, (dim,), *norm
        )
    return out, pooled, moments


def _pool_backward(
    gradient: Tensor, tokens: Tensor, pool_filter: PoolFilter, plan: _Plan, kept: _Kept, into: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by the filter; that by the tokens is written to `into`, unless None."""
    layout, (heads, dim), (weight, *norm) = plan.layout, tokens.shape[2:], pool_filter
    by_norm = torch.zeros_like(torch.stack(norm))
    by_weight = weight.new_zeros(heads * dim, 1, 3, 3, 3)
    convolution = _convolution(weight.to(kept.pooled.dtype), layout, heads)
    scaled_norm = [each * plan.scale for each in norm]
    for clip, rows in enumerate(kept.pooled):
        by_rows, *of_norm = torch.ops.aten.native_layer_norm_backward(
            # given bfloat16 it adds up the gradients of the norm's own weights in bfloat16
            gradient[clip, ..., :dim].to(weight.dtype).contiguous(),
            *(rows.to(weight.dtype), (dim,), *kept.moments[:, clip], *scaled_norm, [True] * 3),
        )
        by_norm += torch.stack(of_norm)
        by_class_token, by_patches = _split(by_rows, layout)
        by_pooled = _to_film(by_patches, layout.positions_out, clip, layout.grid_out)
        film = _to_film(_split(tokens[clip], layout)[1], layout.positions_in, clip, layout.grid_in)
        if into is None:
            by_weight += convolution.backward(by_pooled, film, None)
            continue
        class_token, patches = _split(into[clip], layout)
        class_token[:] = by_class_token
        if layout.positions_in is None:
            by_weight += convolution.backward(by_pooled, film, _to_film(patches, None, clip, layout.grid_in))
        else:
            by_film = torch.empty_like(film)
            by_weight += convolution.backward(by_pooled, film, by_film)
            patches[:] = _from_film(by_film, layout.positions_in, clip, heads)
    by_weight = reduce(by_weight, "(head dim) 1 t h w -> dim 1 t h w", "sum", dim=dim)
    return by_weight, *(by_norm * plan.scale)


def _split(rows: Tensor, layout: PoolLayout) -> tuple[Tensor, Tensor]:
    """Class token (one or none) and patches of [token, head, dim], as views."""
    return rows[: layout.num_class_tokens], rows[layout.num_class_tokens :]


def _convolution(weight: Tensor, layout: PoolLayout, heads: int) -> FrameConvolution | SpacedConvolution:
    form = SpacedConvolution if layout.stride > 2 else FrameConvolution
    return form(repeat(weight, "dim one t h w -> (head dim) one t h w", head=heads), layout.stride)


def _to_film(patches: Tensor, positions: Tensor | None, clip: int, grid: Grid) -> Tensor:
    """[patch, head, dim] of one clip as [t, h, w, head * dim]: a view when dense, copied among zeros when sparse."""
    patches = rearrange(patches, "p n c -> p (n c)")
    if positions is not None:
        cells = patches.new_zeros(num_cells(grid), patches.shape[-1])
        patches = cells.index_copy_(0, positions[clip].long(), patches)
    return rearrange(patches, "(t h w) c -> t h w c", h=grid[1], w=grid[2])


def _from_film(film: Tensor, positions: Tensor | None, clip: int, heads: int) -> Tensor:
    """The patches [patch, head, dim] of a film."""
    rows = rearrange(film, "t h w c -> (t h w) c")
    if positions is not None:
        rows = rows.index_select(0, positions[clip].long())
    return rearrange(rows, "p (n c) -> p n c", n=heads)


def max_pool_tokens(
    tokens: Float[Tensor, "batch token channel"], layout: PoolLayout
) -> Float[Tensor, "batch token_out channel"]:
    """Spatial 3x3 maximum, frame by frame, of what is visible: the skip path of a block that halves its grid.

    The class token passes unchanged.
    """
    class_token, patches = tokens.split((layout.num_class_tokens, layout.num_patches_in), dim=1)
    if layout.neighbours is None:
        return torch.cat((class_token, _max_pool_dense(patches, layout)), dim=1)
    batch, _, channels = patches.shape
    hidden = patches.new_full((batch, 1, channels), -torch.inf)
    rows = torch.cat((hidden, patches), dim=1)
    same_frame = layout.neighbours[:, :, 9:18].long() + 1
    first_row = torch.arange(batch, device=rows.device)[:, None, None] * rows.shape[1]
    windows = rearrange(rows, "b p c -> (b p) c")[same_frame + first_row]
    return torch.cat((class_token, windows.max(dim=2).values), dim=1)


def _max_pool_dense(patches: Tensor, layout: PoolLayout) -> Tensor:
    _, height, width = layout.grid_in
    pictures = rearrange(patches, "b (t h w) c -> (b t) c h w", h=height, w=width)
    pooled = F.max_pool2d(pictures, kernel_size=3, stride=layout.stride, padding=1)
    return rearrange(pooled, "(b t) c h w -> b (t h w) c", b=len(patches))
