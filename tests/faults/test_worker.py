"""A loader worker of one rank dies in a real launch: that rank says so, the launcher ends the others, exit.json tells it."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.faults.test_kill import ENDLESS
from tests.launch import TIMEOUT_S, launched, tiny, wait_for_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def workers_of_rank(rank: int, run_dir: Path) -> list[int]:
    """Python processes below a rank: its loader workers."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            same_command = Path(f"/proc/{parent}/cmdline").read_bytes() == command
        except (OSError, ValueError, IndexError):  # not a process, or gone, or another user's
            continue
        if f"RANK={rank}".encode() in environment and str(run_dir).encode() in command and same_command:
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_of_a_rank_ends_the_launch_with_one_line(
    tiny_shards: Path, tmp_path: Path, rank: int
) -> None:
    words = tiny(tiny_shards, tmp_path, *ENDLESS, "data.num_workers=1")
    with launched("cpu_2_zero2", *words) as process:
        wait_for_step(process, tmp_path, 3)
        (worker,) = workers_of_rank(rank, tmp_path)
        os.kill(worker, signal.SIGKILL)
        _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    # the summary of torch's launcher says it once more, behind words of its own
    told = [line for line in stderr.splitlines() if line.startswith("WorkerFault: ")]
    assert len(told) == 1 and "loader worker 0 was killed by signal 'Killed'" in told[0], stderr
    record = json.loads((tmp_path / "exit.json").read_text())
    assert record["code"] == 2 and record["rank"] == rank and record["reason"].startswith("loader worker 0")
