"""Server-sent events: nothing twice, nothing missing, over restarts; heartbeats; slow readers; ends."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import cast

import pytest

from crabnet.errors import CrabnetError
from crabnet.limits import WEB_STREAMS_MAX
from crabnet.operations.model import Scope
from tests.support.nodes import DEADLINE_S, Json, Nodes, wait_for
from tests.web.support import Sent, Web, events_of, start


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
@pytest.mark.parametrize(("readers_max", "restarts"), [(5, 2), pytest.param(20, 10, marks=pytest.mark.deep)])
def test_readers_have_every_event_once_although_node_and_web_process_are_killed(
    nodes: Nodes, readers_max: int, restarts: int
) -> None:
    web = start(nodes)
    web.node.words = (*web.node.words, "--web-addr", f"127.0.0.1:{web.port}")
    web.node.end()
    web.node.start()
    web.await_it()
    after = cast(int, web.ask("GET", "/api/overview").json["events_last_id"])
    readers = [Reader(web, after) for _ in range(readers_max)]
    for reader in readers:
        reader.start()
    for turn in range(restarts):
        wait_for("all readers follow again", lambda turn=turn: all(each.connections > turn for each in readers))  # type: ignore[misc]
        for number in range(5):
            web.node.publish(title=f"{turn}-{number}")
        if turn % 2:
            web.node.kill()
            web.node.start()
        else:
            os.kill(web.await_it().pid, signal.SIGKILL)
            killed = web.pid
            wait_for("the web process is there again", lambda killed=killed: _other(web, killed))  # type: ignore[misc]
        web.await_it()
        web.node.publish(title=f"{turn}-end")
    last = _settled_last_id(web)
    for reader in readers:
        wait_for("the reader has the last event", lambda reader=reader: reader.ids[-1:] and reader.ids[-1] >= last)  # type: ignore[misc]
        reader.over.set()
    expected = [event.id for event in web.node.events() if after < event.id <= last]
    for reader in readers:
        assert [each for each in reader.ids if each <= last] == expected
        assert reader.gaps == []
        assert reader.connections >= restarts


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
    with _open(web, "/api/v1/events/stream", {"Last-Event-ID": "1000000"}) as answer:
        gap = next(events_of(answer))
    assert gap.event == "gap"
    assert cast(Json, gap.json["gap"])["last_id"] == 1_000_000


def test_a_task_is_followed_to_its_end(web: Web) -> None:
    seed_id = web.node.publish()
    with _open(web, f"/api/seeds/{seed_id}/watch") as answer:
        assert (answer.getheader("content-type") or "").startswith("text/event-stream")
        events = events_of(answer)
        first = next(events)
        assert cast(Json, first.json["seed"])["id"] == seed_id
        with _open(web, f"/api/seeds/{seed_id}/watch", {"Last-Event-ID": first.id}) as again:
            web.node.ask("seed.cancel", seed_id=seed_id)
            assert [event.event for event in events] == ["", "end"]
            [after, end] = list(events_of(again))
    assert cast(Json, after.json["seed"])["status"] == "Expired"
    assert after.id != first.id
    assert (end.event, end.json) == ("end", {})


def test_a_stream_ends_when_its_token_is_revoked(nodes: Nodes) -> None:
    web = start(nodes)
    with _open(web, "/api/v1/events/stream") as answer:
        web.node.ask("token.revoke", name="test-read")
        *_, last = events_of(answer)
    assert last.event == "problem"
    assert last.json["reason"] == "unauthenticated"


@pytest.mark.deep
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


@pytest.mark.deep
def test_only_so_many_streams_are_served(web: Web) -> None:
    with ExitStack() as stack:
        statuses = [stack.enter_context(_open(web, "/api/v1/events/stream")).status for _ in range(WEB_STREAMS_MAX + 6)]
        assert statuses == [200] * WEB_STREAMS_MAX + [429] * 6
        assert web.ask("GET", "/api/overview").status == 200
    wait_for("the streams have ended", lambda: _streams_again(web))


def _streams_again(web: Web) -> bool:
    with _open(web, "/api/v1/events/stream") as answer:
        return answer.status == 200


@contextmanager
def _open(web: Web, path: str, headers: dict[str, str] | None = None) -> Iterator[HTTPResponse]:
    with closing(HTTPConnection(web.host, web.port, timeout=DEADLINE_S)) as connection:
        connection.request("GET", path, headers={"X-Api-Token": web.token(Scope.READ), **(headers or {})})
        with connection.getresponse() as answer:
            yield answer
