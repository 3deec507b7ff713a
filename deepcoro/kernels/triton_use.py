"""What the Triton kernels take, and whether there is a Triton; everything else keeps torch's form."""

import functools

import torch
from torch import Tensor

TRITON_FORMATS = (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def triton_imports() -> bool:
    """Whether triton imports here; it comes with torch for CUDA on Linux."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def takes_triton(tensor: Tensor) -> bool:
    """Whether a tensor is on CUDA, in a format that the kernels have (fp64 is the oracle's), and triton imports here."""
    return tensor.is_cuda and tensor.dtype in TRITON_FORMATS and triton_imports()


def dense_channels(tokens: Tensor) -> Tensor:
    """The same values, with no step but one between those of the last axis: the kernels read them side by side."""
    return tokens if tokens.stride(-1) == 1 else tokens.contiguous()
