"""What is installed: versions, compilers, and what is missing because of it."""

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from deepcoro.doctor.finding import Finding, join

NEEDED = (
    *(
        "torch",
        "accelerate",
        "deepspeed",
        "transformers",
        "webdataset",
        "einops",
        "jaxtyping",
        "pydantic",
        "pyyaml",
    ),
    *("safetensors", "pyarrow", "psutil", "rich", "av", "simplejpeg", "pydicom"),
)
OLDEST_TORCH = (2, 10)
OPTIONAL = ("triton", "flash-attn", "timm", "torchvision")


@dataclass(frozen=True)
class Software:
    """What is there; None where something is not."""

    versions: dict[str, str | None]
    """Of the distributions of NEEDED and OPTIONAL."""
    nccl: str | None
    compiler: str | None
    nvcc: str | None
    has_gpu: bool
    switches: dict[str, str] = field(default_factory=dict)
    """Environment variables that change how a run works."""


WATCHED = (
    "TRITON_INTERPRET",
    "CUDA_LAUNCH_BLOCKING",
    "ACCELERATE_USE_CPU",
    "NCCL_P2P_DISABLE",
    "NCCL_DEBUG",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)


def software(has_gpu: bool) -> Software:
    """Of this machine. Raises nothing."""
    return Software(
        versions={name: _version(name) for name in (*NEEDED, *OPTIONAL)},
        nccl=_nccl(),
        compiler=shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"),
        nvcc=shutil.which("nvcc"),
        has_gpu=has_gpu,
        switches={name: os.environ[name] for name in WATCHED if name in os.environ},
    )


def missing() -> list[Finding]:
    """Without these nothing else can be looked at; needs none of them itself."""
    absent = [name for name in NEEDED if _version(name) is None]
    return [_lacking(absent)] if absent else []


def findings(found: Software) -> Iterator[Finding]:
    """One line a thing."""
    yield _about_packages(found)
    yield _about_triton(found)
    yield _about_flash_attention(found)
    yield _about_nccl(found)
    yield _about_compiler(found)
    yield from _about_switches(found)


def _about_packages(found: Software) -> Finding:
    absent = [name for name in NEEDED if found.versions[name] is None]
    if absent:
        return _lacking(absent)
    told = ", ".join(
        f"{name} {found.versions[name]}" for name in ("torch", "accelerate", "deepspeed", "transformers")
    )
    told = f"Python {sys.version.split()[0]}, {told}"
    if _numbers(found.versions["torch"]) < OLDEST_TORCH:
        return Finding(
            "packages",
            "broken",
            told,
            f"torch {'.'.join(map(str, OLDEST_TORCH))} is the oldest that is known to work",
        )
    one, other = found.versions["torch"], found.versions["torchvision"]
    if other is not None and ("+cpu" in one) != ("+cpu" in other):
        return Finding(
            "packages",
            "slow",
            f"{told}, torchvision {other}",
            "torch and torchvision come from different builds: video_timm will not import (docs/installation.md)",
        )
    return Finding("packages", "ok", told)


def _lacking(absent: list[str]) -> Finding:
    return Finding(
        "packages", "broken", f"missing: {join(absent, 9)}", "pip install -c requirements.txt -e ."
    )


def _about_triton(found: Software) -> Finding:
    version = found.versions["triton"]
    if not found.has_gpu:
        return Finding(
            "triton",
            "note",
            f"{version or 'not installed'}; no GPU",
            "nothing to do: on the CPU torch's and our own CPU forms run",
        )
    if version is None:
        return Finding(
            "triton",
            "slow",
            "not installed",
            "pip install triton: without it norms, pooling and patches run in torch's form, several times slower",
        )
    return Finding(
        "triton", "ok", f"{version}: norms, pooling, patches, positions and residuals run in our kernels"
    )


def _about_flash_attention(found: Software) -> Finding:
    version = found.versions["flash-attn"]
    if version is None:
        return Finding(
            "flash-attn",
            "note",
            "not installed",
            "nothing needs it: torch carries flash and cuDNN kernels (docs/installation.md)",
        )
    return Finding("flash-attn", "ok", version)


def _about_nccl(found: Software) -> Finding:
    if found.nccl is not None:
        return Finding("NCCL", "ok", found.nccl)
    if found.has_gpu:
        return Finding(
            "NCCL",
            "broken",
            "this torch has none",
            "several GPUs need it: install torch's own CUDA build for Linux",
        )
    return Finding("NCCL", "note", "none; ranks on CPUs talk through gloo")


def _about_compiler(found: Software) -> Finding:
    if found.compiler is not None:
        return Finding("compiler", "ok", found.compiler + (f", {found.nvcc}" if found.nvcc else ", no nvcc"))
    if found.has_gpu:
        return Finding(
            "compiler",
            "broken",
            "no C++ compiler",
            "Triton compiles its launcher on first use: apt-get install g++ (or module load gcc)",
        )
    return Finding(
        "compiler",
        "note",
        "no C++ compiler",
        "towers.video.compile=true needs one on the CPU; nothing else does",
    )


_HARM = {
    "TRITON_INTERPRET": "kernels are interpreted, thousands of times slower: unset it",
    "CUDA_LAUNCH_BLOCKING": "every kernel is waited for: unset it unless you look for a bug",
    "ACCELERATE_USE_CPU": "DeepSpeed is left out and GPUs stay idle: unset it",
    "NCCL_P2P_DISABLE": "GPUs talk through the host: unset it unless direct copies hang here",
}


def _about_switches(found: Software) -> Iterator[Finding]:
    for name, value in found.switches.items():
        if name in _HARM and value not in ("", "0", "false"):
            yield Finding(name, "slow", f"is {value}", _HARM[name])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _nccl() -> str | None:
    import torch

    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        return None
    try:
        return ".".join(map(str, torch.cuda.nccl.version()))
    except (AttributeError, RuntimeError):  # a build that names no version
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2])
