"""A hung rank writes its stacks and then ends; one that goes on is left alone. In processes of their own, since it ends them."""

import json
import subprocess
import sys
from pathlib import Path

from deepcoro.exit_record import EXIT_STALLED
from tests.launch import ROOT

HANGING = """
import logging, sys, threading, time
from pathlib import Path
from deepcoro.watchdog import Watchdog
logging.basicConfig()
def waiting_for_a_peer(): threading.Event().wait()
with Watchdog(Path(sys.argv[1]), 0.4, 3) as watchdog:
    watchdog.enter("data", 6)
    watchdog.enter("compute", 7)
    {does}
"""


def run(folder: Path, does: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-c", HANGING.format(does=does), str(folder)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_hung_rank_writes_the_stacks_of_its_threads_and_ends_with_a_code_of_its_own(tmp_path: Path) -> None:
    ended = run(tmp_path, "waiting_for_a_peer()")
    assert ended.returncode == EXIT_STALLED
    told = (tmp_path / "stalls" / "rank_3.txt").read_text()
    assert "rank 3 has been in phase 'compute' of step 7" in told and "waiting_for_a_peer" in told
    assert told.count("rank 3 has been") == 1, "told once"
    assert "WARNING" in ended.stderr and "stalls/rank_3.txt" in ended.stderr
    record = json.loads((tmp_path / "exit.json").read_text())
    assert record["code"] == EXIT_STALLED and "phase 'compute' of step 7" in record["reason"]


def test_one_that_never_lets_go_of_the_interpreter_is_ended_by_a_timer_in_c(tmp_path: Path) -> None:
    sleeps_with_the_lock = "import ctypes; time.sleep(0.1); ctypes.PyDLL(None).sleep(30)"
    ended = run(tmp_path, sleeps_with_the_lock)
    assert ended.returncode == 1
    assert "Timeout (0:00:00" in ended.stderr and '<string>", line' in ended.stderr


def test_one_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    goes_on = "[(time.sleep(0.05), watchdog.enter('compute', step)) for step in range(25)]"
    ended = run(tmp_path, goes_on)
    assert ended.returncode == 0 and not (tmp_path / "stalls").exists(), ended.stderr


def test_what_may_take_long_has_no_limit(tmp_path: Path) -> None:
    ended = run(tmp_path, "watchdog.enter(None, 7); time.sleep(1.2)")
    assert ended.returncode == 0 and list(tmp_path.iterdir()) == [], ended.stderr
