"""How long a step takes, by counting: products that the graph makes, traffic that an engine causes, work that offloading moves to the host.

Three numbers are not known before a run: how many of a GPU's operations a second the training reaches, how fast its host issues kernels, and
what its links carry. Defaults are named in `Machine` with where they come from.
"""

from dataclasses import dataclass

from deepcoro.planning.activations import Activations, Parameters
from deepcoro.planning.states import VALUE
from deepcoro.planning.traffic import Exchanging, Machine, traffic_seconds


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimiser step."""

    compute: float
    """Of the GPU, or of the host that issues its kernels where that takes longer."""
    hidden_traffic: float
    """Beside the computation, which hides it as long as it is shorter."""
    open_traffic: float
    """Before or after it."""
    host: float
    """AdamW on the CPU and what crosses to it and back."""

    @property
    def seconds(self) -> float:
        return max(self.compute, self.hidden_traffic) + self.open_traffic + self.host


def gpu_seconds(machine: Machine, work: Activations) -> float:
    """What the products of a micro-step take."""
    return work.flops / (machine.tflops * 1e12)


def issue_seconds(machine: Machine, work: Activations) -> float:
    """What the host takes to issue the kernels of a micro-step."""
    return work.launches * machine.launch_us / 1e6


def step_time(
    engine: Exchanging,
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
    slowest = max(gpu_seconds(machine, work), issue_seconds(machine, work))
    compute = slowest * micro_steps * again
    hidden, after = traffic_seconds(engine, machine, sizes, micro_steps)
    host = 0.0
    if engine.endswith("_offload"):
        own = VALUE * sizes.trained / machine.gpus
        crossing = own * (1 + micro_steps)
        if engine.startswith("zero3"):
            crossing += 2 * micro_steps * VALUE * sizes.all / machine.gpus
        # read and written: weight, gradient, two moments
        host = crossing / (machine.host_gb_per_s * 1e9) + 7 * own / (machine.host_memory_gb_per_s * 1e9)
    return StepTime(compute, hidden, after, host)
