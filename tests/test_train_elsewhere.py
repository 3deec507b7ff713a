"""Training from a URL is training from a disk: same losses, same weights, whatever is kept on the node and whatever vanishes."""

import csv
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch

from deepcoro.checkpoint import Checkpoint
from deepcoro.tracking import Tracker
from tests.data.server import serving
from tests.launch import SILENT, exit_code, losses, main_on_this_rank, metrics, tiny

WORDS = (*SILENT, "max_steps=3", "data.num_workers=1")


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return Checkpoint(run_dir / "checkpoints" / "step_3").weights()


@pytest.fixture(scope="module")
def local(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("local") / "run"
    assert main_on_this_rank("ddp", *tiny(tiny_shards, run_dir, *WORDS)) == 0
    return run_dir


@pytest.mark.parametrize("mode", ["none", "shard", "member"])
def test_three_steps_from_a_url_are_those_from_a_disk(
    tiny_shards: Path, local: Path, tmp_path: Path, mode: str
) -> None:
    cache = (f"data.cache.folder={tmp_path / 'kept'}", f"data.cache.mode={mode}")
    with serving(tiny_shards) as server:
        words = (f"data.shards={server.url}", f"run_dir={tmp_path / 'run'}", *WORDS, *cache)
        assert main_on_this_rank("ddp", "demo/tiny", *words) == 0
        assert server.asked
    assert losses(tmp_path / "run") == losses(local)
    torch.testing.assert_close(weights(tmp_path / "run"), weights(local), rtol=0, atol=0)
    assert (tmp_path / "kept").exists() == (mode != "none")
    assert server.url in (tmp_path / "run" / "config.yaml").read_text()


def test_shards_that_vanish_midway_are_masked_named_and_stop_the_run_past_the_limit(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    advance = Tracker.advance

    def vanishing(self: Tracker, step: int) -> None:
        if step == 2:
            for tar in sorted(shards.glob("shard-*.tar"))[::2]:
                tar.unlink()
        advance(self, step)

    with serving(shards) as server, mock.patch.object(Tracker, "advance", vanishing):
        words = (f"data.shards={server.url}", f"run_dir={tmp_path / 'run'}", *SILENT, "max_steps=60")
        assert main_on_this_rank("ddp", "demo/tiny", *words, "data.max_bad_fraction=0.2") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("DataError: ")]
    assert "more than max_bad_fraction 0.2 allows: shard-0000" in line and "it is not there (404)" in line
    assert server.url not in line and exit_code(tmp_path / "run") == 2
    last = metrics(tmp_path / "run")[-1]
    assert 0 < last["data/bad_fraction"] <= 0.2
    rows = list(csv.DictReader((tmp_path / "run" / "damaged_samples.csv").open()))
    assert len(rows) > last["data/bad_samples"] > 0
    assert all(row["reason"].endswith("it is not there (404)); restore the shard") for row in rows)
