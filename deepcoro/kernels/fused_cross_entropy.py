"""Cross-entropy of a linear layer's outputs without ever holding them all: loss and gradients are taken rows by rows in one pass.

A caption decoder's logits [token, vocabulary] are by far its largest tensor (32 reports of 256 tokens and 30,522 words: 1 GB in
fp32, twice over in backward). The way is that of Liger's fused linear cross-entropy (Hsu et al. 2024, arXiv:2410.10989); here
sums are in fp32, the weight keeps its own format and the divisor comes from outside.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class LinearCrossEntropy:
    """`functional.cross_entropy(linear(hidden, weight, bias), targets)`, chunk by chunk of rows.

    Gradients are made in forward, so that nothing but them is kept for backward. Under ZeRO-3 the call belongs into the
    forward of a module that owns the weight, since it is gathered only there.
    """

    ignore_index: int = -100
    """Rows with this target are neither in the loss nor in the count, and what they hold reaches no gradient."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over the vocabulary, 0 to 1."""
    rows_per_chunk: int | None = None
    """None: as many as `dim`, so that the logits of a chunk take no more than the weight's gradient; at least 64."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"label_smoothing {self.label_smoothing} is not between 0 and 1")
        if self.rows_per_chunk is not None and self.rows_per_chunk < 1:
            raise ValueError(f"rows_per_chunk {self.rows_per_chunk}: at least one row, or None")

    def __call__(
        self,
        hidden: Float[Tensor, "token dim"],
        weight: Float[Tensor, "word dim"],
        targets: Int[Tensor, "token"],
        bias: Float[Tensor, "word"] | None = None,
        normaliser: Float[Tensor, ""] | Int[Tensor, ""] | float | int | None = None,
    ) -> Float[Tensor, ""]:
        """Sum over the rows / `normaliser`, in fp32 at least; None divides by the rows that count (no row: a connected zero).

        Over ranks and micro-batches give the global count: the mean of ranks wants `normaliser = count of all / number of
        ranks`, a plain sum 1.
        """
        total, _ = self.sum_and_hits(hidden, weight, targets, bias)
        if normaliser is None:
            normaliser = (targets != self.ignore_index).sum().clamp(min=1)
        return total / normaliser

    def sum_and_hits(
        self,
        hidden: Float[Tensor, "token dim"],
        weight: Float[Tensor, "word dim"],
        targets: Int[Tensor, "token"],
        bias: Float[Tensor, "word"] | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss summed over rows, and in how many of them no word has a higher logit than the target."""
        leaves = [each for each in (hidden, weight, bias) if each is not None]
        wants_gradient = torch.is_grad_enabled() and any(each.requires_grad for each in leaves)
        return _Fused.apply(hidden, weight, bias, targets, self, wants_gradient)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        settings: LinearCrossEntropy,
        wants_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        wanted = [need and wants_gradient for need in ctx.needs_input_grad[:3]]
        head = _Head(weight, bias, hidden, wanted)
        size = settings.rows_per_chunk or max(hidden.shape[1], 64)
        total, hits = (hidden.new_zeros((), dtype=head.wide) for _ in range(2))
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), size):
                rows = slice(start, start + size)
                loss, num_hit = head.see(hidden[rows], targets[rows], rows, settings)
                total += loss
                hits += num_hit
        ctx.save_for_backward(head.by_hidden, head.by_weight, head.by_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(hits)
        return total, hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [
            None if each is None else (upstream * each).to(dtype)
            for each, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None, None


class _Head:
    """The linear layer and the gradients that gather as chunks of rows go by; those not wanted are None."""

    def __init__(self, weight: Tensor, bias: Tensor | None, hidden: Tensor, wanted: list[bool]):
        self.wide = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
        # Half formats are multiplied by the tensor cores of a GPU; a CPU's products would come out in the half format.
        self.operand = hidden.dtype if hidden.is_cuda else self.wide
        self.weight, self.bias = weight, bias
        self.by_hidden = torch.empty_like(hidden) if wanted[0] else None
        self.by_weight = torch.zeros_like(weight, dtype=self.wide) if wanted[1] else None
        self.by_bias = torch.zeros_like(bias, dtype=self.wide) if wanted[2] else None

    def see(
        self, hidden: Tensor, targets: Tensor, rows: slice, settings: LinearCrossEntropy
    ) -> tuple[Tensor, Tensor]:
        """The loss and the hits of a chunk, summed; its gradients are put where they belong."""
        ignored = targets == settings.ignore_index
        # zeroed, since a zero gradient times a NaN of padding would still be one
        hidden = hidden.masked_fill(ignored[:, None], 0).to(self.operand)
        weight = self.weight.to(self.operand)
        logits = _matmul(hidden, weight.T, self.wide)
        if self.bias is not None:
            logits += self.bias
        wanted = targets.masked_fill(ignored, 0)[:, None]
        losses, hit = _into_gradient(logits, wanted, settings.label_smoothing)
        gradient = logits.masked_fill_(ignored[:, None], 0)
        if self.by_bias is not None:
            self.by_bias += gradient.sum(dim=0)
        gradient = gradient.to(self.operand)
        if self.by_hidden is not None:
            self.by_hidden[rows] = _matmul(gradient, weight, self.wide)
        if self.by_weight is not None:
            _add_matmul(self.by_weight, gradient.T, hidden)
        return losses.masked_fill(ignored, 0).sum(), (hit & ~ignored).sum()


def _into_gradient(logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Loss of each row and whether its target is foremost; the logits are overwritten with its derivative, so that a chunk is there once."""
    top = logits.amax(dim=1, keepdim=True)
    of_target = logits.gather(1, targets)
    hit = of_target >= top
    wanted = (1 - smoothing) * of_target
    if smoothing:
        wanted += smoothing * logits.mean(dim=1, keepdim=True)
    total = logits.sub_(top).exp_().sum(dim=1, keepdim=True)
    logits.div_(total)
    if smoothing:
        logits -= smoothing / logits.shape[1]
    logits.scatter_add_(1, targets, (smoothing - 1) * torch.ones_like(wanted))
    return (top + total.log() - wanted)[:, 0], hit[:, 0]


def _matmul(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """The product in `dtype`, summed in it."""
    if left.dtype == dtype:
        return left @ right
    return torch.mm(left, right, out_dtype=dtype)


def _add_matmul(total: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += torch.mm(left, right, out_dtype=total.dtype)
