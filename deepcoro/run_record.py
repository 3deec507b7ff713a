"""What a run remembers of its own making, in `run_dir/run_record.json`: each start with code and machine, and how much data each split held."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from deepcoro import __version__, atomic, distributed
from deepcoro.data.collection import Collection

RECORD = "run_record.json"
_PACKAGES = ("torch", "accelerate", "deepspeed", "transformers", "numpy")


# Variables that change how fast a run is or where; never those that may hold a secret.
_TELLING = (
    "ACCELERATE_",
    "CUDA_VISIBLE_DEVICES",
    "GLOO_",
    "NCCL_",
    "OMP_NUM_THREADS",
    "SLURM_JOB_ID",
    "SLURM_NNODES",
    "TRITON_",
)


def note_start(run_dir: Path, shards: Collection, facts: dict[str, Any]) -> None:
    """Adds this start to the record. `facts`: what only the caller knows (device, engine, step it goes on from, ...)."""
    before = read_record(run_dir).get("starts", [])
    start = {
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "commit": git_commit(),
        "uncommitted": has_uncommitted_changes(),
        "command": sys.argv,
        "data": shards.fingerprint,
        "environment": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(_TELLING)},
        "deepcoro": __version__,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "processes": distributed.world_size(),
        **facts,
    }
    record = {
        "starts": [*before, start],
        "splits": {split: counts_of_split(shards, split) for split in shards.splits},
    }
    atomic.write_text(run_dir / RECORD, json.dumps(record, indent=1) + "\n")


def read_record(run_dir: Path) -> dict[str, Any]:
    """{} where a run has none."""
    path = run_dir / RECORD
    return json.loads(path.read_text()) if path.is_file() else {}


def counts_of_split(shards: Collection, split: str) -> dict[str, int | None]:
    """`patients`: those named; None when not every study names its patient."""
    units = shards.units(split, True, 1)
    is_known = shards.patient_split == "verified"
    return {
        "patients": len(units.patients) if is_known else None,
        "studies": len(units),
        "films": int(units.num_clips.sum()),
    }


def last_start(run_dir: Path) -> dict[str, Any]:
    """{} where a run has none."""
    return (read_record(run_dir).get("starts") or [{}])[-1]


def git_commit() -> str | None:
    """Commit of the code that runs; None outside a git checkout."""
    return _git("rev-parse", "--short=12", "HEAD")


def has_uncommitted_changes() -> bool | None:
    """Whether the code that runs differs from its commit in files that git keeps; None outside a git checkout."""
    if git_commit() is None:
        return None
    return _git("status", "--porcelain", "--untracked-files=no") is not None


def _git(*words: str) -> str | None:
    """What git says, None for nothing."""
    try:
        found = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None
