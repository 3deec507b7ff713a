"""A model and a batch without numbers, on a device that need not be here: the real code runs, and only sizes are computed.

Torch's fake tensors carry shape, format and storage; `deepcoro.live_bytes` counts those. They stand on the CPU, where autocast and
autograd work on every machine, and say of themselves that they are on CUDA where a GPU is meant, so that our kernels choose as they
would there. Kernels in Triton allocate as ever and are then not launched.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from deepcoro.kernels import attention_layout, rotary
from deepcoro.kernels.triton_use import triton_imports

aten = torch.ops.aten
HOPPER = (9, 0)
WITHOUT_KERNEL = frozenset(
    (aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.resize_)
    + (aten._unsafe_view, aten.lift_fresh, aten.scalar_tensor, aten.promote_types, torch.ops.prim.device)
)
"""Operations that are no view and ask nothing of a GPU."""
REMEMBERING = ((attention_layout, "_all_cells"), (attention_layout, "_index_on"), (rotary, "_turns_of_grid"))
"""Functions that keep their tensors for ever: pretended ones must not be among these."""


class Kind(FakeTensorMode):
    """Pretended tensors that go together; those of a copied module (a teacher) are of the same kind."""

    def __deepcopy__(self, memo: dict) -> "Kind":
        return self


class Pretended(TorchDispatchMode):
    """Numbers that are asked for are zero (initialisation draws until none lies outside), and CPU kernels that torch
    cannot pretend give what they write to. `flops` counts those of all products, `launches` operations and kernels in Triton.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.launches = 0

    def launch(self, *arguments: Any, **keywords: Any) -> None:
        """Stands in for a kernel in Triton."""
        self.launches += 1

    def __torch_dispatch__(
        self, function, types, arguments=(), keywords=None
    ):  # noqa: ANN001, ANN204 - torch's own
        if function is aten._local_scalar_dense.default:
            return arguments[0].dtype.is_floating_point and 0.0 or 0
        if str(function) == "mkldnn._convolution_pointwise_.binary":  # not in every build of torch
            return arguments[0]
        keywords = keywords or {}
        result = function(*arguments, **keywords)
        self.launches += not function.is_view and function._overloadpacket not in WITHOUT_KERNEL
        count = flop_registry.get(function._overloadpacket)
        if count is not None:
            self.flops += count(*arguments, **keywords, out_val=result)
        return result


@contextlib.contextmanager
def pretended(device: str, kind: Kind, capability: tuple[int, int] = HOPPER) -> Iterator[Pretended]:
    """Inside, tensors are pretended ones on `device`, `cpu` or `cuda` (of that compute capability); those of one `kind` go together."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device is '{device}'; allowed: cpu, cuda")
    with contextlib.ExitStack() as stack:
        for module, name in REMEMBERING:
            stack.enter_context(
                mock.patch.object(module, name, functools.cache(getattr(module, name).__wrapped__))
            )
        counted = Pretended()
        if device == "cuda":
            _speak_of_cuda(stack, capability, counted)
        stack.enter_context(kind)
        yield stack.enter_context(counted)


def _speak_of_cuda(stack: contextlib.ExitStack, capability: tuple[int, int], counted: Pretended) -> None:
    is_cuda = property(lambda tensor: True)
    stack.enter_context(mock.patch.object(FakeTensor, "is_cuda", is_cuda, create=True))
    stack.enter_context(mock.patch("torch.cuda.get_device_capability", lambda *_: capability))
    stack.enter_context(mock.patch("torch.cuda.device_of", lambda _: contextlib.nullcontext()))
    attention = functional.scaled_dot_product_attention
    stack.enter_context(
        mock.patch.object(functional, "scaled_dot_product_attention", _with_dropout_inside(attention))
    )
    if triton_imports():
        stack.enter_context(mock.patch("triton.runtime.jit.JITFunction.run", counted.launch))


def _with_dropout_inside(attention: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Torch's attention as CUDA computes it: a fused kernel draws dropout again in backward and keeps a seed. On CPU no fused kernel
    has dropout, so torch would take the form that keeps three matrices of queries x keys: of a BERT of base size and 32 texts of
    256 tokens 0.36 GB a trained block.
    """

    def attend(
        query, key, value, attn_mask=None, dropout_p=0.0, **options
    ):  # noqa: ANN001, ANN003, ANN202 - torch's own
        return attention(query, key, value, attn_mask=attn_mask, dropout_p=0.0, **options)

    return attend


def like(value: Any) -> Any:
    """Of a batch's tensors pretended ones; what else it holds as it is. For use inside `pretended`."""
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=value.dtype)
    if isinstance(value, dict):
        return {key: like(each) for key, each in value.items()}
    return value
