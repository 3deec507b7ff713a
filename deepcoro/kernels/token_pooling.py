"""Depthwise 3x3x3 pooling of token-major queries, keys and values with their LayerNorm, written at the width attention reads.

The pooling of MViTv2 (Li et al. 2022, arXiv:2112.01526) without a transposed copy: a token-major grid with its heads side
by side is a channels-last picture of `head * dim` channels. The same function pools visible tokens only.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor

from deepcoro.kernels.depthwise import FrameConvolution, SliceConvolution
from deepcoro.kernels.pool_layout import Grid, PoolLayout, num_cells
from deepcoro.kernels.precision import autocast_dtype

TOKEN_POOLING_BACKENDS = ("auto", "torch", "conv3d")


class PoolFilter(NamedTuple):
    """One 3x3x3 filter a channel of a head, shared by the heads, and the LayerNorm over each head after it."""

    weight: Float[Tensor, "dim 1 3 3 3"]
    norm_weight: Float[Tensor, " dim"]
    norm_bias: Float[Tensor, " dim"]


class _Plan(NamedTuple):
    layout: PoolLayout
    width: int
    scale: float
    eps: float


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
    write the spare columns in place. Computes in fp32 (or fp64), stores what autocast asks for.

    Backends: `torch` (2-D channels-last convolutions or strided slices; runs everywhere), `conv3d` (the oracle: plain
    `F.conv3d` and `F.layer_norm` on a transposed copy). `auto` is `torch`.
    """
    if backend not in TOKEN_POOLING_BACKENDS:
        raise ValueError(f"pooling backend is '{backend}'; allowed: {TOKEN_POOLING_BACKENDS}")
    _check(tokens, pool_filter, layout)
    width = tokens.shape[-1] if width is None else width
    if width < tokens.shape[-1]:
        raise ValueError(f"width is {width}, below the {tokens.shape[-1]} channels of a head")
    tokens = tokens.to(autocast_dtype(tokens))
    plan = _Plan(layout, width, scale, eps)
    precise = torch.promote_types(tokens.dtype, torch.float32)
    pool_filter = PoolFilter(*(parameter.to(precise) for parameter in pool_filter))
    with torch.autocast(tokens.device.type, enabled=False):
        if backend == "conv3d":
            return _pool_conv3d(tokens, pool_filter, plan)
        return _PoolTokens.apply(tokens, *pool_filter, plan)


def _check(tokens: Tensor, pool_filter: PoolFilter, layout: PoolLayout) -> None:
    expected = layout.num_class_tokens + layout.num_patches_in
    if tokens.shape[1] != expected:
        raise ValueError(
            f"{tokens.shape[1]} tokens for a layout of {expected} (grid {layout.grid_in}, "
            f"{'sparse' if layout.is_sparse else 'dense'}, class token: {layout.has_class_token})"
        )
    dim = tokens.shape[-1]
    if pool_filter.weight.shape != (dim, 1, 3, 3, 3):
        raise ValueError(
            f"weight is {tuple(pool_filter.weight.shape)}; for heads of {dim}: ({dim}, 1, 3, 3, 3)"
        )


def _pool_conv3d(tokens: Tensor, pool_filter: PoolFilter, plan: _Plan) -> Tensor:
    """The oracle, by autograd."""
    layout, (heads, dim) = plan.layout, tokens.shape[2:]
    class_token, patches = _split(tokens, layout)
    grid = _to_grid(patches, layout.positions_in, layout.grid_in)
    weight = repeat(pool_filter.weight, "dim one t h w -> (head dim) one t h w", head=heads)
    film = rearrange(grid, "b t h w c -> b c t h w").to(weight.dtype)
    pooled = F.conv3d(film, weight, stride=(1, layout.stride, layout.stride), padding=1, groups=len(weight))
    pooled = _from_grid(rearrange(pooled, "b c t h w -> b t h w c"), layout.positions_out, heads)
    both = torch.cat((class_token.to(pooled.dtype), pooled), dim=1)
    normed = F.layer_norm(both, (dim,), pool_filter.norm_weight, pool_filter.norm_bias, plan.eps) * plan.scale
    return F.pad(normed, (0, plan.width - dim)).to(tokens.dtype)


