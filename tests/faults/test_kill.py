"""Real launches, really killed: nodes that die and schedulers that take them back."""

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from deepcoro.checkpoint import newest_whole
from tests.launch import (
    CONSTANT_LR,
    SILENT,
    exit_code,
    kill,
    last_step,
    launched,
    losses,
    main_on_rank,
    main_on_this_rank,
    tiny,
    wait_for_step,
)
from tests.ranks import Ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

WORDS = (*SILENT, *CONSTANT_LR, "checkpoint.every_steps=4")
ENDLESS = (*WORDS, "max_steps=100000")
TIMEOUT_S = 600


def uninterrupted(ranks: Ranks, shards: Path, run_dir: Path, engine: str, steps: int) -> dict[int, float]:
    words = tiny(shards, run_dir, *WORDS, f"max_steps={steps}", "checkpoint.every_steps=100000")
    assert ranks.run(main_on_rank, engine, *words) == [0, 0]
    return losses(run_dir)


def gone_on(ranks: Ranks, shards: Path, run_dir: Path, engine: str, steps: int) -> None:
    """From the newest checkpoint, by the same command on ranks that are there (test_stall.py launches it)."""
    saved = newest_whole(run_dir / "checkpoints").step
    past = (run_dir / "metrics.jsonl").read_text().splitlines()[:saved]
    words = tiny(shards, run_dir, *WORDS, f"max_steps={steps}")
    assert ranks.run(main_on_rank, engine, *words) == [0, 0]
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    # what a step took is in its line
    assert lines[:saved] == past, "steps were done again that a checkpoint held"
    assert [json.loads(line)["step"] for line in lines] == list(range(1, steps + 1))


@pytest.mark.parametrize(("stage", "seed"), [(2, 0), (3, 1)])
def test_killed_at_a_random_step_and_started_again_the_curve_is_the_same(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path, stage: int, seed: int
) -> None:
    run_dir, chance = tmp_path / "killed", random.Random(seed)
    step = chance.randint(5, 12)
    with launched(f"cpu_2_zero{stage}", *tiny(tiny_shards, run_dir, *ENDLESS)) as process:
        wait_for_step(process, run_dir, step)
        time.sleep(chance.random() / 2)  # anywhere in a step, or in the writing of a checkpoint
        kill(process)
    reached, saved = last_step(run_dir), newest_whole(run_dir / "checkpoints").step
    assert step <= reached and saved <= reached
    end = saved + 6
    gone_on(two_ranks, tiny_shards, run_dir, f"zero{stage}", end)
    whole = uninterrupted(two_ranks, tiny_shards, tmp_path / "whole", f"zero{stage}", end)
    assert losses(run_dir) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("config", ["cpu_2_zero2", "cpu_1"])
def test_sigterm_to_the_launcher_saves_and_exits_75(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path, config: str
) -> None:
    run_dir = tmp_path / "preempted"
    workers = ("data.num_workers=1",)  # they must outlive the signal, or there is nothing to save with
    with launched(config, *tiny(tiny_shards, run_dir, *ENDLESS, *workers)) as process:
        wait_for_step(process, run_dir, 5)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode != 0
    assert exit_code(run_dir) == 75, errors
    saved = newest_whole(run_dir / "checkpoints").step
    assert saved == last_step(run_dir), "nothing that was logged is lost"
    if config == "cpu_1":
        words = tiny(tiny_shards, run_dir, *WORDS, f"max_steps={saved + 3}")
        assert main_on_this_rank("ddp", *words) == 0 and exit_code(run_dir) == 0
        return
    gone_on(two_ranks, tiny_shards, run_dir, "zero2", saved + 3)
    assert exit_code(run_dir) == 0
    whole = uninterrupted(two_ranks, tiny_shards, tmp_path / "whole", "zero2", saved + 3)
    assert losses(run_dir) == pytest.approx(whole, rel=1e-6)


def test_a_rank_that_dies_takes_the_others_along(tiny_shards: Path, tmp_path: Path) -> None:
    with launched("cpu_2_zero2", *tiny(tiny_shards, tmp_path, *ENDLESS)) as process:
        wait_for_step(process, tmp_path, 5)
        ranks = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
        )
        subprocess.run(["kill", "-9", ranks.stdout.split()[-1]], check=True)
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode != 0
    record = json.loads((tmp_path / "exit.json").read_text())
    assert record["code"] == 1 and "another rank was lost" in record["reason"]
    assert newest_whole(tmp_path / "checkpoints").step >= 4


def test_ranks_end_with_a_launcher_that_is_killed(tiny_shards: Path, tmp_path: Path) -> None:
    with launched("cpu_2_zero2", *tiny(tiny_shards, tmp_path, *ENDLESS)) as process:
        wait_for_step(process, tmp_path, 2)
        process.kill()
        process.wait()
        deadline = time.monotonic() + TIMEOUT_S
        while running := subprocess.run(
            ["pgrep", "-f", str(tmp_path)], capture_output=True, text=True
        ).stdout:
            assert time.monotonic() < deadline, f"ranks {running.split()} train on without their launcher"
            time.sleep(0.2)
