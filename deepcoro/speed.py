"""How fast a run is and what it uses, read only when a line is logged."""

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from deepcoro import distributed

REACHED_TFLOPS = 148.0
"""Not the data sheet's: MViTv2-S over 32 films in bf16 on one H200, forward and backward in 83 ms (docs/benchmarks/2026-11-26-h200.md)."""
# Dense bf16 peak without sparsity, TFLOP/s, from the vendors' data sheets.
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "B200": 2250.0}


class Stopwatch:
    """Times between two readings: whole steps, the wait for data, samples a second of all ranks together."""

    def __init__(self, device: torch.device, flops_per_sample: float | None = None):
        """`flops_per_sample`: of forward and backward of one sample; with a known peak it gives the share of it in use."""
        self._device = device
        peak = peak_tflops(device)
        self._peak_samples_per_s = peak * 1e12 / flops_per_sample if peak and flops_per_sample else None
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._wait_s, self._steps, self._samples = 0.0, 0, 0

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._wait_s += time.perf_counter() - start

    def step_done(self, samples: int) -> None:
        self._steps += 1
        self._samples += samples

    def read(self) -> dict[str, float]:
        """Means since the last reading. The caller has just waited for the device, so the times are real."""
        elapsed = time.perf_counter() - self._since
        numbers = {
            "speed/step_s": elapsed / self._steps,
            "speed/data_wait_s": self._wait_s / self._steps,
            "speed/data_wait_share": self._wait_s / elapsed,
            "speed/samples_per_s": self._samples / elapsed,
            "memory/peak_gb": peak_memory_gb(self._device),
        }
        if self._peak_samples_per_s:
            numbers["speed/mfu"] = (
                numbers["speed/samples_per_s"] / distributed.world_size() / self._peak_samples_per_s
            )
        self._reset()
        return numbers


class DeviceHours:
    """GPU-hours that a run has held, over all its starts; on a CPU hours of its processes, under a name that says so.

    Counted from the moment it is made: start-up, evaluation and saving hold the devices too. Of a start that was killed counts what
    its last line of metrics.jsonl says.
    """

    def __init__(self, device: torch.device, history: Path) -> None:
        """`history`: metrics.jsonl as earlier starts left it, before it is cut back."""
        self._key = "speed/gpu_hours" if device.type == "cuda" else "speed/cpu_process_hours"
        self._since = time.perf_counter()
        self._before = _last_of(self._key, history)

    def read(self) -> dict[str, float]:
        held_s = (time.perf_counter() - self._since) * distributed.world_size()
        return {self._key: self._before + held_s / 3600}


def _last_of(key: str, history: Path) -> float:
    """Of the last whole line that has it; 0 where none does."""
    for line in reversed(history.read_text().splitlines()) if history.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):  # cut off by a crash
            numbers = json.loads(line)
            if key in numbers:
                return numbers[key]
    return 0.0


@torch.no_grad()
def training_flops_per_clip(tower: nn.Module, frames: int, size_px: int) -> float:
    """FLOPs of forward and backward of one clip in the video tower: three times a counted forward, recomputation not counted.

    The towers of text and the heads are left out: beside the films they are small.
    """
    device = next(tower.parameters()).device
    clip = torch.zeros(1, 3, frames, size_px, size_px, device=device)
    with FlopCounterMode(display=False) as counter:
        tower.features(clip, torch.ones(1, 1, dtype=torch.bool, device=device), None)
    return 3.0 * counter.get_total_flops()


def peak_memory_gb(device: torch.device) -> float:
    """Most memory this rank has held: the allocator's on a GPU, the resident set on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def peak_tflops(device: torch.device) -> float | None:
    """The device's matmul peak in TFLOP/s; None where it is not known (every CPU)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_TFLOPS.items() if key in name), None)
