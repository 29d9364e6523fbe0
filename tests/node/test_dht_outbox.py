"""What a node publishes over libp2p, and what it reports of it, while nobody can be given anything."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from crabnet.core.effects import FieldValue, Send
from crabnet.node.network.deliveries import Deliveries
from crabnet.node.network.dht_outbox import DhtOutbox
from crabnet.protocol.envelope import Kind
from crabnet.source import GOSSIP

TOPICS = ["crabnet/v2/default/tasks", "crabnet/v2/default/talk"]
SEED = Send(b"{}", Kind.SEED_CREATED, "1" * 64)
HELLO = Send(b"{}", Kind.NODE_HELLO, "2" * 64, GOSSIP)


def reported(topics: list[str], *sends: Send) -> list[str]:
    """The kinds of the envelopes of which the outbox reports that they could not be published."""
    told: list[str] = []

    def notify(kind: str, fields: dict[str, FieldValue]) -> None:
        assert kind == "gossip_unpublished"
        told.append(str(fields["kind"]))

    async def scenario() -> None:
        outbox = DhtOutbox(topics, 0, Deliveries(1), notify, None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.run)
            for send in sends:
                outbox.put(send)
            await trio.testing.wait_all_tasks_blocked()
            assert not outbox.queued
            nursery.cancel_scope.cancel()

    trio.run(scenario)
    return told


def test_only_what_sync_has_to_bring_is_reported() -> None:
    assert reported(TOPICS, SEED, HELLO) == [Kind.SEED_CREATED]


@pytest.mark.parametrize("topics", [[], TOPICS[1:]])
def test_what_is_not_to_be_published_is_no_failure(topics: list[str]) -> None:
    assert reported(topics, SEED, HELLO) == []
