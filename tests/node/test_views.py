"""What operators are shown of peers."""

from __future__ import annotations

from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.node.operations.views import peer_views
from crabnet.protocol.envelope import Envelope, Kind
from tests.support.envelopes import NOW_S, Author, signer
from tests.support.talking import Neighbour


def one_of_two(title: str) -> Envelope:
    """The first envelope of the author "forker", once with this title."""
    author = Author("forker")
    return author.say(Kind.SEED_CREATED, {"seed": {**author.seed(NOW_S), "title": title}}, NOW_S)


def test_a_peer_who_forked_its_feed_is_shown_as_such() -> None:
    core = Core(CoreConfig(), signer("observer"), lambda: 7)
    honest = Neighbour(core, "honest", "192.0.2.1:9012")
    forker = Neighbour(core, "forker", "192.0.2.2:9012")

    def shown() -> dict[str, bool]:
        views = peer_views(core.neighbours, {}, NOW_S * 1000, core.replica.feeds.is_equivocator)
        return {peer.address: peer.equivocator for peer in views}

    for peer in (honest, forker):
        peer.confirm()
    forker.pass_on(one_of_two("this"))
    assert shown() == {honest.address: False, forker.address: False}

    honest.pass_on(one_of_two("that"))

    assert shown() == {honest.address: False, forker.address: True}
