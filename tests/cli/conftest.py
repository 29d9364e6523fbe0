"""A control socket with canned answers, for tests of what the command line says and prints."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from crabnet.errors import CrabnetError
from crabnet.node.operations.control_server import serve_control
from crabnet.protocol.canonical import JsonObject, JsonValue


class CannedNode:
    """Serves ``answers`` by method and keeps what it was asked."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.answers: dict[str, JsonValue | CrabnetError] = {}
        self.asked: list[tuple[str, JsonObject]] = []

    async def dispatch(self, method: str, params: JsonObject) -> JsonValue:
        """Answer as the test wants."""
        self.asked.append((method, params))
        answer = self.answers[method]
        if isinstance(answer, CrabnetError):
            raise answer
        return answer


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CannedNode]:
    """A canned node on a data dir of its own, in a thread with its own loop."""
    canned = CannedNode(tmp_path / "data")
    canned.data_dir.mkdir()
    scopes: queue.SimpleQueue[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = queue.SimpleQueue()

    async def serve() -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_control, canned.data_dir / "control.sock", canned.dispatch)
                scopes.put((trio.lowlevel.current_trio_token(), scope))

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    token, scope = scopes.get(timeout=30)
    yield canned
    token.run_sync_soon(scope.cancel)
    thread.join(timeout=30)
