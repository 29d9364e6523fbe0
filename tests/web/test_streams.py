"""Server-sent events: nothing twice, nothing missing, over restarts; heartbeats; slow readers; ends."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from typing import Any, cast

import pytest

from crabnet.errors import CrabnetError
from crabnet.operations.model import Scope
from tests.support.nodes import DEADLINE_S, Json, Nodes, wait_for
from tests.web.support import Sent, Web, events_of, start

READERS = 20
RESTARTS = 10


class Reader(threading.Thread):
    """Follows all events, as a browser does: it connects again with the id of the last event that it has."""

    def __init__(self, web: Web, after: int) -> None:
        super().__init__(daemon=True)
        self._web = web
        self._secret = web.token(Scope.READ)
        self._last = str(after)
        self.ids: list[int] = []
        self.gaps: list[Sent] = []
        self.over = threading.Event()
        self.connections = 0

    def run(self) -> None:
        while not self.over.is_set():
            connection = HTTPConnection(self._web.host, self._web.port, timeout=DEADLINE_S)
            with suppress(OSError, HTTPException, AssertionError):
                headers = {"Authorization": f"Bearer {self._secret}", "Last-Event-ID": self._last}
                connection.request("GET", "/api/v1/events/stream", headers=headers)
                answer = connection.getresponse()
                assert answer.status == 200
                self.connections += 1
                for event in events_of(answer):
                    if event.event == "gap":
                        self.gaps.append(event)
                    else:
                        self.ids.append(cast(int, event.json["id"]))
                    self._last = event.id
                    if self.over.is_set():
                        break
            connection.close()
            time.sleep(0.02)


@pytest.mark.timeout(600)
def test_readers_have_every_event_once_although_node_and_web_process_are_killed(nodes: Nodes) -> None:
    web = start(nodes)
    web.node.words = (*web.node.words, "--web-addr", f"127.0.0.1:{web.port}")
    after = cast(int, web.ask("GET", "/api/overview").json["events_last_id"])
    readers = [Reader(web, after) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    for turn in range(RESTARTS):
        for number in range(5):
            web.node.publish(title=f"{turn}-{number}")
        if turn % 2:
            web.node.kill()
            web.node.start()
        else:
            os.kill(web.await_it().pid, signal.SIGKILL)
            killed = web.pid
            wait_for("the web process is there again", lambda killed=killed: _other(web, killed))  # type: ignore[misc]
        web.node.publish(title=f"{turn}-end")
    web.await_it()
    last = _settled_last_id(web)
    for reader in readers:
        wait_for("the reader has the last event", lambda reader=reader: reader.ids[-1:] and reader.ids[-1] >= last)  # type: ignore[misc]
        reader.over.set()
    expected = [event.id for event in web.node.events() if after < event.id <= last]
    for reader in readers:
        assert [each for each in reader.ids if each <= last] == expected
        assert reader.gaps == []
        assert reader.connections > RESTARTS // 2


def _other(web: Web, pid: int) -> bool:
    with suppress(CrabnetError):
        child = web.child()
        return child is not None and child["pid"] != pid
    return False


def _settled_last_id(web: Web) -> int:
    """The id of the last event, once no more come for a moment."""
    last = -1
    while True:
        now = cast(int, web.node.ask("overview")["events_last_id"])
        if now == last:
            return now
        last = now
        time.sleep(0.3)


def test_what_is_gone_is_a_gap(web: Web) -> None:
    answer = _open(web, "/api/v1/events/stream", {"Last-Event-ID": "1000000"})
    gap = next(events_of(answer))
    assert gap.event == "gap"
    assert cast(Json, gap.json["gap"])["last_id"] == 1_000_000
    answer.close()


def test_a_task_is_followed_to_its_end(web: Web) -> None:
    seed_id = web.node.publish()
    answer = _open(web, f"/api/seeds/{seed_id}/watch")
    assert answer.getheader("content-type", "").startswith("text/event-stream")
    events = events_of(answer)
    first = next(events)
    assert cast(Json, first.json["seed"])["id"] == seed_id
    again = _open(web, f"/api/seeds/{seed_id}/watch", {"Last-Event-ID": first.id})
    web.node.ask("seed.cancel", seed_id=seed_id)
    assert [event.event for event in events] == ["", "end"]
    [after, end] = list(events_of(again))
    assert cast(Json, after.json["seed"])["status"] == "Expired"
    assert after.id != first.id
    assert (end.event, end.json) == ("end", {})


def test_a_stream_ends_when_its_token_is_revoked(nodes: Nodes) -> None:
    web = start(nodes)
    answer = _open(web, "/api/v1/events/stream")
    web.node.ask("token.revoke", name="test-read")
    *_, last = events_of(answer)
    assert last.event == "problem"
    assert last.json["reason"] == "unauthenticated"


def test_a_reader_that_does_not_read_is_dropped_with_a_reason(nodes: Nodes) -> None:
    web = start(nodes)
    for _ in range(40):
        web.node.publish(description="x" * 400)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.connect((web.host, web.port))
    request = "GET /api/v1/events/stream?after=0 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n"
    sock.sendall(request.format(web.token(Scope.READ)).encode())
    done = threading.Event()

    def make_events() -> None:
        while not done.is_set():
            with suppress(CrabnetError):
                web.node.ask("seed.show", seed_id="x" * 100)
            web.ask("GET", "/api/overview", scope=None, Authorization="Bearer wrong" + str(time.time()))
            for _ in range(20):
                with suppress(CrabnetError):
                    web.node.ask("seed.bid", seed_id="y" * 100, price=1)
                with suppress(CrabnetError):
                    web.node.ask("nothing")

    maker = threading.Thread(target=make_events, daemon=True)
    maker.start()
    try:
        web.node.await_event("web_client_dropped", address="127.0.0.1")
    finally:
        done.set()
        maker.join()
        sock.close()
    assert web.ask("GET", "/api/overview").status == 200


def test_only_so_many_streams_are_served(web: Web) -> None:
    open_streams = []
    refused: Any = None
    for _ in range(100):
        connection = HTTPConnection(web.host, web.port, timeout=DEADLINE_S)
        connection.request("GET", "/api/v1/events/stream", headers={"X-Api-Token": web.token(Scope.READ)})
        answer = connection.getresponse()
        open_streams.append(connection)
        if answer.status != 200:
            refused = answer
            break
    assert refused is not None
    assert refused.status == 429
    assert web.ask("GET", "/api/overview").status == 200
    for connection in open_streams:
        connection.close()
    wait_for("the streams have ended", lambda: _open(web, "/api/v1/events/stream").status == 200)


def _open(web: Web, path: str, headers: dict[str, str] | None = None) -> Any:
    connection = HTTPConnection(web.host, web.port, timeout=DEADLINE_S)
    connection.request("GET", path, headers={"X-Api-Token": web.token(Scope.READ), **(headers or {})})
    return connection.getresponse()
