"""The corpus of hostile datagrams, sent over streams and gossip: the same is refused, by the same names."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from crabnet.protocol.envelope import Envelope
from tests.e2e.test_dht_hostile import target_of
from tests.hostile.attack import TOLD, prepared, standing, still_works
from tests.hostile.case import Group, Row, Stranger, Targets
from tests.hostile.corpus import CORPUS
from tests.hostile.datagrams import FRAGMENTS
from tests.support.dht import DhtNode, dht_node, needs_libp2p
from tests.support.nodes import Nodes, wait_for

if TYPE_CHECKING:
    from tests.support.hostile_p2p import Identity

pytestmark = [needs_libp2p, pytest.mark.deep]
AT_ONCE = 25
NO_ENVELOPE = frozenset({"datagram_received_bad", "envelope_rejected"})
"""The kinds of events about what is no envelope. Over libp2p nobody says whether it looked like one."""


def messages(row: Row, targets: Targets, who: Identity) -> list[bytes]:
    """What a row sends, whole, and signed by the peer that sends it."""
    stranger = Stranger(row.name, int(time.time()), targets)
    stranger.signer, stranger._key_seed = who.signer, who.seed
    sent = row.recipe.make(stranger)
    if isinstance(sent, Envelope):
        return [sent.raw]
    return [sent] if isinstance(sent, bytes) else sent


def attack(node: DhtNode, rows: Sequence[Row], targets: Targets, *, gossip: bool) -> list[str]:
    """Send every row as a peer of its own; returns those that the node told something else of."""
    from crabnet.p2p.prefixed import prefixed
    from tests.support.hostile_p2p import DATA, FIN, SYNC, Identity, absorb, peer, rpc

    target = target_of(node)
    names = {row.name: Identity(f"{gossip} {row.name}") for row in rows}

    async def send(row: Row, room: trio.CapacityLimiter) -> None:
        async with room, peer(target.address, names[row.name]) as hostile:
            if gossip:
                stream = await hostile.gossip(target.topic())
                for each in messages(row, targets, names[row.name]):
                    await stream.write(rpc(publish=[names[row.name].message(target.topic(), each)]))
            else:
                stream = await hostile.open(SYNC)
                for each in messages(row, targets, names[row.name]):
                    await stream.write(prefixed(each))
            await stream.frame(DATA, FIN)
            await absorb(stream)

    async def send_all() -> None:
        room = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for row in rows:
                nursery.start_soon(send, row, room)

    trio.run(send_all)
    sources = {names[row.name].source: row for row in rows}

    def heard() -> dict[str, list[tuple[str, str]]]:
        found: dict[str, list[tuple[str, str]]] = {row.name: [] for row in rows}
        for event in node.events(*TOLD):
            row = sources.get(str(event.payload.get("address")))
            if row is not None:
                found[row.name].append((event.kind, str(event.payload.get("reason"))))
        return found

    with suppress(AssertionError):
        wait_for("every row is answered", lambda: all(len(heard()[row.name]) > row.before for row in rows), 30)
    told = heard()
    return [
        f"{row.name}: wanted {row.event_kind} {row.reason}, got {told[row.name]}"
        for row in rows
        if not fits(row, told[row.name])
    ]


def fits(row: Row, told: list[tuple[str, str]]) -> bool:
    """True if what was told of a row is what its line in the corpus says."""
    kinds = NO_ENVELOPE if row.event_kind in NO_ENVELOPE else {row.event_kind}
    reason = "None" if row.reason is None else row.reason.value
    return bool(told) and told[-1][0] in kinds and told[-1][1] == reason


def rows_of(groups: Iterable[Group], *left_out: str) -> list[Row]:
    """The rows that can be sent so."""
    return [row for group in groups for row in group.rows if row.name not in left_out]


PLACELESS = [group for group in CORPUS if not group.keeps_place and group is not FRAGMENTS]
PLACED = [group for group in CORPUS if group.keeps_place]
FRAGMENTED = ("proof unasked", "fragments backwards and twice")
"""These are sent in fragments, which only datagrams have."""
OLD_AND_NEW = ("time 0", "time 2^53 - 1")
"""Streams bring envelopes of any age, so these are refused for their ids."""
TWICE = "hello twice"
"""What is the same is one message for gossip."""
MALLEATED = "twice, malleated"
"""The libp2p process does not know what the node has seen, and looks at the signature."""


@pytest.fixture
def victim(nodes: Nodes) -> tuple[DhtNode, Targets]:
    """See ``tests.hostile.attack.victim``."""
    node = dht_node(nodes, "victim", (), "--newcomer-envelopes-per-sec", "0")
    return node, prepared(node)


def test_what_is_broken_or_forged_is_refused_over_streams_and_gossip(victim: tuple[DhtNode, Targets]) -> None:
    node, targets = victim
    before, feeds = node.state_hash(), node.ask("status")["feeds"]
    assert not attack(node, rows_of(PLACELESS, *FRAGMENTED, *OLD_AND_NEW), targets, gossip=False)
    assert not attack(node, rows_of(PLACELESS, *FRAGMENTED, TWICE), targets, gossip=True)
    assert (node.state_hash(), node.ask("status")["feeds"]) == (before, feeds)
    still_works(node)


def test_what_is_signed_but_not_allowed_moves_nothing_over_streams(victim: tuple[DhtNode, Targets]) -> None:
    node, targets = victim
    before = standing(node, targets)
    assert not attack(node, rows_of(PLACED, *FRAGMENTED, MALLEATED), targets, gossip=False)
    assert standing(node, targets) == before
    still_works(node)
