"""What the whole training loop costs beside a bare PyTorch loop: the same model, the same batches, one process, turn by turn.

    OMP_NUM_THREADS=1 python tools/benchmark_loop.py demo/tiny data.shards=shards/tiny --blocks 12 --steps 8

Blocks of steps of the loop that `train.py` runs (plan, seeding, counts over ranks, schedules, log lines, progress bar, preemption
flag) and of a loop written by hand (forward, backward, clipping, AdamW, loss read as often as the other logs) take turns, so that
another load on the machine meets both alike. Batches are read before and lie in memory: the loader's time is in neither, evaluation
and checkpoints are left out. Prints one Markdown table: seconds a step of both, and the ratio of each pair of blocks.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from deepcoro import train
from deepcoro.build import build_model
from deepcoro.config import ConfigError, find_config
from deepcoro.engine import start_accelerator
from deepcoro.model import Batch, to_device
from deepcoro.optim import build_optimizer, lr_of_groups
from deepcoro.preemption import Preemption
from deepcoro.profiling import Profiling
from deepcoro.run_config import RunConfig, load_run_config
from deepcoro.saving import Saver
from deepcoro.speed import DeviceHours
from deepcoro.tracking import Tracker
from deepcoro.watchdog import Watchdog

NUM_BATCHES = 4


@dataclass
class Times:
    """Seconds of each block: of the clock, and of the process's cores."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def begin(self, device: torch.device) -> None:
        self._start = _now(device)

    def end(self, device: torch.device) -> None:
        for times, start, now in zip((self.wall_s, self.cpu_s), self._start, _now(device), strict=True):
            times.append(now - start)


def _now(device: torch.device) -> tuple[float, float]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


class BareLoop:
    """Forward, backward, clipping, AdamW; autocast and losses are the model's own."""

    def __init__(self, config: RunConfig, model: nn.Module, device: torch.device, max_steps: int) -> None:
        self.losses: list[float] = []
        self._config, self._device, self._max_steps = config, device, max_steps
        self._model = model.to(device).train()
        self._optimizer = build_optimizer(model, config.optim, config.own_lr, {}, config.own_groups)
        self._step = 0

    def step(self, batch: Batch) -> None:
        config, groups = self._config, self._optimizer.param_groups
        rates = lr_of_groups(self._step, self._max_steps, config.optim, groups)
        for group in groups:
            group["lr"] = rates[group["name"]]
        targets = {name: each.count(batch) for name, each in self._model.objectives.items()}
        batch = to_device(batch, self._device)
        results = self._model(batch, task="losses")
        loss = sum(
            config.loss_weights.get(name, 1.0)
            * (each["sum"] / targets[name].to(self._device).clamp(min=1)).sum()
            for name, each in results.items()
        )
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), config.optim.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._step += 1
        if self._step % config.tracking.log_every_steps == 0:
            self.losses.append(loss.item())


class Alternating:
    """Stands in for the stream of the run: hands out batches of a list, and between blocks lets the bare loop take its turn.

    The first block of each is not timed. Ours ends when the loop asks for the batch after it.
    """

    def __init__(
        self, stream: Any, batches: list[Batch], bare: BareLoop, options: argparse.Namespace
    ) -> None:
        self.ours, self.bares = Times(), Times()
        self._stream, self._batches, self._bare = stream, batches, bare
        self._blocks, self._steps = options.blocks, options.steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[Batch]:
        device, ours, bares = (
            self._bare._device,
            itertools.cycle(self._batches),
            itertools.cycle(self._batches),
        )
        for _ in range(self._blocks + 1):
            self.ours.begin(device)
            yield from itertools.islice(ours, self._steps)
            self.ours.end(device)
            self.bares.begin(device)
            for batch in itertools.islice(bares, self._steps):
                self._bare.step(batch)
            self.bares.end(device)
        yield from ours  # the step with which the run ends


def measure(config: RunConfig, options: argparse.Namespace) -> tuple[Alternating, list[float], list[float]]:
    """The times, and the losses that both loops logged."""
    if config.gradient_accumulation_steps > 1 or config.schedules or config.freeze:
        raise ConfigError(
            "the bare loop knows no gradient_accumulation_steps, schedules or freeze: leave them out"
        )
    accelerator = start_accelerator(config)
    training = train._prepare(config, accelerator)
    batches = list(itertools.islice(iter(training.stream), NUM_BATCHES))
    model = build_model(config, training.parts)
    model.load_state_dict(training.engine.model.state_dict())
    bare = BareLoop(config, model, accelerator.device, config.max_steps)
    training.stream = alternating = Alternating(training.stream, batches, bare, options)
    tracker = Tracker(config, True, 0, config.max_steps)
    hours = DeviceHours(accelerator.device, tracker.path)
    profiling = Profiling(config.profile, config.run_dir, config.max_steps)
    watchdog = Watchdog(config.run_dir, config.stall_timeout_s, 0)
    with Preemption() as preemption, watchdog, Saver(config) as saver:
        train._loop(training, tracker, preemption, watchdog, saver, hours, profiling)
    tracker.close()
    return alternating, _logged(tracker.path, config), bare.losses


def _logged(path: Path, config: RunConfig) -> list[float]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["train/loss"] for line in lines if line["step"] % config.tracking.log_every_steps == 0]


def print_table(times: Alternating, steps: int) -> None:
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; {steps} steps a block\n"
    )
    print(
        "| seconds of | ours, a step | bare, a step | ratio, median of blocks | quartiles |\n|---|---|---|---|---|"
    )
    for name, ours, bares in (
        ("the clock", times.ours.wall_s, times.bares.wall_s),
        ("the process", times.ours.cpu_s, times.bares.cpu_s),
    ):
        ratios = [mine / bare for mine, bare in zip(ours[1:], bares[1:], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        seconds = " | ".join(f"{statistics.median(each[1:]) / steps:.4f}" for each in (ours, bares))
        print(f"| {name} | {seconds} | {middle:.3f} | {low:.3f} to {high:.3f} |")


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="name or path of a run config")
    parser.add_argument("overrides", nargs="*", help="key=value, data.shards among them")
    parser.add_argument("--blocks", type=int, default=12, help="timed blocks of each loop, 2 or more")
    parser.add_argument("--steps", type=int, default=8, help="optimiser steps of a block")
    return parser.parse_intermixed_args(words)


def main(words: list[str] | None = None) -> tuple[list[float], list[float]]:
    """Prints the table; returns the losses of both loops."""
    options = parse_arguments(words)
    with tempfile.TemporaryDirectory() as folder:
        steps = (options.blocks + 1) * options.steps + 1
        fixed = [f"run_dir={folder}", f"max_steps={steps}", f"checkpoint.every_steps={steps}"]
        config = load_run_config(find_config(options.config), [*options.overrides, *fixed])
        silent = config.evaluate.model_copy(update={"metrics": {}, "every_steps": None})
        times, ours, bares = measure(config.model_copy(update={"evaluate": silent}), options)
    print_table(times, options.steps)
    return ours, bares


if __name__ == "__main__":
    main()
