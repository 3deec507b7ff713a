"""How a run ended, in run_dir/exit.json: launchers turn every code into 1, and the ranks of a run may end with different ones.

And in the words that the launcher itself prints last.
"""

import json
import os
import time
from pathlib import Path

from deepcoro import atomic

EXIT_FAILED = 1
"""A bug, or another rank was lost."""
EXIT_BAD_INPUT = 2
"""Config or data are at fault; the reason says what to change."""
EXIT_STALLED = 76
"""No step finished for twice stall_timeout_s."""

_WITH_A_REASON = (EXIT_BAD_INPUT, EXIT_STALLED)


def another_rank_told(run_dir: Path, began: float, also_of_a_bug: bool = False) -> bool:
    """A rank that ends with a reason breaks the connections of the others; their errors must not hide it.

    `also_of_a_bug`: whether a bug is reason enough.
    """
    path = run_dir / "exit.json"
    if not path.is_file():
        return False
    record = json.loads(path.read_text())
    reasons = (*_WITH_A_REASON, EXIT_FAILED) if also_of_a_bug else _WITH_A_REASON
    return record["code"] in reasons and record["time"] > began


def write_exit(run_dir: Path, code: int, reason: str) -> None:
    rank = os.environ.get("RANK", "0")
    run_dir.mkdir(parents=True, exist_ok=True)
    temporary = run_dir / f"exit.json.{rank}"  # of its own: several ranks may fail at once
    temporary.write_text(
        json.dumps({"code": code, "reason": reason, "rank": int(rank), "time": time.time()}) + "\n"
    )
    temporary.replace(run_dir / "exit.json")


def tell_launcher(line: str) -> None:
    """Torch's elastic launcher ends with a traceback of its own and a summary: the line stands there as this rank's reason.

    Nothing to do where no such launcher started this process.
    """
    name = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if name:
        # whole or not at all: another rank that ended first has this one killed, and half a file would be a traceback more
        atomic.write_text(Path(name), json.dumps({"message": line, "timestamp": int(time.time())}))
