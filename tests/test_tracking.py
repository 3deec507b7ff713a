import io
import json
import os
import signal
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from deepcoro import tracking
from deepcoro.config import ConfigError, find_config
from deepcoro.logged_films import LoggedFilm
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


def test_a_killed_process_loses_no_line_that_it_logged(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        tracker = Tracker(run_config(tmp_path), True, 0, 9)
        for step in range(1, 6):
            tracker.log(step, {"train/loss": step / 10})
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    expected = [{"step": step, "train/loss": step / 10} for step in range(1, 6)]
    assert lines(tmp_path / "metrics.jsonl") == expected


def test_a_line_is_on_the_disk_before_log_returns(tmp_path: Path) -> None:
    tracker = Tracker(run_config(tmp_path), True, 0, 2)
    with mock.patch.object(tracking.os, "fsync") as fsync:
        tracker.log(1, {"train/loss": 0.5})
    fsync.assert_called_once_with(tracker._lines.fileno())
    tracker.close()


@pytest.mark.slow
def test_an_offline_wandb_run_keeps_its_id_when_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = run_config(tmp_path, "use_wandb=true")
    for step in (1, 2):
        tracker = Tracker(config, True, step - 1, 2)
        tracker.log(step, {"train/loss": 0.5})
        tracker.close()
    ids = {folder.name.rpartition("-")[2] for folder in (tmp_path / "wandb").glob("offline-run-*")}
    files = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert ids == {(tmp_path / "wandb_id").read_text()} and files


def test_wandb_is_told_the_config_and_what_the_start_is_remembered_by(tmp_path: Path) -> None:
    config = run_config(tmp_path, "use_wandb=true")
    with mock.patch("wandb.init") as init:
        Tracker(config, True, 0, 2, {"commit": "abc"}).close()
    told = init.call_args.kwargs["config"]
    assert told["start"] == {"commit": "abc"} and told["run_mode"] == "train"


def film(caption: str) -> LoggedFilm:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 24), 200, np.uint8)).save(buffer, "JPEG")
    return LoggedFilm(buffer.getvalue(), caption)


def test_films_reach_tensorboard_and_wandb_with_their_captions(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = run_config(tmp_path, "use_wandb=true", "tracking.use_tensorboard=true")
    with mock.patch("wandb.init") as init:
        tracker = Tracker(config, True, 0, 2)
        tracker.log_films(1, [film("report: a stenosis"), film("report: none")])
        tracker.log_films(2, [])
        tracker.close()
    (call,) = init.return_value.log.call_args_list
    assert call.kwargs == {"step": 1}
    assert [image._caption for image in call.args[0]["films"]] == ["report: a stenosis", "report: none"]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (picture,) = events.Images("films/0")
    assert (picture.step, picture.width, picture.height) == (1, 24, 8)
    words = [each.tensor_proto.string_val[0] for each in events.Tensors("films/1/text_summary")]
    assert words == [b"report: none"]


def test_trackio_gets_the_same_numbers_and_no_films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trackio = mock.MagicMock(__spec__=mock.Mock())
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    config = run_config(tmp_path / "my_run", "tracking.use_trackio=true")
    (tmp_path / "my_run").mkdir()
    tracker = Tracker(config, True, 0, 2, {"commit": "abc"})
    tracker.log(1, {"train/loss": 0.5})
    tracker.log_films(1, [film("report: a stenosis")])
    tracker.close()
    told = trackio.init.call_args.kwargs
    assert (told["project"], told["name"], told["resume"]) == ("deepcoro", "my_run", "allow")
    assert told["config"]["start"] == {"commit": "abc"} and told["private"]
    assert trackio.init.return_value.mock_calls == [
        mock.call.log({"train/loss": 0.5}, step=1),
        mock.call.finish(),
    ]


def test_trackio_that_is_not_installed_is_said(tmp_path: Path) -> None:
    with (
        mock.patch.object(tracking.importlib.util, "find_spec", return_value=None),
        pytest.raises(ConfigError, match="pip install trackio"),
    ):
        Tracker(run_config(tmp_path, "tracking.use_trackio=true"), True, 0, 2)
