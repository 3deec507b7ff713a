"""What launches of pooling share that serve all parts of a projection, over whole grids and visible tokens alike."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from deepcoro.kernels.pool_layout import PoolFilter
from deepcoro.kernels.triton_dense_gradients import sum_shares_kernel
from deepcoro.kernels.triton_dense_pooling import Shape

PARTS = 3
"""Of a projection that one launch serves: queries, keys and values."""


class Shares(NamedTuple):
    """What programs added up, [program, vector, dim] in fp32, and where each part's begin and end."""

    values: Tensor
    starts: tuple[int, ...]
    ends: tuple[int, ...]


def sum_shares(shares: Shares, norm_shares: Shares, by_weights: Tensor, by_norms: Tensor) -> None:
    dim = by_norms.shape[-1]
    with torch.cuda.device_of(by_norms):
        sum_shares_kernel[29, PARTS, triton.cdiv(dim, 32)](
            (shares.values, norm_shares.values, by_weights, by_norms),
            tuple(map(odd, (shares.starts, shares.ends, norm_shares.starts, norm_shares.ends))),
            *(dim, 32, 128),
        )


def columns_of(whole: int) -> int:
    """Of a tile of a row that takes `whole`: a power of two, without a lane to spare where 32 allow it."""
    return (
        min(math.gcd(whole, 128), 128) if whole % 32 == 0 else min(32, max(16, triton.next_power_of_2(whole)))
    )


def alignment(tokens: Tensor, others: Sequence[int] = ()) -> int:
    """The largest power of two, up to eight, that divides all steps in memory."""
    return math.gcd(8, *steps_of(tokens), *others)


def in_units(steps: Sequence[int], shape: Shape) -> tuple[int, ...]:
    return odd([step // shape.aligned for step in steps])


def odd(numbers: Sequence[int]) -> tuple[int, ...]:
    """Numbers that are all alike to Triton, which would compile anew where one of a tuple is 1 or a multiple of 16."""
    return tuple(2 * number + 3 for number in numbers)


def steps_of(tokens: Tensor) -> tuple[int, ...]:
    """From one to the next along all axes but the last; an axis of one has no step, whatever its stride."""
    return tuple(
        0 if size == 1 else step for size, step in zip(tokens.shape[:-1], tokens.stride()[:-1], strict=True)
    )


def padded(values: Sequence) -> tuple:
    return (*values, *[values[-1]] * (PARTS - len(values)))


def pack(filters: list[PoolFilter]) -> Tensor:
    """27 taps, gain and shift of each part: [part * 29, dim]."""
    rows = (each.reshape(len(each), -1) for pool_filter in filters for each in pool_filter)
    return torch.cat(tuple(rows), dim=1).T.contiguous()
