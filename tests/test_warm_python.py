"""What a page's commands are run by: forks of a process that has imported, which nobody is to tell from the interpreter."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.warm_python import WarmPython

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors of processes are Linux's")
PATIENCE_S = 60


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmPython]:
    """It has imported one small module."""
    python = WarmPython(tmp_path_factory.mktemp("warm") / "programs", {}, ["colorsys"])
    yield python
    python.end()


@pytest.fixture
def run(warm: WarmPython, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """A script of the shell in a folder that holds `tools/said.py`, with this text."""

    def call(script: str, tool: str) -> subprocess.CompletedProcess:
        return subprocess.run(_shell(script), timeout=PATIENCE_S, **_place(tmp_path, warm, tool))

    return call


def _shell(script: str) -> list[str]:
    return ["bash", "-euo", "pipefail", "-c", script]


def _place(folder: Path, warm: WarmPython, tool: str) -> dict:
    (folder / "tools").mkdir()
    (folder / "tools" / "said.py").write_text(tool)
    environment = os.environ | warm.environment | {"SAID": "here"}
    return {
        "cwd": folder,
        "env": environment,
        "text": True,
        "stdout": subprocess.PIPE,
        "stdin": subprocess.PIPE,
    }


def test_a_fork_has_the_modules_that_were_imported_and_the_interpreter_for_others_has_not(run) -> None:
    asks = "import sys; print('colorsys' in sys.modules)"
    assert run(f'python tools/said.py; python -c "{asks}"', asks).stdout.split() == ["True", "False"]


def test_a_fork_has_words_folder_environment_and_files_of_whoever_asked(run, tmp_path: Path) -> None:
    tool = """
import os, sys
print(sys.argv[1:], __name__, os.getcwd(), os.environ["SAID"], os.environ["MORE"], sys.stdin.read(), os.path.basename(sys.path[0]))
os.write(7, b"seven")
"""
    ended = run("echo -n asked | MORE=more python -u tools/said.py --a 'b c' 7> seven.txt", tool)
    assert ended.stdout.strip() == f"['--a', 'b c'] __main__ {tmp_path} here more asked tools"
    assert (tmp_path / "seven.txt").read_text() == "seven"


@pytest.mark.parametrize(
    ("tool", "code"),
    [
        ("import sys; sys.exit(3)", 3),
        ("pass", 0),
        ("import os; os.kill(os.getpid(), 9)", 128 + 9),
        ("raise ValueError", 1),
    ],
)
def test_a_command_ends_as_its_fork_ends(run, tool: str, code: int) -> None:
    assert run("python tools/said.py 2> errors.txt && echo 0 || echo $?", tool).stdout == f"{code}\n"


def test_a_signal_is_passed_on(run) -> None:
    tool = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
print("listening", flush=True)
time.sleep(60)
"""
    script = "python tools/said.py > said.txt & until grep -q listening said.txt; do sleep 0.02; done; kill $!; wait $! || echo $?"
    assert run(script, tool).stdout == "5\n"


def test_a_fork_ends_with_whoever_asked(warm: WarmPython, tmp_path: Path) -> None:
    tool = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen(_shell("exec python tools/said.py"), **_place(tmp_path, warm, tool)) as asking:
        fork = int(asking.stdout.readline())
        asking.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{fork}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
