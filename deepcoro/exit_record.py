"""How a run ended, in run_dir/exit.json: launchers turn every code into 1, and the ranks of a run may end with different ones."""

import json
import os
import time
from pathlib import Path

EXIT_BAD_INPUT = 2
"""Config or data are at fault; the reason says what to change."""
EXIT_STALLED = 76
"""No step finished for twice stall_timeout_s."""

_WITH_A_REASON = (EXIT_BAD_INPUT, EXIT_STALLED)


def another_rank_told(run_dir: Path, began: float) -> bool:
    """A rank that ends with a reason breaks the connections of the others; their errors must not hide it."""
    path = run_dir / "exit.json"
    if not path.is_file():
        return False
    record = json.loads(path.read_text())
    return record["code"] in _WITH_A_REASON and record["time"] > began


def write_exit(run_dir: Path, code: int, reason: str) -> None:
    rank = os.environ.get("RANK", "0")
    run_dir.mkdir(parents=True, exist_ok=True)
    temporary = run_dir / f"exit.json.{rank}"  # of its own: several ranks may fail at once
    temporary.write_text(
        json.dumps({"code": code, "reason": reason, "rank": int(rank), "time": time.time()}) + "\n"
    )
    temporary.replace(run_dir / "exit.json")
