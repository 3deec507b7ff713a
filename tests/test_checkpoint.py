import json
import logging
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from deepcoro import checkpoint
from deepcoro.config import ConfigError, DataError
from deepcoro.engine import Engine

Disk = namedtuple("Disk", "total used free")


class FakeEngine(Engine):
    """Stands for an engine: the weights and moments of one parameter."""

    def __init__(self, value: float = 0.0):
        self.value = value

    def full_weights(self) -> dict[str, torch.Tensor]:
        return {"layer.weight": torch.full((2, 3), self.value)}

    def full_moments(self) -> dict[str, torch.Tensor]:
        return {
            f"layer.weight/{key}": torch.full((2, 3), self.value + 1) for key in ("exp_avg", "exp_avg_sq")
        }


def snapshot(step: int, is_best: bool = False) -> checkpoint.Snapshot:
    return checkpoint.take(step, FakeEngine(step), {"progress": {"step": step}}, is_best)


def saved(folder: Path, *steps: int, keep: int = 2, keep_every: int | None = None) -> checkpoint.Checkpoint:
    for step in steps:
        checkpoint.write(folder, snapshot(step), checkpoint.Retention(keep, keep_every))
    return checkpoint.find(folder, "last")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("step_*")}


def damage(folder: Path, file: str = checkpoint.WEIGHTS) -> None:
    """One bit of one file, as a bad disk does."""
    content = bytearray((folder / file).read_bytes())
    content[-1] ^= 1
    (folder / file).write_bytes(content)


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    last = saved(tmp_path, 3)
    assert last.step == 3 and last.is_whole()
    assert last.state() == {"progress": {"step": 3}}
    assert torch.equal(last.weights()["layer.weight"], torch.full((2, 3), 3.0))
    assert torch.equal(last.moments()["layer.weight/exp_avg_sq"], torch.full((2, 3), 4.0))
    assert (tmp_path / "latest").read_text() == "step_3"


def test_a_checkpoint_knows_the_epochs_that_it_has_finished(tmp_path: Path) -> None:
    assert saved(tmp_path, 3).epoch() is None
    state = {"stream": {"epoch": 2}}
    checkpoint.write(tmp_path, checkpoint.take(6, FakeEngine(), state), checkpoint.Retention(2))
    assert checkpoint.find(tmp_path, "last").epoch() == 2


def test_old_checkpoints_are_pruned_and_the_best_is_kept(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    checkpoint.mark_best(tmp_path, 1)
    saved(tmp_path, 2, 10, 9, 30, keep=3)
    assert names(tmp_path) == {"step_1", "step_9", "step_10", "step_30"}


def test_a_new_best_replaces_the_one_before(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        checkpoint.write(tmp_path, snapshot(step, is_best=step in (1, 2)), checkpoint.Retention(2))
    assert checkpoint.find(tmp_path, "best").step == 2
    assert names(tmp_path) == {"step_2", "step_3", "step_4"}


def test_checkpoints_of_round_steps_stay(tmp_path: Path) -> None:
    saved(tmp_path, 5, 10, 15, 20, 25, 30, 35, keep_every=10)
    assert names(tmp_path) == {"step_10", "step_20", "step_30", "step_35"}


def test_one_that_cannot_be_removed_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 1, 2)

    def busy(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(checkpoint.shutil, "rmtree", busy)
    with caplog.at_level(logging.WARNING):
        assert saved(tmp_path, 3).step == 3
    assert "old checkpoint step_1 stays: [Errno 16]" in caplog.text


WRITING = ["publish", "_synced_digest", "write_bytes", "save_file"]


@pytest.mark.parametrize("failing", WRITING)
def test_a_crash_before_the_rename_leaves_the_previous_one_as_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    saved(tmp_path, 3)
    checkpoint.mark_best(tmp_path, 3)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, failing, crash)
        with pytest.raises(KeyboardInterrupt):
            saved(tmp_path, 6)
    assert names(tmp_path) == {"step_3", "step_6.tmp"}
    assert checkpoint.newest_whole(tmp_path).step == 3
    assert checkpoint.find(tmp_path, "last").step == 3
    assert (tmp_path / "latest").read_text() == "step_3"
    assert saved(tmp_path, 7).is_whole()
    assert names(tmp_path) == {"step_3", "step_7"}, "what the crash left is gone"


@pytest.mark.parametrize("failing", WRITING)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("os error 28")])
def test_a_disk_that_refuses_leaves_nothing_of_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: Exception
) -> None:
    saved(tmp_path, 3)

    def refuse(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, failing, refuse)
        with pytest.raises(checkpoint.CheckpointError, match="step_6 needs .* step_3 and those before it"):
            saved(tmp_path, 6)
    assert {path.name for path in tmp_path.iterdir()} == {"step_3", "latest"}
    assert (tmp_path / "latest").read_text() == "step_3"
    assert saved(tmp_path, 6).step == 6


