"""Real nodes in a row: the one in the middle passes on what the ends say, at once and unchanged."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.nodes import Nodes, converge, wait_for, whole_job

SLOW_SYNC = ("--sync-interval-ms", "3600000")
"""Sync cannot have brought what comes within the deadline of a test."""


class Tamper:
    """A man in the middle: forwards datagrams to ``target`` and changes what holds ``word`` while ``active``."""

    def __init__(self, target: tuple[str, int], word: bytes, other: bytes) -> None:
        self.front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.front.bind(("127.0.0.1", 0))
        self.back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.back.connect(target)
        self.word, self.other = word, other
        self.active = True
        self.altered = 0
        self._client: tuple[str, int] | None = None
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._there, self._back)]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.front.getsockname()[1]}"

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            for sock in (self.front, self.back):
                sock.shutdown(socket.SHUT_RDWR) if sock is self.back else None
                sock.close()

    def _there(self) -> None:
        while True:
            try:
                data, self._client = self.front.recvfrom(65_536)
                if self.active and self.word in data:
                    self.altered += 1
                    data = data.replace(self.word, self.other)
                self.back.send(data)
            except ConnectionError:
                continue
            except OSError:
                return

    def _back(self) -> None:
        while True:
            try:
                data = self.back.recv(65_536)
                if self._client is None or not data:
                    continue
                self.front.sendto(data, self._client)
            except ConnectionError:
                continue
            except OSError:
                return


def test_ends_of_a_row_trade_through_the_middle_without_waiting_for_sync(nodes: Nodes) -> None:
    middle = nodes.start("middle", [], *SLOW_SYNC)
    left = nodes.start("left", [middle.listen], *SLOW_SYNC)
    right = nodes.start("right", [middle.listen], *SLOW_SYNC)
    wait_for("the middle to know both", lambda: middle.ask("status")["peers"] == 2)
    seed_id = whole_job(left, right)
    converge([left, middle, right], [seed_id])
    assert int(str(middle.ask("status")["relayed"])) >= 6
    assert not left.ask("status")["relayed"]


def test_what_is_altered_on_the_way_is_refused_and_comes_whole_later(nodes: Nodes) -> None:
    right = nodes.start("right")
    tamper = Tamper(right.address, b'"title":"t"', b'"title":"X"')
    with tamper.running():
        middle = nodes.start("middle", [tamper.address])
        left = nodes.start("left", [middle.listen])
        seed_id = left.publish()
        refused = right.await_event("envelope_rejected")
        assert refused.payload["reason"] == "wrong_id"
        assert tamper.altered
        assert not right.seed(seed_id)
        tamper.active = False
        converge([left, middle, right], [seed_id], status="Open")
    assert [node.seed(seed_id)["title"] for node in (left, middle, right)] == ["t"] * 3
    right.ok("audit", "verify")
