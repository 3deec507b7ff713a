"""How a run's end is found out and signals are passed on, with a launcher of four lines in the place of accelerate's."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from deepcoro.launching.command import Command
from deepcoro.launching.supervise import Supervisor

# Starts one rank, waits for it and ends with 1 if it failed, as `accelerate launch` does; counts its starts.
LAUNCHER = """
import pathlib, subprocess, sys
folder = pathlib.Path(sys.argv[1])
(folder / "starts").open("a").write("x")
rank = subprocess.run([sys.executable, "-c", (folder / "rank.py").read_text(), str(folder)])
sys.exit(1 if rank.returncode else 0)
"""
WRITES = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
starts = len((folder / "starts").read_text())
def end(code):
    (folder / "exit.json").write_text(json.dumps({"code": code, "time": time.time()}))
    sys.exit(code)
"""
WAITS = """
signal.signal(signal.SIGUSR1, lambda *_: end(75))
(folder / "ready").touch()
time.sleep(60)
"""


@pytest.fixture
def supervised(tmp_path: Path):
    """Runs a supervisor over a rank of the given source; its exit code and how often it was started."""
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job has it ignored

    def run(source: str, *, max_restarts: int = 0, saves: bool = True) -> tuple[int, int]:
        (tmp_path / "rank.py").write_text(WRITES + source)
        command = Command((sys.executable, "-c", LAUNCHER, str(tmp_path)), {})
        supervisor = Supervisor(command, tmp_path, saves=saves, waits_for_others=False)
        code = supervisor.run(max_restarts)
        return code, len((tmp_path / "starts").read_text())

    yield run
    signal.signal(signal.SIGINT, before)


def when_ready(folder: Path, *numbers: signal.Signals) -> threading.Thread:
    """Sends signals to this process, a moment apart, once the rank listens."""

    def send() -> None:
        while not (folder / "ready").exists():
            time.sleep(0.01)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("code", [0, 2, 75, 1, 9])
def test_the_exit_code_is_the_runs_own(supervised, code: int) -> None:
    assert supervised(f"end({code})") == (code, 1)


def test_a_killed_rank_that_left_no_word_is_1_whatever_stood_there_before(supervised, tmp_path: Path) -> None:
    (tmp_path / "exit.json").write_text(json.dumps({"code": 75, "time": 0}))
    assert supervised("os.kill(os.getpid(), signal.SIGKILL)") == (1, 1)


def test_a_killed_rank_is_started_again_as_often_as_asked(supervised) -> None:
    assert supervised("os.kill(os.getpid(), 9) if starts < 3 else end(0)", max_restarts=2) == (0, 3)


def test_restarts_end(supervised) -> None:
    assert supervised("os.kill(os.getpid(), 9)", max_restarts=2) == (1, 3)


@pytest.mark.parametrize("code", [2, 75])
def test_what_would_end_the_same_way_is_not_started_again(supervised, code: int) -> None:
    assert supervised(f"end({code})", max_restarts=3) == (code, 1)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_a_scheduler_and_ctrl_c_let_training_save(supervised, tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    sender = when_ready(tmp_path, number)
    assert supervised(WAITS, max_restarts=3) == (75, 1)
    sender.join()
    assert signal.getsignal(number) is before


def test_what_does_not_save_is_ended(supervised, tmp_path: Path) -> None:
    sender = when_ready(tmp_path, signal.SIGTERM)
    assert supervised('(folder / "ready").touch(); time.sleep(60)', saves=False) == (1, 1)
    sender.join()


def test_a_second_ctrl_c_ends_at_once(supervised, tmp_path: Path) -> None:
    sender = when_ready(tmp_path, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        supervised('(folder / "ready").touch(); time.sleep(60)')
    sender.join()


def test_a_signal_before_a_rank_listens_is_neither_deadly_nor_lost(
    supervised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcoro.launching.supervise.AGAIN_S", 0.2)
    sender = when_ready(tmp_path, signal.SIGUSR1)
    assert supervised('(folder / "ready").touch(); time.sleep(0.8)' + WAITS) == (75, 1)
    sender.join()


def test_what_was_ignored_stays_ignored_under_nohup(supervised, tmp_path: Path) -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        sender = when_ready(tmp_path, signal.SIGHUP)
        assert supervised('(folder / "ready").touch(); time.sleep(0.5); end(0)') == (0, 1)
        sender.join()
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_word_from_another_machine_may_come_late(tmp_path: Path) -> None:
    command = Command((sys.executable, "-c", "raise SystemExit(1)"), {})
    writer = threading.Timer(1.0, (tmp_path / "exit.json").write_text, ['{"code": 75}'])
    writer.start()
    assert Supervisor(command, tmp_path, saves=True, waits_for_others=True).run(0) == 75
    writer.join()


def test_a_lock_that_was_handed_down_is_held_by_the_launcher_too(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(lock, True)
    command = Command((sys.executable, "-c", f"import os; os.fstat({lock})"), {})
    try:
        assert Supervisor(command, tmp_path, saves=True, waits_for_others=False).run(0) == 0
    finally:
        os.close(lock)
