"""x + scale * MLP(LayerNorm(x)) that keeps x and one wide activation for backward, or x alone.

Of what a plain block keeps here (normalised tokens, the wide activation before and after GELU, the branch) only the one before
GELU is dear to make again, and `keep_hidden=False` does even that. It runs in slices of rows, so that the wide
activations of a slice stay in a CPU's cache and no second full-size one is ever allocated. CUDA takes all rows at once, and all
that is done between products in one pass each (`triton_columns`, `triton_norm`).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from deepcoro.kernels.norm_linear import (
    norm_for_product,
    norm_gradients,
    normalise,
    runs_in_triton,
    sum_rows,
    weight_gradient,
)
from deepcoro.kernels.precision import autocast_dtype

CPU_ROWS = 4096
"""Rows of a slice on CPU; CUDA takes all at once."""


@dataclass(frozen=True)
class _Plan:
    """What is not a tensor: numbers and formats of one call."""

    eps: float
    dtype: torch.dtype
    rows_per_slice: int
    keep_hidden: bool


class NormMlp(nn.Sequential):
    """The MLP half of a block, called from its norm: `norm(tokens, reader=mlp, scale=..., keep_hidden=...)`.

    Children are called `0` and `3`, as in the public checkpoints; each hands its parameters on from its own forward (ZeRO-3).
    """

    def __init__(self, dim: int, wide: int) -> None:
        super().__init__()
        self.add_module("0", _Widen(dim, wide))
        self.add_module("3", _Narrow(wide, dim))

    def forward(
        self, tokens: Float[Tensor, "batch token dim"], **more: object
    ) -> Float[Tensor, "batch token dim"]:
        """`more`: see `_Narrow.forward`."""
        widen, narrow = self
        return widen(tokens, narrow=narrow, **more)


class _Widen(nn.Linear):
    def forward(self, tokens: Tensor, narrow: nn.Module, **more: object) -> Tensor:
        return narrow(tokens, wide_weight=self.weight, wide_bias=self.bias, **more)


class _Narrow(nn.Linear):
    def forward(
        self,
        tokens: Float[Tensor, "batch token dim"],
        scale: Float[Tensor, "batch 1 1"] | None = None,
        keep_hidden: bool = True,
        eps: float = 1e-6,
        **parameters: Tensor,
    ) -> Float[Tensor, "batch token dim"]:
        """`scale`: a factor of the branch for each clip (drop path), without gradient."""
        every = tokens.shape[0] * tokens.shape[1]
        plan = _Plan(eps, autocast_dtype(self.weight), every if tokens.is_cuda else CPU_ROWS, keep_hidden)
        names = ("norm_weight", "norm_bias", "wide_weight", "wide_bias")
        owned = (*(parameters[name] for name in names), self.weight, self.bias)
        with torch.autocast(tokens.device.type, enabled=False):
            return _NormMlp.apply(tokens, scale, plan, *owned)


class _NormMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens: Tensor, scale: Tensor | None, plan: _Plan, *parameters: Tensor) -> Tensor:
        if runs_in_triton(tokens, plan.dtype):
            return _forward_in_triton(ctx, tokens, scale, plan, *parameters)
        rows, factors = _rows(tokens), _row_factors(scale, tokens)
        layer = _Layer(plan, *parameters)
        out = torch.empty_like(rows)
        keeps = plan.keep_hidden and any(ctx.needs_input_grad)
        hidden = rows.new_empty(len(rows), len(layer.wide_bias), dtype=plan.dtype) if keeps else None
        for part in _slices(rows, plan):
            normed, *_ = layer.normed(rows[part])
            wide = layer.widen(normed, hidden[part] if keeps else None)
            branch = F.linear(F.gelu(wide), layer.weight, layer.bias)
            if factors is not None:
                branch *= factors[part]
            torch.add(rows[part], branch, out=out[part])
        ctx.plan = plan
        ctx.save_for_backward(tokens, scale, hidden, *parameters)
        return out.view_as(tokens)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: under activation recomputation they may be read no second time
        tokens, scale, hidden, *parameters = saved
        if runs_in_triton(tokens, ctx.plan.dtype):
            return _backward_in_triton(ctx, saved, gradient)
        rows, factors, gradients = _rows(tokens), _row_factors(scale, tokens), _rows(gradient)
        layer = _Layer(ctx.plan, *parameters)
        needs_tokens, needs = ctx.needs_input_grad[0], ctx.needs_input_grad[3:]
        by_rows = torch.empty_like(rows)
        sums: list[Tensor | None] = [None] * len(parameters)
        for part in _slices(rows, ctx.plan):
            by_branch = gradients[part] if factors is None else gradients[part] * factors[part]
            kept = None if hidden is None else hidden[part]
            by_part, *more = layer.gradients(rows[part], kept, by_branch.to(ctx.plan.dtype), needs)
            torch.add(gradients[part], by_part, out=by_rows[part])
            sums = [_accumulate(total, new) for total, new in zip(sums, more, strict=True)]
        by_tokens = by_rows.view_as(tokens) if needs_tokens else None
        by_parameters = (
            None if total is None else total.to(own.dtype)
            for total, own in zip(sums, parameters, strict=True)
        )
        return by_tokens, None, None, *by_parameters


def _forward_in_triton(ctx, tokens: Tensor, scale: Tensor | None, plan: _Plan, *parameters: Tensor) -> Tensor:
    from deepcoro.kernels import triton_columns

    rows, layer = _rows(tokens), _Layer(plan, *parameters)
    hidden = layer.widen(norm_for_product(rows, layer.norm, plan.eps, plan.dtype))
    activation = F.gelu(hidden)
    if not (plan.keep_hidden and any(ctx.needs_input_grad)):
        hidden = None
    branch = F.linear(activation, layer.weight, layer.bias)
    del activation
    ctx.plan = plan
    ctx.save_for_backward(tokens, scale, hidden, *parameters)
    return triton_columns.add_branch(rows, branch, _clip_factors(scale), rows.dtype).view_as(tokens)


def _backward_in_triton(ctx, saved: tuple[Tensor | None, ...], gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient through the residual is added where that through the norm is written, which also makes the normed rows anew."""
    from deepcoro.kernels import triton_columns, triton_norm

    tokens, scale, hidden, *norm, wide_weight, wide_bias, weight, bias = saved
    needs_tokens, _, _, *needs_norm, needs_wide, needs_wide_bias, needs_weight, needs_bias = (
        ctx.needs_input_grad
    )
    rows, gradients, dtype, eps = _rows(tokens), _rows(gradient), ctx.plan.dtype, ctx.plan.eps
    wide_weight_used, normed = wide_weight.to(dtype), None
    if hidden is None:
        normed = triton_norm.norm_rows(rows, *norm, eps, dtype)
        hidden = torch.addmm(wide_bias.to(dtype), normed, wide_weight_used.T)
    by_branch, by_bias = triton_columns.scale_rows(gradients, _clip_factors(scale), dtype)
    by_hidden = by_branch @ weight.to(dtype)
    activation, by_wide_bias = triton_columns.gelu_backward_(by_hidden, hidden, needs_weight)
    by_weight = weight_gradient(by_branch, activation, weight.dtype) if needs_weight else None
    del by_branch, activation, hidden
    by_rows, by_norm, by_norm_bias, again = triton_norm.norm_rows_backward(
        *(by_hidden @ wide_weight_used, rows, tuple(norm), eps, gradients),
        again=dtype if needs_wide and normed is None else None,
    )
    normed = again if normed is None else normed
    by_wide = weight_gradient(by_hidden, normed, wide_weight.dtype) if needs_wide else None
    sums = (by_norm, by_norm_bias, by_wide_bias, by_bias)
    owners, needs = (*norm, wide_bias, bias), (*needs_norm, needs_wide_bias, needs_bias)
    by_norm, by_norm_bias, by_wide_bias, by_bias = (
        each.to(own.dtype) if need else None for each, own, need in zip(sums, owners, needs, strict=True)
    )
    by_tokens = by_rows.view_as(tokens) if needs_tokens else None
    return by_tokens, None, None, by_norm, by_norm_bias, by_wide, by_wide_bias, by_weight, by_bias


