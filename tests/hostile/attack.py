"""Sending rows of the corpus to a real node, and hearing from its events what it made of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from typing import cast

import pytest

from crabnet.domain.state import Outcome
from crabnet.protocol.canonical import JsonObject
from tests.hostile.case import Row, Targets
from tests.support.nodes import NodeProcess, Nodes, json_line, wait_for

SORTS = ("open", "full", "claimed", "done", "accepted", "expired")
TOLD = frozenset({"datagram_received_bad", "fragment_dropped"} | {f"envelope_{end}" for end in (*Outcome, "parked")})
"""Events that tell what became of a datagram or an envelope."""
_hosts = count(2)
Answer = tuple[str, str | None]
"""Kind and Reason of an event."""


def victim(nodes: Nodes, *peers: str) -> tuple[NodeProcess, Targets]:
    """A node with one seed of each sort, all of its own making. Newcomers are not limited: each row is by one."""
    node = nodes.start("victim", peers, "--newcomer-envelopes-per-sec", "0")
    return node, prepared(node)


def prepared(node: NodeProcess) -> Targets:
    """Make one seed of each sort at a node."""
    ids: dict[str, str] = {}
    for name in SORTS:
        ids[name] = node.publish(title=name, min_price=5, max_bids=1 if name == "full" else 0)
        if name == "expired":
            node.ask("seed.settle", seed_id=ids[name], outcome="Expired")
            continue
        bid_id = node.bid(ids[name], 7)
        if name in {"claimed", "done", "accepted"}:
            node.ask("seed.claim", seed_id=ids[name], bid_id=bid_id)
        if name in {"done", "accepted"}:
            node.ask("seed.run", seed_id=ids[name])
    node.ask("seed.settle", seed_id=ids["accepted"], outcome="Accepted")
    return Targets(node.node_id, **{name: node.show(ids[name]) for name in SORTS})


@contextmanager
def stranger_socket() -> Iterator[tuple[socket.socket, str]]:
    """A socket on a loopback address that nobody else has, so that no stranger pays for another; and its name."""
    number = next(_hosts)
    host = f"127.{10 + number // 65_536}.{number // 256 % 256}.{number % 256}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        yield sock, f"udp:{host}:{sock.getsockname()[1]}"


def attack(node: NodeProcess, rows: Sequence[Row], now_s: int, targets: Targets) -> None:
    """Send every row from an address of its own; each must be answered as it says, by exactly as many events."""
    assert len({row.name for row in rows}) == len(rows)
    with ExitStack() as stack:
        row_by_address: dict[str, Row] = {}
        for row in rows:
            sock, address = stack.enter_context(stranger_socket())
            row_by_address[address] = row
            for datagram in row.datagrams(now_s, targets):
                sock.sendto(datagram, node.address)

        def answers() -> dict[str, list[Answer]]:
            found: dict[str, list[Answer]] = {row.name: [] for row in rows}
            for event in node.events(*TOLD):
                sender = row_by_address.get(str(event.payload.get("address")))
                if sender is not None:
                    found[sender.name].append((event.kind, cast(str | None, event.payload.get("reason"))))
            return found

        def complete() -> bool:
            heard = answers()
            return all(len(heard[row.name]) > row.before for row in rows)

        with suppress(AssertionError):
            wait_for("every row is answered", complete, 20)
        heard = answers()
    wrong = []
    for row in rows:
        wanted = (row.event_kind, None if row.reason is None else row.reason.value)
        if len(heard[row.name]) != row.before + 1 or heard[row.name][-1] != wanted:
            wrong.append(f"{row.name} ({row.recipe.how}): wanted {wanted} after {row.before}, got {heard[row.name]}")
    if wrong:
        pytest.fail("\n".join(wrong))


def standing(node: NodeProcess, targets: Targets) -> list[object]:
    """What an attack must not change: the seeds as they are shown, the bids that count, whatever has an effect."""
    found: list[object] = []
    for name in SORTS:
        details = node.show(str(targets.seed(name)["id"]))
        seed = cast(JsonObject, details["seed"])
        found.append({key: value for key, value in seed.items() if key != "bid_count"})
        found.append([row["id"] for row in cast(list[JsonObject], details["bids"]) if row["counts"]])
        for rows in ("claims", "runs", "results", "settlements", "acknowledgements"):
            found.append(details[rows])
    return found


def still_works(node: NodeProcess) -> None:
    """A whole job at this node, and no sign of a bug."""
    assert node.running
    assert json_line(node.ok("status", "--json"))["running"] is True
    seed_id = node.publish()
    node.ask("seed.claim", seed_id=seed_id, bid_id=node.bid(seed_id, 1))
    node.ask("seed.run", seed_id=seed_id)
    node.ask("seed.settle", seed_id=seed_id, outcome="Accepted")
    assert node.status(seed_id) == "Accepted"
    assert "Traceback" not in node.errors()
    assert not node.events("job_failed")
