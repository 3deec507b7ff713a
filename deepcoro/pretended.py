"""Tensors that have shapes and formats but no numbers: with them the planner measures a step that it does not compute."""

import torch
from torch import Tensor
from torch._C import _get_dispatch_mode, _TorchDispatchModeKey


def is_pretended() -> bool:
    """Whether operations make such tensors now. What would read a number has to do without, and nothing may be compared or remembered."""
    return _get_dispatch_mode(_TorchDispatchModeKey.FAKE) is not None


def device_of(tensor: Tensor) -> torch.device:
    """The tensor's device; of a pretended one the kind it stands for (`deepcoro.planning.pretended`)."""
    if is_pretended() and tensor.is_cuda:
        return torch.device("cuda", 0)
    return tensor.device
