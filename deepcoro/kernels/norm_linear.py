"""Linear(LayerNorm(x)) that keeps x alone for backward: the normalised tokens are made again, at a percent of the time.

The two modules own their parameters apart (`norm1.weight`, `attn.qkv.weight` of the public checkpoints) and ZeRO-3 has a module's
parameters only inside its own forward. So the norm calls its reader from within its forward, parameters by keyword:
`norm(tokens, reader=linear)`. (DeepSpeed wraps positional tensors of a module; keywords reach the function as they are.)
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from deepcoro.kernels.precision import autocast_dtype
from deepcoro.kernels.triton_use import TRITON_FORMATS, takes_triton

WIDEST = 2048
"""Channels up to which a row fits a program of `triton_norm`."""


class ReadNorm(nn.LayerNorm):
    """A LayerNorm whose result goes straight into `reader`, which makes it again in backward instead of keeping it.

    `reader(tokens, norm_weight=..., norm_bias=..., eps=..., **more)` is a `NormLinear` or the first layer of a `NormMlp`.
    """

    def forward(
        self, tokens: Float[Tensor, "*batch dim"], reader: nn.Module | None = None, **more: object
    ) -> Tensor | tuple[Tensor, Tensor]:
        if reader is None:
            return super().forward(tokens)
        return reader(tokens, norm_weight=self.weight, norm_bias=self.bias, eps=self.eps, **more)


class NormLinear(nn.Linear):
    """A linear layer that reads normalised tokens through `ReadNorm`, or plain ones; the values and gradients of `nn.Linear`."""

    def forward(
        self,
        tokens: Float[Tensor, "*batch dim"],
        norm_weight: Float[Tensor, " dim"] | None = None,
        norm_bias: Float[Tensor, " dim"] | None = None,
        eps: float = 0.0,
        hands_on: bool = False,
    ) -> Float[Tensor, "*batch dim_out"] | tuple[Tensor, Tensor]:
        """`hands_on`: also returns the tokens, for what else reads them: the gradient that comes back there is added where that
        through the norm is written, not in a pass of its own.
        """
        if norm_weight is None:
            return super().forward(tokens)
        dtype = autocast_dtype(self.weight)
        with torch.autocast(tokens.device.type, enabled=False):
            owned = (norm_weight, norm_bias, self.weight, self.bias)
            result, same_tokens = _NormLinear.apply(tokens, eps, dtype, *owned)
        if not hands_on:
            return result
        return result, same_tokens if tokens.requires_grad else tokens


class _NormLinear(torch.autograd.Function):
    """Products in `dtype`, the norm in fp32 or wider. Keeps parameters as they are: their copies in half precision are made again."""

    @staticmethod
    def forward(
        ctx, tokens: Tensor, eps: float, dtype: torch.dtype, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        norm_weight, norm_bias, weight, bias = parameters
        ctx.save_for_backward(tokens, norm_weight, norm_bias, weight)
        ctx.eps, ctx.dtype = eps, dtype
        ctx.set_materialize_grads(False)
        normed = norm_for_product(tokens, (norm_weight, norm_bias), eps, dtype)
        return F.linear(normed, weight.to(dtype), bias.to(dtype)), tokens

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor | None, more: Tensor | None) -> tuple[Tensor | None, ...]:
        """`more`: the gradient by the tokens that were handed on."""
        saved = ctx.saved_tensors  # once: under activation recomputation they may be read no second time
        if gradient is None:
            return more, *(None,) * 6
        tokens, norm_weight, norm_bias, weight = saved
        if runs_in_triton(tokens, ctx.dtype):
            return _backward_in_triton(ctx, saved, (gradient, more))
        needs_tokens, _, _, needs_norm, needs_norm_bias, needs_weight, needs_bias = ctx.needs_input_grad
        normed, mean, deviation = normalise(tokens, norm_weight, norm_bias, ctx.eps, ctx.dtype)
        rows = gradient.flatten(0, -2)
        by_weight = (rows.T @ normed.flatten(0, -2)).to(weight.dtype) if needs_weight else None
        by_bias = sum_rows(rows).to(weight.dtype) if needs_bias else None
        del normed
        needs = (needs_tokens, needs_norm, needs_norm_bias)
        by_tokens = by_norm = by_norm_bias = None
        if any(needs):
            by_normed = gradient @ weight.to(ctx.dtype)
            by_tokens, by_norm, by_norm_bias = norm_gradients(
                by_normed, tokens, mean, deviation, norm_weight, norm_bias, needs
            )
        if more is not None and by_tokens is not None:
            by_tokens += more
        return by_tokens, None, None, by_norm, by_norm_bias, by_weight, by_bias


def _backward_in_triton(
    ctx, saved: tuple[Tensor, ...], gradients: tuple[Tensor, Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The same; the pass that makes the tokens' gradient also makes the normed tokens for the weight's."""
    from deepcoro.kernels import triton_columns, triton_norm

    tokens, *norm, weight = saved
    gradient, more = gradients
    needs_tokens, _, _, needs_norm, needs_norm_bias, needs_weight, needs_bias = ctx.needs_input_grad
    rows, by_out = tokens.flatten(0, -2), gradient.flatten(0, -2)
    by_tokens = by_norm = by_norm_bias = by_weight = by_bias = None
    if needs_bias:
        by_bias = triton_columns.sum_rows(by_out).to(weight.dtype)
    if needs_tokens or needs_norm or needs_norm_bias:
        again = ctx.dtype if needs_weight else None
        by_normed = by_out @ weight.to(ctx.dtype)
        by_rows, by_norm, by_norm_bias, normed = triton_norm.norm_rows_backward(
            *(by_normed, rows, tuple(norm), ctx.eps, None if more is None else more.flatten(0, -2)),
            again=again,
        )
        by_tokens = by_rows.view_as(tokens) if needs_tokens else None
        by_norm, by_norm_bias = by_norm.to(norm[0].dtype), by_norm_bias.to(norm[1].dtype)
    elif needs_weight:
        normed = triton_norm.norm_rows(rows, *norm, ctx.eps, ctx.dtype)
    if needs_weight:
        by_weight = weight_gradient(by_out, normed, weight.dtype)
    return by_tokens, None, None, by_norm, by_norm_bias, by_weight, by_bias


