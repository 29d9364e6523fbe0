"""A node that has peers asks them for its own feed at each start, and writes nothing before one has answered."""

from __future__ import annotations

from itertools import count

import pytest

from crabnet.core.commands import Received, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.core.mending import Part
from crabnet.core.sync.address_book import RememberedPeer
from crabnet.core.sync.feed_guard import FeedWait
from crabnet.errors import RefusedError
from crabnet.protocol.sync import Head, Heads, Hello, Request, Want
from tests.support.envelopes import NOW_S, signer
from tests.support.own_feed import WISH, publishes
from tests.support.talking import Neighbour

START_MS = NOW_S * 1000
PEER = "udp:192.0.2.1:9"
WAIT_MS = 2_000


def core_of(config: CoreConfig | None = None, *, published: int = 2) -> Core:
    """A core that has written something, and knows of no peer."""
    numbers = count(1)
    core = Core(config or CoreConfig(), signer("honest"), lambda: next(numbers))
    for _ in range(published):
        core.handle(WISH, START_MS, Effects())
    return core


def waiting(core: Core, *peers: str, then_writes: bool = True) -> Core:
    """The same after a start, with configured peers."""
    core.neighbours.trusted = frozenset(peers)
    core.begin(START_MS, Effects(), FeedWait(WAIT_MS, then_writes))
    return core


def tick(core: Core, now_ms: int) -> Effects:
    effects = Effects()
    core.handle(Tick(), now_ms, effects)
    return effects


def outcomes(effects: Effects) -> list[object]:
    return [notice.fields["outcome"] for notice in effects.notices if notice.kind == "feed_unconfirmed"]


def truth(core: Core, seq: int = 0) -> Head:
    """What a peer says that holds the feed up to ``seq``, or all of it."""
    feed = core.replica.feeds.get(core.signer.node_id)
    place = seq or feed.head_seq
    return Head(feed.author, place, core.replica.feeds.id_at(feed.author, place) or "")


def test_peers_are_asked_and_nothing_is_written_before_one_has_answered() -> None:
    core = waiting(core_of(), PEER)
    assert not publishes(core, START_MS)
    peer = Neighbour(core, "peer", PEER)
    asked = [talk for talk in peer.heard(tick(core, START_MS)) if isinstance(talk, Request)]
    assert [request.wants for request in asked] == [[Want(core.signer.node_id, 3, 66)]]
    assert core.feed_wait_left_ms(START_MS + 500) == WAIT_MS - 500
    peer.heads(truth(core), now_ms=START_MS)
    assert core.feed_wait_left_ms(START_MS + 500) == 0
    assert publishes(core, START_MS)
    assert not core.feed_risk


@pytest.mark.parametrize("held", ["all", "less", "nothing"])
def test_any_answer_about_the_feed_is_one(held: str) -> None:
    core = waiting(core_of(), PEER)
    head = {"all": truth(core), "less": truth(core, 1), "nothing": Head(core.signer.node_id, 0, "")}[held]
    Neighbour(core, "peer", PEER).heads(head, now_ms=START_MS)
    assert publishes(core, START_MS)


def test_that_a_peer_holds_more_is_no_leave_to_write() -> None:
    core = waiting(core_of(), PEER)
    Neighbour(core, "peer", PEER).heads(Head(core.signer.node_id, 7, "0" * 64), now_ms=START_MS)
    assert not publishes(core, START_MS + WAIT_MS)
    assert core.feed_wait_left_ms(START_MS) == 0, "there is no use in waiting for another answer"


def test_a_stranger_answers_for_nobody() -> None:
    core = waiting(core_of(), PEER)
    Neighbour(core, "stranger", "udp:192.0.2.7:9").heads(truth(core), now_ms=START_MS)
    assert not publishes(core, START_MS)


@pytest.mark.parametrize(("then_writes", "outcome"), [(True, "writes"), (False, "waits")])
def test_when_the_wait_is_over_the_policy_decides(then_writes: bool, outcome: str) -> None:
    core = waiting(core_of(), PEER, then_writes=then_writes)
    assert outcomes(tick(core, START_MS + WAIT_MS - 1)) == []
    assert not publishes(core, START_MS + WAIT_MS - 1)
    assert outcomes(tick(core, START_MS + WAIT_MS)) == [outcome]
    assert outcomes(tick(core, START_MS + WAIT_MS + 1)) == []
    assert publishes(core, START_MS + WAIT_MS) is then_writes
    if not then_writes:
        later_ms = START_MS + 10 * WAIT_MS
        assert any(send.kind == "FeedRequest" for send in tick(core, later_ms).sends), "it goes on asking"
        Neighbour(core, "peer", PEER).heads(truth(core), now_ms=later_ms)
        assert publishes(core, later_ms)


