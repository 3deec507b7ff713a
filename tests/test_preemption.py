import os
import signal
from pathlib import Path
from unittest import mock

import pytest

from deepcoro.preemption import EXIT_CODE, Preemption
from deepcoro.tracking import Tracker
from tests.launch import SILENT, exit_code, losses, main_on_rank, main_on_this_rank, metrics, tiny
from tests.ranks import Ranks

WORDS = (*SILENT, "max_steps=6", "checkpoint.every_steps=100")


def main_with_sigterm_on_rank_1(rank: int, step: int, engine: str, *words: str) -> int:
    """A scheduler reaches the ranks one after another: here the second alone."""
    advance = Tracker.advance

    def signalling(self: Tracker, done: int) -> None:
        advance(self, done)
        if done == step and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with mock.patch.object(Tracker, "advance", signalling):
        return main_on_this_rank(engine, *words)


def test_sigterm_on_one_rank_saves_on_all_and_the_run_goes_on_exactly(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    words = tiny(tiny_shards, tmp_path / "preempted", *WORDS)
    assert two_ranks.run(main_with_sigterm_on_rank_1, 4, "zero2", *words) == [75, 75]
    assert exit_code(tmp_path / "preempted") == 75
    assert [path.name for path in (tmp_path / "preempted" / "checkpoints").glob("step_*")] == ["step_4"]
    assert two_ranks.run(main_on_rank, "zero2", *words) == [0, 0]
    assert exit_code(tmp_path / "preempted") == 0
    assert [line["step"] for line in metrics(tmp_path / "preempted")] == [1, 2, 3, 4, 5, 6]
    whole = tiny(tiny_shards, tmp_path / "whole", *WORDS)
    assert two_ranks.run(main_on_rank, "zero2", *whole) == [0, 0]
    assert losses(tmp_path / "preempted") == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)


def test_sigterm_at_the_last_step_is_a_finished_run(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    words = tiny(tiny_shards, tmp_path, *WORDS, "max_steps=2")
    assert two_ranks.run(main_with_sigterm_on_rank_1, 2, "ddp", *words) == [0, 0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_only_while_open(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Preemption() as preemption:
        assert not preemption.noted
        os.kill(os.getpid(), number)
        assert preemption.noted
    assert signal.getsignal(number) is before


def test_the_exit_code_is_the_one_schedulers_know() -> None:
    assert EXIT_CODE == os.EX_TEMPFAIL == 75
