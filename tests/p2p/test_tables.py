"""The tables of the libp2p process keep their bounds, however many peers come (``tests/core/test_table_walk.py``)."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from crabnet import limits
from crabnet.child import Lifeline
from crabnet.errors import Reason
from crabnet.p2p.checking import Checked, Checker, Verdict
from crabnet.p2p.control import ControlBudgets, Seen
from crabnet.p2p.dialling import DialBook
from crabnet.p2p.mdns import Mdns
from crabnet.p2p.stand_in import without_fastecdsa
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.transport.p2p_wire import Given, Learnt, Misused, Path, Report
from tests.core.test_table_walk import CROWD, NOW_MS, ROOM, WALKS
from tests.support.dht import needs_libp2p
from tests.support.table_watch import Watch

if TYPE_CHECKING:
    from libp2p.peer.id import ID

pytestmark = needs_libp2p


class Said:
    """A stream of a peer with one message in it."""

    def __init__(self, peer: ID) -> None:
        self.muxed_conn = SimpleNamespace(peer_id=peer)
        self._left = [b"\4junk"]

    async def read(self, _size: int) -> bytes:
        return self._left.pop() if self._left else b""

    async def close(self) -> None:
        """Nothing to release."""


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "KAD_BUCKET",
        "KAD_CLIENTS_MAX",
        "KAD_KEYS_MAX",
        "KAD_PROVIDERS_PER_KEY_MAX",
        "MDNS_NAMES_MAX",
        "P2P_CONNECTIONS_MAX",
        "PEERS_REMEMBERED_MAX",
        "P2P_HOPED_MAX",
        "P2P_REFUSALS_MAX",
        "SOURCES_MAX",
        "SOURCE_PEERS_MAX",
    ):
        monkeypatch.setattr(limits, name, ROOM)


@pytest.fixture
def peers() -> list[ID]:
    """The ids of a crowd."""
    without_fastecdsa()
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    return [ID.from_pubkey(create_new_key_pair(bytes([number]) * 32).public_key) for number in range(1, CROWD + 1)]


def test_what_is_refused_is_counted_for_the_last_peers(peers: list[ID]) -> None:
    from crabnet.p2p.refusals import Refusals

    told: list[Report] = []
    refusals = Refusals(told.append)
    watch = Watch(refusals)
    for peer in peers:
        for _ in range(2):
            refusals.note(peer, Path.GOSSIP, Checked(Verdict.REJECT, Reason.MALFORMED, "junk"), 4)
            refusals.foreign_topic(peer, "crabnet/v9/default/tasks")
        watch.look()
    assert watch.filled >= {"Refusals._counts", "Refusals._topics"}
    assert len(told) == CROWD, "a topic is told once for each peer"
    refusals.tell()
    counted = [each for each in told if isinstance(each, Misused)]
    assert [each.peer for each in counted] == [str(peer) for peer in peers[-ROOM:]]
    assert {each.count for each in counted} == {2}


def test_every_peer_has_its_rate_and_its_offences(peers: list[ID]) -> None:
    checker = Checker(AdmissionPolicy("default", True, 3_600, 60), messages_per_s=2)
    watch = Watch(checker)
    for peer in map(str, peers):
        assert [checker.admit(peer, NOW_MS) for _ in range(2)] == [None, None]
        assert (refused := checker.admit(peer, NOW_MS)) is not None
        assert refused.reason is Reason.RATE_LIMITED
        assert checker.gossip(peer, b"junk", NOW_MS).reason is Reason.MALFORMED
        watch.look()
    assert watch.filled >= {"Checker._rates", "Checker._offences"}


def test_control_messages_are_counted_for_the_last_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOSSIP_PEERS_RATED_MAX", "GOSSIP_PROMISES_MAX", "GOSSIP_SERVED_IDS_MAX"):
        monkeypatch.setattr(limits, name, ROOM)
    budgets: ControlBudgets[int] = ControlBudgets()
    seen = Seen(60, ROOM, lambda: NOW_MS)
    watch = Watch(budgets, seen)
    for number in range(CROWD):
        key = number.to_bytes(4, "big")
        budgets.promise(number, key, NOW_MS)
        budgets.of(0).serve(key)
        budgets.of(number)
        seen.add(key)
        watch.look()
    assert watch.filled >= {
        "ControlBudgets._budgets",
        "ControlBudgets._promises",
        "ControlBudget._served",
        "Seen._until_ms",
    }


def test_addresses_that_others_tell_displace_each_other_but_none_of_the_operator() -> None:
    book = DialBook("own", ROOM, lambda: 0.5)
    watch = Watch(book)
    book.configure("/ip4/192.0.2.1/tcp/9012", "honest")
    for number in range(CROWD):
        book.learn(f"/ip4/198.51.100.{number}/tcp/9012", f"peer {number}", Learnt.TOLD, NOW_MS)
        watch.look()
    assert watch.filled >= {"DialBook._hoped"}
    assert next(each.peer for each in book.due(NOW_MS, set(), 1)) == "honest"


def test_addresses_that_work_displace_the_oldest_of_them() -> None:
    book = DialBook("own", ROOM, lambda: 0.5)
    watch = Watch(book)
    for number in range(CROWD):
        address, peer = f"/ip4/198.51.100.{number}/tcp/9012", f"peer {number}"
        book.learn(address, peer, Learnt.TOLD, NOW_MS)
        book.succeeded(address, peer, NOW_MS, number + 1)
        watch.look()
    assert watch.filled >= {"DialBook._proven"}
    assert [each.peer for each in book.entries()] == [f"peer {number}" for number in range(CROWD - ROOM, CROWD)]


def test_services_on_the_link_displace_each_other() -> None:
    found: list[str] = []
    mdns = Mdns("_p2p._udp.local.", "own", list, lambda address, _peer: found.append(address))
    watch = Watch(mdns)
    for number in range(CROWD):
        mdns._take(f"name {number}", [(f"address {number}", "peer")])
        watch.look()
    assert watch.filled >= {"Mdns._seen"}
    mdns._take(f"name {CROWD - 1}", [])
    assert found == [f"address {number}" for number in range(CROWD)]


async def test_a_server_of_the_dht_forgets_the_oldest(peers: list[ID]) -> None:
    from crabnet.p2p.kad_messages import Ask, Kad, Named
    from crabnet.p2p.kad_tables import Server
    from crabnet.p2p.service import Service

    address = "/ip4/1.1.1.1/tcp/9012"
    given = Given(seed=b"\1" * 32, namespace="default", listen=[], publish=[], subscribe=[])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        service = Service(given, Lifeline(ours, b""))
        kad, rendezvous = service.peers.discovery.kad, service.peers.discovery.rendezvous
        watch = Watch(service.peers.discovery)
        for at, peer in enumerate(peers):
            own = [Named(peer.to_bytes(), [address])]
            for key in (b"all", b"key %d" % at):
                kad.answer(peer, Kad(Ask.ADD_PROVIDER, key, providers=own))
            kad.is_welcome(peer)
            rendezvous.allows(peer)
            await kad.ask(peer, b"key", [])  # it is not connected, so it is no server
            for bucket in range(limits.KAD_BUCKET):
                kad.servers.answered(Server(b"%d %d" % (at, bucket), [address], NOW_MS))
            watch.look()
        assert watch.filled >= {
            "KadNode._clients",
            "KadNode._rates",
            "Providers._keys",
            "Providers._of_peer",
            "Rendezvous._allowances",
            "Servers._buckets",
            "_Key.providers",
        }


async def test_what_is_known_of_relays_and_of_the_own_reachability(
    peers: list[ID], monkeypatch: pytest.MonkeyPatch
) -> None:
    from crabnet.p2p.service import Service

    for name in ("P2P_OBSERVATIONS_MAX", "P2P_REACHABILITY_VOTES_MAX"):
        monkeypatch.setattr(limits, name, ROOM)
    monkeypatch.setattr(limits, "P2P_REACHABILITY_HOSTS_MAX", CROWD)
    given = Given(seed=b"\1" * 32, namespace="default", listen=[], publish=[], subscribe=[])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        nat = Service(given, Lifeline(ours, b"")).nat
        watch = Watch(nat)
        direct = SimpleNamespace(get_transport_addresses=lambda: ["/ip4/1.1.1.1/tcp/9012"])
        for at, peer in enumerate(peers):
            nat._votes.put(f"8.8.{at}.8", "")
            nat._votes.ask(f"8.8.{at}.8", NOW_MS)
            nat._observations.put(at, f"8.8.{at}.8", "5.5.5.5")
            nat._autonat._may_dial(f"8.8.{at}.8")
            nat._puncher._may_try(peer)
            nat._relay._check(peer, SimpleNamespace(swarm_conn=direct))  # type: ignore[arg-type]
            await nat._client._reserve(peer)  # it is not connected
            watch.look()
        assert watch.filled >= WALKS["nat"]


async def test_streams_and_blocked_peers(peers: list[ID]) -> None:
    from crabnet.p2p.service import Service
    from crabnet.p2p.streams import PROTOCOLS

    ours, theirs = socket.socketpair()
    with ours, theirs:
        given = Given(seed=b"\1" * 32, namespace="default", listen=[], publish=[], subscribe=[], messages_per_s=10)
        service = Service(given, Lifeline(ours, b""))
        service.streams.offer()
        read = service.host.get_mux().handlers[PROTOCOLS[Path.SYNC]]
        assert read is not None
        watch = Watch(service)
        for peer in peers:
            await read(Said(peer))  # type: ignore[arg-type]
            await service.host._take_push(Said(peer))  # type: ignore[arg-type]
            service.network._rate(str(peer))
            service.peers.block(str(peer), 60_000)
            watch.look()
        assert watch.filled >= {"Streams._rates", "Peers._blocked", "Host._pushes", "Network._accepted"}
        assert [service.peers.admits(peer) for peer in peers] == [True] * (CROWD - ROOM) + [False] * ROOM
