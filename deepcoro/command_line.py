"""What `train.py` does with its words: read the config, start the verb, turn what went wrong into one line and an exit code."""

import argparse
import importlib
import logging
import os
import sys
import time
from pathlib import Path

from deepcoro import __version__, config, distributed
from deepcoro.config import ConfigError, DataError, pointer
from deepcoro.data.watch import WorkerFault, worker_fault
from deepcoro.exit_record import EXIT_BAD_INPUT, EXIT_FAILED, another_rank_told, tell_launcher, write_exit
from deepcoro.preemption import end_with_launcher
from deepcoro.run_config import RunConfig, load_run_config

FOLDERS = ("objectives", "towers", "poolers", "losses", "fields", "metrics")


class MemoryFull(ConfigError):
    """The run does not fit into this rank's GPU. Only this rank knows, so it speaks for itself."""

    topic = "out-of-memory"


class LostRank(RuntimeError):
    """Another rank ended under way. This one cannot go on; the same command can, so the exit code is one after which it is given again."""


OF_ONE_RANK = (WorkerFault, MemoryFull)
VERBS = {"train": "train", "val": "evaluate", "test": "evaluate", "inference": "predict"}

HELP = """\
CONFIG is a YAML file or the name of a shipped one; key=value pairs are laid over it, values are read as YAML.

  accelerate launch --config_file accelerate_configs/cpu_1.yaml train.py demo/tiny data.shards=shards/tiny
  accelerate launch --config_file accelerate_configs/multi_gpu_zero2.yaml train.py clip/base_config \\
      data.shards=/data/shards run_dir=runs/first optim.lr=3e-4
  ... train.py clip/base_config data.shards=/data/shards run_dir=runs/first run_mode=test checkpoint=best
  python train.py clip/base_config --show          every key, its value and what it means
  python train.py --list objectives                what a folder offers

Exit codes: 0 done, 1 a bug or another rank was lost, 2 bad config or data, 75 preempted after saving, 76 stalled (run_dir/stalls/ tells where); also in
run_dir/exit.json, since accelerate turns every failure into 1.
"""


def main(words: list[str]) -> int:
    """The exit code of this rank."""
    options = _parser().parse_args(words)
    _start_logging()
    try:
        if options.list:
            sys.stdout.write(_choices(options.list))
            return 0
        run_config = load_run_config(_required_config(options.config), options.overrides)
        if options.show:
            sys.stdout.write(config.show(run_config) + "\n")
            return 0
        end_with_launcher()
        return _run(run_config)
    except (ConfigError, DataError) as error:
        if options.debug:
            raise
        line = f"{type(error).__name__}: {error.told}"
        tell_launcher(line)
        if _is_main() or isinstance(error, OF_ONE_RANK):
            sys.stderr.write(line + "\n")
        return EXIT_BAD_INPUT
    except LostRank as error:
        if options.debug:
            raise
        sys.stderr.write(f"{error} {pointer('lost-rank')}\n")
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Trains, evaluates and applies video-language models of angiography and echo.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG", help="YAML file, or a shipped name such as clip/base_config"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="laid over the config, e.g. optim.lr=3e-4"
    )
    parser.add_argument(
        "--show", action="store_true", help="print the resolved config, each key under its sentence"
    )
    parser.add_argument("--list", choices=FOLDERS, help="print what a folder offers and its keys")
    parser.add_argument("--debug", action="store_true", help="show the traceback of bad config or data")
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def _required_config(name: str | None) -> Path:
    if name is None:
        raise ConfigError(f"name a config: a YAML file, or one of {config.shipped_names()}")
    return config.find_config(name)


def _choices(folder: str) -> str:
    package = importlib.import_module(f"deepcoro.{folder}")
    blocks = [
        module.Config
        for module in vars(package).values()
        if hasattr(module, "Config") and hasattr(module, "__file__")
    ]
    texts = [
        f"# {' '.join((block.__doc__ or '').split())}\n{config.show(_defaults(block))}\n" for block in blocks
    ]
    return "\n".join(texts)


def _defaults(block: type[config.Block]) -> config.Block:
    """The block as it is without a word from the user; keys that have no default say so."""
    required = [name for name, field in block.model_fields.items() if field.is_required()]
    return block.model_construct(**dict.fromkeys(required, "REQUIRED"))


def _run(run_config: RunConfig) -> int:
    """Runs the verb and leaves its exit code in the run folder."""
    code, reason, is_mine, began = EXIT_FAILED, "a bug: see the traceback in the log", _is_main(), time.time()
    is_lost = False
    try:
        code, reason = _call_verb(run_config), ""
    except (ConfigError, DataError) as error:
        code, reason = EXIT_BAD_INPUT, str(error)
        is_mine |= isinstance(error, OF_ONE_RANK)
        raise
    except LostRank as error:
        reason, is_lost = str(error), True
        raise
    finally:
        is_echo = code == EXIT_FAILED and another_rank_told(run_config.run_dir, began, also_of_a_bug=is_lost)
        if (is_mine or code == EXIT_FAILED) and not is_echo:
            write_exit(run_config.run_dir, code, reason)
    return code


def _call_verb(run_config: RunConfig) -> int:
    verb = importlib.import_module(f"deepcoro.{VERBS[run_config.run_mode]}")
    try:
        with distributed.own_group():
            return verb.run(run_config)
    except RuntimeError as error:  # torch tells of a dead worker wherever the rank happens to be
        fault = worker_fault(error) or _memory_fault(error) or _lost_rank(error)
        if fault is None:
            raise
        raise fault from error


def _memory_fault(error: RuntimeError) -> MemoryFull | None:
    import torch

    if not isinstance(error, torch.OutOfMemoryError):
        return None
    asked = " ".join(str(error).split()).partition(" GPU ")[0]
    return MemoryFull(
        f"rank {os.environ.get('RANK', '0')}: {asked} `python tools/plan_memory.py CONFIG` says which batch_size, clips_per_chunk, "
        "recomputation and ZeRO stage fit; --debug shows where it happened"
    )


def _lost_rank(error: RuntimeError) -> LostRank | None:
    if not distributed.tells_of_a_lost_rank(error):
        return None
    return LostRank(
        f"rank {os.environ.get('RANK', '0')}: another rank was lost (killed, out of memory, its machine gone, or an error of its own, which "
        "the log then shows); this one stops too. The same command goes on from the last checkpoint"
    )


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _start_logging() -> None:
    """Rank 0 speaks; the others only warn."""
    level = logging.INFO if _is_main() else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(name)s %(levelname)s: %(message)s", force=True)
    for noisy in ("DeepSpeed", "accelerate", "httpx", "matplotlib", "torch"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
