"""Bytes of tensors that are alive while a step runs: what the forward pass keeps for backward, and the peak.

Counts storages, each once, that operations made since the count began and that something still holds; what existed before
(parameters, the batch) is not counted. It sees through every way of keeping or recomputing (saved tensors, checkpoints, own
autograd functions), unlike saved-tensor hooks. Not seen: workspaces inside a kernel, and what an allocator keeps or wastes.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


@dataclass(frozen=True)
class StepBytes:
    """Bytes of one forward and backward pass."""

    kept: int
    """Alive when the forward pass has ended: kept for backward, and the loss."""
    peak: int
    """The most alive at once; gradients of parameters are among them when they are made."""


class LiveBytes(TorchDispatchMode):
    """While active, `now` and `peak` count the bytes of storages made since it began; `largest` is the biggest of them, and
    `peak_beside` the most at once of those that were not set aside."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.largest = self.peak_beside = 0
        self._aside: dict[int, int] = {}  # address of a storage -> its bytes
        self._seen: dict[int, int] = {}  # address of a storage -> its bytes, 0 for one that was there before

    def __torch_dispatch__(
        self, function, types, arguments=(), keywords=None
    ):  # noqa: ANN001, ANN204 - torch's own
        keywords = keywords or {}
        for tensor in _tensors((arguments, keywords)):
            self._note(tensor, counts=False)
        result = function(*arguments, **keywords)
        for tensor in _tensors(result):
            self._note(tensor, counts=True)
        return result

    def _note(self, tensor: Tensor, counts: bool) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._seen:
            return
        self._seen[address] = storage.nbytes() if counts else 0
        self.now += self._seen[address]
        self.peak = max(self.peak, self.now)
        self.peak_beside = max(self.peak_beside, self.now - sum(self._aside.values()))
        self.largest = max(self.largest, self._seen[address])
        weakref.finalize(storage, self._forget, address).atexit = False

    def _forget(self, address: int) -> None:
        self.now -= self._seen.pop(address)
        self._aside.pop(address, None)

    def set_aside(self, tensor: Tensor) -> None:
        """From now on its storage is not counted in `peak_beside`, as if it had left."""
        address = tensor.untyped_storage()._cdata
        self._aside[address] = self._seen.get(address, 0)


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def step_bytes(forward: Callable[[], Tensor]) -> StepBytes:
    """Bytes of `forward()`, which gives the loss, and of its backward pass. Gradients already there are not counted."""
    with LiveBytes() as live:
        loss = forward()
        kept = live.now
        loss.backward()
    return StepBytes(kept, live.peak)


def saved_bytes(model: Callable[[Tensor], Tensor], batch: Tensor) -> int:
    """Bytes that `model(batch)` keeps for backward, its result included."""
    with LiveBytes() as live:
        result = model(batch)
        kept = live.now
    del result
    return kept
