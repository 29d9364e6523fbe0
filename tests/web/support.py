"""Real nodes with their web process, and clients that speak raw HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from crabnet.access.secret import digest_of, make_secret
from crabnet.control.client import JsonValue
from crabnet.operations.model import Scope
from tests.support.nodes import DEADLINE_S, Json, NodeProcess, Nodes, wait_for


def web_words(data_dir: Path) -> list[str]:
    """Flags for a node that keeps a web process."""
    return ["--web-addr", "127.0.0.1:0", "--web-socket", str(data_dir / "web.sock")]


@dataclass
class Answer:
    """One answer over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        """The body, which must be a JSON object."""
        return cast(Json, json.loads(self.body))

    @property
    def reason(self) -> str:
        """The Reason of a refusal, which must be whole problem details."""
        assert self.headers["content-type"] == "application/problem+json", self
        problem = self.json
        assert problem["status"] == self.status
        assert problem["type"] == f"urn:crabnet:problem:{problem['reason']}"
        assert problem["title"]
        return str(problem["reason"])


def start(nodes: Nodes, name: str = "n", *words: str, env: dict[str, str] | None = None) -> Web:
    """A node with a web process that serves."""
    node = nodes.make(name, [], *web_words(nodes.directory / name), *words, env=env)
    return Web(node.start()).await_it()


class Web:
    """The web process of a node."""

    def __init__(self, node: NodeProcess) -> None:
        self.node = node
        self.secrets: dict[Scope, str] = {}
        self.host, self.port, self.pid = "", 0, 0

    def await_it(self) -> Web:
        """Wait until it serves, and note where."""
        child = wait_for("the web process serves", self.child)
        address = next(str(each) for each in cast(list[str], child["addresses"]) if str(each).startswith("http"))
        parts = urlsplit(address)
        self.host, self.port = str(parts.hostname), int(parts.port or 0)
        self.pid = cast(int, child["pid"])
        return self

    def child(self) -> Json | None:
        """Its state as the node has it; None while it does not run."""
        children = cast(list[Json], self.node.ask("status")["children"])
        return next((each for each in children if each["name"] == "web" and each["state"] == "running"), None)

    def token(self, scope: Scope = Scope.ADMIN) -> str:
        """A token of this scope."""
        if scope not in self.secrets:
            secret = make_secret()
            self.node.ask("token.new", name=f"test-{scope.value}", scope=scope.value, secret_sha256=digest_of(secret))
            self.secrets[scope] = secret
        return self.secrets[scope]

    def ask(
        self,
        method: str,
        path: str,
        body: JsonValue | bytes = None,
        *,
        scope: Scope | None = Scope.ADMIN,
        **headers: str,
    ) -> Answer:
        """One request; ``scope`` None sends no token. Underscores in names of headers stand for hyphens."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if scope is not None:
            sent.setdefault("Authorization", f"Bearer {self.token(scope)}")
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        return exchange(HTTPConnection(self.host, self.port, timeout=DEADLINE_S), method, path, body, sent)

    def local(self, method: str, path: str, body: JsonValue = None) -> Answer:
        """One request over the Unix socket."""
        sent = {"Content-Type": "application/json"} if body is not None else {}
        content = None if body is None else json.dumps(body).encode()
        return exchange(_UnixConnection(self.node.data_dir / "web.sock"), method, path, content, sent)

    def raw(self, data: bytes, *, wait_s: float = 5, half_close: bool = False) -> bytes:
        """Send bytes, and read until the server closes the connection or is silent for ``wait_s``."""
        with socket.create_connection((self.host, self.port), timeout=DEADLINE_S) as sock:
            with contextlib.suppress(OSError):
                sock.sendall(data)
                if half_close:
                    sock.shutdown(socket.SHUT_WR)
            sock.settimeout(wait_s)
            got = b""
            with contextlib.suppress(OSError):
                while chunk := sock.recv(65_536):
                    got += chunk
            return got

    def memory_bytes(self) -> int:
        """Resident memory of the process."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0]) * 1024


def exchange(connection: HTTPConnection, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
    """One request over a connection that is closed then."""
    try:
        connection.request(method, path, body, headers)
        answer: HTTPResponse = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_S)
        directory = os.open(self._path.parent, os.O_PATH)
        try:
            self.sock.connect(f"/proc/self/fd/{directory}/{self._path.name}")
        finally:
            os.close(directory)


@dataclass
class Sent:
    """One server-sent event."""

    id: str = ""
    event: str = ""
    data: str = ""

    @property
    def json(self) -> Json:
        """The data."""
        return cast(Json, json.loads(self.data))


def events_of(answer: HTTPResponse) -> Iterator[Sent]:
    """The events of a stream, until it ends."""
    event = Sent()
    while line := answer.readline():
        name, _, value = line.decode().rstrip("\n").partition(":")
        value = value.removeprefix(" ")
        if name == "" and value == "" and line == b"\n":
            if event.data:
                yield event
            event = Sent()
        elif name in {"id", "event", "data"}:
            setattr(event, name, value)


class Delay:
    """Measures from another thread how long the node takes at most to answer a short request on its control socket."""

    def __init__(self, node: NodeProcess) -> None:
        self._node = node
        self._over = threading.Event()
        self.seconds: list[float] = []
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def __enter__(self) -> Delay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _measure(self) -> None:
        while not self._over.is_set():
            begun = time.perf_counter()
            self._node.ask("id")
            self.seconds.append(time.perf_counter() - begun)
            self._over.wait(0.005)


def plain_tls() -> ssl.SSLContext:
    """A client that trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
