"""`tools/runner.sh` in Python: read the words, check the config, start, watch, return the run's exit code."""

import logging
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from deepcoro.config import ConfigError, find_config
from deepcoro.launching.arguments import Request, read_request
from deepcoro.launching.command import ROOT, command_of

if TYPE_CHECKING:
    from deepcoro.run_config import RunConfig

BAD_INPUT, INTERRUPTED = 2, 130
_WHY_DDP = (
    "without --launch every GPU holds the whole model and its AdamW (DDP), which sends the least; where that does not fit, "
    "`python tools/plan_memory.py %s --gpus N --gpu_memory_gb G` names the --launch that does"
)


def main(words: list[str]) -> int:
    """The exit code of the run; 2 where it could not be started, with one line on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s runner: %(message)s", force=True)
    try:
        return _run(read_request(words))
    except ConfigError as error:
        sys.stderr.write(f"runner: {error.told}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("runner: ended at once; the same command goes on from the last checkpoint\n")
        return INTERRUPTED


def _run(request: Request) -> int:
    if Path.cwd() != ROOT:
        raise ConfigError(
            f"run it from the project's root ({ROOT}): paths in accelerate_configs/ are relative to it",
            topic="launching",
        )
    command = command_of(request, _num_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    config = _checked_config(request)
    gpus = command.environment["CUDA_VISIBLE_DEVICES"]
    line = f"CUDA_VISIBLE_DEVICES={gpus} {shlex.join(command.words)}"
    if request.launch is None and ("," in gpus or request.num_machines > 1):
        logging.info(_WHY_DDP, request.base_config)
    if request.dry_run:
        sys.stdout.write(line + "\n")
        return 0
    logging.info("on %s: %s", f"GPUs {gpus}" if gpus else "the CPU", line)
    from deepcoro.launching.supervise import Supervisor

    supervisor = Supervisor(
        command,
        config.run_dir,
        saves=config.run_mode == "train",
        waits_for_others=request.num_machines > 1,
    )
    return supervisor.run(request.max_restarts)


def _checked_config(request: Request) -> "RunConfig":
    from deepcoro.run_config import (
        load_run_config,
    )  # half of what this process imports, so after the cheap checks

    return load_run_config(find_config(request.base_config), list(request.words))


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
