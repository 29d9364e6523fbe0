"""Retries through every door, with kill -9 in between: one envelope for each request id (ADR 32)."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from threading import Timer

import pytest
import trio

from crabnet.control.client import JsonValue
from crabnet.errors import CrabnetError, NodeTimeoutError
from crabnet.node.node import Node
from crabnet.settings import Settings
from tests.support.asking import asked
from tests.support.nodes import Json, NodeProcess
from tests.web.support import Web, web_words

IDS = 4
KILL_AFTER_S = 0.03


def wish(number: int) -> Json:
    return {
        "title": f"task {number}",
        "command": "echo hi",
        "bid_window_ms": 600_000,
        "announce": False,
        "request_id": f"request-{number}",
    }


class Retries:
    """Random retries of a few requests on one data dir. Remembers the answers that were given."""

    def __init__(self, data_dir: Path, random_seed: int) -> None:
        self.data_dir = data_dir
        self.random = random.Random(random_seed)
        self.answers: dict[int, list[JsonValue]] = {number: [] for number in range(IDS)}
        self.node = NodeProcess(data_dir, (), *web_words(data_dir))
        self.web = Web(self.node)

    def by_socket(self, number: int) -> None:
        self.kill_meanwhile(lambda: self.answers[number].append(self.node.ask("seed.publish", **wish(number))))

    def by_http(self, number: int) -> None:
        if not self.node.running:
            self.node.start()
        self.web.await_it()
        self.web.token()
        body = wish(number)
        key = str(body.pop("request_id"))

        def once() -> None:
            try:
                answer = self.web.ask("POST", "/api/v1/seeds", body, Idempotency_Key=key)
            except (OSError, HTTPException):
                raise NodeTimeoutError("the web process went away with its node") from None
            if answer.status == 503:
                raise NodeTimeoutError("the node went away")
            assert answer.status == 200, answer
            self.answers[number].append(answer.json)

        self.kill_meanwhile(once)

    def kill_meanwhile(self, once: Callable[[], None]) -> None:
        """Send a request, and mostly kill the node meanwhile."""
        if not self.node.running:
            self.node.start()
        process = self.node.process
        assert process is not None
        kill = Timer(self.random.random() * KILL_AFTER_S, os.kill, (process.pid, signal.SIGKILL))
        killed = self.random.random() < 0.6
        if killed:
            kill.start()
        try:
            once()
        except CrabnetError:
            assert killed, "an answer comes unless the node was killed"
        if killed:
            kill.join()
            self.node.end(signal.SIGKILL)

    def by_python(self, number: int) -> None:
        if self.node.running:
            self.node.end(signal.SIGKILL)

        async def once() -> None:
            settings = Settings(data_dir=self.data_dir, listen_addr="127.0.0.1:0", announce_addrs=())
            async with Node(settings, listen=False) as node:
                self.answers[number].append(await asked(node, "seed.publish", wish(number)))

        trio.run(once)

    def run(self, interleavings: int) -> None:
        doors = (self.by_socket, self.by_http, self.by_python)
        try:
            for _ in range(interleavings):
                self.random.choice(doors)(self.random.randrange(IDS))
            for number in range(IDS):
                self.by_python(number)
            self.node.start()  # removes what the killed ones have left
            self.node.end()
        finally:
            if self.node.running:
                self.node.end(signal.SIGKILL)

    def check(self) -> None:
        async def look() -> None:
            settings = Settings(data_dir=self.data_dir, listen_addr="127.0.0.1:0", announce_addrs=())
            async with Node(settings, listen=False) as node:
                titles = [state.seed.title for state in await node.seeds(limit=1_000)]
                assert sorted(titles) == [f"task {number}" for number in range(IDS)], "one envelope for each id"

        trio.run(look)
        for number, answers in self.answers.items():
            assert answers
            assert all(answer == answers[0] for answer in answers), f"request {number} got different answers"


def test_retries_through_all_doors_with_kills(tmp_path: Path) -> None:
    retries = Retries(tmp_path / "node", 7)
    retries.run(8)
    retries.check()


@pytest.mark.deep
def test_two_hundred_retries(tmp_path: Path) -> None:
    retries = Retries(tmp_path / "node", 8)
    retries.run(200)
    retries.check()
