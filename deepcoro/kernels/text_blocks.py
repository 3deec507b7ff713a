"""How the texts of all ranks pass by this rank's videos: gathered at once, or block by block around a ring of ranks.

Both give one block of texts a rank, in the format they were given, and bring each rank the gradient that all ranks added to
its own texts. Uneven ranks are allowed, also ranks without a row. Every rank visits as often as the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from deepcoro.distributed import rank, world_size
from deepcoro.pairing import EXCLUDED, Side


@dataclass(frozen=True)
class TextBlock:
    """The texts of one rank while they are here."""

    rows: Float[Tensor, "text dim"]
    columns: slice
    """Their place among the texts of all ranks."""
    gradient: Float[Tensor, "text dim"] | None
    """To be added to, in fp32 at least; None when no gradient was asked for."""


class GatheredTexts:
    """All texts on every rank: `e B D` bytes, and `4 B D` of gradient until they are summed; one large exchange each."""

    def __init__(self, texts: Side):
        self._texts = texts
        self._rows = _every_ranks(_own_rows(texts, max(texts.counts)))
        self.gradient: Tensor | None = None

    def visit(self, with_gradient: bool) -> Iterator[TextBlock]:
        gradients = torch.zeros_like(self._rows, dtype=self._texts.wide) if with_gradient else None
        for owner, (size, columns) in enumerate(_places(self._texts.counts)):
            yield TextBlock(
                self._rows[owner, :size],
                columns,
                gradients[owner, :size] if with_gradient else None,
            )
        if with_gradient:
            self.gradient = _sum_of_mine(gradients)[: len(self._texts.given)]


class RingTexts:
    """Texts go round a ring of two ranks or more, two blocks on a rank at a time; their gradient follows one step behind."""

    def __init__(self, texts: Side):
        self._texts = texts
        self.gradient: Tensor | None = None

    def visit(self, with_gradient: bool) -> Iterator[TextBlock]:
        texts, ranks = self._texts, world_size()
        places = _places(texts.counts)
        rows = _own_rows(texts, max(texts.counts))
        coming_rows = torch.empty_like(rows)
        gradient = coming_gradient = None
        if with_gradient:
            gradient = torch.zeros_like(rows, dtype=texts.wide)
            coming_gradient = torch.empty_like(gradient)
        for hop in range(ranks):
            size, columns = places[(rank() - hop) % ranks]
            coming_size, _ = places[(rank() - hop - 1) % ranks]
            # the next block arrives while this one is worked on; after the last nobody needs it
            travelling = [] if hop == ranks - 1 else _pass_on(rows[:size], coming_rows[:coming_size])
            yield TextBlock(rows[:size], columns, gradient[:size] if with_gradient else None)
            _arrive(travelling)
            rows, coming_rows = coming_rows, rows
            if with_gradient:
                _arrive(_pass_on(gradient[:size], coming_gradient[:coming_size]))
                gradient, coming_gradient = coming_gradient, gradient
        self.gradient = gradient[: len(texts.given)] if with_gradient else None


def _places(counts: list[int]) -> list[tuple[int, slice]]:
    """Number of rows of each rank and where they lie among those of all."""
    ends = torch.tensor(counts).cumsum(0).tolist()
    return [(count, slice(end - count, end)) for count, end in zip(counts, ends, strict=True)]


def _own_rows(texts: Side, longest: int) -> Tensor:
    """Mine, excluded ones zeroed, at the head of a block as long as the longest."""
    rows = texts.given.new_zeros(longest, texts.given.shape[1])
    mine = rows[: len(texts.given)]
    mine.copy_(texts.given).masked_fill_((texts.ids == EXCLUDED)[:, None], 0)
    return rows


def _every_ranks(rows: Tensor) -> Tensor:
    if world_size() == 1:
        return rows[None]
    gathered = rows.new_empty(world_size() * len(rows), rows.shape[1])
    if gathered.numel():
        dist.all_gather_into_tensor(gathered, rows)
    return gathered.unflatten(0, (world_size(), len(rows)))


def _sum_of_mine(blocks: Tensor) -> Tensor:
    """Each rank gets the sum over ranks of its own block."""
    if world_size() == 1:
        return blocks[0]
    mine = torch.empty_like(blocks[0])
    if blocks.numel():
        dist.reduce_scatter_tensor(mine, blocks.flatten(0, 1))
    return mine


def _pass_on(mine: Tensor, coming: Tensor) -> list[dist.Work]:
    """Starts to send a block to the next rank and to receive one from the rank before; empty blocks stay at home."""
    operations = []
    if mine.numel():
        operations.append(dist.P2POp(dist.isend, mine, (rank() + 1) % world_size()))
    if coming.numel():
        operations.append(dist.P2POp(dist.irecv, coming, (rank() - 1) % world_size()))
    return dist.batch_isend_irecv(operations) if operations else []


def _arrive(travelling: list[dist.Work]) -> None:
    for work in travelling:
        work.wait()
