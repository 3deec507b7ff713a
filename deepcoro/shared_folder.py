"""Whether all machines of a run see the same run_dir: a checkpoint that one of them cannot read ends the next start."""

import os
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepcoro import distributed
from deepcoro.config import ConfigError

PATIENCE_S = 90.0
"""Network file systems cache what a folder holds for up to a minute."""


def require_shared(run_dir: Path, patience_s: float = PATIENCE_S) -> None:
    """Collective. ConfigError on every rank, with the machines that do not see what rank 0 has just written to run_dir.

    Runs of one machine are not asked (torch's launcher says in GROUP_WORLD_SIZE how many there are).
    """
    if int(os.environ.get("GROUP_WORLD_SIZE", "1")) == 1:
        return
    name = distributed.broadcast_object(f".seen_by_all_{uuid.uuid4().hex}")
    if distributed.rank() == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / name).touch()
    asks = os.environ.get("LOCAL_RANK", "0") == "0"  # one of each machine
    seen = wait_until((run_dir / name).exists, patience_s) if asks else True
    answers = distributed.gather_objects((socket.gethostname(), seen))
    if distributed.rank() == 0:
        (run_dir / name).unlink()
    blind = sorted({host for host, sees in answers if not sees})
    if blind:
        raise ConfigError(
            f"run_dir = '{run_dir}' is not on a file system that all machines share: {', '.join(blind)} did not see within "
            f"{patience_s:g} s what {answers[0][0]} wrote there; choose a folder that all of them mount at this path",
            topic="folder-not-shared",
        )


def wait_until(holds: Callable[[], Any], patience_s: float = PATIENCE_S) -> bool:
    """Returns as soon as it holds, or when `patience_s` are over and it does not."""
    deadline = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
