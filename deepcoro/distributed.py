"""What the ranks of the default process group tell each other. Without a process group there is one rank and every call is local.

Every function that talks is collective: all ranks call it, in the same order, each with its own rows. Tensors of the host (flags,
counts, objects) travel from host to host and never wait for the device: where the default group is NCCL, which moves only what lies
on a GPU, through a gloo group beside it.
"""

import contextlib
import datetime
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

Object = TypeVar("Object")
TIMEOUT = datetime.timedelta(minutes=30)

_GONE = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe"),  # gloo
    "remote process exited or there was a network error",  # NCCL (not run here)
)
"""What the libraries say of a connection whose other end was closed."""

_host_groups: dict[dist.ProcessGroup, dist.ProcessGroup | None] = {}
"""Default group -> the group of its hosts; None = it takes host tensors itself."""


def open_host_group() -> None:
    """Makes, once a default group, the group that host tensors travel in. Collective; what talks before it, makes it."""
    if _is_distributed() and dist.group.WORLD not in _host_groups:
        takes_host_tensors = dist.get_backend() != "nccl"
        beside = None if takes_host_tensors else dist.new_group(backend="gloo", timeout=TIMEOUT)
        _host_groups[dist.group.WORLD] = beside


@contextlib.contextmanager
def own_group() -> Iterator[None]:
    """Ends the process group that the block makes, on every way out; one that was there before stays."""
    was_there = _is_distributed()
    try:
        yield
    finally:
        if not was_there and _is_distributed():
            dist.destroy_process_group()
            _host_groups.clear()


def tells_of_a_lost_rank(error: RuntimeError) -> bool:
    """Whether a collective failed because another rank's process is gone. A rank that only waits is not: the watchdog tells of it."""
    return any(words in str(error) for words in _GONE)


def rank() -> int:
    return dist.get_rank() if _is_distributed() else 0


def world_size() -> int:
    return dist.get_world_size() if _is_distributed() else 1


def barrier() -> None:
    """Returns once every rank has come here."""
    if world_size() > 1:
        dist.barrier(_host_group())


def broadcast_object(obj: Object, source: int = 0) -> Object:
    """Rank `source`'s picklable object, on every rank."""
    if world_size() == 1:
        return obj
    box = [obj]
    dist.broadcast_object_list(box, src=source, group=_host_group())
    return box[0]


def gather_objects(obj: Object) -> list[Object]:
    """Every rank's picklable object, in order of ranks, on every rank."""
    if world_size() == 1:
        return [obj]
    box: list[Any] = [None] * world_size()
    dist.all_gather_object(box, obj, group=_host_group())
    return box


def any_rank(*flags: bool) -> list[bool]:
    """Each flag is true on every rank if it is true on one; one call for all of them."""
    return [bool(each) for each in _of_hosts(np.array(flags, dtype=np.int64), dist.ReduceOp.MAX)]


def sum_over_hosts(numbers: np.ndarray) -> np.ndarray:
    """Sum of equally long vectors of the ranks; the device is not asked."""
    return _of_hosts(numbers, dist.ReduceOp.SUM)


def _of_hosts(numbers: np.ndarray, operation: dist.ReduceOp) -> np.ndarray:
    if world_size() == 1:
        return numbers
    total = torch.from_numpy(numbers.copy())
    dist.all_reduce(total, op=operation, group=_host_group())
    return total.numpy()


@torch.no_grad()
def sum_over_ranks(values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Sum of equally shaped tensors of the engine's device; a new tensor, without gradient."""
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def counts_of_ranks(*counts: int) -> list[list[int]]:
    """`[rank][i]`: the i-th count of every rank. Hosts wait for each other, for no device: gathers of one step share one call."""
    if world_size() == 1:
        return [list(counts)]
    mine = torch.from_numpy(np.array(counts, dtype=np.int64))
    everyones = mine.new_empty(world_size() * len(counts))
    dist.all_gather_into_tensor(everyones, mine, group=_host_group())
    return rearrange(everyones.numpy(), "(rank count) -> rank count", count=len(counts)).tolist()


@torch.no_grad()
def gather_rows(
    rows: Shaped[Tensor, "mine *rest"], counts: list[int] | None = None
) -> Shaped[Tensor, "all *rest"]:
    """The rows of all ranks in the order of ranks, without gradient; ranks may hold different numbers of rows, also none.

    `counts` is the number of rows of each rank; None asks the other ranks for it.
    """
    if world_size() == 1:
        return rows.detach()
    return _gather(rows.detach(), counts or _rows_of_ranks(rows))


def gather_rows_with_gradient(
    rows: Float[Tensor, "mine *rest"], counts: list[int] | None = None
) -> tuple[Float[Tensor, "all *rest"], int]:
    """The rows of all ranks and the place of my first row among them.

    Backward sums the gradient of the gathered rows over the ranks and hands each rank its own slice, so every rank has to
    run backward through it. Sums are taken in fp32 at least.
    """
    if world_size() == 1:
        return rows, 0
    counts = counts or _rows_of_ranks(rows)
    return _GatherWithGradient.apply(rows, counts), sum(counts[: rank()])


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor, counts: list[int]) -> Tensor:
        context.counts = counts
        return _gather(rows, counts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        start = sum(context.counts[: rank()])
        total = gradient.to(torch.promote_types(gradient.dtype, torch.float32), copy=True).contiguous()
        dist.all_reduce(total)
        return total[start : start + context.counts[rank()]].to(gradient.dtype), None


def _gather(rows: Tensor, counts: list[int]) -> Tensor:
    if len(counts) != world_size() or counts[rank()] != len(rows):
        raise ValueError(f"rank {rank()} holds {len(rows)} rows, the counts of the ranks say {counts}")
    longest = max(counts)
    sendable = rows.to(torch.uint8) if rows.dtype == torch.bool else rows
    padding = [0, 0] * (rows.ndim - 1) + [0, longest - len(rows)]
    padded = functional.pad(sendable, padding).contiguous()
    gathered = padded.new_empty(world_size() * longest, *rows.shape[1:])
    if gathered.numel():
        dist.all_gather_into_tensor(gathered, padded)
    blocks = rearrange(gathered, "(rank row) ... -> rank row ...", rank=world_size())
    return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)]).to(rows.dtype)


def _rows_of_ranks(rows: Tensor) -> list[int]:
    return [count for (count,) in counts_of_ranks(len(rows))]


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _host_group() -> dist.ProcessGroup | None:
    open_host_group()
    return _host_groups[dist.group.WORLD]
