"""What a start is remembered by."""

from unittest import mock

import pytest

from deepcoro import run_record
from deepcoro.data.collection import Collection
from deepcoro.run_record import last_start, note_start, read_record


def shards() -> mock.Mock:
    """No split, one digest."""
    return mock.Mock(spec=Collection, fingerprint="abc", splits=())


def test_each_start_tells_code_data_command_and_environment_and_no_secret(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_P2P_LEVEL", "NVL")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setattr(run_record.sys, "argv", ["train.py", "demo/tiny"])
    note_start(tmp_path, shards(), {"device": "cpu"})
    note_start(tmp_path, shards(), {"device": "cuda"})
    start = last_start(tmp_path)
    assert (start["device"], start["data"], start["command"]) == ("cuda", "abc", ["train.py", "demo/tiny"])
    assert start["environment"]["NCCL_P2P_LEVEL"] == "NVL"
    assert "secret" not in str(read_record(tmp_path))
    assert len(read_record(tmp_path)["starts"]) == 2
    assert len(start["commit"]) == 12 and start["uncommitted"] in (True, False)


def test_without_git_nothing_is_said_of_the_commit(tmp_path) -> None:
    with mock.patch.object(run_record.subprocess, "run", side_effect=FileNotFoundError):
        note_start(tmp_path, shards(), {})
    assert last_start(tmp_path)["commit"] is None and last_start(tmp_path)["uncommitted"] is None


def test_a_run_without_record_has_no_start(tmp_path) -> None:
    assert last_start(tmp_path) == {}
