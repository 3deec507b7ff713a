"""Depthwise 3x3x3 pooling of token-major queries, keys and values with their LayerNorm, written at the width attention reads.

The pooling of MViTv2 (Li et al. 2022, arXiv:2112.01526) without a transposed copy: a token-major grid with its heads side
by side is a channels-last picture of `head * dim` channels. The same function pools visible tokens only.
"""

import itertools
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from deepcoro.kernels import frame_pooling
from deepcoro.kernels.frame_pooling import from_film, split_class_token, to_film
from deepcoro.kernels.pool_layout import PoolFilter, PoolLayout, PoolPlan
from deepcoro.kernels.precision import autocast_dtype
from deepcoro.kernels.triton_use import takes_triton

TOKEN_POOLING_BACKENDS = ("auto", "frames", "triton", "conv3d")


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
    write the spare columns in place. Stores what autocast asks for.

    Backends: `frames` (2-D channels-last convolutions; runs everywhere, in half precision where the processor has it),
    `triton` (CUDA; all sums in fp32), `conv3d` (the oracle: plain `F.conv3d` and `F.layer_norm` of a transposed copy,
    fp32 or fp64). `auto` is `triton` on CUDA where it imports, else `frames`.
    """
    part = PoolPart(pool_filter, layout, tokens.shape[-1] if width is None else width, scale)
    return pool_projection(rearrange(tokens, "b l n c -> b l 1 n c"), [part], eps=eps, backend=backend)[0]


class PoolPart(NamedTuple):
    """How one part of a projection is pooled; as in `pool_tokens`."""

    pool_filter: PoolFilter
    layout: PoolLayout
    width: int
    scale: float = 1.0


@torch.compiler.disable  # kernels already: traced, every clip would be compiled by itself
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
    plans = [PoolPlan(part.layout, part.width, part.scale, eps) for part in parts]
    with torch.autocast(projected.device.type, enabled=False):
        if backend == "conv3d":
            tokens = projected.unbind(2)
            return tuple(_pool_conv3d(*each) for each in zip(tokens, filters, plans, strict=True))
        if backend == "auto":
            backend = "triton" if takes_triton(projected) else "frames"
        if backend == "triton":
            _refuse_other_devices(projected)
            from deepcoro.kernels import triton_pooling

            return triton_pooling.pool_parts(projected, filters, plans)
        return _PoolProjection.apply(projected, plans, *itertools.chain(*filters))


def _refuse_other_devices(projected: Tensor) -> None:
    if not projected.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            "pooling backend 'triton' needs CUDA tensors (or TRITON_INTERPRET=1); use 'auto' or 'frames'"
        )


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


def _pool_conv3d(tokens: Tensor, pool_filter: PoolFilter, plan: PoolPlan) -> Tensor:
    """The oracle, by autograd, in the format of the filter."""
    layout, (heads, dim) = plan.layout, tokens.shape[2:]
    weight = repeat(pool_filter.weight, "dim one t h w -> (head dim) one t h w", head=heads)
    stride = (1, layout.stride, layout.stride)
    class_token, patches = split_class_token(tokens.to(weight.dtype), layout)
    film = rearrange(to_film(patches, layout.positions_in, layout.grid_in), "t b h w c -> b c t h w")
    film = F.conv3d(film.contiguous(), weight, stride=stride, padding=1, groups=len(weight))
    film = rearrange(film, "b c t h w -> t b h w c")
    pooled = torch.cat((class_token, from_film(film, layout.positions_out, heads)), dim=1)
    norm = (pool_filter.norm_weight, pool_filter.norm_bias)
    normed = F.layer_norm(pooled, (dim,), *norm, plan.eps) * plan.scale
    return F.pad(normed, (0, plan.width - dim)).to(tokens.dtype)


class _PoolProjection(torch.autograd.Function):
    """Part by part; keeps the projection and what the form for all devices asks for."""

    @staticmethod
    def forward(ctx, projected, plans, *filters):
        ctx.plans = plans
        results, kept = [], []
        for number, plan in enumerate(plans):
            out, *to_keep = frame_pooling.pool(projected[:, :, number], _filter(filters, number), plan)
            results.append(out)
            kept += to_keep
        ctx.save_for_backward(projected, *filters, *kept)
        return tuple(results)

    @staticmethod
    def backward(ctx, *gradients):
        num_parts = len(ctx.plans)
        projected, *saved = ctx.saved_tensors
        filters, kept = saved[: 3 * num_parts], saved[3 * num_parts :]
        by_projected, by_filters = None, []
        if ctx.needs_input_grad[0]:
            by_projected = torch.empty_like(projected, memory_format=torch.contiguous_format)
        for number, (plan, gradient) in enumerate(zip(ctx.plans, gradients, strict=True)):
            of_part = slice(number * len(kept) // num_parts, (number + 1) * len(kept) // num_parts)
            into = None if by_projected is None else by_projected[:, :, number]
            by_filters += frame_pooling.pool_backward(
                gradient, projected[:, :, number], _filter(filters, number), plan, kept[of_part], into
            )
        return by_projected, None, *by_filters


def _filter(filters: Sequence[Tensor], number: int) -> PoolFilter:
    return PoolFilter(*filters[3 * number : 3 * number + 3])
