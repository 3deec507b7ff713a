#!/usr/bin/env python3
"""Measures for how long a checkpoint stops training, written in the background and not, side by side."""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

import torch  # noqa: E402

from deepcoro.config import find_config  # noqa: E402
from deepcoro.engine import MOMENTS, Engine  # noqa: E402
from deepcoro.run_config import load_run_config  # noqa: E402
from deepcoro.saving import Saver  # noqa: E402

EXAMPLES = """\
examples:
  python tools/benchmark_saving.py --folder /runs --million_parameters 100
"""


class OnThisHost(Engine):
    """Weights and moments of one process without ZeRO, copied as the engine copies them."""

    def __init__(self, million_parameters: int) -> None:
        layers = [torch.nn.Linear(1000, 1000, bias=False) for _ in range(million_parameters)]
        self.model, self.zero_stage = torch.nn.Sequential(*layers), 0
        self.moments = [{key: torch.rand_like(layer.weight) for key in MOMENTS} for layer in layers]

    def full_moments(self) -> dict[str, torch.Tensor]:
        named = enumerate(self.moments)
        return {f"{number}/{key}": value.clone() for number, each in named for key, value in each.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: the temporary folder)")
    parser.add_argument("--million_parameters", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    engine = OnThisHost(options.million_parameters)
    seconds: dict[str, list[float]] = {"true": [], "false": []}
    until_whole: list[float] = []
    for _ in range(options.rounds):
        for background in seconds:
            with tempfile.TemporaryDirectory(dir=options.folder) as run_dir:
                pause, whole = _one_save(engine, run_dir, background)
            seconds[background].append(pause)
            until_whole += [whole] if background == "true" else []
    waiting, copying = (statistics.median(seconds[background]) for background in ("false", "true"))
    sys.stdout.write(
        f"checkpoint of {options.million_parameters * 12e-3:.2f} GB, median of {options.rounds}: the loop waits {waiting:.2f} s for the disk, "
        f"{copying:.2f} s for the copy in the background ({waiting / copying:.1f} times less); whole {statistics.median(until_whole):.2f} s later\n"
    )
    return 0


def _one_save(engine: Engine, run_dir: str, background: str) -> tuple[float, float]:
    """Seconds that `save` takes, and then until the checkpoint is whole."""
    words = [f"run_dir={run_dir}", "data.shards=none", f"checkpoint.in_background={background}"]
    with Saver(load_run_config(find_config("demo/tiny"), words)) as saver:
        began = time.perf_counter()
        saver.save(1, engine, {}, is_best=False)
        returned = time.perf_counter()
        saver.finish()
        return returned - began, time.perf_counter() - returned


if __name__ == "__main__":
    sys.exit(main())
