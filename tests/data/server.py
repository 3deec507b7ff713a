"""A web server on 127.0.0.1 that serves a folder with ranges, and misbehaves on request."""

import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server:
    """What a test sees of it: what it was asked, and what it is to do wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, int | None]] = []
        """File and first byte of each request."""
        self.faults: dict[str, list[str]] = {}
        """File -> what happens to its next requests, one each: a status, `cut`, `short`, `wrong`, or for ever `stall`, `drip`."""
        self.ignores_ranges = False
        self.delay_s = 0.0
        """Before each answer."""
        self.url = ""
        self.closing = threading.Event()

    def times_asked(self, name: str) -> int:
        return sum(each == name for each, _ in self.asked)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    handler = type("Handler", (_Handler,), {"state": server})
    listener = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    listener.daemon_threads = True
    server.url = f"http://127.0.0.1:{listener.server_port}/shards"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        listener.shutdown()
        listener.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.removeprefix("/shards/")
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.state.asked.append((name, int(span[1]) if span else None))
        self.state.closing.wait(self.state.delay_s)
        faults = self.state.faults.get(name, [])
        fault = faults.pop(0) if faults else ""
        if fault.isdigit():
            self._answer(int(fault), b"")
            return
        path = self.state.folder / name
        if not path.is_file():
            self._answer(404, b"")
            return
        content = path.read_bytes()
        if span is None or self.state.ignores_ranges:
            self._answer(200, content, fault)
        elif int(span[1]) >= len(content):
            self._answer(416, b"")
        else:
            self._answer(206, content[int(span[1]) : int(span[2]) + 1], fault)

    def _answer(self, status: int, body: bytes, fault: str = "") -> None:
        if fault == "stall":
            self.state.closing.wait()
            self.close_connection = True
            return
        if fault == "wrong":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault == "short":
            body = body[: len(body) // 2]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the reader lost patience
            self._send(body, fault)

    def _send(self, body: bytes, fault: str) -> None:
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
        elif fault == "drip":
            for byte in body[:-1]:
                self.wfile.write(bytes([byte]))
                if self.state.closing.wait(0.1):
                    break
            self.close_connection = True
        else:
            self.wfile.write(body)
