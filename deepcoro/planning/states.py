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
EngineName = Literal["plain", "ddp", "zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"]
ENGINES: tuple[EngineName, ...] = (
    "plain",
    "ddp",
    "zero0",
    "zero1",
    "zero2",
    "zero2_offload",
    "zero3",
    "zero3_offload",
)
ALL_REDUCE_NUMBERS = 500_000_000
"""Of gradients that DeepSpeed joins to one tensor under ZeRO-0."""


@dataclass(frozen=True)
class Buffers:
    """Numbers (not bytes) of ds_configs/*.json that take memory."""

    reduce_bucket: int = 20_000_000
    prefetch_bucket: int = 20_000_000
    max_live_parameters: int = 100_000_000
    persistence_threshold: int = 10_000


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
    """In the memory of the host, where states are offloaded."""

    @property
    def bytes(self) -> int:
        return max(self.backward, self.step)


def peak_of(
    engine: EngineName, world_size: int, sizes: Parameters, work: Activations, buffers: Buffers = Buffers()
) -> Peak:
    """Of one rank of `world_size`, whose micro-steps take `work`."""
    if engine in ("plain", "ddp", "zero0"):
        return _undivided(engine, world_size, sizes, work)
    if engine.startswith("zero3"):
        return _zero_3(engine, world_size, sizes, work, buffers)
    return _zero_1_and_2(engine, world_size, sizes, work, buffers)


def _undivided(engine: str, world_size: int, sizes: Parameters, work: Activations) -> Peak:
    """Weights, gradients and both moments whole on every rank."""
    trained = VALUE * sizes.trained
    idle = VALUE * sizes.all + sizes.buffer_bytes + 2 * trained
    after_backward = work.batch + trained + VALUE * _stepped_at_once(sizes)
    if engine == "ddp" and world_size > 1:
        idle += trained  # the buckets in which gradients travel
    if engine == "zero0" and world_size > 1:
        joined = VALUE * min(sizes.trained, ALL_REDUCE_NUMBERS)
        after_backward = max(after_backward, work.batch + trained + joined)
    return Peak(idle, idle + work.batch + work.with_gradients, idle + after_backward)


def _stepped_at_once(sizes: Parameters) -> int:
    """What AdamW makes beside the moments while it steps a group: the root of the second one."""
    return max(sizes.groups)


def _zero_1_and_2(
    engine: str, world_size: int, sizes: Parameters, work: Activations, buffers: Buffers
) -> Peak:
    """Weights whole, their fp32 twins and moments divided; gradients too in stage 2."""
    own = -(-sizes.trained // world_size) * VALUE
    trained, bucket = VALUE * sizes.trained, VALUE * buffers.reduce_bucket
    weights = VALUE * sizes.all + sizes.buffer_bytes
    states, at_once = 3 * own, VALUE * -(-_stepped_at_once(sizes) // world_size)
    if engine == "zero2_offload":
        largest = VALUE * sizes.largest_tensor
        idle = weights + largest
        backward = idle + work.batch + work.beside_gradients + 2 * bucket
        return Peak(idle, backward, idle + work.batch + own, host=5 * own + at_once)
    idle = weights + states
    if engine == "zero1":
        backward = idle + work.batch + work.with_gradients + bucket
        return Peak(idle, backward, idle + work.batch + trained + own + at_once)
    backward = idle + work.batch + work.beside_gradients + 2 * bucket + own
    return Peak(idle, backward, idle + work.batch + 2 * own + at_once)


def _zero_3(engine: str, world_size: int, sizes: Parameters, work: Activations, buffers: Buffers) -> Peak:
    """Weights divided as well, those of a few modules at a time gathered; the smallest stay whole."""
    divided = sizes.all - sizes.small
    own = VALUE * -(-sizes.trained // world_size)
    weights = VALUE * (-(-divided // world_size) + sizes.small) + sizes.buffer_bytes
    gathered = VALUE * min(divided, buffers.max_live_parameters + buffers.prefetch_bucket)
    bucket = VALUE * buffers.reduce_bucket
    at_once = VALUE * -(-_stepped_at_once(sizes) // world_size)
    if engine == "zero3_offload":
        idle = weights + bucket
        backward = idle + work.batch + gathered + work.beside_gradients + bucket
        return Peak(idle, backward, idle + work.batch, host=4 * own + at_once)
    idle = weights + 4 * own + bucket
    backward = idle + work.batch + gathered + work.beside_gradients + bucket
    return Peak(idle, backward, idle + work.batch + at_once)
