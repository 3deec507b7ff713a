"""A shell's `python` and `accelerate` that have imported torch already: each command is a fork of one process, which paid for the imports.

What a page says is run to the letter: `WarmPython.environment` puts two programs before those of PATH. They hand words, folder, environment
and open files to the process that waits, pass signals on, and end as the fork ends. Only what this project starts is forked (`train.py`, its
tools, its modules, accelerate's launcher and so the ranks); everything else is the real interpreter, and where the first start matters, use that.
"""

import contextlib
import ctypes
import fcntl
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

IMPORTED = (
    *(
        "accelerate.commands.accelerate_cli",
        "torch.distributed.run",
        "transformers.models.bert.modeling_bert",
    ),
    *("deepcoro.command_line", "deepcoro.train", "deepcoro.evaluate", "deepcoro.predict", "deepcoro.report"),
    *(
        "deepcoro.inference.predict",
        "deepcoro.inference.model",
        "deepcoro.search",
        "matplotlib.backends.backend_svg",
    ),
)
CLIENT = Path(__file__).with_name("warm_client.py")
MOST_FILES = 250
_ABOVE_FILES = 500
"""Received files are set down here before each takes the number that it had."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
START_S = 900


class WarmPython:
    """The waiting process; Linux only. It and all that it forked end with `end`, or with this process."""

    def __init__(self, folder: Path, environment: Mapping[str, str], imported: Sequence[str] = IMPORTED):
        """`folder`: made, for the two programs; `environment`: laid over this process's while it imports."""
        folder.mkdir()
        self._programs = folder
        address = folder / "socket"
        command = f'#!/bin/sh\nexec "{sys.executable}" -IS "{CLIENT}" "{address}" "{sys.executable}" "{folder / "python"}"'
        _write_program(folder / "python", f'{command} "$@"\n')
        _write_program(folder / "accelerate", f'{command} -m accelerate.commands.accelerate_cli "$@"\n')
        words = [sys.executable, "-P", str(Path(__file__).resolve()), str(address), *imported]
        self._process = subprocess.Popen(words, env=os.environ | dict(environment), stdout=subprocess.PIPE)
        ready, _, _ = select.select([self._process.stdout], [], [], START_S)
        if not ready or self._process.stdout.readline() != b"ready\n":
            self.end()
            raise RuntimeError("the process that imports for others did not start")

    @property
    def environment(self) -> dict[str, str]:
        """To be laid over a shell's. The launcher starts its ranks with PYTHON_EXEC."""
        path = f"{self._programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {"PATH": path, "PYTHON_EXEC": str(self._programs / "python")}

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _main(address: str, *imported: str) -> None:
    _end_with_parent()
    for name in imported:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(64)
        os.write(1, b"ready\n")
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        asked = _served(listening)
    _run(asked["words"])


def _served(listening: socket.socket) -> dict:
    """Forks a watcher for each request, which forks the command; comes back in the command alone."""
    while True:
        connection, _ = listening.accept()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            _end_with_parent()
            listening.close()
            return _forked(connection)
        connection.close()


def _forked(connection: socket.socket) -> dict:
    size, files, _, _ = socket.recv_fds(connection, 8, MOST_FILES)
    asked = json.loads(_read(connection, struct.unpack("q", size)[0]))
    command = os.fork()
    if command:
        for file in files:
            os.close(file)
        _watch(connection, command)
        os._exit(0)
    connection.close()
    _end_with_parent()
    _become(asked, files)
    return asked


def _read(connection: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        part = connection.recv(size - len(read))
        if not part:
            raise EOFError("whoever asked is gone")
        read += part
    return read


def _watch(connection: socket.socket, command: int) -> None:
    """Passes signals on to the command until it ends, and kills it when whoever asked for it is gone."""
    ended = os.pidfd_open(command)
    while ended not in select.select([connection, ended], [], [])[0]:
        number = connection.recv(1)
        signal.pidfd_send_signal(ended, number[0] if number else signal.SIGKILL)
        if not number:
            break
    status = os.waitpid(command, 0)[1]
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(struct.pack("i", status))


def _become(asked: dict, files: list[int]) -> None:
    """Folder, environment and open files of whoever asked."""
    os.setsid()
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    aside = [fcntl.fcntl(file, fcntl.F_DUPFD, _ABOVE_FILES) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(aside, asked["files"], strict=True):
        os.dup2(file, number)
        os.close(file)
    sys.executable = asked["python"]


def _run(words: list[str]) -> None:
    """As the interpreter does with these words."""
    words = words[1:] if words[0] == "-u" else words
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, str(Path.cwd()))
        sys.modules.pop(words[1], None)
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _main(*sys.argv[1:])
