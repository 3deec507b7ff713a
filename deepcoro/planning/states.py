"""Bytes of parameters, gradients and AdamW's states on one GPU, by engine, and the peak of a training step that comes of them.

Everything a rank holds is fp32 (under precision=bf16 autocast makes bf16 copies, which count as activations). The formulas follow
DeepSpeed 0.19.8 and torch's DDP as `deepcoro.engine` starts them, buffers and copies included, and are held against real runs of one
and two processes (`tests/planning/test_states.py`).
"""

from dataclasses import dataclass
from typing import Literal

from deepcoro.planning.activations import Activations, Parameters

VALUE = 4
"""Bytes of a number in fp32."""
EngineName = Literal["ddp", "zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"]
ALL_REDUCE_NUMBERS = 500_000_000
"""Of gradients that DeepSpeed joins to one tensor under ZeRO-0."""


@dataclass(frozen=True)
class Buffers:
    """Numbers (not bytes) of ds_configs/*.json that take memory, as they are shipped."""

    reduce_bucket: int = 20_000_000
    max_live_parameters: int = 100_000_000
    max_reuse_distance: int = 100_000_000


@dataclass(frozen=True)
class Peak:
    """Bytes of one rank on its device."""

    idle: int
    """Between steps."""
    backward: int
    """The most while forward and backward run."""
    step: int
    """The most while the optimiser steps."""
    host: int = 0
    """In the memory of the host, between steps, where states are offloaded."""

    @property
    def bytes(self) -> int:
        return max(self.backward, self.step)


@dataclass(frozen=True)
class Rank:
    """One rank of `world_size`, and what it computes on."""

    world_size: int
    device: str = "cuda"
    buffers: Buffers = Buffers()

    def share(self, numbers: int) -> int:
        """Bytes of this rank's part."""
        return VALUE * -(-numbers // self.world_size)


def peak_of(engine: EngineName, rank: Rank, sizes: Parameters, work: Activations) -> Peak:
    """Of a rank whose micro-steps take `work`."""
    if engine in ("ddp", "zero0"):
        return _undivided(engine, rank, sizes, work)
    if engine.startswith("zero3"):
        return _zero_3(engine, rank, sizes, work)
    return _zero_1_and_2(engine, rank, sizes, work)


def _undivided(engine: str, rank: Rank, sizes: Parameters, work: Activations) -> Peak:
    """Weights, gradients, both moments and averages whole on every rank."""
    trained = VALUE * sizes.trained
    idle = VALUE * (sizes.all + sizes.averaged) + sizes.buffer_bytes + 2 * trained
    beside = 0  # fused AdamW makes no copies
    if engine == "ddp":
        idle += trained  # the buckets in which gradients travel, on a single rank too
    elif rank.world_size > 1:
        beside = VALUE * min(sizes.trained, ALL_REDUCE_NUMBERS)
    return Peak(idle, idle + work.batch + work.with_gradients, idle + work.batch + trained + beside)


def _zero_1_and_2(engine: str, rank: Rank, sizes: Parameters, work: Activations) -> Peak:
    """Weights whole, their fp32 twins and moments divided; gradients too in stage 2. A group is stepped as one flat tensor, whose gradient
    is put together first.
    """
    own, group, bucket = (
        rank.share(sizes.trained),
        rank.share(max(sizes.groups)),
        VALUE * rank.buffers.reduce_bucket,
    )
    weights, averaged = VALUE * sizes.all + sizes.buffer_bytes, rank.share(sizes.averaged)
    # two buckets: while one travels the other is filled
    reduced = work.batch + work.beside_gradients + 2 * bucket
    if engine == "zero2_offload":
        largest = VALUE * sizes.largest_tensor
        idle, host = weights + largest, 5 * own + averaged + largest
        return Peak(idle, idle + reduced, idle + work.batch, host)
    idle = weights + 3 * own + averaged
    step = idle + work.batch + own + group
    if engine == "zero1":
        return Peak(idle, idle + work.batch + work.with_gradients + bucket, step)
    return Peak(idle, idle + reduced + own, step)


def _zero_3(engine: str, rank: Rank, sizes: Parameters, work: Activations) -> Peak:
    """Weights divided as well, those of some modules gathered at a time; the smallest stay whole beside their part."""
    own, group = rank.share(sizes.trained), rank.share(max(sizes.groups))
    whole, bucket = VALUE * sizes.small + sizes.buffer_bytes, VALUE * rank.buffers.reduce_bucket
    gathered = VALUE * min(sizes.all, rank.buffers.max_live_parameters)
    running = work.batch + gathered + work.beside_gradients
    if engine == "zero3_offload":
        idle, host = whole + bucket, rank.share(sizes.all) + 5 * own + rank.share(sizes.averaged)
        return Peak(idle, idle + running, idle + work.batch, host)
    idle = whole + rank.share(sizes.all) + 4 * own + rank.share(sizes.averaged) + bucket
    return Peak(idle, idle + running, idle + work.batch + group)
