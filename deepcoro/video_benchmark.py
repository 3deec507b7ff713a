"""Training steps of this video encoder beside torchvision's: time in turns, memory in fresh processes, share of the peaks.

A contender is named by what it is: `torchvision` or `deepcoro`, and after a `+` what differs: `compiled` (torch.compile),
`selective`, `blocks` (checkpointing), `stream16` (tokens between blocks in bf16), `sparse75` (a quarter of the mask units encoded).
"""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from deepcoro.config import ConfigError
from deepcoro.kernels.grid import Grid, strided
from deepcoro.mvit import compilation
from deepcoro.mvit.shapes import VARIANTS, BlockShape
from deepcoro.mvit.twin import torchvision_mvit
from deepcoro.mvit.work import Work, clip_work
from deepcoro.towers.video_mvit import EncoderSettings, VideoMViT

VARIANT = "mvit_v2_s"
OURS, THEIRS = "deepcoro", "torchvision"
BASES = (THEIRS, OURS)
SETTINGS = {
    "compiled": {"compile": True},
    "selective": {"activation_checkpointing": "selective"},
    "blocks": {"activation_checkpointing": "blocks"},
    "stream16": {"residual": "bf16"},
}
SPARSE = {"sparse50": 0.5, "sparse75": 0.25, "sparse90": 0.1}
CONTENDERS = (
    THEIRS,
    f"{THEIRS}+compiled",
    OURS,
    *(f"{OURS}+{option}" for option in (*SETTINGS, *SPARSE)),
)
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
VALUE_BYTES = {"fp32": 4, "bf16": 2}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Task:
    """One training step: forward, backward; no optimiser."""

    batch: int
    frames: int
    size_px: int
    device: str
    attention: str = "auto"

    @property
    def grid(self) -> Grid:
        return strided((self.frames // 2, self.size_px, self.size_px), 4)

    def shapes(self) -> list[BlockShape]:
        return VARIANTS[VARIANT].block_shapes(self.grid)


@dataclass(frozen=True)
class Contender:
    """One row of the table."""

    base: str
    options: tuple[str, ...]

    @classmethod
    def named(cls, name: str) -> "Contender":
        base, *options = name.split("+")
        unknown = [each for each in options if each not in (*SETTINGS, *SPARSE)]
        if base not in BASES or unknown or (base == THEIRS and set(options) - {"compiled"}):
            raise ConfigError(
                f"contender is '{name}'; allowed: {', '.join(CONTENDERS)} and options joined by +"
            )
        return cls(base, tuple(options))

    @property
    def visible(self) -> float:
        """Fraction of the mask units that is encoded."""
        return next((SPARSE[option] for option in self.options if option in SPARSE), 1.0)

    def step(self, task: Task) -> "Step":
        """Model and batch, built."""
        torch.manual_seed(0)
        model = self._model(task).to(task.device).train()
        shape = (task.batch, 3, task.frames, task.size_px, task.size_px)
        video = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(task.device)
        return Step(model, video, self._units(task))

    def _model(self, task: Task) -> nn.Module:
        if self.base == THEIRS:
            model = make_torchvision_model(task.frames, task.size_px)
            if "compiled" in self.options:
                model.compile(backend=compilation.BACKEND)
            return model
        chosen = {key: value for option in self.options for key, value in SETTINGS.get(option, {}).items()}
        settings = EncoderSettings(drop_path_rate=0.0, head_dropout=0.0, attention=task.attention, **chosen)
        return VideoMViT.from_variant(
            VARIANT, 400, frames=task.frames, size_px=task.size_px, settings=settings
        )

    def _units(self, task: Task) -> Tensor | None:
        """Other units of each clip, the same number."""
        if self.visible == 1.0:
            return None
        frames, height, width = task.shapes()[-1].query_grid
        num_units = frames * height * width
        draws = torch.rand(task.batch, num_units, generator=torch.Generator().manual_seed(2))
        kept = draws.argsort(1)[:, : max(round(self.visible * num_units), 1)]
        return kept.sort(1).values.to(task.device)


@dataclass(frozen=True)
class Step:
    """A built contender, ready to be run."""

    model: nn.Module
    video: Tensor
    units: Tensor | None

    def run(self, precision: str, clock: Callable[[], float] = time.perf_counter) -> float:
        """One forward and backward; seconds."""
        self.model.zero_grad(set_to_none=True)
        self._wait()
        start = clock()
        chosen = {} if self.units is None else {"visible": self.units}
        with torch.autocast(self.video.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = self.model(self.video, **chosen).float().logsumexp(-1).mean()
        loss.backward()
        self._wait()
        return clock() - start

    def _wait(self) -> None:
        if self.video.is_cuda:
            torch.cuda.synchronize()


def make_torchvision_model(frames: int, size_px: int) -> nn.Module:
    """torchvision's `mvit_v2_s` for films of this size, without drop path."""
    shapes = VARIANTS[VARIANT].block_shapes((frames // 2, size_px // 4, size_px // 4))
    return torchvision_mvit(shapes, frames, size_px)


def time_in_turns(
    names: list[str], task: Task, precision: str, repeats: int, clock: str
) -> dict[str, list[float]]:
    """Seconds of each step after two that are not counted, the contenders taking turns, so that another load meets all alike."""
    steps = {name: Contender.named(name).step(task) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats + 2):
        for name, step in steps.items():
            elapsed = step.run(precision, CLOCKS[clock])
            step.model.zero_grad(set_to_none=True)
            if repeat > 1:
                seconds[name].append(elapsed)
    return seconds


def activation_mb(name: str, task: Task, precision: str) -> float:
    """Peak of the third step above this process with model and batch built, gradients of the weights included: of
    the resident set on CPU, of allocated memory on CUDA. Meant for a fresh process.
    """
    step = Contender.named(name).step(task)
    for _ in range(2):  # kernels are compiled and chosen in these
        step.run(precision)
    step.model.zero_grad(set_to_none=True)
    gc.collect()
    if task.device.startswith("cuda"):
        idle = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step.run(precision)
        return (torch.cuda.max_memory_allocated() - idle) / 1e6
    ctypes.CDLL(None).malloc_trim(0)  # what earlier steps freed goes back to the system
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from the present resident set
    idle = _status_mb("VmRSS")
    step.run(precision)
    return _status_mb("VmHWM") - idle


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(key + ":"))


@dataclass(frozen=True)
class DevicePeaks:
    """What the device does at best here."""

    tflops: float
    """Square matrix product in the precision of the step."""
    gb_per_s: float
    """Copy of a large tensor, bytes read and written."""


def measure_peaks(device: str, precision: str, clock: str) -> DevicePeaks:
    """The best of several; sizes fill the device."""
    on_cuda = device.startswith("cuda")
    size, num_bytes = (8192, 2**31) if on_cuda else (2048, 2**28)
    left = torch.randn(size, size, device=device).to(DTYPES[precision])
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product_s = _best_s(lambda: left @ left, on_cuda, clock)
    copy_s = _best_s(lambda: target.copy_(source), on_cuda, clock)
    return DevicePeaks(2 * size**3 / product_s / 1e12, 2 * num_bytes / copy_s / 1e9)


def _best_s(function: Callable[[], Tensor], on_cuda: bool, clock: str) -> float:
    function()
    seconds = []
    for _ in range(7):
        _ = torch.cuda.synchronize() if on_cuda else None
        start = CLOCKS[clock]()
        function()
        _ = torch.cuda.synchronize() if on_cuda else None
        seconds.append(CLOCKS[clock]() - start)
    return min(seconds)


HEADER = (
    "| precision | contender | s/step median (min) | clips/s | speed | activation MB | memory "
    "| TFLOP/s | of matmul peak | of copy bandwidth |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Result:
    """What one contender did."""

    name: str
    seconds: list[float]
    activation_mb: float

    def row(self, first: "Result", task: Task, precision: str, peaks: DevicePeaks) -> str:
        """A row of the table; `first` is what speed and memory are compared with."""
        median = statistics.median(self.seconds)
        forward = clip_work(task.shapes(), Contender.named(self.name).visible)
        work = Work(3 * task.batch * forward.flops, 3 * task.batch * forward.values)
        tflops = work.flops / median / 1e12
        bandwidth = work.values * VALUE_BYTES[precision] / median / 1e9 / peaks.gb_per_s
        cells = (
            precision,
            self.name,
            f"{median:.3f} ({min(self.seconds):.3f})",
            f"{task.batch / median:.3g}",
            f"{statistics.median(first.seconds) / median:.2f}x",
            f"{self.activation_mb:.0f}",
            f"{self.activation_mb / first.activation_mb:.2f}x",
            f"{tflops:.3g}",
            f"{tflops / peaks.tflops:.0%}",
            f"{bandwidth:.0%}",
        )
        return "| " + " | ".join(cells) + " |"
