"""A receiver of webhooks that behaves as a test wants: it takes, refuses, redirects, hangs or drips."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Answer = Callable[["Handler"], None]


@dataclass(frozen=True)
class Posted:
    """One request that came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> dict[str, Any]:
        """The body as JSON."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Handler(BaseHTTPRequestHandler):
    """Notes a request, then does what is due for its path."""

    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        posted = Posted(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        with self.server.lock:
            self.server.posted.append(posted)
            answers = self.server.answers.get(self.path, [])
            answer = answers.pop(0) if answers else self.server.usual.get(self.path, status(204))
        self.code = 0
        answer(self)
        if 200 <= self.code < 300:
            with self.server.lock:
                self.server.taken.append(posted)

    do_GET = do_POST  # noqa: N815 - a name of the library

    def send_response(self, code: int, message: str | None = None) -> None:
        """Note the status."""
        self.code = code
        super().send_response(code, message)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


class Server(ThreadingHTTPServer):
    """A receiver on a free port of loopback."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.posted: list[Posted] = []
        self.taken: list[Posted] = []
        self.answers: dict[str, list[Answer]] = {}
        self.usual: dict[str, Answer] = {}
        self.over = threading.Event()
        self.scheme = "http"

    def handle_error(self, *_: object) -> None:
        """A client that is gone is nothing new."""

    def url(self, path: str) -> str:
        """The address of a path."""
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}{path}"

    def at(self, path: str, *, taken: bool = False) -> list[Posted]:
        """The requests to a path, or only those that were answered with success."""
        with self.lock:
            return [each for each in (self.taken if taken else self.posted) if each.path == path]


def status(code: int, **headers: str) -> Answer:
    """Answer with this status."""

    def answer(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def hang(handler: Handler) -> None:
    """Say nothing until the test is over."""
    handler.server.over.wait()


def drip(handler: Handler) -> None:
    """Begin an answer that never ends, a byte at a time."""
    while not handler.server.over.wait(0.05):
        handler.wfile.write(b"H")
        handler.wfile.flush()


def flood(handler: Handler) -> None:
    """Answer with more than anybody wants to read."""
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.over.is_set():
        handler.wfile.write(b"x" * 65_536)


@contextmanager
def receiver(certificate: Path | None = None) -> Iterator[Server]:
    """A receiver that serves until the block ends; with HTTPS, if there is a certificate (with its key)."""
    with Server() as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            server.scheme = "https"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
