"""torch's own fused attention, called below its front door: forward and backward as functions, so that a key split can merge them.

The front door (`scaled_dot_product_attention`) hides the log-sum-exp and falls back without a word; here the caller decides.
The CUDA forms follow the signatures of torch 2.10 to 2.15; a kernel that raises at start-up is passed over with a logged line.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from deepcoro.kernels.attention_kernels import Attended, AttentionKernel, AttentionProblem, half

aten = torch.ops.aten

EFFICIENT_ROWS = 32
"""The memory-efficient kernel lays the log-sum-exp out in rows of a multiple of this."""


def _by_head(*tokens: Tensor) -> list[Tensor]:
    return [rearrange(each, "b l n c -> b n l c") for each in tokens]


def _by_token(*heads: Tensor) -> tuple[Tensor, ...]:
    return tuple(rearrange(each, "b n l c -> b l n c") for each in heads)


def cpu_flash_forward(q: Tensor, k: Tensor, v: Tensor) -> Attended:
    out, logsumexp = aten._scaled_dot_product_flash_attention_for_cpu(*_by_head(q, k, v), scale=1.0)
    return Attended(*_by_token(out), logsumexp)


def cpu_flash_backward(by_out: Tensor, q: Tensor, k: Tensor, v: Tensor, attended: Attended):
    heads = _by_head(by_out, q, k, v, attended.out)
    gradients = aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *heads, attended.logsumexp, 0.0, False, scale=1.0
    )
    return _by_token(*gradients)


def flash_forward(q: Tensor, k: Tensor, v: Tensor) -> Attended:
    out, logsumexp, *extras = aten._scaled_dot_product_flash_attention(*_by_head(q, k, v), scale=1.0)
    return Attended(*_by_token(out), logsumexp, tuple(extras[:6]))


def flash_backward(by_out: Tensor, q: Tensor, k: Tensor, v: Tensor, attended: Attended):
    *sequences, seed, offset = attended.extras
    heads = _by_head(by_out, q, k, v, attended.out)
    gradients = aten._scaled_dot_product_flash_attention_backward(
        *heads, attended.logsumexp, *sequences, 0.0, False, seed, offset, scale=1.0
    )
    return _by_token(*gradients)


def cudnn_forward(q: Tensor, k: Tensor, v: Tensor) -> Attended:
    out, logsumexp, *extras = aten._scaled_dot_product_cudnn_attention(
        *_by_head(q, k, v), None, True, scale=1.0
    )
    # some releases add a last axis of one to the log-sum-exp and want it back
    axes = logsumexp.shape[3:]
    return Attended(*_by_token(out), logsumexp.reshape(logsumexp.shape[:3]), (axes, *extras[:6]))


def cudnn_backward(by_out: Tensor, q: Tensor, k: Tensor, v: Tensor, attended: Attended):
    axes, *sequences, seed, offset = attended.extras
    # A result laid out head by head with its gradient token by token got a dQ and dK wrong by a tenth to a fifth, with a
    # right dV (torch 2.11, H200). torch looks a built backward up by the strides of q, k and v alone, so the two come in one
    # layout in every call. They do as a rule, and nothing is copied.
    heads = _by_head(by_out.contiguous(), q, k, v, attended.out.contiguous())
    logsumexp = attended.logsumexp.contiguous().reshape(*attended.logsumexp.shape, *axes)
    no_bias = None
    gradients = aten._scaled_dot_product_cudnn_attention_backward(
        *heads, logsumexp, seed, offset, no_bias, *sequences, 0.0, False, scale=1.0
    )
    return _by_token(*gradients)


def efficient_forward(q: Tensor, k: Tensor, v: Tensor) -> Attended:
    out, logsumexp, seed, offset = aten._scaled_dot_product_efficient_attention(
        *_by_head(q, k, v), None, True, scale=1.0
    )
    return Attended(*_by_token(out), logsumexp[..., : q.shape[1]], (seed, offset))


def efficient_backward(by_out: Tensor, q: Tensor, k: Tensor, v: Tensor, attended: Attended):
    rows = F.pad(attended.logsumexp, (0, -q.shape[1] % EFFICIENT_ROWS), value=torch.inf)
    heads = _by_head(by_out, q, k, v)
    (out,) = _by_head(attended.out)
    wanted = [True, True, True, False]
    *gradients, _ = aten._scaled_dot_product_efficient_attention_backward(
        *heads, None, out, rows, *attended.extras, 0.0, wanted, False, scale=1.0
    )
    return _by_token(*gradients)


def _refuses_but_cpu(problem: AttentionProblem) -> str | None:
    return None if problem.device.type == "cpu" else "it runs on CPU only"


def _refuses_but_half_on_cuda(problem: AttentionProblem) -> str | None:
    if problem.device.type != "cuda":
        return "it runs on CUDA only"
    return None if half(problem.dtype) else f"it computes in bfloat16 and float16, not {problem.dtype}"


def _refuses_but_cuda(problem: AttentionProblem) -> str | None:
    if problem.device.type != "cuda":
        return "it runs on CUDA only"
    return None if problem.dtype != torch.float64 else "it does not compute in float64"


CPU_FLASH = AttentionKernel("cpu_flash", cpu_flash_forward, cpu_flash_backward, _refuses_but_cpu, True)
FLASH = AttentionKernel("flash", flash_forward, flash_backward, _refuses_but_half_on_cuda, True)
CUDNN = AttentionKernel("cudnn", cudnn_forward, cudnn_backward, _refuses_but_half_on_cuda, False)
CUDNN_WIDE = AttentionKernel("cudnn_wide", cudnn_forward, cudnn_backward, _refuses_but_half_on_cuda, True)
EFFICIENT = AttentionKernel("efficient", efficient_forward, efficient_backward, _refuses_but_cuda, False)
