"""What operators are shown of peers."""

from __future__ import annotations

from crabnet.core.commands import PeerJoined
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.node.operations.views import peer_views
from crabnet.protocol.envelope import Envelope, Kind
from crabnet.transport.p2p_wire import Known, Learnt
from tests.support.envelopes import NOW_S, Author, signer
from tests.support.talking import Neighbour


def one_of_two(title: str) -> Envelope:
    """The first envelope of the author "forker", once with this title."""
    author = Author("forker")
    return author.say(Kind.SEED_CREATED, {"seed": {**author.seed(NOW_S), "title": title}}, NOW_S)


def test_a_peer_who_forked_its_feed_is_shown_as_such() -> None:
    core = Core(CoreConfig(), signer("observer"), lambda: 7)
    honest = Neighbour(core, "honest", "udp:192.0.2.1:9012")
    forker = Neighbour(core, "forker", "udp:192.0.2.2:9012")

    def shown() -> dict[str, bool]:
        views = peer_views(core.neighbours, {}, NOW_S * 1000, core.replica.feeds.is_equivocator)
        return {peer.address: peer.equivocator for peer in views}

    for peer in (honest, forker):
        peer.confirm()
    forker.pass_on(one_of_two("this"))
    assert shown() == {honest.address: False, forker.address: False}

    honest.pass_on(one_of_two("that"))

    assert shown() == {honest.address: False, forker.address: True}


def test_a_libp2p_peer_is_shown_with_its_addresses_and_once() -> None:
    core = Core(CoreConfig(), signer("observer"), lambda: 7)
    here, away = signer("here").node_id, signer("away").node_id
    core.handle(PeerJoined(f"p2p:{here}", here), NOW_S * 1000, Effects())
    known = [
        Known("/ip4/192.0.2.1/tcp/9", here, Learnt.CONFIGURED, NOW_S - 60),
        Known("/ip4/192.0.2.2/tcp/9", here, Learnt.TOLD, NOW_S - 90, 3),
        Known("/ip4/192.0.2.3/tcp/9", away, Learnt.REMEMBERED, NOW_S - 600, 2),
    ]
    first, second = peer_views(core.neighbours, {}, NOW_S * 1000, lambda _: False, known)
    assert (first.address, first.node_id, first.confirmed, first.configured) == (f"p2p:{here}", here, True, True)
    assert (first.names, first.silent_ms) == (["/ip4/192.0.2.1/tcp/9", "/ip4/192.0.2.2/tcp/9"], 0)
    assert (second.address, second.confirmed, second.configured) == (f"p2p:{away}", False, False)
    assert (second.silent_ms, second.failures) == (600_000, 2)
