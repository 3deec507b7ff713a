#!/usr/bin/env python3
"""What a config needs of GPUs before one is touched: memory by switch, what fits, the one command to run, hours, disk and network."""

import argparse
import logging
import math
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from rich.console import Console  # noqa: E402

from deepcoro.config import ConfigError, find_config  # noqa: E402
from deepcoro.planning.sheet import FILM_MB, Task, about, as_markdown, as_table, summary  # noqa: E402
from deepcoro.planning.table import Plan, command, faster  # noqa: E402
from deepcoro.planning.traffic import Machine  # noqa: E402
from deepcoro.run_config import load_run_config  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
examples:
  One workstation GPU; eight GPUs of a node; eight nodes of eight:
    python tools/plan_memory.py clip/base_config --gpus 1 --gpu_memory_gb 24
    python tools/plan_memory.py clip/multitask_config --gpus 8 --gpu_memory_gb 80 --films 200000
    python tools/plan_memory.py clip/multi_video_config --gpus 64 --nodes 8 --gpu_memory_gb 40
    python tools/plan_memory.py clip/multi_video_config --gpus 1,8,64 --gpu_memory_gb 24,40,80

  Keys of the config may follow, as for train.py; with the samples/s and GPU of a run of yours (speed/samples_per_s of metrics.jsonl
  over its GPUs) hours are those of your machine:
    python tools/plan_memory.py clip/base_config --gpus 8 --gpu_memory_gb 40 --samples_per_s 60 batch_size=64 data.fields.video.frames=32

what it does: runs one step of the real model with tensors that have sizes and no numbers, as on a GPU (half a minute a way of keeping
activations), adds weights, gradients and AdamW's states by the rules of each engine, and compares. No GPU, no shards, no weights are
needed. Texts are counted at their longest; --text_tokens says how long yours are.

exit codes: 0 done, 2 the config is at fault or nothing fits (one line says what to change), 1 a bug.
"""


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="plan_memory.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="a run config, as for train.py")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="keys of it that differ")
    parser.add_argument("--gpus", type=counts, required=True, help="GPUs in all; 1,8,64: a line for each")
    parser.add_argument(
        "--gpu_memory_gb",
        type=sizes,
        required=True,
        help="memory of each, GB of 10^9 bytes; 24,40,80: a line for each",
    )
    parser.add_argument("--nodes", type=int, help="machines they are in (default: eight GPUs to one)")
    parser.add_argument(
        "--films", type=int, default=100_000, help="films of the training split (default: 100000)"
    )
    parser.add_argument("--epochs", type=float, help="passes over them (default: the config's)")
    parser.add_argument(
        "--film_mb", type=float, default=FILM_MB, help=f"size of one in the shards (default: {FILM_MB})"
    )
    parser.add_argument(
        "--text_tokens", type=int, help="tokens of a report (default: the most that the config allows)"
    )
    parser.add_argument(
        "--samples_per_s", type=float, help="measured, of one GPU with this config, recomputing nothing"
    )
    parser.add_argument(
        "--tflops", type=float, help=f"reached by one GPU (default: {Machine.tflops:g}, of an H200 in bf16)"
    )
    parser.add_argument(
        "--launch_us",
        type=float,
        default=Machine.launch_us,
        help=f"microseconds that the host takes to issue a kernel (default: {Machine.launch_us:g})",
    )
    parser.add_argument(
        "--link_gb_per_s", type=float, default=Machine.link_gb_per_s, help="between GPUs of a node"
    )
    parser.add_argument("--node_gb_per_s", type=float, default=Machine.node_gb_per_s, help="between nodes")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_intermixed_args(words)


def counts(word: str) -> list[int]:
    found = word.split(",")
    if not all(each.isdecimal() and int(each) for each in found):
        raise argparse.ArgumentTypeError(f"whole numbers from 1 up, such as 8 or 1,8,64; got '{word}'")
    return [int(each) for each in found]


def sizes(word: str) -> list[float]:
    try:
        found = [float(each) for each in word.split(",")]
    except ValueError:
        found = []
    if not found or min(found) <= 0:
        raise argparse.ArgumentTypeError(f"GB without the unit, such as 24 or 24,40,80; got '{word}'")
    return found


def machine_of(options: argparse.Namespace, gpus: int) -> Machine:
    nodes = options.nodes or math.ceil(gpus / 8)
    if gpus < 1 or nodes < 1 or gpus % nodes:
        raise ConfigError(f"--gpus {gpus} on --nodes {nodes}: every node has the same number, at least one")
    return Machine(
        gpus=gpus,
        nodes=nodes,
        tflops=options.tflops or Machine.tflops,
        launch_us=options.launch_us,
        link_gb_per_s=options.link_gb_per_s,
        node_gb_per_s=options.node_gb_per_s,
    )


def plans_of(options: argparse.Namespace) -> list[Plan]:
    """One for each number of GPUs and size of memory; the model is measured once for all."""
    config = load_run_config(find_config(options.config), options.words)
    plans = [
        Plan(config, machine_of(options, gpus), memory_gb, text_tokens=options.text_tokens)
        for gpus in options.gpus
        for memory_gb in options.gpu_memory_gb
    ]
    for plan in plans[1:]:
        plan.measured_of = plans[0].measured_of
    if options.samples_per_s:
        for plan in plans:
            plan.machine = faster(plan.machine, plan.choices()[0], options.samples_per_s)
    return plans


def work(options: argparse.Namespace) -> None:
    plans = plans_of(options)
    plan, config = plans[0], plans[0].config
    task = Task(options.films, options.epochs or config.epochs, options.film_mb)
    if len(plans) > 1:
        print(summary(plans, task))
        return
    if options.markdown:
        print(as_markdown(plan))
    else:
        Console(width=None if sys.stdout.isatty() else 200).print(as_table(plan))
    best = plan.best()
    for line in about(plan, best, task):
        print(line)
    print(f"\n{command(best, plan, options.config, options.words)}")


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("deepcoro.towers").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
    return exit_code("plan_memory.py", lambda: work(options), options.debug)


if __name__ == "__main__":
    sys.exit(main())
