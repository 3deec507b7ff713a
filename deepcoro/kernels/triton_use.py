"""Which tensors the Triton kernels take; everything else keeps torch's form."""

import torch
from torch import Tensor

from deepcoro.kernels.triton_imports import triton_imports

TRITON_FORMATS = (torch.float32, torch.bfloat16, torch.float16)


def takes_triton(tensor: Tensor) -> bool:
    """Whether a tensor is on CUDA, in a format that the kernels have (fp64 is the oracle's), and triton imports here."""
    return tensor.is_cuda and tensor.dtype in TRITON_FORMATS and triton_imports()
