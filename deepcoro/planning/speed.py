"""How long a step takes, by counting: products that the graph makes, traffic that an engine causes, work that offloading moves to the host.

Two numbers are not known before a run: how many of a GPU's operations a second the training reaches, and what its links carry.
Defaults are named below with where they come from; relative speeds hardly depend on the first.
"""

from dataclasses import dataclass

from deepcoro.planning.activations import Activations, Parameters
from deepcoro.planning.states import VALUE, EngineName


@dataclass(frozen=True)
class Machine:
    """GPUs and their links."""

    gpus: int
    """In all."""
    nodes: int = 1
    tflops: float = 58.0
    """Reached, not the data sheet's: MViTv2-S in bf16 on one H200 before its kernels were tuned."""
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
class StepTime:
    """Seconds of one optimiser step."""

    compute: float
    hidden_traffic: float
    """Beside the computation, which hides it as long as it is shorter."""
    open_traffic: float
    """Before or after it."""
    host: float
    """AdamW on the CPU and what crosses to it and back."""

    @property
    def seconds(self) -> float:
        return max(self.compute, self.hidden_traffic) + self.open_traffic + self.host


def traffic_bytes(
    engine: EngineName, world_size: int, sizes: Parameters, micro_steps: int = 1
) -> tuple[float, float]:
    """Bytes that each GPU sends in a step: beside the computation, and after it. A ring of N sends (N - 1) / N of what it joins."""
    share = (world_size - 1) / world_size
    trained, everything = VALUE * sizes.trained, VALUE * sizes.all
    if engine == "ddp":
        return 2 * share * trained, 0.0
    if engine == "zero0":
        return 0.0, 2 * share * trained
    if engine.startswith("zero3"):
        return share * (2 * everything + trained) * micro_steps, 0.0
    if engine == "zero1":
        return share * trained, share * trained
    return share * trained * micro_steps, share * trained


def step_time(
    engine: EngineName,
    machine: Machine,
    sizes: Parameters,
    work: Activations,
    micro_steps: int = 1,
    repeats_towers: bool = True,
) -> StepTime:
    """Of `micro_steps` micro-steps that each take `work`. `repeats_towers`: several of them want the forward pass once more
    (`gradient_cache`), a third of the work without recomputation.
    """
    again = 4 / 3 if micro_steps > 1 and repeats_towers else 1.0
    compute = work.flops * micro_steps * again / (machine.tflops * 1e12)
    hidden, after = traffic_bytes(engine, machine.gpus, sizes, micro_steps)
    host = 0.0
    if engine.endswith("_offload"):
        own = VALUE * sizes.trained / machine.gpus
        crossing = own * (1 + micro_steps)
        if engine.startswith("zero3"):
            crossing += 2 * micro_steps * VALUE * sizes.all / machine.gpus
        # read and written: weight, gradient, two moments
        host = crossing / (machine.host_gb_per_s * 1e9) + 7 * own / (machine.host_memory_gb_per_s * 1e9)
    ring = machine.ring_gb_per_s * 1e9
    return StepTime(compute, hidden / ring, after / ring, host)
