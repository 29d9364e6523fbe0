"""Whatever strangers send to the HTTP port: the node goes on, and the web process answers others."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
import pytest

from crabnet.operations.model import Scope
from crabnet.operations.problems import Problem
from tests.support.nodes import Nodes, wait_for
from tests.web.hostile import EXCHANGES, Exchange
from tests.web.support import Web, plain_tls, start

STATUSES = {100, 200, 204, 304, 400, 401, 403, 404, 405, 408, 413, 415, 421, 429, 431, 503}
HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n")
MEMORY_MAX = 250 * 1024 * 1024


def test_there_are_enough_exchanges() -> None:
    assert len({exchange.name for exchange in EXCHANGES}) == len(EXCHANGES) >= 300


def answers_in(exchange: Exchange, got: bytes) -> list[int]:
    """The statuses of the answers, each of which must be whole and documented."""
    statuses = []
    rest = got
    while rest:
        head = HEAD.match(rest)
        assert head is not None, (exchange.name, rest[:200])
        status = int(head[1])
        headers = dict(line.split(b": ", 1) for line in head[2].decode().lower().encode().splitlines())
        rest = rest[head.end() :]
        if status == 100:
            continue
        statuses.append(status)
        assert status in STATUSES, exchange.name
        size = int(headers.get(b"content-length", b"0"))
        body, rest = rest[:size], rest[size:]
        assert headers[b"x-content-type-options"] == b"nosniff", exchange.name
        if status >= 400:
            assert headers[b"content-type"] == b"application/problem+json", exchange.name
            if body:  # the answer to HEAD has none
                assert msgspec.json.decode(body, type=Problem).status == status
    return statuses


@pytest.mark.parametrize("exchanges", [EXCHANGES[::8], pytest.param(EXCHANGES, marks=pytest.mark.deep)], ids=len)
def test_hostile_exchanges(nodes: Nodes, exchanges: Sequence[Exchange]) -> None:
    web = start(nodes, "n", "--web-requests-per-sec", "0")
    node_pid, web_pid = web.node.process and web.node.process.pid, web.pid

    def run(exchange: Exchange) -> list[int]:
        got = web.raw(exchange.data, wait_s=2, half_close=exchange.half_close)
        return answers_in(exchange, got)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(run, exchanges))
    too_many = {
        exchange.name: statuses
        for exchange, statuses in zip(exchanges, answers, strict=True)
        if len(statuses) > exchange.answers_max
    }
    assert too_many == {}
    assert sum(map(len, answers)) > 0.9 * len(exchanges), "most exchanges get an answer"
    # The node never noticed, and the web process did not even have to be started again.
    assert web.node.process is not None
    assert web.node.process.pid == node_pid
    assert web.await_it().pid == web_pid
    assert web.ask("GET", "/api/overview").status == 200
    assert web.memory_bytes() < MEMORY_MAX
    assert web.node.events("web_request_failed", "child_failed") == []
    assert "Traceback" not in web.node.errors()
    assert "unexpected" not in web.node.errors()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_web_process_that_dies_is_there_again(nodes: Nodes, number: int) -> None:
    web = start(nodes)
    killed = web.pid
    os.kill(web.pid, number)
    wait_for("another process serves", lambda: (web.child() or {}).get("pid", killed) != killed)
    assert web.await_it().ask("GET", "/api/overview").status == 200
    web.node.await_event("child_failed", child="web")


def test_the_web_process_ends_with_its_node(nodes: Nodes) -> None:
    web = start(nodes)
    web.node.kill()
    wait_for("it has ended", lambda: not Path(f"/proc/{web.pid}").exists())


def test_slow_clients_do_not_keep_others_out(nodes: Nodes) -> None:
    web = start(nodes, "n", "--web-connections-max", "20", "--web-address-connections-max", "20")
    secret = web.token(Scope.OPERATE)
    head = "POST /api/v1/seeds HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n"
    body = f"{head}Authorization: Bearer {secret}\r\n\r\n{{"
    beginnings = [
        b"",
        b"G",
        b"GET / HTTP/1.1\r\nX: ",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
    ]
    with ExitStack() as stack:
        socks = []
        for number in range(200):
            sock = stack.enter_context(socket.create_connection((web.host, web.port)))
            sock.sendall(beginnings[number % len(beginnings)])
            socks.append(sock)
            if number % 40 == 0:
                assert web.ask("GET", "/api/overview").status == 200
        assert web.ask("GET", "/health", scope=None).status == 200
        # Bodies of somebody who has a token are waited for, but not for ever, and the other connections go on.
        for _ in range(10):
            sock = stack.enter_context(socket.create_connection((web.host, web.port)))
            sock.sendall(body.encode())
        assert web.ask("GET", "/api/overview").status == 200


def test_when_all_connections_are_busy_a_new_one_is_closed_and_that_is_an_event(nodes: Nodes) -> None:
    web = start(nodes, "n", "--web-connections-max", "3", "--web-address-connections-max", "3")
    request = f"GET /api/v1/events/stream HTTP/1.1\r\nHost: localhost\r\nX-Api-Token: {web.token(Scope.READ)}\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(3):
            sock = stack.enter_context(socket.create_connection((web.host, web.port)))
            sock.sendall(request.encode())
            assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
        with suppress(OSError), socket.create_connection((web.host, web.port)) as sock:
            assert sock.recv(100) == b""
        web.node.await_event("web_overloaded", address="127.0.0.1")
    wait_for("there is room again", lambda: _served(web))


def _served(web: Web) -> bool:
    with suppress(OSError):
        return web.ask("GET", "/health", scope=None).status == 200
    return False


@pytest.mark.deep
def test_ten_thousand_idle_connections(nodes: Nodes) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 12_000:
        pytest.skip("this user may not open 12000 files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    web = start(nodes)
    try:
        with ExitStack() as stack:
            for number in range(10_000):
                stack.enter_context(socket.create_connection((web.host, web.port), timeout=30))
                if number % 1_000 == 0:
                    assert web.ask("GET", "/api/overview").status == 200
            assert web.ask("GET", "/api/overview").status == 200
            assert len(list(Path(f"/proc/{web.pid}/fd").iterdir())) < 1_200
            assert web.memory_bytes() < MEMORY_MAX
        assert web.await_it().ask("GET", "/health", scope=None).status == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- TLS ----------------------------------------------------------------------------------------------------------


def certificate(directory: Path) -> tuple[Path, Path]:
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(cert), "-subj", "/CN=localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def test_tls_by_files(nodes: Nodes) -> None:
    cert, key = certificate(nodes.directory)
    web = start(nodes, "n", "--web-tls-cert", str(cert), "--web-tls-key", str(key))
    plain = web.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", wait_s=2)
    assert b"200" not in plain
    half = [socket.create_connection((web.host, web.port)) for _ in range(30)]
    with (
        socket.create_connection((web.host, web.port)) as sock,
        plain_tls().wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        assert tls.version() in {"TLSv1.2", "TLSv1.3"}
        tls.sendall(
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nOrigin: https://localhost\r\nConnection: close\r\n\r\n"
        )
        got = b""
        with suppress(ssl.SSLError):
            while chunk := tls.recv(65_536):
                got += chunk
    assert got.startswith(b"HTTP/1.1 200 "), got
    assert got.endswith(b"ok")
    for sock in half:
        sock.close()


def test_an_address_for_others_without_tls_is_a_loud_warning(nodes: Nodes) -> None:
    node = nodes.start("n", [], "--web-addr", "0.0.0.0:0")
    Web(node).await_it()
    assert "WARNING: the web address 0.0.0.0:0 can be reached from other machines without TLS" in node.errors()


def test_a_port_in_use_is_said_and_the_node_goes_on(nodes: Nodes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        node = nodes.start("n", [], "--web-addr", f"127.0.0.1:{port}")
        node.await_event("child_failed", child="web", reason="address_in_use")
        assert f"the web address 127.0.0.1:{port} is in use by another program" in node.errors()
        assert node.publish()


def test_without_a_web_process_nothing_listens(nodes: Nodes) -> None:
    node = nodes.start("n", [], "--web-addr", "off")
    children = node.ask("status")["children"]
    assert isinstance(children, list)
    assert [each["state"] for each in children if isinstance(each, dict) and each["name"] == "web"] == ["off"]


def test_the_node_answers_while_the_web_process_is_flooded(nodes: Nodes) -> None:
    web = start(nodes, "n", "--web-requests-per-sec", "0")
    secret = web.token(Scope.READ)
    request = f"GET /api/v1/overview HTTP/1.1\r\nHost: localhost\r\nX-Api-Token: {secret}\r\n\r\n".encode()
    over = threading.Event()

    answered = threading.Event()

    def flood() -> None:
        while not over.is_set():  # a server that is behind does not read on, or ends the connection
            with suppress(OSError), socket.create_connection((web.host, web.port), timeout=2) as sock:
                while not over.is_set():
                    sock.sendall(request * 20)
                    if sock.recv(1_000_000):
                        answered.set()

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 3
    published = 0
    while time.monotonic() < until:
        web.node.publish()
        published += 1
    over.set()
    for thread in threads:
        thread.join()
    assert answered.is_set()
    assert published > 0
    assert len(web.node.seed_ids()) == published
