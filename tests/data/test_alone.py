"""Two runs never write to one shard folder; a run that died leaves no lock."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from deepcoro.config import DataError
from deepcoro.data import withdrawal
from deepcoro.data.alone import alone, check_free
from deepcoro.data.parts import write_part
from deepcoro.data.writer import write_dataset
from tests.data.studies import SMALL, contents, forbid_opening, make_studies
from tests.launch import ROOT

HOLD = """
import sys, time
from pathlib import Path
from deepcoro.data.alone import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that works in the folder."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_by_process_and_host_and_a_killed_one_holds_nothing(
    tmp_path, holder, monkeypatch
):
    studies = make_studies(tmp_path / "films", 2)
    told = f"being written by another run .process {holder.pid} on {socket.gethostname()}."
    with monkeypatch.context() as patched:
        forbid_opening(patched)
        for attempt in (
            lambda: write_dataset(studies, tmp_path / "out", SMALL),
            lambda: write_part(studies, tmp_path / "out", SMALL.model_copy(update={"part": (1, 2)})),
            lambda: withdrawal.withdraw(tmp_path / "out", "somebody"),
            lambda: withdrawal.purge(tmp_path / "out"),
            lambda: check_free(tmp_path / "out"),
        ):
            with pytest.raises(DataError, match=told):
                attempt()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    write_dataset(studies, tmp_path / "out", SMALL)
    write_dataset(studies, tmp_path / "undisturbed", SMALL)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
    assert (tmp_path / "out" / ".progress" / "lock").read_bytes() == b""


def test_parts_share_a_folder_but_not_a_part_and_nobody_joins_them(tmp_path):
    with alone(tmp_path, (1, 3)), alone(tmp_path, (2, 3)):
        with pytest.raises(DataError, match="another run .process"), alone(tmp_path, (2, 3)):
            pass
        with pytest.raises(DataError, match="another run .parts of one table."), alone(tmp_path):
            pass
    with alone(tmp_path):
        pass


def test_a_folder_that_is_none_gets_no_lock(tmp_path):
    with pytest.raises(DataError, match="holds no manifest"):
        withdrawal.withdraw(tmp_path, "somebody")
    check_free(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_the_file_system_has_no_locks_a_warning_says_so(tmp_path, monkeypatch, caplog):
    def unsupported(handle, kind):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with alone(tmp_path):
        pass
    assert "no locks here (Operation not supported)" in caplog.text
