"""One optimiser step cut into more or fewer micro-batches: peak of live tensor bytes and time, with and without the gradient cache.

    OMP_NUM_THREADS=1 python tools/benchmark_gradient_cache.py demo/tiny data.shards=shards/tiny --rows 32 --accumulation 4 --repeats 3

Trains the model of the config on the shards' own films with the real loop's step, one process. The cuts take turns, so that another
load on the machine meets all alike; bytes are counted on an untimed turn and are the same on any machine (weights, moments and
the batch are not among them, gradients are). Prints one Markdown table.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from deepcoro.build import build_model, build_parts
from deepcoro.config import find_config
from deepcoro.data.order import Shuffled
from deepcoro.data.plan import Plan
from deepcoro.data.stream import TrainingStream
from deepcoro.engine import Engine, start_accelerator
from deepcoro.live_bytes import LiveBytes
from deepcoro.model import Batch
from deepcoro.optim import build_optimizer
from deepcoro.run_config import RunConfig, load_run_config
from deepcoro.step import train_step


class Cut:
    """A way to take the step: `accumulation` micro-batches, perhaps the video tower in chunks."""

    def __init__(self, config: RunConfig, rows: int, accumulation: int, cache: bool, chunk: int | None):
        micro = {"batch_size": rows // accumulation, "gradient_accumulation_steps": accumulation}
        self.config = config.model_copy(update=micro | {"gradient_cache": cache, "clips_per_chunk": chunk})
        ways = [f"{accumulation} x {rows // accumulation}"]
        if accumulation > 1:
            ways.append("gradient cache" if cache else "own negatives")
        if chunk:
            ways.append(f"clips_per_chunk={chunk}")
        self.name = ", ".join(ways)


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="name or path of a run config")
    parser.add_argument("overrides", nargs="*", help="key=value, data.shards among them")
    parser.add_argument("--rows", type=int, default=32, help="of the optimiser step")
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument(
        "--repeats", type=int, default=3, help="timed turns, after the counted one; 0 counts only"
    )
    return parser.parse_intermixed_args(words)


def first_window(config: RunConfig, parts: object) -> list[Batch]:
    units = parts.shards.units("train", config.data.multi_video, config.data.num_videos)
    plan = Plan(Shuffled(units.shard, config.seed), config.batch_size, config.gradient_accumulation_steps)
    batches = iter(TrainingStream(parts.shards, units, parts.fields, plan))
    return [next(batches) for _ in range(config.gradient_accumulation_steps)]


def take(engine: Engine, cut: Cut, window: list[Batch]) -> None:
    """One step of `engine` as the cut has it; accelerate is told of the other number of micro-steps."""
    engine.config, engine.model.clips_per_chunk = cut.config, cut.config.clips_per_chunk
    engine.accelerator.gradient_accumulation_steps, engine.accelerator.step = len(window), 0
    lr = {group["name"]: 0.0 for group in engine.optimizer.param_groups}
    train_step(engine, window, 0, lr, dict.fromkeys(cut.config.objectives, 1.0))


def main(words: list[str] | None = None) -> None:
    options = parse_arguments(words)
    with tempfile.TemporaryDirectory() as folder:
        overrides = [*options.overrides, f"run_dir={folder}", "data.num_workers=0"]
        measure(load_run_config(find_config(options.config), overrides), options)


def measure(config: RunConfig, options: argparse.Namespace) -> None:
    parts = build_parts(config, make_tokenizer=True)
    rows, pieces = options.rows, options.accumulation
    ways = ((1, True, None), (1, True, rows // pieces), (pieces, True, None), (pieces, False, None))
    cuts = [Cut(config, rows, *way) for way in ways]
    windows = [first_window(cut.config, parts) for cut in cuts]
    model = build_model(config, parts)
    engine = Engine(start_accelerator(config), model, build_optimizer(model, config.optim), config)
    peaks, seconds = [], [[] for _ in cuts]
    for cut, window in zip(cuts, windows, strict=True):
        with LiveBytes() as live:
            take(engine, cut, window)
        peaks.append(live.peak)
    for _ in range(options.repeats):
        for cut, window, times in zip(cuts, windows, seconds, strict=True):
            start = time.process_time()
            take(engine, cut, window)
            times.append(time.process_time() - start)
    print_table(cuts, peaks, [statistics.median(times) if times else float("nan") for times in seconds])


def print_table(cuts: list[Cut], peaks: list[int], seconds: list[float]) -> None:
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; CPU seconds of the process\n"
    )
    print("| micro-batches x rows | peak MB | x first | CPU s | x first |\n|---|---|---|---|---|")
    for cut, peak, time_s in zip(cuts, peaks, seconds, strict=True):
        ratios = f"{peak / 1e6:.1f} | {peak / peaks[0]:.3f} | {time_s:.2f} | {time_s / seconds[0]:.2f}"
        print(f"| {cut.name} | {ratios} |")


if __name__ == "__main__":
    main()
