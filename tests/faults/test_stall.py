"""One rank of a real launch hangs: both say where they are, the launch ends, and the same command goes on."""

from pathlib import Path

import pytest

from tests.launch import CONSTANT_LR, SILENT, exit_code, launch, losses, main_on_rank, metrics, tiny
from tests.ranks import Ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

SLEEPER = """
import os, sys, threading, time

def patch():
    while not hasattr(sys.modules.get("deepcoro.train"), "train_step"):
        time.sleep(0.05)
    module = sys.modules["deepcoro.train"]
    step = module.train_step
    def never_returns(engine, window, number, *rest):
        if number == 3:
            time.sleep(3600)
        return step(engine, window, number, *rest)
    module.train_step = never_returns

if os.environ.get("RANK") == "1":
    threading.Thread(target=patch, daemon=True).start()
"""
"""Python runs a file of this name when it starts."""


def test_a_rank_that_sleeps_ends_the_launch_and_both_ranks_have_written_their_stacks(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    """The same command, as it happens under another stage of ZeRO."""
    (tmp_path / "sleeper").mkdir()
    (tmp_path / "sleeper" / "sitecustomize.py").write_text(SLEEPER)
    words = (*SILENT, *CONSTANT_LR, "checkpoint.every_steps=2", "max_steps=5", "stall_timeout_s=40")
    words = tiny(tiny_shards, tmp_path / "run", *words)
    ended = launch("cpu_2_zero2", *words, PYTHONPATH=str(tmp_path / "sleeper"))
    assert ended.code != 0 and exit_code(tmp_path / "run") == 76, ended.stderr
    stacks = [(tmp_path / "run" / "stalls" / f"rank_{rank}.txt").read_text() for rank in (0, 1)]
    for rank, stack in enumerate(stacks):
        assert f"rank {rank} has been in phase 'compute' of step 4" in stack
        assert f"rank {rank} has been in phase" in ended.stderr
    assert ["never_returns" in stack for stack in stacks] == [False, True]
    again = launch("cpu_2_zero3", *words)
    assert again.code == 0 and "continuing from step_2" in again.stderr, again.stderr
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4, 5]
    whole = tiny(tiny_shards, tmp_path / "whole", *words[3:])
    assert two_ranks.run(main_on_rank, "zero2", *whole) == [0, 0]
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)
