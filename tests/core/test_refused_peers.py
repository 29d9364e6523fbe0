"""A configured peer with whom this node cannot work is told of once for each Reason, and remembered (net-2)."""

from __future__ import annotations

from itertools import count

import pytest

from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.protocol.envelope import Envelope, Kind, seal
from crabnet.protocol.sync import Heads, payload_of
from tests.support.envelopes import NOW_S, Author, signer
from tests.support.talking import Neighbour

NOW_MS = NOW_S * 1000
CONFIGURED = "udp:192.0.2.7:9012"


@pytest.fixture
def core() -> Core:
    numbers = count(1)
    core = Core(CoreConfig(), signer("observer"), lambda: next(numbers))
    core.neighbours.trusted = frozenset({CONFIGURED})
    return core


def said(name: str, number: int, *, namespace: str = "default", ts: int = NOW_S) -> Envelope:
    kind, payload = payload_of(Heads([]))
    return seal(signer(name), kind=kind, namespace=namespace, ts=ts, nonce=number, payload=payload)


def told(effects: Effects) -> list[tuple[object, ...]]:
    return [
        (notice.fields["address"], notice.fields["reason"], notice.fields["detail"])
        for notice in effects.notices
        if notice.kind == "peer_refused"
    ]


def test_a_peer_of_another_namespace_is_told_of_once(core: Core) -> None:
    peer = Neighbour(core, "peer", CONFIGURED)
    once = told(peer.pass_on(said("peer", 1, namespace="elsewhere")))
    assert once == [(CONFIGURED, "wrong_namespace", "namespace elsewhere, ours is default")]
    assert told(peer.pass_on(said("peer", 2, namespace="elsewhere"), NOW_MS + 5_000)) == []
    refused = core.neighbours.peers.last_refused(CONFIGURED)
    assert refused is not None
    assert (refused.at_ms, refused.reason) == (NOW_MS + 5_000, "wrong_namespace")
    assert not core.neighbours.is_present(CONFIGURED)


@pytest.mark.parametrize(
    ("ts", "reason"), [(NOW_S + 10_000, "from_the_future"), (NOW_S - 100_000, "expired")], ids=["ahead", "behind"]
)
def test_a_peer_whose_clock_is_wrong_is_told_of_by_its_own_messages(core: Core, ts: int, reason: str) -> None:
    peer = Neighbour(core, "peer", CONFIGURED)
    peer.hello(challenge="any")
    ((_, why, _),) = told(peer.pass_on(said("peer", 1, ts=ts)))
    assert why == reason


def test_what_others_have_dated_wrongly_does_not_speak_of_who_passes_it_on(core: Core) -> None:
    peer = Neighbour(core, "peer", CONFIGURED)
    peer.hello(challenge="any")
    author = Author("somebody else")
    ahead = author.say(Kind.SEED_CREATED, {"seed": author.seed(NOW_S + 10_000)}, NOW_S + 10_000)
    assert told(peer.pass_on(ahead)) == []
    assert core.neighbours.peers.last_refused(CONFIGURED) is None


def test_strangers_are_not_told_of(core: Core) -> None:
    stranger = Neighbour(core, "stranger", "udp:192.0.2.99:9012")
    assert told(stranger.pass_on(said("stranger", 1, namespace="elsewhere"))) == []
    assert core.neighbours.peers.last_refused(stranger.address) is None


def test_a_peer_that_proved_its_address_is_remembered_for_it_and_not_told_of(core: Core) -> None:
    peer = Neighbour(core, "peer", "udp:192.0.2.1:9012")
    peer.confirm()
    assert told(peer.pass_on(said("peer", 1, namespace="elsewhere"))) == []
    refused = core.neighbours.peers.last_refused(peer.address)
    assert refused is not None
    assert refused.reason == "wrong_namespace"


def test_configured_peers_count_as_peers_once_they_are_heard(core: Core) -> None:
    assert core.neighbours.peers_total == 0
    Neighbour(core, "peer", CONFIGURED).hello()
    assert core.neighbours.peers_total == 1
    Neighbour(core, "other", "udp:192.0.2.1:9012").confirm()
    assert core.neighbours.peers_total == 2
