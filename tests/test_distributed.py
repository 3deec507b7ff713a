from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist

from deepcoro import distributed
from tests.ranks import Ranks

ROWS_OF_RANK = (3, 0, 2)


def rows_of(rank: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    first = sum(ROWS_OF_RANK[:rank])
    numbers = torch.arange(first, first + ROWS_OF_RANK[rank])
    return torch.stack([numbers, 10 * numbers], dim=1).to(dtype)


def everyones_rows(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.cat([rows_of(rank, dtype) for rank in range(3)])


def talk(rank: int) -> dict:
    gathered = {
        str(dtype): distributed.gather_rows(rows_of(rank, dtype))
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool)
    }
    return {
        "rank": (distributed.rank(), distributed.world_size()),
        "gathered": gathered,
        "vector": distributed.gather_rows(rows_of(rank)[:, 0]),
        "nothing": distributed.gather_rows(torch.zeros(0, 4)),
        "counts": distributed.counts_of_ranks(ROWS_OF_RANK[rank], rank),
        "sum": distributed.sum_over_ranks(torch.tensor([rank + 1, 1])),
        "sum_of_hosts": distributed.sum_over_hosts(np.array([rank + 1, 1])),
        "any": distributed.any_rank(rank == 2, False, rank < 2),
        "object": distributed.broadcast_object({"from": rank}),
        "object_of_last": distributed.broadcast_object({"from": rank}, source=2),
    }


@pytest.fixture(scope="module")
def of_ranks(ranks_of: dict[int, Ranks]) -> list[dict]:
    return ranks_of[3].run(everything)


def everything(rank: int) -> dict:
    return {
        "talk": talk(rank),
        "descent": gather_and_descend(rank),
        "refusal": gather_with_wrong_counts(rank),
        "beside": talk_beside_nccl(rank),
    }


def test_three_ranks_with_uneven_rows_hear_the_same(of_ranks):
    for rank, heard in enumerate(result["talk"] for result in of_ranks):
        assert heard["rank"] == (rank, 3)
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool):
            gathered = heard["gathered"][str(dtype)]
            assert gathered.dtype == dtype
            assert torch.equal(gathered, everyones_rows(dtype))
        assert torch.equal(heard["vector"], everyones_rows()[:, 0])
        assert heard["nothing"].shape == (0, 4)
        assert heard["counts"] == [[3, 0], [0, 1], [2, 2]]
        assert heard["sum"].tolist() == [6, 3]
        assert heard["sum_of_hosts"].tolist() == [6, 3]
        assert heard["any"] == [True, False, True]
        assert heard["object"] == {"from": 0}
        assert heard["object_of_last"] == {"from": 2}


def talk_beside_nccl(rank: int) -> tuple[dict, set[str]]:
    """With a default group that says it is NCCL: what is heard, and in which kind of group host tensors went."""
    kinds = set()

    def seen(collective):
        def called(tensor, *arguments, group=None, **named):
            if tensor.dtype == torch.int64 and tensor.ndim == 1 and group is not None:
                kinds.add("default" if group is dist.group.WORLD else "beside")
            return collective(tensor, *arguments, group=group, **named)

        return called

    with (
        mock.patch.object(dist, "get_backend", lambda: "nccl"),
        mock.patch.object(distributed, "_host_groups", {}),
        mock.patch.object(dist, "all_reduce", seen(dist.all_reduce)),
        mock.patch.object(dist, "all_gather_into_tensor", seen(dist.all_gather_into_tensor)),
    ):
        distributed.open_host_group()
        beside = distributed._host_groups[dist.group.WORLD]
        assert beside is not None
        heard = talk(rank)
        distributed.barrier()
        assert distributed._host_groups == {dist.group.WORLD: beside}, "made once"
    return heard, kinds


def test_beside_nccl_host_tensors_travel_in_a_group_of_their_own_and_say_the_same(of_ranks):
    for result in of_ranks:
        heard, kinds = result["beside"]
        assert kinds == {"beside"}
        for name in ("counts", "any", "object", "object_of_last"):
            assert heard[name] == result["talk"][name]
        assert heard["sum_of_hosts"].tolist() == result["talk"]["sum_of_hosts"].tolist()


def loss_of(everyone: torch.Tensor, rank: int) -> torch.Tensor:
    return ((rank + 1) * everyone**2).sum() + everyone.prod(dim=1).cos().sum()


def gather_and_descend(rank: int) -> tuple:
    rows = rows_of(rank).requires_grad_()
    everyone, start = distributed.gather_rows_with_gradient(rows)
    loss_of(everyone, rank).backward()
    low = rows_of(rank, torch.bfloat16).requires_grad_()
    everyone_low, _ = distributed.gather_rows_with_gradient(low, [3, 0, 2])
    everyone_low.float().sum().backward()
    return everyone.detach(), start, rows.grad, low.grad


def test_backward_of_the_gather_is_the_sum_of_all_ranks_gradients(of_ranks):
    rows = everyones_rows().requires_grad_()
    sum(loss_of(rows, rank) for rank in range(3)).backward()
    for rank, (everyone, start, gradient, low) in enumerate(result["descent"] for result in of_ranks):
        first = sum(ROWS_OF_RANK[:rank])
        assert torch.equal(everyone, everyones_rows())
        assert start == first
        torch.testing.assert_close(
            gradient, rows.grad[first : first + ROWS_OF_RANK[rank]], rtol=1e-14, atol=1e-14
        )
        assert low.dtype == torch.bfloat16
        assert torch.equal(low, torch.full_like(low, 3))


def gather_with_wrong_counts(rank: int) -> str:
    with pytest.raises(ValueError, match="the counts of the ranks say") as caught:
        distributed.gather_rows(torch.zeros(2, 1), [2, 1, 1] if rank else [1, 1, 1])
    return str(caught.value)


def test_counts_that_do_not_fit_the_rows_are_refused(of_ranks):
    assert of_ranks[1]["refusal"] == "rank 1 holds 2 rows, the counts of the ranks say [2, 1, 1]"


def test_without_a_process_group_every_call_is_local():
    assert not dist.is_initialized()
    rows = torch.randn(3, 2, requires_grad=True)
    everyone, start = distributed.gather_rows_with_gradient(rows)
    assert everyone is rows
    assert start == 0
    assert torch.equal(distributed.gather_rows(rows), rows)
    assert not distributed.gather_rows(rows).requires_grad
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.counts_of_ranks(3, 4) == [[3, 4]]
    assert distributed.sum_over_hosts(np.array([2])).tolist() == [2]
    assert distributed.any_rank(True, False) == [True, False]
    assert distributed.broadcast_object("me") == "me"
    total = distributed.sum_over_ranks(rows)
    assert torch.equal(total, rows.detach())
    assert total.data_ptr() != rows.data_ptr()
    distributed.barrier()
