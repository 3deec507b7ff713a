"""The optional packages of flash attention: flash-attn 2 (2.7 and newer), 3 (`flash_attn_interface`) and 4 (`flash_attn.cute`).

Not run by this project's tests, which have no such GPU: the calls follow the packages' sources, and the start-up check
(attention_check.py) holds each one against the oracle before it is used.
"""

import functools
import importlib
from types import ModuleType

import torch
from torch import Tensor

from deepcoro.kernels.attention_kernels import Attended, AttentionKernel, AttentionProblem, half

MODULES = {
    "flash_attn_2": "flash_attn.flash_attn_interface",
    "flash_attn_3": "flash_attn_interface",
    "flash_attn_4": "flash_attn.cute.interface",
}
ARCHITECTURES = {"flash_attn_2": (8, 9, 10, 12), "flash_attn_3": (9,), "flash_attn_4": (9, 10, 11)}
"""Major compute capabilities each was written for."""


@functools.cache
def installed(name: str) -> ModuleType | None:
    """The module of a package, or None where it does not import (it needs CUDA; torch's own kernels serve without it)."""
    if not torch.cuda.is_available():
        return None
    try:
        return importlib.import_module(MODULES[name])
    except (ImportError, OSError, RuntimeError):  # absent, or built for another torch
        return None


def _refusal(name: str, problem: AttentionProblem) -> str | None:
    if problem.device.type != "cuda":
        return "it runs on CUDA only"
    if not half(problem.dtype):
        return f"it computes in bfloat16 and float16, not {problem.dtype}"
    major = torch.cuda.get_device_capability(problem.device)[0]
    if major not in ARCHITECTURES[name]:
        return f"it is not written for compute capability {major}.x"
    return None if installed(name) is not None else f"{MODULES[name]} does not import"


_PLAIN_2 = {
    "dropout_p": 0.0,
    "softmax_scale": 1.0,
    "causal": False,
    "window_size_left": -1,
    "window_size_right": -1,
    "softcap": 0.0,
    "alibi_slopes": None,
}
"""Every switch that these calls of flash-attn 2 ask for, off; the scale is in the keys."""


def forward_2(q: Tensor, k: Tensor, v: Tensor) -> Attended:
    out, logsumexp, *_ = installed("flash_attn_2")._flash_attn_forward(
        q,
        k,
        v,
        **_PLAIN_2,
        return_softmax=False,
    )
    return Attended(out, logsumexp)


def backward_2(by_out: Tensor, q: Tensor, k: Tensor, v: Tensor, attended: Attended):
    gradients = _empty_gradients(q, k, v)
    installed("flash_attn_2")._flash_attn_backward(
        by_out,
        q,
        k,
        v,
        attended.out,
        attended.logsumexp,
        *gradients,
        **_PLAIN_2,
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    return gradients


def forward_3(q: Tensor, k: Tensor, v: Tensor) -> Attended:
    out, logsumexp, *_ = installed("flash_attn_3")._flash_attn_forward(q, k, v, softmax_scale=1.0)
    return Attended(out, logsumexp)


def backward_3(by_out: Tensor, q: Tensor, k: Tensor, v: Tensor, attended: Attended):
    by_q, by_k, by_v = gradients = _empty_gradients(q, k, v)
    installed("flash_attn_3")._flash_attn_backward(
        by_out,
        q,
        k,
        v,
        attended.out,
        attended.logsumexp,
        dq=by_q,
        dk=by_k,
        dv=by_v,
        softmax_scale=1.0,
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    return gradients


def forward_4(q: Tensor, k: Tensor, v: Tensor) -> Attended:
    out, logsumexp = installed("flash_attn_4")._flash_attn_fwd(q, k, v, softmax_scale=1.0, return_lse=True)[
        :2
    ]
    return Attended(out, logsumexp)


def backward_4(by_out: Tensor, q: Tensor, k: Tensor, v: Tensor, attended: Attended):
    return tuple(
        installed("flash_attn_4")._flash_attn_bwd(
            q, k, v, attended.out, by_out.contiguous(), attended.logsumexp, softmax_scale=1.0
        )[:3]
    )


def _empty_gradients(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in (q, k, v))


FLASH_ATTN_2 = AttentionKernel(
    "flash_attn_2", forward_2, backward_2, functools.partial(_refusal, "flash_attn_2"), True
)
FLASH_ATTN_3 = AttentionKernel(
    "flash_attn_3", forward_3, backward_3, functools.partial(_refusal, "flash_attn_3"), True
)
# Its Hopper backward gave a wrong dQ, without a word, at widths that it pads to no multiple of 32 (72, 104, 136, 144;
# Dao-AILab/flash-attention pull request 2896): only widths that need no padding are asked of it.
FLASH_ATTN_4 = AttentionKernel(
    "flash_attn_4",
    forward_4,
    backward_4,
    functools.partial(_refusal, "flash_attn_4"),
    False,
    widths=(64, 96, 128, 160, 192),
    max_width=192,
)