class _PoolTokens(torch.autograd.Function):
    """Keeps a view of the tokens and the moments of the norm; the pooled values are made again in backward."""

    @staticmethod
    def forward(ctx, tokens, weight, norm_weight, norm_bias, plan):
        layout, dim = plan.layout, tokens.shape[-1]
        affine = (norm_weight * plan.scale, norm_bias * plan.scale)
        num_tokens_out = layout.num_class_tokens + layout.num_patches_out
        out = tokens.new_empty(len(tokens), num_tokens_out, tokens.shape[2], plan.width)
        out[..., dim:] = 0
        class_token, patches = _split(tokens, layout)
        pooled = _from_grid(
            _convolution(patches, weight, layout).forward(), layout.positions_out, tokens.shape[2]
        )
        moments = []
        for rows, part in zip(_split(out, layout), (class_token.to(weight.dtype), pooled), strict=True):
            rows[..., :dim], *of_part = torch.native_layer_norm(part, (dim,), *affine, plan.eps)
            moments += of_part
        ctx.save_for_backward(tokens, weight, *affine, *moments)
        ctx.plan = plan
        return out

    @staticmethod
    def backward(ctx, gradient):
        tokens, weight, norm_weight, norm_bias, *moments = ctx.saved_tensors
        layout, dim = ctx.plan.layout, tokens.shape[-1]
        class_token, patches = _split(tokens, layout)
        convolution = _convolution(patches, weight, layout)
        pooled = _from_grid(convolution.forward(), layout.positions_out, tokens.shape[2])
        by_parts, by_affine = [], torch.zeros_like(torch.stack((norm_weight, norm_bias)))
        for number, part in enumerate((class_token.to(weight.dtype), pooled)):
            by_out = _split(gradient, layout)[number][..., :dim].to(weight.dtype)
            by_part, *by_norm = torch.ops.aten.native_layer_norm_backward(
                *(by_out.contiguous(), part.contiguous(), (dim,), *moments[2 * number : 2 * number + 2]),
                *(norm_weight, norm_bias, [True] * 3),
            )
            by_parts.append(by_part)
            by_affine += torch.stack(by_norm)
        by_grid, by_weight = convolution.backward(
            _to_grid(by_parts[1], layout.positions_out, layout.grid_out), ctx.needs_input_grad[0]
        )
        by_weight = reduce(by_weight, "(head dim) one t h w -> dim one t h w", "sum", dim=dim)
        by_tokens = None
        if by_grid is not None:
            by_tokens = torch.empty_like(tokens, memory_format=torch.contiguous_format)
            by_class_token, by_patches = _split(by_tokens, layout)
            by_class_token.copy_(by_parts[0])
            by_patches.copy_(_from_grid(by_grid, layout.positions_in, tokens.shape[2]))
        return by_tokens, by_weight, *(by_affine * ctx.plan.scale), None


def _split(tokens: Tensor, layout: PoolLayout) -> tuple[Tensor, Tensor]:
    """Class token (one or none) and patches, as views."""
    return tokens[:, : layout.num_class_tokens], tokens[:, layout.num_class_tokens :]


def _convolution(patches: Tensor, weight: Tensor, layout: PoolLayout) -> FrameConvolution | SliceConvolution:
    form = SliceConvolution if layout.stride > 2 else FrameConvolution
    weight = repeat(weight, "dim one t h w -> (head dim) one t h w", head=patches.shape[2])
    return form(_to_grid(patches, layout.positions_in, layout.grid_in), weight, layout.stride)


def _to_grid(patches: Tensor, positions: Tensor | None, grid: Grid) -> Tensor:
    """[b, patch, head, dim] as [b, t, h, w, head * dim]: a view when dense, scattered over zeros when sparse."""
    patches = rearrange(patches, "b p n c -> b p (n c)")
    if positions is not None:
        cells = patches.new_zeros(len(patches) * num_cells(grid), patches.shape[-1])
        cells.index_copy_(0, _flat_rows(positions, grid), rearrange(patches, "b p c -> (b p) c"))
        patches = rearrange(cells, "(b p) c -> b p c", b=len(patches))
    return rearrange(patches, "b (t h w) c -> b t h w c", h=grid[1], w=grid[2])


def _from_grid(cells: Tensor, positions: Tensor | None, heads: int) -> Tensor:
    """The patches [b, patch, head, dim] of a grid."""
    batch, grid = len(cells), cells.shape[1:4]
    rows = rearrange(cells, "b t h w c -> (b t h w) c")
    if positions is not None:
        rows = rows.index_select(0, _flat_rows(positions, grid))
    return rearrange(rows, "(b p) (n c) -> b p n c", b=batch, n=heads)


def _flat_rows(positions: Tensor, grid: Grid) -> Tensor:
    """Rows of the cells of all clips one after another."""
    clip = torch.arange(len(positions), device=positions.device)[:, None]
    return rearrange(positions.long() + clip * num_cells(grid), "b p -> (b p)")


def max_pool_tokens(
    tokens: Float[Tensor, "batch token channel"], layout: PoolLayout
) -> Float[Tensor, "batch token_out channel"]:
    """Spatial 3x3 maximum, frame by frame, of what is visible: the skip path of a block that halves its grid.

    The class token passes unchanged.
    """
    class_token, patches = _split(tokens, layout)
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
