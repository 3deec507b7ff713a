"""A rank whose peer's process is gone says so in one line and stops; tests/faults/test_kill_chain.py really kills them."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deepcoro import command_line
from deepcoro.config import pointer
from deepcoro.exit_record import EXIT_BAD_INPUT, EXIT_FAILED, write_exit

GLOO = "[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:16053. This is typically caused by a remote worker crashing."
NCCL = "NCCL error in: NCCLUtils.hpp:268, remote process exited or there was a network error, NCCL version 2.21.5\nncclRemoteError: ..."

Train = Callable[..., int]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Exit code of a rank 1 whose training raises `error`, after another rank has ended with `code` (None: without a word)."""

    def trained(error: Exception, *words: str, code: int | None = None) -> int:
        def run(config: object) -> int:
            if code is not None:
                time.sleep(0.01)  # the clock goes on between the two ends
                write_exit(tmp_path, code, "its own reason")
            raise error

        monkeypatch.setattr("deepcoro.train.run", run)
        return command_line.main(["demo/tiny", "data.shards=none", f"run_dir={tmp_path}", *words])

    monkeypatch.setattr(command_line, "end_with_launcher", lambda: None)
    monkeypatch.setenv("RANK", "1")
    return trained


def record(run_dir: Path) -> dict:
    return json.loads((run_dir / "exit.json").read_text())


@pytest.mark.parametrize("words", [GLOO, NCCL])
def test_a_lost_rank_is_told_in_one_line_with_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture, train: Train, words: str
) -> None:
    assert train(RuntimeError(words)) == EXIT_FAILED
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rank 1: ")]
    assert "another rank was lost" in line and line.endswith(pointer("lost-rank"))
    assert record(tmp_path)["code"] == EXIT_FAILED and record(tmp_path)["reason"] in line


@pytest.mark.parametrize("code", [EXIT_FAILED, EXIT_BAD_INPUT])
def test_it_does_not_hide_what_the_lost_rank_said_of_itself(tmp_path: Path, train: Train, code: int) -> None:
    assert train(RuntimeError(GLOO), code=code) == EXIT_FAILED
    assert record(tmp_path)["code"] == code and record(tmp_path)["reason"] == "its own reason"


def test_what_an_earlier_start_left_is_no_word_of_the_lost_rank(tmp_path: Path, train: Train) -> None:
    write_exit(tmp_path, EXIT_FAILED, "of an earlier start")
    time.sleep(0.01)
    assert train(RuntimeError(GLOO)) == EXIT_FAILED
    assert "another rank was lost" in record(tmp_path)["reason"]


def test_a_bug_is_a_bug_also_after_others_missed_its_rank(tmp_path: Path, train: Train) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(RuntimeError("shapes differ"), code=EXIT_FAILED)
    assert record(tmp_path)["reason"].startswith("a bug") and record(tmp_path)["rank"] == 1


def test_debug_shows_where_it_was_missed(train: Train) -> None:
    with pytest.raises(command_line.LostRank) as raised:
        train(RuntimeError(GLOO), "--debug")
    assert "Connection closed by peer" in str(raised.value.__cause__)
