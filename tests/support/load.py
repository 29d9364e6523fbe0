"""Clients that publish to a node as fast as it answers, and remember what they asked for and what was acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from crabnet.control.client import call
from crabnet.errors import CrabnetError
from tests.support.nodes import DEADLINE_S, Json, NodeProcess, wait_for

CLIENTS = 4


class Load:
    """The memory of all clients of one data dir, over all lives of its node."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.attempted: set[str] = set()
        self.acknowledged: dict[str, str] = {}
        """Title to seed id."""
        self.errors: list[CrabnetError] = []
        """Why clients gave up."""
        self._lock = threading.Lock()
        self._stop = threading.Event()

    @contextmanager
    def clients(self, number: int = CLIENTS, pause_s: float = 0.0) -> Iterator[list[threading.Thread]]:
        """Publish for as long as the block lasts. Each client ends when it is refused, or when its node is gone."""
        self._stop.clear()
        threads = [threading.Thread(target=self._publish, args=(pause_s,)) for _ in range(number)]
        for thread in threads:
            thread.start()
        try:
            yield threads
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _publish(self, pause_s: float) -> None:
        while not self._stop.wait(pause_s):
            with self._lock:
                title = f"task {len(self.attempted)}"
                self.attempted.add(title)
            wish: Json = {"title": title, "command": "true", "bid_window_ms": 3_600_000}
            try:
                answer = cast(Json, call(self.data_dir, "seed.publish", wish, DEADLINE_S * 1000))
            except CrabnetError as error:
                self.errors.append(error)
                return
            with self._lock:
                self.acknowledged[title] = str(cast(Json, answer["seed"])["id"])

    def await_more(self, number: int) -> None:
        """Wait until ``number`` more were acknowledged, or all clients have given up."""
        wanted, errors = len(self.acknowledged) + number, len(self.errors)
        wait_for("publishing goes on", lambda: len(self.acknowledged) >= wanted or len(self.errors) > errors)

    def broken(self, node: NodeProcess) -> list[str]:
        """Broken promises of a running node: acknowledged ⊆ there ⊆ attempted, each exactly once."""
        there: dict[str, str] = {}
        found: list[str] = []
        after: str | None = None
        while True:
            page = node.ask("seed.list", limit=1000, after=after)
            for seed in cast(list[Json], page["seeds"]):
                title, seed_id = str(seed["title"]), str(seed["id"])
                if title in there:
                    found.append(f"{title} is there twice")
                there[title] = seed_id
            if page["next"] is None:
                break
            after = str(page["next"])
        found += [f"{title} is lost" for title, each in self.acknowledged.items() if there.get(title) != each]
        found += [f"{title} was never asked for" for title in there.keys() - self.attempted]
        return found
