"""How many bytes of tensors live at once while something runs: counted, so that a loaded machine changes nothing."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operations inside make and that are still held; what was there before does not count.

    What one ATen kernel allocates and frees inside is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.largest = 0
        self._known: set[int] = set()

    def holding(self, *tensors: torch.Tensor) -> "LiveBytes":
        """Inputs, which are not counted even where an operation hands them on."""
        self._known.update(_address(each) for each in tensors)
        return self

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_address(each) for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)}
        result = operation(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor) and _address(each) not in given | self._known:
                self._hold(each.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        address, num_bytes = storage._cdata, storage.nbytes()
        self._known.add(address)
        self.now += num_bytes
        self.peak = max(self.peak, self.now)
        self.largest = max(self.largest, num_bytes)
        weakref.finalize(storage, self._release, address, num_bytes)

    def _release(self, address: int, num_bytes: int) -> None:
        self._known.discard(address)
        self.now -= num_bytes


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