def runs_in_triton(tokens: Tensor, dtype: torch.dtype) -> bool:
    """Whether CUDA's own kernels take tokens of this format and width for products in `dtype`. torch.compile fuses torch's form."""
    fits = dtype in TRITON_FORMATS and tokens.shape[-1] <= WIDEST
    return fits and takes_triton(tokens) and not torch.compiler.is_compiling()


def weight_gradient(
    by_rows: Float[Tensor, "row dim_out"], rows: Float[Tensor, "row dim"], dtype: torch.dtype
) -> Float[Tensor, "dim_out dim"]:
    """Gradient of a linear layer's weight in the format of the weight, to which CUDA's products add up without a rounding between."""
    if by_rows.is_cuda and dtype == torch.float32 and by_rows.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(by_rows.T, rows, out_dtype=dtype)
    return (by_rows.T @ rows).to(dtype)


def norm_for_product(
    tokens: Float[Tensor, "*batch dim"],
    norm: tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]],
    eps: float,
    dtype: torch.dtype,
) -> Float[Tensor, "*batch dim"]:
    """LayerNorm by a weight and a bias, in `dtype`."""
    if runs_in_triton(tokens, dtype):
        from deepcoro.kernels import triton_norm

        rows = triton_norm.norm_rows(tokens.flatten(0, -2), *norm, eps, dtype)
        return rows.view_as(tokens)
    normed, *_ = normalise(tokens, *norm, eps, dtype)
    return normed


def normalise(
    tokens: Float[Tensor, "*batch dim"],
    weight: Float[Tensor, " dim"],
    bias: Float[Tensor, " dim"],
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm in `dtype`, computed in fp32 or wider, and the mean and inverse deviation of each token."""
    tokens, weight, bias = _norm_inputs(tokens, weight, bias)
    normed, mean, deviation = torch.native_layer_norm(tokens, weight.shape, weight, bias, eps)
    return normed.to(dtype), mean, deviation


def norm_gradients(
    gradient: Tensor,
    tokens: Tensor,
    mean: Tensor,
    deviation: Tensor,
    weight: Tensor,
    bias: Tensor,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of tokens, weight and bias of a LayerNorm, each in the format of its tensor."""
    wide, *own = _norm_inputs(tokens, weight, bias)
    by_tokens, by_weight, by_bias = torch.ops.aten.native_layer_norm_backward(
        gradient.to(wide.dtype), wide, weight.shape, mean, deviation, *own, list(needs)
    )
    return by_tokens.to(tokens.dtype) if needs[0] else None, by_weight, by_bias


def sum_rows(rows: Float[Tensor, "row dim"]) -> Float[Tensor, " dim"]:
    """Sum over rows in fp32 or wider: the gradient of a bias."""
    return rows.sum(0, dtype=torch.promote_types(rows.dtype, torch.float32))


def _norm_inputs(tokens: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """CUDA's LayerNorm wants one format for all three; the CPU's also reads half-precision tokens under fp32 weights."""
    if tokens.is_cuda and tokens.dtype in (torch.bfloat16, torch.float16):
        tokens = tokens.float()
    if tokens.dtype in (torch.float32, torch.float64):
        weight, bias = weight.to(tokens.dtype), bias.to(tokens.dtype)
    return tokens, weight, bias
