"""What the ranks of a run exchange in an optimiser step, by engine and kind of collective, and how long links take for it.

Counted in runs of two and four processes (`tests/planning/test_traffic.py`), so as DeepSpeed 0.19.8 and torch's DDP do it: ZeRO-1 and -2
sum whole gradients on every rank, half as much again as the 2N of Rajbhandari et al. 2020 (arXiv:1910.02054), who scatter sums. hpZ and
ZeRO++ follow Wang et al. 2023 (arXiv:2306.10209) and have not been run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from deepcoro.planning.activations import Parameters
from deepcoro.planning.states import VALUE, Buffers, EngineName
from deepcoro.speed import REACHED_TFLOPS

Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]
Exchanging = EngineName | Literal["zero3_hpz", "zero3_plus_plus"]
PASSES: dict[Kind, int] = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "all_to_all": 1}
"""How often a ring of N ranks sends (N - 1) / N of the whole."""
WEIGHT_IN_8_BITS, GRADIENT_IN_4_BITS = 1.0, 0.5
"""Bytes of a number under ZeRO++, scales not counted."""


@dataclass(frozen=True)
class Machine:
    """GPUs and their links."""

    gpus: int
    """In all."""
    nodes: int = 1
    tflops: float = REACHED_TFLOPS
    """Of one GPU in a step."""
    launch_us: float = 50.0
    """What the host takes to issue a kernel and to run the Python around it: 41 to 66 over nine ways on the machine of one H200
    (docs/benchmarks/2026-11-26-h200-2.md)."""
    link_gb_per_s: float = 100.0
    """Between GPUs of a node, bus bandwidth of a ring. Assumed: NVLink; PCIe has about 12."""
    node_gb_per_s: float = 25.0
    """Between nodes. Assumed: one card of 200 Gbit/s."""
    host_gb_per_s: float = 12.0
    """Between a GPU and its host. Assumed."""
    host_memory_gb_per_s: float = 10.0
    """What AdamW on the CPU moves for one GPU. Assumed."""

    @property
    def ring_gb_per_s(self) -> float:
        """A ring is as slow as its slowest link."""
        return self.link_gb_per_s if self.nodes == 1 else min(self.link_gb_per_s, self.node_gb_per_s)


@dataclass(frozen=True)
class Exchange:
    """One kind of collective in an optimiser step."""

    kind: Kind
    whole: float
    """Bytes of what every rank has afterwards, or had before a scatter."""
    is_hidden: bool = True
    """Whether it runs beside the computation."""
    in_node: bool = False
    """Whether it stays among the GPUs of a node."""

    def sent_bytes(self, world_size: int) -> float:
        """What each of so many ranks sends."""
        return PASSES[self.kind] * (world_size - 1) / world_size * self.whole

    def seconds(self, machine: Machine) -> float:
        if self.in_node:
            return self.sent_bytes(machine.gpus // machine.nodes) / (machine.link_gb_per_s * 1e9)
        return self.sent_bytes(machine.gpus) / (machine.ring_gb_per_s * 1e9)


def exchanges(
    engine: Exchanging, sizes: Parameters, micro_steps: int = 1, buffers: Buffers | None = None
) -> list[Exchange]:
    """Of one optimiser step of `micro_steps`."""
    gradients = float(VALUE * sizes.trained)
    if engine == "ddp":
        return [Exchange("all_reduce", gradients)]
    if engine == "zero0":
        return [Exchange("all_reduce", gradients, is_hidden=False)]
    if engine == "zero1":  # gradients are summed when the last micro-step has ended
        return [Exchange(kind, gradients, is_hidden=False) for kind in ("all_reduce", "all_gather")]
    if not engine.startswith("zero3"):
        return [
            Exchange("all_reduce", gradients * micro_steps),
            Exchange("all_gather", gradients, is_hidden=False),
        ]
    return _of_zero_3(engine, sizes, micro_steps, buffers or Buffers())


def _of_zero_3(engine: Exchanging, sizes: Parameters, micro_steps: int, buffers: Buffers) -> list[Exchange]:
    """Weights are gathered in forward, and in backward where gradients pass; what comes again within
    `stage3_max_reuse_distance` stays, which is as far before the turn as behind it.
    """
    quantised = engine == "zero3_plus_plus"
    weight = WEIGHT_IN_8_BITS if quantised else float(VALUE)
    divided = sizes.all - sizes.small
    again = max(0, min(divided, sizes.trained) - buffers.max_reuse_distance // 2)
    summed: list[Exchange] = [Exchange("reduce_scatter", float(VALUE * sizes.trained * micro_steps))]
    if quantised:  # within the node first, then what is left between nodes
        crossing = GRADIENT_IN_4_BITS * sizes.trained * micro_steps
        summed = [Exchange("all_to_all", crossing, in_node=True), Exchange("all_to_all", crossing)]
    return [
        Exchange("all_gather", weight * divided * micro_steps),
        Exchange(
            "all_gather", weight * again * micro_steps, in_node=engine in ("zero3_hpz", "zero3_plus_plus")
        ),
        *summed,
        Exchange("all_gather", float(VALUE * sizes.small), is_hidden=False),
    ]


def traffic_bytes(
    engine: Exchanging, world_size: int, sizes: Parameters, micro_steps: int = 1
) -> tuple[float, float]:
    """Bytes that each GPU sends in a step: beside the computation, and before or after it."""
    return _hidden_and_open(exchanges(engine, sizes, micro_steps), lambda each: each.sent_bytes(world_size))


def traffic_seconds(
    engine: Exchanging, machine: Machine, sizes: Parameters, micro_steps: int = 1
) -> tuple[float, float]:
    """Seconds on links at the machine's rates, likewise. A call's own delay is not counted."""
    return _hidden_and_open(exchanges(engine, sizes, micro_steps), lambda each: each.seconds(machine))


def _hidden_and_open(found: list[Exchange], amount: Callable[[Exchange], float]) -> tuple[float, float]:
    """Sums over those beside the computation, and over the others."""
    of_kind = {True: 0.0, False: 0.0}
    for each in found:
        of_kind[each.is_hidden] += amount(each)
    return of_kind[True], of_kind[False]


def contrastive_exchanges(
    form: Literal["dense", "gather"], rows: int, width: int, world_size: int, value_bytes: int = VALUE
) -> list[Exchange]:
    """Of a contrastive loss of `rows` embeddings a rank and side, beside the engine's and open: `dense` brings films and texts of all ranks
    to each, and sums their gradients in fp32; `gather` (`deepcoro.kernels.tiled_contrastive`) only texts, and scatters the sums.
    """
    side = float(rows * world_size * width)
    if form == "dense":
        return [
            Exchange("all_gather", 2 * value_bytes * side, is_hidden=False),
            Exchange("all_reduce", 2 * VALUE * side, is_hidden=False),
        ]
    return [
        Exchange("all_gather", value_bytes * side, is_hidden=False),
        Exchange("reduce_scatter", VALUE * side, is_hidden=False),
    ]


def ring_bytes(rows: int, width: int, world_size: int, visits: int, value_bytes: int = VALUE) -> int:
    """What each rank sends where texts go round (`deepcoro.kernels.text_blocks`): in each of `visits` (2 of the softmax loss, 1 of the
    sigmoid one) a block to every other rank, and once its gradient, fp32, all the way home.
    """
    if world_size == 1:
        return 0
    return rows * width * (visits * (world_size - 1) * value_bytes + world_size * VALUE)
