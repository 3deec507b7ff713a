"""In which number format a kernel computes where autocast asks for bfloat16."""

import functools

import torch
from torch import Tensor

from deepcoro.pretended import device_of


@functools.cache
def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX512-BF16, AMX, SVE).

    Without it oneDNN falls back to reference loops: matmul ran at 1.3 GFLOP/s against 122 in fp32, a depthwise
    convolution backward took 5 s instead of 8 ms (AMD Zen 3, torch 2.15).
    """
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def kernel_dtype(tensor: Tensor) -> torch.dtype:
    """fp32 stays fp32; half precision is kept where the device computes in it, else raised to fp32."""
    dtype = autocast_dtype(tensor)
    if (
        device_of(tensor).type == "cpu"
        and dtype in (torch.bfloat16, torch.float16)
        and not cpu_has_bfloat16()
    ):
        return torch.float32
    return dtype


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """The format in which autocast (when on) would run a matrix product of `tensor`."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype
