"""Where an envelope was sent, over all transports, for the answer to the one who stated it."""

from __future__ import annotations

import json
from pathlib import Path

import trio

from crabnet.node.network.deliveries import Deliveries, Delivery
from crabnet.node.network.remembering import PeersFile
from crabnet.storage.files import RealFiles


async def test_both_transports_count(autojump_clock: trio.abc.Clock) -> None:
    deliveries = Deliveries(2)
    deliveries.note("id", Delivery(1, 2, failed=1, detail="no route"))
    begun = trio.current_time()
    assert await deliveries.of("id") == Delivery(1, 2, failed=1, detail="no route"), "the other has not said anything"
    assert trio.current_time() > begun
    deliveries.note("id", Delivery(3, broadcast=True))
    begun = trio.current_time()
    assert await deliveries.of("id") == Delivery(4, 2, broadcast=True, failed=1, detail="no route")
    assert trio.current_time() == begun
    assert await deliveries.of("other") is None


async def test_without_a_transport_nobody_is_waited_for(autojump_clock: trio.abc.Clock) -> None:
    begun = trio.current_time()
    assert await Deliveries(0, "there is none").of("id") == Delivery(0, detail="there is none")
    assert trio.current_time() == begun


def test_peers_that_an_older_version_remembered_are_addresses_of_datagrams(tmp_path: Path) -> None:
    row = {"address": "192.0.2.1:9012", "node_id": "node", "last_seen_s": 7, "failures": 0}
    (tmp_path / "peers.json").write_text(json.dumps({"format": "crabnet-peers-1", "peers": [row]}), encoding="utf-8")
    peers, wrong = PeersFile(RealFiles(), tmp_path).read()
    assert ([each.address for each in peers], wrong) == (["udp:192.0.2.1:9012"], "")
