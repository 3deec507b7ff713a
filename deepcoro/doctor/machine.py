"""The machine: GPUs, driver, cores, memory, shared memory, disk. Facts are None where they cannot be had."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from deepcoro.doctor.finding import Finding, join
from deepcoro.tool import num_cores

GB = 1e9
HOST_GB_PER_RANK = 6.0
"""A rank's process with torch and CUDA, two workers, and rank 0's copy of a checkpoint of 250 million parameters."""


@dataclass(frozen=True)
class Gpu:
    """As torch sees it."""

    name: str
    capability: tuple[int, int]
    memory_gb: float
    free_gb: float


@dataclass(frozen=True)
class Machine:
    """What is there."""

    gpus: tuple[Gpu, ...]
    driver: str | None
    """Of NVIDIA, as nvidia-smi says; None where there is none."""
    torch_cuda: str | None
    """CUDA that torch was built for; None for a CPU build."""
    cores: int
    memory_gb: float
    """Free to be used, within a container's limit."""
    shm_gb: float | None
    """Of /dev/shm, free."""
    disk_gb: float | None
    """Free where run_dir will be; None where that cannot be written."""
    cpu_bfloat16: bool


@dataclass(frozen=True)
class Need:
    """What a config asks of a machine; zeros where none was given."""

    ranks: int
    run_dir: Path
    workers: int = 0
    """Loader processes a rank."""
    loader_gb: float = 0.0
    """Of batches that the loaders of a rank hold ready, in shared memory."""
    checkpoints_gb: float = 0.0
    """Of all checkpoints that are kept, and one being written."""
    bf16: bool = True


def machine(run_dir: Path) -> Machine:
    """This one. Raises nothing."""
    import torch

    from deepcoro.kernels.precision import cpu_has_bfloat16

    return Machine(
        gpus=_gpus(),
        driver=_driver(),
        torch_cuda=torch.version.cuda,
        cores=num_cores(),
        memory_gb=_memory_gb(),
        shm_gb=_free_gb(Path("/dev/shm")),
        disk_gb=_writable_gb(run_dir),
        cpu_bfloat16=cpu_has_bfloat16(),
    )


def findings(found: Machine, need: Need) -> Iterator[Finding]:
    """One line a thing."""
    yield _about_gpus(found)
    yield from _about_their_kind(found, need)
    yield _about_cores(found, need)
    yield _about_memory(found, need)
    yield _about_shared_memory(found, need)
    yield _about_disk(found, need)


def _about_gpus(found: Machine) -> Finding:
    if found.gpus:
        names = sorted({each.name for each in found.gpus})
        what = f"{len(found.gpus)} x {join(names)}, {min(each.memory_gb for each in found.gpus):.0f} GB each; driver {found.driver}, torch for CUDA {found.torch_cuda}"
        if len(names) > 1:
            return Finding(
                "GPUs", "slow", what, "ranks wait for the slowest: choose equal ones with --selected_gpus"
            )
        return Finding("GPUs", "ok", what)
    if found.driver is None:
        return Finding(
            "GPUs",
            "note",
            "none, and no NVIDIA driver",
            "tools/runner.sh takes accelerate_configs/cpu_1.yaml; real films want a GPU",
        )
    if found.torch_cuda is None:
        return Finding(
            "GPUs",
            "broken",
            f"driver {found.driver}, and a torch for CPUs only",
            "install the CUDA build of torch and torchvision (docs/installation.md)",
        )
    return Finding(
        "GPUs",
        "broken",
        f"driver {found.driver}, torch for CUDA {found.torch_cuda}, and torch sees none",
        "empty CUDA_VISIBLE_DEVICES, a container without --gpus all, or a driver older than this CUDA: compare with nvidia-smi",
    )