def test_a_disk_known_to_be_too_full_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = snapshot(3).bytes + checkpoint.NAMES_BYTES
    for total, left in ((10**9, free), (0, 0)):  # just enough; a file system that tells nothing
        monkeypatch.setattr(
            checkpoint.shutil, "disk_usage", lambda _, at=(total, left): Disk(at[0], 0, at[1])
        )
        saved(tmp_path, 3)
        shutil.rmtree(tmp_path / "step_3")
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: Disk(10**9, 0, free - 1))
    monkeypatch.setattr(checkpoint, "save_file", None)
    with pytest.raises(checkpoint.CheckpointError, match="it was not begun; no earlier one is there"):
        saved(tmp_path, 3)


def test_a_crash_after_the_rename_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 3, 6)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_prune", crash)
        with pytest.raises(KeyboardInterrupt):
            saved(tmp_path, 9)
    assert checkpoint.newest_whole(tmp_path).step == 9
    saved(tmp_path, 12)
    assert names(tmp_path) == {"step_9", "step_12"}


def test_nothing_saved_is_nothing_found(tmp_path: Path) -> None:
    assert checkpoint.newest_whole(tmp_path / "absent") is None


def test_only_an_unfinished_one_means_starting_over_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "step_3.tmp").mkdir()
    with caplog.at_level(logging.WARNING):
        assert checkpoint.newest_whole(tmp_path) is None
    assert "starting over" in caplog.text


FILES = (checkpoint.WEIGHTS, checkpoint.MOMENTS, checkpoint.STATE, checkpoint.DIGESTS)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["bit", "absent", "short"])
def test_a_damaged_newest_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, how: str
) -> None:
    saved(tmp_path, 3, 6)
    if how == "bit":
        damage(tmp_path / "step_6", file)
    elif how == "absent":
        (tmp_path / "step_6" / file).unlink()
    else:
        (tmp_path / "step_6" / file).write_bytes((tmp_path / "step_6" / file).read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert checkpoint.newest_whole(tmp_path).step == 3
    assert "step_6 is damaged" in caplog.text


def test_a_run_that_goes_on_before_a_damaged_one_keeps_what_it_saves(tmp_path: Path) -> None:
    saved(tmp_path, 3, 6, 9, keep=3)
    damage(tmp_path / "step_6")
    damage(tmp_path / "step_9")
    assert checkpoint.newest_whole(tmp_path).step == 3
    saved(tmp_path, 4, 6)  # neither pruned as older than the damaged ones nor left out because one is there
    assert checkpoint.newest_whole(tmp_path).step == 6
    assert checkpoint.find(tmp_path, "step_4").is_whole()


def test_latest_and_best_name_nothing_that_was_set_aside(tmp_path: Path) -> None:
    saved(tmp_path, 3, 6)
    checkpoint.mark_best(tmp_path, 6)
    damage(tmp_path / "step_6")
    assert checkpoint.newest_whole(tmp_path).step == 3
    assert (tmp_path / "latest").read_text() == "step_3"
    assert checkpoint.find(tmp_path, "best").step == 3
    checkpoint.mark_best(tmp_path, 3)
    saved(tmp_path, 6)
    damage(tmp_path / "step_6")
    assert checkpoint.newest_whole(tmp_path).step == 3
    assert (tmp_path / "best").read_text() == "step_3", "the best is another one"


def test_none_whole_stops_instead_of_starting_over(tmp_path: Path) -> None:
    saved(tmp_path, 3, 6)
    damage(tmp_path / "step_3")
    damage(tmp_path / "step_6")
    for _ in range(2):  # also when asked again
        with pytest.raises(DataError, match="none of them is whole"):
            checkpoint.newest_whole(tmp_path)
    assert names(tmp_path) == {"step_3", "step_6"}


def test_where_none_was_named_the_best_the_newest_is_taken_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 3, 6)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.find(tmp_path, "best").step == 6
        assert "names no best checkpoint" in caplog.text and "step_6, is taken" in caplog.text
        caplog.clear()
        checkpoint.mark_best(tmp_path, 3)
        assert checkpoint.find(tmp_path, "best").step == 3
        assert checkpoint.find(tmp_path, "last").step == 6
    assert not caplog.text


def test_find_knows_best_last_and_a_step(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    checkpoint.mark_best(tmp_path, 3)
    saved(tmp_path, 6)
    found = {name: checkpoint.find(tmp_path, name).step for name in ("best", "last", "step_3", "step_6")}
    assert found == {"best": 3, "last": 6, "step_3": 3, "step_6": 6}


def test_find_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no checkpoint; train first"):
        checkpoint.find(tmp_path, "best")
    saved(tmp_path, 3, 6)
    with pytest.raises(ConfigError, match="'step_4' is not in .*best, last, step_6, step_3"):
        checkpoint.find(tmp_path, "step_4")
    damage(tmp_path / "step_6")
    with pytest.raises(DataError, match="step_6 .* is damaged; choose another"):
        checkpoint.find(tmp_path, "last")


def test_digests_cover_every_file_and_name_the_weights(tmp_path: Path) -> None:
    last = saved(tmp_path, 3)
    digests = json.loads((last.folder / checkpoint.DIGESTS).read_text())
    assert set(digests) == {path.name for path in last.folder.iterdir()} - {checkpoint.DIGESTS}
    assert digests[checkpoint.WEIGHTS].startswith(last.digest())
