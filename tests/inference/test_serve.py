"""The endpoint as its users run it: a process of its own, from its start to SIGTERM."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deepcoro.inference.audit import check_audit
from tests.ingest.identities import found_in, write_full_dicom
from tests.launch import ROOT

pytestmark = pytest.mark.slow

TOKEN = "0123456789abcdef"
_LISTENS = re.compile(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")
_PATIENCE_S = 300


class Served:
    """A running endpoint; `said` is what it has written so far."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process, self.said, self.url = process, "", ""
        self._listens = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._listens.wait(_PATIENCE_S) and self.url, self.said

    def _read(self) -> None:
        for line in self.process.stdout:
            self.said += line
            if found := _LISTENS.search(line):
                self.url = found[1]
                self._listens.set()
        self._listens.set()  # it ended

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(_PATIENCE_S)
        self._reader.join(_PATIENCE_S)
        return code


@contextlib.contextmanager
def served(run_dir: Path, folder: Path, *words: str) -> Iterator[Served]:
    (folder / "token").write_text(f"{TOKEN}\n")
    (folder / "id.key").write_text("0123456789abcdef0123456789abcdef\n")
    (folder / "id.key").chmod(0o600)
    (folder / "scratch").mkdir()
    command = [
        *(sys.executable, "tools/serve.py", "--checkpoint", run_dir, "--load", "last", "--device", "cpu"),
        *("--port", "0", "--token_file", folder / "token", "--key_file", folder / "id.key"),
        *("--scratch", folder / "scratch", "--audit", folder / "audit.jsonl", *words),
    ]
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield Served(process)
    finally:
        process.kill()
        process.wait()


def children_of(pid: int) -> set[int]:
    said = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return set(map(int, said.stdout.split()))


def is_running(pid: int) -> bool:
    """A process that ended and that nobody has asked for (`Z`) runs no more."""
    said = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(said.stdout.strip()) and not said.stdout.startswith("Z")


def test_it_starts_answers_one_study_notes_it_and_ends_with_0_on_sigterm(
    run_dir: Path, tmp_path: Path
) -> None:
    film = write_full_dicom(tmp_path / "TREMBLAY.dcm", 1)
    with served(run_dir, tmp_path, "--workers", "2") as endpoint:
        asked = {"base_url": endpoint.url, "timeout": _PATIENCE_S}
        with httpx.Client(**asked, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            assert client.get("/health").json()["status"] == "ok"
            reply = client.post("/studies", files=[("file", (film.name, film.read_bytes()))])
        assert httpx.get(f"{endpoint.url}/health", timeout=_PATIENCE_S).status_code == 401
        assert reply.status_code == 200, reply.text
        (answer,) = reply.json()["studies"]
        assert len(answer["films"]) == 1 and answer["findings"]
        decoding = children_of(endpoint.process.pid)
        assert decoding
        assert endpoint.end() == 0, endpoint.said
        assert not [pid for pid in decoding if is_running(pid)]
    assert check_audit(tmp_path / "audit.jsonl") == 1
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not found_in("what it wrote", endpoint.said.encode())
