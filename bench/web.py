"""Measures the web process: requests per second and how long they take, beside a bare application of the same stack;
and the delay of the node's loop while strangers send what they should not.

Both serve in turns in the same run, so other load of the machine affects both alike. The bare application answers each
request with the same bytes, over Starlette and uvicorn (h11), without a node, a token or a check.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from bench.report import Measure, at_least, at_most, percentile
from crabnet.access.secret import digest_of, make_secret
from crabnet.control.client import call
from crabnet.errors import CrabnetError
from tests.web.hostile import EXCHANGES, Exchange

GROUP: Final = "Web process"
_PATH: Final = "/api/v1/overview"
_CONNECTIONS: Final = 16
_START_S: Final = 30
_IDLE: Final = 500
_FORGOTTEN_S: Final = 61
_BARE: Final = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
body = open(sys.argv[1], "rb").read()
async def overview(request):
    return Response(body, media_type="application/json")
app = Starlette(routes=[Route("/api/v1/overview", overview)])
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), http="h11", ws="none", lifespan="off", log_level="error")
"""


def measure(*, quick: bool) -> list[Measure]:
    """Requests per second of both, in turns."""
    rounds, seconds = (2, 1.0) if quick else (6, 4.0)
    with tempfile.TemporaryDirectory(prefix="crabnet-bench-") as name:
        directory = Path(name)
        with _node(directory / "node") as (port, secret):
            request = _request(port, secret)
            body = _once(port, request)
            (directory / "body").write_bytes(body)
            time.sleep(0 if quick else _FORGOTTEN_S)  # the delays of the start do not count
            quiet_ms = _loop_delay_ms(directory / "node")
            hostile_ms = _hostile(directory / "node", port)
            with _bare(directory / "body") as bare_port:
                ours: list[_Turn] = []
                bare: list[_Turn] = []
                for _ in range(rounds):
                    ours.append(_turn(port, request, seconds))
                    bare.append(_turn(bare_port, request, seconds))
    ratios = [mine.per_s / theirs.per_s for mine, theirs in zip(ours, bare, strict=True)]
    note = f"{_CONNECTIONS} connections, {len(body)} bytes each"
    return [
        Measure(GROUP, "overview: ratio to a bare application", statistics.median(ratios), "", at_least(0.5), note),
        Measure(GROUP, "overview", statistics.median(turn.per_s for turn in ours), "requests/s"),
        Measure(GROUP, "bare application", statistics.median(turn.per_s for turn in bare), "requests/s"),
        Measure(GROUP, "overview: p99", statistics.median(turn.p99_ms for turn in ours), "ms"),
        Measure(GROUP, "bare application: p99", statistics.median(turn.p99_ms for turn in bare), "ms"),
        Measure(GROUP, "longest delay of the node's loop: quiet", quiet_ms, "ms"),
        Measure(
            GROUP,
            "longest delay of the node's loop: hostile",
            hostile_ms,
            "ms",
            at_most(50),
            f"{len(EXCHANGES)} exchanges, {_IDLE} idle connections",
        ),
    ]


def _loop_delay_ms(data_dir: Path) -> float:
    """The longest delay in the last minute, as the node itself measures it."""
    families = cast(Any, call(data_dir, "metrics", {}, 10_000))["families"]
    found = next(family for family in families if family["name"].endswith("loop_delay_max_seconds"))
    return float(found["samples"][0]["value"]) * 1000


def _hostile(data_dir: Path, port: int) -> float:
    """Send all hostile exchanges beside many idle connections. Returns the longest delay of the node's loop, in ms."""
    with ExitStack() as stack:
        for _ in range(_IDLE):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(partial(_send, port), EXCHANGES))
        return _loop_delay_ms(data_dir)


def _send(port: int, exchange: Exchange) -> None:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
        sock.sendall(exchange.data)
        while sock.recv(65_536):
            pass


class _Turn:
    """What one turn of a server gave."""

    def __init__(self, took_s: list[float], seconds: float) -> None:
        self.per_s = len(took_s) / seconds
        self.p99_ms = percentile(took_s, 99) * 1000


def _turn(port: int, request: bytes, seconds: float) -> _Turn:
    """Ask over several connections at the same time, each waiting for its answers. The clients are another process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_clients, args=(port, request, seconds, theirs))
    process.start()
    took_s = cast(list[float], ours.recv())
    process.join()
    return _Turn(took_s, seconds)


def _clients(port: int, request: bytes, seconds: float, pipe: Any) -> None:
    took_s: list[float] = []
    threads = [threading.Thread(target=_client, args=(port, request, seconds, took_s)) for _ in range(_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send(took_s)


def _client(port: int, request: bytes, seconds: float, took_s: list[float]) -> None:
    until_s = time.perf_counter() + seconds
    with socket.create_connection(("127.0.0.1", port)) as sock:
        while (begun_s := time.perf_counter()) < until_s:
            sock.sendall(request)
            _answer(sock)
            took_s.append(time.perf_counter() - begun_s)


def _answer(sock: socket.socket) -> bytes:
    got = b""
    while (end := got.find(b"\r\n\r\n")) < 0:
        got += _more(sock)
    head = got[:end].lower()
    if not head.startswith(b"http/1.1 200 "):
        raise RuntimeError(f"the server answered {head[:40]!r}")
    size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    body = got[end + 4 :]
    while len(body) < size:
        body += _more(sock)
    return body


def _more(sock: socket.socket) -> bytes:
    chunk = sock.recv(65_536)
    if not chunk:
        raise RuntimeError("the server closed the connection")
    return chunk


def _once(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(request)
        return _answer(sock)


def _request(port: int, secret: str) -> bytes:
    host = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {secret}\r\n"
    return f"GET {_PATH} HTTP/1.1\r\n{host}\r\n".encode()


@contextmanager
def _node(data_dir: Path) -> Iterator[tuple[int, str]]:
    """A node with its web process: its port, and a token that may read."""
    words = ["listen", "--data-dir", str(data_dir), "--listen-addr", "127.0.0.1:0", "--announce-addr", ""]
    words += ["--web-addr", "127.0.0.1:0", "--web-requests-per-sec", "0"]
    with _process([sys.executable, "-m", "crabnet", *words]):
        secret = make_secret()
        address = _await_address(data_dir)
        given = {"name": "bench", "scope": "read", "secret_sha256": digest_of(secret)}
        call(data_dir, "token.new", cast(Any, given), 10_000)
        yield int(address.rpartition(":")[2]), secret


def _await_address(data_dir: Path) -> str:
    until_s = time.monotonic() + _START_S
    while time.monotonic() < until_s:
        try:
            status = cast(Any, call(data_dir, "status", {}, 10_000))
        except CrabnetError:
            status = {"children": []}
        for child in status["children"]:
            if child["name"] == "web" and child["state"] == "running":
                return str(child["addresses"][0])
        time.sleep(0.05)
    raise RuntimeError("the web process did not start")


@contextmanager
def _bare(body: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    with _process([sys.executable, "-c", _BARE, str(body), str(port)]):
        until_s = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.05)
        yield port


@contextmanager
def _process(words: list[str]) -> Iterator[None]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRABNET_")}
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
