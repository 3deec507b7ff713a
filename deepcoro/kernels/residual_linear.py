"""skip + scale * Linear(x): what ends a half of a block. On CUDA all but the products is one pass over memory each way."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from deepcoro.kernels.norm_linear import runs_in_triton, weight_gradient
from deepcoro.kernels.precision import autocast_dtype


class Residual(NamedTuple):
    """What a branch is added to, and the factor of each clip's branch (drop path), without gradient."""

    skip: Float[Tensor, "batch token dim"] | None
    """None: the tokens that the branch was made of."""
    scale: Float[Tensor, "batch 1 1"] | None = None


class _Formats(NamedTuple):
    product: torch.dtype
    result: torch.dtype


class ResidualLinear(nn.Linear):
    """A linear layer whose result may be added to a residual, written in `dtype`."""

    def forward(
        self,
        rows: Float[Tensor, "*batch dim"],
        residual: Residual | None = None,
        dtype: torch.dtype | None = None,
    ) -> Float[Tensor, "*batch dim_out"]:
        if residual is None:
            return super().forward(rows)
        skip, scale = residual
        formats = _Formats(autocast_dtype(self.weight), skip.dtype if dtype is None else dtype)
        if all(runs_in_triton(skip, each) for each in formats):
            with torch.autocast(rows.device.type, enabled=False):
                return _ResidualLinear.apply(rows, skip, scale, formats, self.weight, self.bias)
        branch = super().forward(rows)
        if scale is not None:
            branch.mul_(scale)  # in place and in fp32 inside: nothing reads the branch before it
        return skip.to(formats.result) + branch


class _ResidualLinear(torch.autograd.Function):
    """Keeps the rows and the weight as it is."""

    @staticmethod
    def forward(ctx, rows, skip, scale, formats, weight, bias):
        from deepcoro.kernels import triton_columns

        ctx.formats, ctx.format_of_rows, ctx.format_of_skip = formats, rows.dtype, skip.dtype
        rows, factors = rows.to(formats.product), None if scale is None else scale.flatten()
        ctx.save_for_backward(rows, factors, weight)
        branch = F.linear(rows, weight.to(formats.product), bias.to(formats.product))
        flat = (skip.flatten(0, -2), branch.flatten(0, -2))
        return triton_columns.add_branch(*flat, factors, formats.result).view_as(branch)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        from deepcoro.kernels import triton_columns

        rows, factors, weight = ctx.saved_tensors
        needs_rows, needs_skip, _, _, needs_weight, needs_bias = ctx.needs_input_grad
        by_rows = by_skip = by_weight = by_bias = None
        by_branch, total = triton_columns.scale_rows(gradient.flatten(0, -2), factors, ctx.formats.product)
        if needs_rows:
            by_rows = (by_branch @ weight.to(ctx.formats.product)).view_as(rows).to(ctx.format_of_rows)
        if needs_weight:
            by_weight = weight_gradient(by_branch, rows.flatten(0, -2), weight.dtype)
        if needs_bias:
            by_bias = total.to(weight.dtype)
        if needs_skip:
            is_cast = factors is None and ctx.format_of_skip == by_branch.dtype
            by_skip = by_branch.view_as(gradient) if is_cast else gradient.to(ctx.format_of_skip)
        return by_rows, by_skip, None, None, by_weight, by_bias
