"""What stands for `python` where tests/warm_python.py waits: hands a command over and ends as it ends. Standard library alone: it starts in 20 ms.

Words: the socket, the real interpreter, the program that stands for it, then those of the user.
"""

import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path

PASSED_ON = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")
OURS = ("accelerate.commands.", "deepcoro.")


def is_ours(words: list[str]) -> bool:
    """Whether a fork runs it: a file of the project, or a module of its or of accelerate's."""
    words = words[1:] if words[:1] == ["-u"] else words
    if words[:1] == ["-m"]:
        return words[1].startswith(OURS)
    return bool(words) and (words[0].endswith("train.py") or "tools/" in words[0])


def ask(connection: socket.socket, words: list[str], python: str) -> None:
    files = [int(file.name) for file in sorted(Path("/proc/self/fd").iterdir()) if file.exists()]
    files.remove(connection.fileno())
    asked = {"words": words, "folder": str(Path.cwd()), "environment": dict(os.environ), "files": files}
    message = json.dumps(asked | {"python": python}).encode()
    socket.send_fds(connection, [struct.pack("q", len(message))], files)
    connection.sendall(message)


def main() -> int:
    address, real, python, *words = sys.argv[1:]
    if not is_ours(words):
        os.execv(real, [real, *words])
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    ask(connection, words, python)
    for name in PASSED_ON:
        signal.signal(getattr(signal, name), lambda number, frame: connection.sendall(bytes([number])))
    answer = connection.recv(4)
    if not answer:
        return 1
    status = struct.unpack("i", answer)[0]
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) != signal.SIGKILL:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    return os.WEXITSTATUS(status)


if __name__ == "__main__":
    sys.exit(main())
