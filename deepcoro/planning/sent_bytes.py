"""Bytes that a rank hands to collectives while a block runs, by kind: what the formulas of `deepcoro.planning.traffic` are held against.

Every call of the process group is an operation of torch's, whoever makes it: torch.distributed, DDP's reducer in C++, DeepSpeed.
"""

from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

KINDS = {
    "allreduce_": ("all_reduce", 0),
    "allreduce_coalesced_": ("all_reduce", 0),
    "allgather_": ("all_gather", 0),
    "_allgather_base_": ("all_gather", 0),
    "allgather_into_tensor_coalesced_": ("all_gather", 0),
    "reduce_scatter_": ("reduce_scatter", 1),
    "_reduce_scatter_base_": ("reduce_scatter", 1),
    "reduce_scatter_tensor_coalesced_": ("reduce_scatter", 1),
    "alltoall_": ("all_to_all", 1),
    "alltoall_base_": ("all_to_all", 1),
    "broadcast_": ("broadcast", 0),
    "reduce_": ("reduce", 0),
    "gather_": ("gather", 1),
    "scatter_": ("scatter", 0),
    "send": ("send", 0),
}
"""Operation -> kind, and which of its arguments holds the whole: what is summed, or all parts together."""
SILENT = {"barrier", "monitored_barrier_", "recv_", "recv_any_source_"}


class SentBytes(TorchDispatchMode):
    """`whole`: bytes by kind of collective, of the tensor whole (what every rank has afterwards, or had before a scatter); `calls`: how
    many there were. ValueError at a collective that is not known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.whole: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function, types, arguments=(), keywords=None
    ):  # noqa: ANN001, ANN204 - torch's own
        if function.namespace == "c10d":
            self._note(function.overloadpacket.__name__, arguments)
        return function(*arguments, **(keywords or {}))

    def _note(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name in SILENT:
            return
        if name not in KINDS:
            raise ValueError(
                f"collective '{name}' is not counted; known: {', '.join(KINDS)}; add it to KINDS"
            )
        kind, whole = KINDS[name]
        self.whole[kind] += sum(
            each.nbytes for each in tree_leaves(arguments[whole]) if isinstance(each, Tensor)
        )
        self.calls[kind] += 1