def _clip_factors(scale: Tensor | None) -> Tensor | None:
    return None if scale is None else scale.flatten()


class _Layer:
    """The parameters in the format of the products, and the steps on one slice of rows."""

    def __init__(
        self,
        plan: _Plan,
        norm_weight: Tensor,
        norm_bias: Tensor,
        wide_weight: Tensor,
        wide_bias: Tensor,
        *narrow: Tensor,
    ) -> None:
        self.plan, self.norm = plan, (norm_weight, norm_bias)
        products = (wide_weight, wide_bias, *narrow)
        self.wide_weight, self.wide_bias, self.weight, self.bias = (one.to(plan.dtype) for one in products)

    def normed(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return normalise(rows, *self.norm, self.plan.eps, self.plan.dtype)

    def widen(self, normed: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.addmm(self.wide_bias, normed, self.wide_weight.T, out=out)

    def gradients(
        self, rows: Tensor, hidden: Tensor | None, by_branch: Tensor, needs: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """Gradients of the rows through the branch, then of norm weight and bias, wide weight and bias, weight and bias."""
        needs_norm, needs_wide, needs_narrow = needs[:2], needs[2:4], needs[4:]
        normed, mean, deviation = self.normed(rows)
        hidden = self.widen(normed) if hidden is None else hidden
        narrow = _linear_gradients(by_branch, F.gelu(hidden) if needs_narrow[0] else None, needs_narrow)
        by_hidden = torch.ops.aten.gelu_backward(by_branch @ self.weight, hidden)
        wide = _linear_gradients(by_hidden, normed, needs_wide)
        by_normed = by_hidden @ self.wide_weight
        by_norm = norm_gradients(by_normed, rows, mean, deviation, *self.norm, (True, *needs_norm))
        return *by_norm, *wide, *narrow


def _linear_gradients(
    gradient: Tensor, rows: Tensor | None, needs: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    by_weight = gradient.T @ rows if needs[0] else None
    return by_weight, sum_rows(gradient) if needs[1] else None


def _rows(tokens: Tensor) -> Tensor:
    return rearrange(tokens, "batch token dim -> (batch token) dim")


def _row_factors(scale: Tensor | None, tokens: Tensor) -> Tensor | None:
    if scale is None:
        return None
    return repeat(scale, "batch 1 1 -> (batch token) 1", token=tokens.shape[1])


def _slices(rows: Tensor, plan: _Plan) -> list[slice]:
    return [slice(start, start + plan.rows_per_slice) for start in range(0, len(rows), plan.rows_per_slice)]


def _accumulate(total: Tensor | None, new: Tensor | None) -> Tensor | None:
    """Sums over slices in fp32 or wider."""
    if new is None or total is not None:
        return total if new is None else total.add_(new)
    return new.to(torch.promote_types(new.dtype, torch.float32))
