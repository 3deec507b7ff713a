"""Shards behind a server that is slow, dies, and comes back: the run waits, stops with one line, and goes on exactly."""

from pathlib import Path
from unittest import mock

import pytest

from deepcoro.checkpoint import newest_whole
from deepcoro.tracking import Tracker
from tests.data.server import Server, serving
from tests.launch import CONSTANT_LR, SILENT, losses, main_on_this_rank, metrics, tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

WORDS = (*SILENT, *CONSTANT_LR, "checkpoint.every_steps=2", "max_steps=12", "data.max_bad_fraction=0")


def tars(server: Server) -> list[str]:
    return [path.name for path in server.folder.glob("shard-*.tar")]


def test_a_source_that_slows_dies_and_comes_back_costs_time_alone(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main_on_this_rank("ddp", *tiny(tiny_shards, tmp_path / "local", *WORDS)) == 0
    run_dir, advance = tmp_path / "run", Tracker.advance
    with serving(tiny_shards) as server:
        words = tiny(server.url, run_dir, *WORDS)

        def failing(self: Tracker, step: int) -> None:
            server.delay_s = 0.1 if step == 2 else 0.0
            if step == 5:
                server.faults = {name: ["404"] * 1000 for name in tars(server)}
            advance(self, step)

        with mock.patch.object(Tracker, "advance", failing):
            assert main_on_this_rank("ddp", *words) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("DataError: ")]
        assert "more than max_bad_fraction 0.0 allows" in line
        assert newest_whole(run_dir / "checkpoints").step == 4, "what was trained on holes is not kept"
        server.faults = {}
        assert main_on_this_rank("ddp", *words) == 0
    assert losses(run_dir) == losses(tmp_path / "local")
    waited = {line["step"]: line["speed/data_wait_s"] for line in metrics(run_dir)}
    assert waited[3] > 0.2, "four samples, each of them late"