@pytest.mark.parametrize("peers", [(), ("udp:255.255.255.255:9012",)])
def test_without_peers_there_is_nobody_to_wait_for(peers: tuple[str, ...]) -> None:
    assert publishes(waiting(core_of(), *peers, then_writes=False), START_MS)


def test_remembered_peers_are_asked_too() -> None:
    core = core_of()
    core.neighbours.book.load([RememberedPeer(PEER, signer("peer").node_id, NOW_S)], START_MS)
    waiting(core)
    assert not publishes(core, START_MS)
    peer = Neighbour(core, "peer", PEER)
    peer.hello(echo=next(talk.challenge for talk in peer.heard(tick(core, START_MS)) if isinstance(talk, Hello)))
    assert core.neighbours.proven(PEER)
    peer.heads(truth(core), now_ms=START_MS)
    assert publishes(core, START_MS)


def test_the_operators_word_is_enough_and_so_is_talking_to_baseline_peers() -> None:
    for config in (CoreConfig(accept_feed_risk=True), CoreConfig(talk=False)):
        assert publishes(waiting(core_of(config), PEER, then_writes=False), START_MS)


def test_the_wait_outlives_a_guard_that_fails() -> None:
    core = waiting(core_of(), PEER)
    core.neighbours.renew(Part.FEED_GUARD)
    assert not publishes(core, START_MS)
    assert publishes(core, START_MS + WAIT_MS)


def test_what_was_sent_for_sure_must_come_back_whatever_a_peer_confirms() -> None:
    core = core_of()
    core.endanger_feed("a note tells of more", floor_seq=3)
    waiting(core, PEER)
    peer = Neighbour(core, "peer", PEER)
    for later_ms in range(0, 60_000, 1_000):
        peer.heads(truth(core), now_ms=START_MS + later_ms)
        tick(core, START_MS + later_ms)
    assert core.feed_risk
    with pytest.raises(RefusedError, match="a note tells of more"):
        core.handle(WISH, START_MS + 60_000, Effects())


class TestTheOtherEnd:
    """Anybody may ask how far its own feed goes; the answer costs a forged address no more than the question."""

    def said(self, peer: Neighbour, effects: Effects) -> list[Heads]:
        return [talk for talk in peer.heard(effects) if isinstance(talk, Heads)]

    def test_an_author_that_nobody_knows_is_told_so(self) -> None:
        core = core_of()
        peer = Neighbour(core, "author", PEER)
        me = peer.signer.node_id
        said = self.said(peer, peer.ask(Want(me, 1, 64)))
        assert said == [Heads([Head(me, 0, "")])]
        peer.confirm()
        assert self.said(peer, peer.ask(Want(me, 1, 64))) == [Heads([Head(me, 0, "")])]

    def test_an_author_is_told_where_its_feed_ends(self) -> None:
        author, reader = core_of(published=0), Core(CoreConfig(), signer("reader"), lambda: 7)
        effects = Effects()
        author.handle(WISH, START_MS, effects)
        reader.handle(Received(PEER, effects.sends[0].data), START_MS, Effects())
        peer = Neighbour(reader, "honest", PEER)
        answered = peer.ask(Want(peer.signer.node_id, 1, 64))
        assert self.said(peer, answered) == [Heads([truth(author)])]
        assert not answered.serves

    def test_nobody_is_told_about_the_feeds_of_others(self) -> None:
        core = core_of()
        peer = Neighbour(core, "stranger", PEER)
        assert self.said(peer, peer.ask(Want(core.signer.node_id, 1, 64))) == []
        peer.confirm()
        assert self.said(peer, peer.ask(Want(signer("unknown").node_id, 1, 64))) == []

    def test_who_is_gone_in_a_moment_proves_its_address_to_nobody(self) -> None:
        core = core_of(CoreConfig(stays=False))
        peer = Neighbour(core, "peer", PEER)
        said = peer.heard(peer.hello(challenge="abc"))
        assert not any(isinstance(talk, Hello) and talk.echo for talk in said)
