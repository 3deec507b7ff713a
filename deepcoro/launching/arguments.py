"""The words of `tools/runner.sh`: the predecessor's flags, then key=value of the config. What they mean here is said by --help."""

import argparse
import difflib
from dataclasses import dataclass
from typing import NoReturn

from deepcoro.config import ConfigError

RUN_MODES = ("train", "val", "test", "inference")
EXAMPLES = """\
examples:
  All GPUs of this machine; two of them, as nvidia-smi counts; the CPU:
    tools/runner.sh --base_config clip/base_config data.shards=shards/mine run_dir=runs/mine
    tools/runner.sh --base_config clip/base_config --selected_gpus 0,1 data.shards=shards/mine run_dir=runs/mine
    tools/runner.sh --base_config demo/tiny --selected_gpus none data.shards=shards/tiny run_dir=runs/tiny max_steps=20

  Its metrics on the test split; another way to divide memory (a name in accelerate_configs/); started again when a rank is killed:
    tools/runner.sh --base_config clip/base_config --run_mode test data.shards=shards/mine run_dir=runs/mine
    tools/runner.sh --base_config clip/base_config --launch multi_gpu_zero3 --max_restarts 3 data.shards=shards/mine run_dir=runs/mine

  Hyper-parameters are keys of the config, written key=value (`python train.py clip/base_config --show` prints them all):
    tools/runner.sh --base_config clip/base_config optim.lr=3e-4 batch_size=32 epochs=20 data.shards=shards/mine run_dir=runs/mine

The config file is read and never changed. A config that is wrong is refused here, before a rank is started. Ctrl-C and SIGTERM let
training save first; a second Ctrl-C ends it at once. Run from the project's root. Several machines: docs/multi_node.md.

exit codes (of the run itself, from run_dir/exit.json): 0 done, 2 config or data are at fault (one line says what to change), 75 stopped
after saving: start it again, 76 a rank hung, 130 ended by a second Ctrl-C, anything else a bug or a killed rank.
"""


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    base_config: str
    words: tuple[str, ...]
    """key=value pairs of the config, those of flags among them."""
    selected_gpus: str | None = None
    """Numbers with commas, or `none`; None = all there are."""
    launch: str | None = None
    """Name in accelerate_configs/ or a file; None = by the number of GPUs."""
    num_machines: int = 1
    machine_rank: int = 0
    main_process_ip: str | None = None
    main_process_port: int = 29500
    max_restarts: int = 0
    dry_run: bool = False


def read_request(words: list[str]) -> Request:
    """ConfigError names the first word that is not understood, and what was probably meant."""
    parser = _parser()
    options, rest = parser.parse_known_intermixed_args(words)
    for word in rest:
        _refuse(word, parser)
    flags = [("run_mode", options.run_mode), ("tracking.use_wandb", options.use_wandb)]
    given = [f"{key}={value}" for key, value in flags if value is not None]
    request = Request(
        base_config=options.base_config,
        words=(*options.words, *given),
        selected_gpus=options.selected_gpus,
        launch=options.launch,
        num_machines=options.num_machines,
        machine_rank=options.machine_rank,
        main_process_ip=options.main_process_ip,
        main_process_port=options.main_process_port,
        max_restarts=options.max_restarts,
        dry_run=options.dry_run,
    )
    for word in request.words:
        _refuse_unless_pair(word)
    _check_machines(request)
    return request


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help shows examples")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tools/runner.sh",
        description="Runs a config on the GPUs of this machine (or its CPU) and returns the run's own exit code.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="key=value", help="keys of the config that differ")
    add("--base_config", default="clip/base_config", help="YAML file or shipped name (clip/base_config)")
    add("--selected_gpus", metavar="0,1", help="GPUs to use, or `none` for the CPU (default: all there are)")
    add("--run_mode", choices=RUN_MODES, help="what to do (default: what the config says, else train)")
    add("--use_wandb", choices=("true", "false"), help="log to Weights & Biases (default: the config's)")
    add("--launch", metavar="NAME", help="file of accelerate_configs/ (default: by the number of GPUs)")
    add("--max_restarts", type=int, default=0, metavar="N", help="start again after a killed rank, at most N")
    add("--num_machines", type=int, default=1, metavar="N", help="machines of the run, each with a runner")
    add("--machine_rank", type=int, default=0, metavar="R", help="number of this machine, from 0")
    add("--main_process_ip", metavar="HOST", help="machine 0, as the others reach it")
    add("--main_process_port", type=int, default=29500, metavar="PORT", help="free port there (29500)")
    add("--dry_run", action="store_true", help="print the command that would be started, and stop")
    return parser


def _refuse(word: str, parser: argparse.ArgumentParser) -> NoReturn:
    flag = word.split("=")[0]
    known = [option for action in parser._actions for option in action.option_strings]
    match = difflib.get_close_matches(flag, known, n=1, cutoff=0.7)
    meant = (
        f"did you mean {match[0]}?" if match else "keys of the config are written key=value, as optim.lr=3e-4"
    )
    raise ConfigError(f"unknown flag '{flag}'; {meant}; --help shows examples", topic="unknown-keys")


def _refuse_unless_pair(word: str) -> None:
    if "=" not in word:
        raise ConfigError(f"'{word}' has no '='; keys of the config are written key=value, as optim.lr=3e-4")


def _check_machines(request: Request) -> None:
    if request.max_restarts < 0 or request.num_machines < 1:
        raise ConfigError("--max_restarts is 0 or more and --num_machines 1 or more")
    if not 0 <= request.machine_rank < request.num_machines:
        raise ConfigError(
            f"--machine_rank {request.machine_rank} of --num_machines {request.num_machines}: "
            f"0 to {request.num_machines - 1} are allowed"
        )
    if request.num_machines > 1 and request.main_process_ip is None:
        raise ConfigError("--num_machines needs --main_process_ip: machine 0, as the others reach it")
    if request.num_machines > 1 and request.max_restarts:
        raise ConfigError(
            "--max_restarts is for one machine; several are started again together, by their scheduler "
            "(MAX_RESTARTS of tools/train.sbatch)"
        )
