"""Checkpoints written behind the loop's back are those that it would have waited for."""

import threading
from pathlib import Path

import pytest
import torch

from deepcoro import checkpoint, saving
from deepcoro.checkpoint import CheckpointError
from deepcoro.config import find_config
from deepcoro.engine import Engine
from deepcoro.run_config import RunConfig, load_run_config
from deepcoro.saving import Saver
from tests.launch import main_on_rank, main_on_this_rank, tiny
from tests.ranks import Ranks


class Weight(Engine):
    """Stands for an engine: one parameter, which training changes in place."""

    def __init__(self) -> None:
        self.model = torch.nn.Linear(3, 2)
        self.zero_stage = 0

    def full_moments(self) -> dict[str, torch.Tensor]:
        return {"weight/exp_avg": self.model.weight.detach().clone()}


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is written before it is set."""
    opened, write = threading.Event(), checkpoint.write

    def waiting(*arguments: object) -> None:
        assert opened.wait(60)
        write(*arguments)

    monkeypatch.setattr(saving.checkpoint, "write", waiting)
    return opened


def config(run_dir: Path, *words: str) -> RunConfig:
    return load_run_config(find_config("demo/tiny"), [f"run_dir={run_dir}", "data.shards=none", *words])


def test_what_is_written_is_the_step_it_was_taken_at(tmp_path: Path, gate: threading.Event) -> None:
    engine = Weight()
    at_step = engine.full_weights()
    with Saver(config(tmp_path)) as saver:
        saver.save(3, engine, {"step": 3}, is_best=True)
        with torch.no_grad():
            engine.model.weight.zero_()
        assert checkpoint.newest_whole(tmp_path / "checkpoints") is None
        gate.set()
        saver.finish()
        found = checkpoint.find(tmp_path / "checkpoints", "best")
    assert found.step == 3
    torch.testing.assert_close(found.weights(), at_step, rtol=0, atol=0)


def test_the_next_save_and_the_end_wait_for_the_one_before(tmp_path: Path, gate: threading.Event) -> None:
    engine, folder = Weight(), tmp_path / "checkpoints"
    with Saver(config(tmp_path)) as saver:
        saver.save(3, engine, {}, is_best=False)
        threading.Timer(0.2, gate.set).start()
        saver.save(6, engine, {}, is_best=False)
        assert checkpoint.find(folder, "step_3").is_whole()
    assert checkpoint.newest_whole(folder).step == 6, "leaving waits"


def test_an_error_that_ends_the_run_waits_for_the_writing(tmp_path: Path, gate: threading.Event) -> None:
    with pytest.raises(KeyboardInterrupt), Saver(config(tmp_path)) as saver:
        saver.save(3, Weight(), {}, is_best=False)
        threading.Timer(0.2, gate.set).start()
        raise KeyboardInterrupt
    assert checkpoint.newest_whole(tmp_path / "checkpoints").step == 3


def test_in_the_foreground_saving_is_done_when_it_returns(tmp_path: Path) -> None:
    with Saver(config(tmp_path, "checkpoint.in_background=false")) as saver:
        saver.save(3, Weight(), {}, is_best=False)
        assert checkpoint.newest_whole(tmp_path / "checkpoints").step == 3


def refuse(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_writing_that_failed_is_known_and_raised_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoint, "save_file", refuse)
    with Saver(config(tmp_path)) as saver:
        saver.save(3, Weight(), {}, is_best=False)
        saver._thread.submit(int).result()  # after the writing
        assert saver.has_failed
        with pytest.raises(CheckpointError, match="step_3 needs .* No space left"):
            saver.finish()
        assert not saver.has_failed
        saver.finish()
    with pytest.raises(KeyboardInterrupt), Saver(config(tmp_path)) as saver:
        saver.save(6, Weight(), {}, is_best=False)
        raise KeyboardInterrupt  # which is told first; the disk's refusal stands in the log
    assert "step_6 needs" in caplog.text


def test_the_clock_of_rank_0_and_the_step_say_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
    words = ("checkpoint.every_steps=10", "checkpoint.every_minutes=2", "checkpoint.in_background=false")
    with Saver(config(tmp_path, *words)) as saver:
        assert [saver.is_due(step) for step in (9, 10, 11, 20)] == [False, True, False, True]
        now[0] += 119
        assert not saver.is_due(9)
        now[0] += 1
        assert saver.is_due(9)
        with monkeypatch.context() as patch:
            patch.setattr(saving.distributed, "rank", lambda: 1)
            assert not saver.is_due(9), "another clock"
        saver.save(9, Weight(), {}, is_best=False)
        assert not saver.is_due(11)
    with Saver(config(tmp_path)) as saver:
        now[0] += 10**6
        assert not saver.is_due(9), "no minutes were asked for"


def contents(run_dir: Path) -> dict[str, bytes]:
    files = sorted(path for path in (run_dir / "checkpoints").rglob("*") if path.is_file())
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in files if path.name != "state.json"}


WORDS = ("max_steps=5", "checkpoint.every_steps=2", "evaluate.every_steps=2")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero3_whole"])
def test_a_run_that_does_not_wait_writes_the_bytes_of_one_that_does(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path, engine: str
) -> None:
    for name in ("true", "false"):
        words = tiny(tiny_shards, tmp_path / name, *WORDS, f"checkpoint.in_background={name}")
        if engine == "ddp":
            assert main_on_this_rank(engine, *words) == 0
        else:
            assert two_ranks.run(main_on_rank, engine, *words) == [0, 0]
    of_background, of_foreground = contents(tmp_path / "true"), contents(tmp_path / "false")
    assert of_background.keys() == of_foreground.keys()
    for name, content in of_foreground.items():
        if not name.endswith("digests.json"):  # which hold that of the config, in which the two differ
            assert of_background[name] == content, name
