"""Requests on the control socket of a real node, changed in every way: one answer each, never an internal error."""

from __future__ import annotations

import copy
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.control.client import short_socket_path
from crabnet.errors import Reason
from crabnet.protocol.canonical import JsonObject
from tests.fuzz.budget import Spent, fuzz, long_and_short
from tests.fuzz.mutation import mutate_bytes, mutate_tree, parts, spell
from tests.support.nodes import NodeProcess, Nodes

PARAMS: dict[str, JsonObject] = {
    "status": {},
    "id": {},
    "config": {},
    "seed.publish": {"title": "t", "command": "true", "min_price": 1, "max_bids": 2, "bid_window_ms": 60_000},
    "seed.bid": {"seed_id": "SEED", "price": 5, "notes": "", "announce": False},
    "seed.claim": {"seed_id": "SEED", "bid_id": "BID", "announce": True},
    "seed.run": {"seed_id": "OTHER"},
    "seed.settle": {"seed_id": "OTHER", "outcome": "Accepted", "note": "n"},
    "seed.list": {"status": "Open", "limit": 3, "after": None},
    "seed.show": {"seed_id": "SEED"},
    "state.vector": {},
    "state.import": {"envelopes": ["e30="], "facts": []},
}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    made = Nodes(tmp_path)
    yield made.start("node")
    made.close()


class Caller:
    """Sends lines over one connection, and a new one when the node has closed it."""

    def __init__(self, node: NodeProcess) -> None:
        self._path = node.data_dir / "control.sock"
        self._socket: socket.socket | None = None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def ask(self, line: bytes) -> bytes:
        """The answer to a line, which has no newline."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(60)
            with short_socket_path(self._path) as address:
                self._socket.connect(address)
        self._socket.sendall(line + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            chunk = self._socket.recv(65_536)
            if not chunk:
                raise AssertionError(f"no answer to {line!r}")
            answer += chunk
        return answer


@long_and_short
def test_control_requests(seconds: float, node: NodeProcess) -> None:
    spent = Spent()
    seed_id = node.publish()
    known = {"SEED": seed_id, "BID": node.bid(seed_id, 5), "OTHER": node.publish()}
    text = json.dumps([{"v": 1, "id": 7, "method": name, "params": params} for name, params in PARAMS.items()])
    for name, value in known.items():
        text = text.replace(f'"{name}"', f'"{value}"')
    requests: list[JsonObject] = json.loads(text)
    others = [part for request in requests for part in parts(request)]
    caller = Caller(node)

    @given(st.randoms(use_true_random=False))
    def is_answered(rng: Random) -> None:
        request = copy.deepcopy(rng.choice(requests))
        for _ in range(rng.choice([0, 1, 1, 2])):
            request = mutate_tree(request, rng, others)
        line = spell(request, rng)
        for _ in range(rng.choice([0, 0, 0, 1, 3])):
            line = mutate_bytes(line, rng)
        answer = json.loads(caller.ask(line.replace(b"\n", b" ")))
        assert ("result" in answer) is not ("error" in answer)
        if "error" in answer:
            reason = Reason(answer["error"]["reason"])
            assert reason is not Reason.INTERNAL, (line, answer)
            spent.outcomes[reason] += 1
        else:
            spent.outcomes["done"] += 1
        spent.inputs += 1
        spent.bytes += len(line)

    try:
        fuzz(min(seconds, 20), is_answered, spent, examples=150)
    finally:
        caller.close()
    assert {"done", "malformed", "invalid_argument", "unknown_operation"} <= set(spent.outcomes)
    assert node.running
    assert "Traceback" not in node.errors()