def _about_their_kind(found: Machine, need: Need) -> Iterator[Finding]:
    if not found.gpus:
        if need.bf16 and not found.cpu_bfloat16:
            yield Finding(
                "bf16", "slow", "this CPU has no bf16 arithmetic", "precision=fp32 is many times faster here"
            )
        return
    old = [each.name for each in found.gpus if each.capability < (8, 0)]
    if need.bf16 and old:
        yield Finding("bf16", "slow", f"{join(old)} computes bf16 by detours", "precision=fp32")
    taken = [
        f"GPU {n}: {each.memory_gb - each.free_gb:.0f} GB"
        for n, each in enumerate(found.gpus)
        if each.free_gb < 0.9 * each.memory_gb
    ]
    if taken:
        yield Finding(
            "GPU memory",
            "slow",
            f"in use by others: {join(taken)}",
            "nvidia-smi names the processes; leave these GPUs out with --selected_gpus",
        )


def _about_cores(found: Machine, need: Need) -> Finding:
    wanted = need.ranks * (1 + need.workers)
    what = (
        f"{found.cores} cores for {need.ranks} rank{'s' * (need.ranks > 1)} of 1 + {need.workers} processes"
    )
    if wanted <= found.cores:
        return Finding("cores", "ok", what)
    workers = max(found.cores // need.ranks - 1, 0)
    return Finding(
        "cores",
        "slow",
        what,
        f"data.num_workers={workers} fits; or ask the scheduler for {wanted} cores (--cpus-per-task)",
    )


def _about_memory(found: Machine, need: Need) -> Finding:
    wanted = HOST_GB_PER_RANK * need.ranks
    what = f"{found.memory_gb:.0f} GB of host memory free, about {wanted:.0f} wanted"
    if found.memory_gb >= wanted:
        return Finding("memory", "ok", what)
    return Finding(
        "memory",
        "slow",
        what,
        "fewer data.num_workers, no offloading; a container's limit may be the cause (--memory)",
    )


def _about_shared_memory(found: Machine, need: Need) -> Finding:
    wanted = need.ranks * need.loader_gb
    if found.shm_gb is None:
        return Finding(
            "/dev/shm",
            "note",
            "not there",
            "on another system than Linux loaders hand batches over in other ways",
        )
    what = f"{found.shm_gb:.1f} GB free, loaders hold {wanted:.1f}"
    if found.shm_gb > wanted:
        return Finding("/dev/shm", "ok", what)
    return Finding(
        "/dev/shm",
        "broken",
        what,
        "loaders would die with a bus error: docker --shm-size=16g (or --ipc=host), or fewer data.num_workers",
    )


def _about_disk(found: Machine, need: Need) -> Finding:
    about = f"disk of {need.run_dir}"
    if found.disk_gb is None:
        return Finding(about, "broken", "cannot be written", "choose another run_dir")
    what = f"{found.disk_gb:.0f} GB free, checkpoints take {need.checkpoints_gb:.1f}"
    if found.disk_gb > need.checkpoints_gb * 1.2:
        return Finding(about, "ok", what)
    return Finding(
        about, "broken", what, "free some, choose another run_dir, or keep fewer (checkpoint.keep)"
    )


def _gpus() -> tuple[Gpu, ...]:
    import torch

    gpus = []
    for number in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(number)
        try:
            free = torch.cuda.mem_get_info(number)[0]
        except RuntimeError:  # in exclusive mode, and another process has it
            free = 0
        gpus.append(Gpu(known.name, (known.major, known.minor), known.total_memory / GB, free / GB))
    return tuple(gpus)


def _driver() -> str | None:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return told[0] if told else None


def _memory_gb() -> float:
    """Containers have their own limit, which the system's figure does not know."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no such limit, or it says "max"
        return free / GB
    return min(free, limit) / GB


def _free_gb(folder: Path) -> float | None:
    return shutil.disk_usage(folder).free / GB if folder.is_dir() else None


def _writable_gb(folder: Path) -> float | None:
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
    return _free_gb(there) if os.access(there, os.W_OK) else None
