#!/usr/bin/env python3
"""What a config costs on 1 to 256 GPUs, on paper: traffic and time of a step by engine, hours, reading, checkpoints, and a drawing."""

import argparse
import logging
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro.config import find_config  # noqa: E402
from deepcoro.planning import curve as curves  # noqa: E402
from deepcoro.planning.sheet import Task  # noqa: E402
from deepcoro.planning.table import Plan  # noqa: E402
from deepcoro.planning.traffic import Machine  # noqa: E402
from deepcoro.run_config import RunConfig, load_run_config  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
examples:
    python tools/plan_scaling.py clip/multitask_config --films 200000 --svg docs/images/scaling.svg
    python tools/plan_scaling.py clip/base_config --films 50000 --epochs 10 --link_gb_per_s 12 --node_gb_per_s 3 batch_size=16

what it does: counts one step of the real model as tools/plan_memory.py does, with nothing made again in backward, and prints Markdown. No GPU,
no shards and no weights are needed. Delays of single calls, stragglers and the disk of the shards are not counted: times are the least there can be.

exit codes: 0 done, 2 the config is at fault, 1 a bug.
"""


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="plan_scaling.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="a run config, as for train.py")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="keys of it that differ")
    parser.add_argument("--films", type=int, default=200_000, help="of the training split (default: 200000)")
    parser.add_argument("--epochs", type=float, help="passes over them (default: the config's)")
    parser.add_argument("--svg", type=Path, help="also draw it into this file")
    rates = {
        "tflops": (Machine.tflops, "reached by one GPU, TFLOP/s"),
        "launch_us": (Machine.launch_us, "that the host takes to issue a kernel"),
        "link_gb_per_s": (Machine.link_gb_per_s, "between GPUs of a node"),
        "node_gb_per_s": (Machine.node_gb_per_s, "between nodes"),
        "disk_gb_per_s": (curves.DISK_GB_PER_S, "of a checkpoint"),
    }
    for name, (default, meaning) in rates.items():
        parser.add_argument(
            f"--{name}", type=float, default=default, help=f"{meaning} (default: {default:g})"
        )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_intermixed_args(words)


def curve_of(config: RunConfig, options: argparse.Namespace) -> curves.Curve:
    machine = Machine(
        1,
        tflops=options.tflops,
        launch_us=options.launch_us,
        link_gb_per_s=options.link_gb_per_s,
        node_gb_per_s=options.node_gb_per_s,
    )
    sizes, work = Plan(config, machine, float("inf")).work("none", config.batch_size)
    films = config.batch_size * (config.data.num_videos if config.data.multi_video else 1)
    return curves.Curve(machine, sizes, work, films)


def work(options: argparse.Namespace) -> None:
    config = load_run_config(find_config(options.config), options.words)
    curve = curve_of(config, options)
    task = Task(options.films, options.epochs or config.epochs)
    widths = (each.embed_dim for each in config.objectives.values() if each.type == "contrastive")
    tables = {
        "GB that a GPU sends in a step · ms on links": curves.traffic_table(curve),
        "ms of a step · % of one GPU's films/s": curves.efficiency_table(curve),
        "GB between steps · films of a micro-step below which traffic shows": curves.switch_table(curve),
        f"{task.films} films x {task.epochs:g} epochs under DDP": curves.run_table(
            curve, task, next(widths, None)
        ),
    }
    for title, table in tables.items():
        print(f"{title}, by number of GPUs\n\n{table}\n")
    print(curves.checkpoint_line(curve, options.disk_gb_per_s))
    if options.svg:
        options.svg.write_text(curves.drawing(curve) + "\n", encoding="utf-8")


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("deepcoro.towers").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
    return exit_code("plan_scaling.py", lambda: work(options), options.debug)


if __name__ == "__main__":
    sys.exit(main())
