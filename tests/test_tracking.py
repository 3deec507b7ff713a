import json
from pathlib import Path
from unittest import mock

import pytest

from deepcoro import tracking
from deepcoro.config import find_config
from deepcoro.run_config import RunConfig, load_run_config
from deepcoro.tracking import Tracker, cut_back, wandb_mode


def run_config(run_dir: Path, *overrides: str) -> RunConfig:
    return load_run_config(find_config("demo/tiny"), [f"run_dir={run_dir}", *overrides])


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_line_is_on_disk_at_once(tmp_path: Path) -> None:
    tracker = Tracker(run_config(tmp_path), True, 0, 2)
    tracker.log(1, {"train/loss": 0.5})
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1, "train/loss": 0.5}]
    tracker.advance(1)
    tracker.log(2, {"val/score": 1.0})
    assert len(lines(tmp_path / "metrics.jsonl")) == 2
    tracker.close()


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    config = run_config(tmp_path, "use_wandb=true", "tracking.use_tensorboard=true")
    tracker = Tracker(config, False, 0, 2)
    tracker.log(1, {"train/loss": 0.5})
    tracker.advance(1)
    tracker.close()
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3, 3, 4)) + '{"step": 5, "tr'
    )
    tracker = Tracker(run_config(tmp_path), True, 3, 9)
    tracker.log(4, {})
    tracker.close()
    assert [line["step"] for line in lines(path)] == [1, 2, 3, 3, 4]


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ("", ""),
        ('{"step": 1}\n', '{"step": 1}\n'),
        ('{"step": 1}\n{"step": 2}', '{"step": 1}\n'),  # a whole object whose line end was not written
        ('{"step": 1}\n{"st\n{"step": 2}\n', '{"step": 1}\n{"step": 2}\n'),
        ('{"step": 3}\n', ""),
    ],
)
def test_cut_back_keeps_whole_lines_up_to_the_step(tmp_path: Path, content: str, kept: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    cut_back(path, 2)
    assert path.read_text() == kept


def test_cut_back_of_nothing_is_nothing(tmp_path: Path) -> None:
    cut_back(tmp_path / "metrics.jsonl", 2)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = Tracker(run_config(tmp_path, "tracking.use_tensorboard=true"), True, 0, 2)
    tracker.log(1, {"train/loss": 0.5, "epoch": 0.25})
    tracker.log(2, {"train/loss": 0.25})
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)]
    assert events.Tags()["scalars"] == ["train/loss", "epoch"]


def test_a_resumed_run_stays_the_same_wandb_run(tmp_path: Path) -> None:
    config = run_config(tmp_path, "use_wandb=true")
    with mock.patch("wandb.init") as init:
        Tracker(config, True, 0, 2).close()
        Tracker(config, True, 1, 2).close()
    first, second = (call.kwargs for call in init.call_args_list)
    assert first["id"] == second["id"] and first["resume"] == "allow"


@pytest.mark.parametrize(
    ("environment", "netrc", "mode"),
    [
        ({}, None, "offline"),
        ({"WANDB_API_KEY": "k"}, None, "online"),
        ({}, "machine api.wandb.ai login user password k", "online"),
        ({}, "machine elsewhere.org login user password k", "offline"),
        ({"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, None, "disabled"),
    ],
)
def test_wandb_is_offline_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict, netrc: str | None, mode: str
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tracking.Path, "home", lambda: tmp_path)
    if netrc is not None:
        (tmp_path / ".netrc").write_text(netrc)
    assert wandb_mode() == mode
