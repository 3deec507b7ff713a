"""Which of accelerate_configs/ starts a request, the command line, and the environment of the ranks."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from deepcoro.config import ConfigError, nearest
from deepcoro.launching.arguments import Request

ROOT = Path(__file__).resolve().parents[2]
SAVING_S = 600
"""Seconds that torch's launcher gives ranks between SIGTERM and SIGKILL; its own 30 are too few for a large checkpoint."""


@dataclass(frozen=True)
class Command:
    """What is started on this machine."""

    words: tuple[str, ...]
    environment: Mapping[str, str]
    """Set over that of this process."""


def command_of(request: Request, num_gpus: int, visible: str | None) -> Command:
    """`num_gpus`: that this process sees; `visible`: CUDA_VISIBLE_DEVICES as it was given, None where it is not set."""
    gpus = chosen_gpus(request.selected_gpus, num_gpus)
    path = launch_file(request.launch or default_launch(len(gpus), request.num_machines))
    settings = yaml.safe_load(path.read_text())
    if gpus and settings.get("use_cpu"):
        raise ConfigError(
            f"{path.stem} is for the CPU; add --selected_gpus none, or leave --launch out", topic="launching"
        )
    if not gpus and not settings.get("use_cpu"):
        raise ConfigError(
            f"{path.stem} is for GPUs and none is {'seen here' if num_gpus == 0 else 'selected'}; choose --launch cpu_1 or cpu_2_ddp",
            topic="launching",
        )
    words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path)]
    words += _processes(request, len(gpus), settings)
    return Command(
        (*words, *_meeting(request), "train.py", request.base_config, *request.words),
        _environment(gpus, visible),
    )


def default_launch(num_gpus: int, num_machines: int) -> str:
    """DDP wherever there are several ranks: it sends the least (docs/scaling.md), and what each of them then holds whole, 20 bytes a
    trained parameter, fits every GPU with the shipped models (docs/memory.md).
    """
    if num_gpus == 0:
        return "cpu_1" if num_machines == 1 else "cpu_2_ddp"
    if num_machines > 1:
        return "multi_node_ddp"
    return "single_gpu" if num_gpus == 1 else "multi_gpu_ddp"


def launch_file(name: str) -> Path:
    """A file as given, or that of accelerate_configs/."""
    shipped = ROOT / "accelerate_configs" / f"{name.removesuffix('.yaml')}.yaml"
    for path in (shipped, Path(name)):
        if path.is_file():
            return path
    known = sorted(path.stem for path in shipped.parent.glob("*.yaml"))
    raise ConfigError(
        f"--launch '{name}' is neither a file nor one of {known}{nearest(name, known)}", topic="launching"
    )


def chosen_gpus(selected: str | None, num_gpus: int) -> list[int]:
    """Numbers among the GPUs that this process sees; none: the CPU. ConfigError for one that is not there."""
    if selected is None:
        return list(range(num_gpus))
    if selected.strip().lower() == "none":
        return []
    try:
        gpus = [int(each) for each in selected.split(",")]
    except ValueError:
        raise ConfigError(f"--selected_gpus '{selected}': numbers with commas (0,1) or `none`") from None
    if len(set(gpus)) != len(gpus):
        raise ConfigError(f"--selected_gpus '{selected}' names a GPU twice")
    missing = [each for each in gpus if not 0 <= each < num_gpus]
    if missing:
        there = f"0 to {num_gpus - 1}" if num_gpus else "none; --selected_gpus none runs on the CPU"
        raise ConfigError(f"--selected_gpus names {missing}; GPUs seen here: {there}")
    return gpus


def _processes(request: Request, num_gpus: int, settings: dict) -> list[str]:
    if num_gpus:
        return ["--num_processes", str(num_gpus * request.num_machines)]
    if settings["num_processes"] % request.num_machines:
        raise ConfigError(
            f"{settings['num_processes']} CPU processes cannot be shared by --num_machines {request.num_machines}"
        )
    return []


def _meeting(request: Request) -> list[str]:
    """Where the processes find each other. Port 0: the launcher finds a free one, so that other runs of this machine do not matter."""
    if request.num_machines == 1:
        return ["--num_machines", "1", "--main_process_port", "0"]
    return [
        *("--num_machines", str(request.num_machines), "--machine_rank", str(request.machine_rank)),
        *(
            "--main_process_ip",
            request.main_process_ip,
            "--main_process_port",
            str(request.main_process_port),
        ),
        *("--deepspeed_multinode_launcher", "standard"),
    ]


def _environment(gpus: list[int], visible: str | None) -> dict[str, str]:
    """A scheduler's CUDA_VISIBLE_DEVICES says what is ours; numbers count within it."""
    named = visible.split(",") if visible else None
    chosen = ",".join(named[each] if named else str(each) for each in gpus)
    return {
        "CUDA_VISIBLE_DEVICES": chosen,
        "CUDA_DEVICE_ORDER": os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),  # as nvidia-smi counts
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SAVING_S)),
    }
