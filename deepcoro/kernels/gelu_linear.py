"""Linear(GELU(x)) that keeps x alone for backward: of an MLP's two wide activations one is made again, at a percent of its time."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from deepcoro.kernels.precision import autocast_dtype


class GeluLinear(nn.Linear):
    """The second half of a transformer's MLP; the same values and gradients as `nn.Linear` after `nn.GELU`."""

    def forward(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch dim"]:
        dtype = autocast_dtype(hidden)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            return _GeluLinear.apply(hidden.to(dtype), weight, bias)


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return F.linear(F.gelu(hidden), weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        hidden, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        by_hidden = by_weight = None
        if ctx.needs_input_grad[0]:
            by_hidden = torch.ops.aten.gelu_backward(gradient @ weight, hidden)
        if ctx.needs_input_grad[1]:
            by_weight = rows.T @ F.gelu(hidden).flatten(0, -2)
        return by_hidden, by_weight, rows.sum(0) if ctx.needs_input_grad[2] else None
