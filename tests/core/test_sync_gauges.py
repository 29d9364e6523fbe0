"""How far a node and its neighbours are behind each other, and which peers are found and lost."""

from __future__ import annotations

from itertools import count

import pytest

from crabnet import limits
from crabnet.core.commands import Publish, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.core.sync.gauges import NeighbourGauges
from crabnet.core.sync.presence import Presence
from crabnet.protocol.envelope import Kind
from crabnet.protocol.sync import Head, Heads, Want
from tests.support.envelopes import NOW_S, Author, signer
from tests.support.talking import Neighbour

NOW_MS = NOW_S * 1000
CONFIGURED = "udp:192.0.2.7:9012"
INVENTED = signer("invented").node_id


@pytest.fixture
def core() -> Core:
    numbers = count(1)
    core = Core(CoreConfig(), signer("observer"), lambda: next(numbers))
    core.neighbours.trusted = frozenset({CONFIGURED})
    return core


@pytest.fixture
def peer(core: Core) -> Neighbour:
    peer = Neighbour(core, "peer", "udp:192.0.2.1:9012")
    peer.confirm()
    return peer


def tick(core: Core, now_ms: int) -> Effects:
    effects = Effects()
    core.handle(Tick(), now_ms, effects)
    return effects


def of(core: Core, address: str, now_ms: int = NOW_MS) -> NeighbourGauges:
    return next(each for each in core.sync_gauges(now_ms).neighbours if each.address == address)


def told(effects: Effects, kind: str) -> list[object]:
    return [notice.fields["address"] for notice in effects.notices if notice.kind == kind]


def test_what_a_neighbour_holds_and_this_node_lacks_is_counted(core: Core, peer: Neighbour) -> None:
    assert core.sync_gauges(NOW_MS).oldest_want_ms == 0
    peer.heads(Head(INVENTED, 40, "ab" * 32), Head(signer("second").node_id, 2, "cd" * 32))
    tick(core, NOW_MS)
    gauges = core.sync_gauges(NOW_MS + 5_000)
    assert (gauges.feeds_missing, gauges.envelopes_missing, gauges.oldest_want_ms) == (2, 42, 5_000)
    assert (gauges.requests_in_flight, gauges.envelopes_in_flight) == (2, 42)
    assert (of(core, peer.address).feeds_behind, of(core, peer.address).envelopes_behind) == (2, 42)


def test_what_strangers_claim_counts_nowhere(core: Core) -> None:
    stranger = Neighbour(core, "stranger", "udp:198.51.100.1:1")
    stranger.hello()
    stranger.heads(Head(INVENTED, 10**9, "ab" * 32))
    gauges = core.sync_gauges(NOW_MS + 5_000)
    assert (gauges.neighbours, gauges.envelopes_missing, gauges.oldest_want_ms) == ((), 0, 0)


def test_the_age_counts_on_while_the_node_gives_a_feed_up_and_takes_it_up_again(core: Core, peer: Neighbour) -> None:
    head = Head(INVENTED, 40, "ab" * 32)
    for at_ms in range(0, 3 * limits.SYNC_MISSING_TTL_MS, 1_000):
        peer.heads(head, now_ms=NOW_MS + at_ms)
        tick(core, NOW_MS + at_ms)
    peer.heads(head, now_ms=NOW_MS + at_ms + 1)
    assert core.sync_gauges(NOW_MS + at_ms).oldest_want_ms == at_ms


def test_what_this_node_holds_and_a_neighbour_lacks_is_counted_by_its_last_words(core: Core, peer: Neighbour) -> None:
    effects = Effects()
    for title in "abcde":
        core.handle(Publish(title=title, command="true"), NOW_MS, effects)
    own = core.replica.feeds.get(core.signer.node_id)
    assert of(core, peer.address).envelopes_ahead is None, "it has said nothing yet"
    peer.ask(Want(own.author, 2, 5))
    assert (of(core, peer.address).feeds_ahead, of(core, peer.address).envelopes_ahead) == (1, 4)
    peer.heads(Head(own.author, 3, core.replica.feeds.id_at(own.author, 3) or ""))
    assert of(core, peer.address).envelopes_ahead == 2
    core.handle(Publish(title="f", command="true"), NOW_MS, effects)
    assert of(core, peer.address).envelopes_ahead == 3
    peer.say(Heads([], core.neighbours.digests.root()))
    assert (of(core, peer.address).feeds_ahead, of(core, peer.address).envelopes_ahead) == (0, 0)


def test_only_so_many_neighbours_are_listed_and_those_with_the_most_first(core: Core) -> None:
    for number in range(limits.SYNC_GAUGES_NEIGHBOURS_MAX + 5):
        each = Neighbour(core, f"n{number}", f"udp:198.51.100.{number}:1")
        each.confirm()
        each.heads(Head(signer(f"feed {number}").node_id, number + 1, "ab" * 32))
    gauges = core.sync_gauges(NOW_MS)
    assert gauges.neighbours_total == limits.SYNC_GAUGES_NEIGHBOURS_MAX + 5
    behind = [each.envelopes_behind for each in gauges.neighbours]
    assert behind == list(range(gauges.neighbours_total, 5, -1))


def test_peers_are_found_lost_and_found_again(core: Core, peer: Neighbour) -> None:
    configured = Neighbour(core, "configured", CONFIGURED)
    configured.hello()
    assert told(tick(core, NOW_MS), "peer_found") == []
    found = tick(core, NOW_MS + limits.PRESENCE_LOOK_MS)
    assert sorted(map(str, told(found, "peer_found"))) == sorted([peer.address, CONFIGURED])
    later_ms = NOW_MS + limits.PEER_SILENCE_MS_DEFAULT
    peer.hello(now_ms=later_ms - 1)
    gone = tick(core, later_ms)
    assert (told(gone, "peer_lost"), told(gone, "peer_found")) == ([CONFIGURED], [])
    assert told(tick(core, later_ms + limits.PRESENCE_LOOK_MS), "peer_lost") == [], "it is told once"
    later_ms += 2 * limits.PRESENCE_LOOK_MS
    configured.hello(now_ms=later_ms)
    assert told(tick(core, later_ms), "peer_found") == [CONFIGURED]


def test_a_peer_that_was_told_as_lost_is_not_lost_again_when_it_is_forgotten(core: Core, peer: Neighbour) -> None:
    author = Author("author")
    peer.pass_on(author.say(Kind.SEED_CREATED, {"seed": author.seed()}))
    lost: list[object] = []
    for at_ms in range(0, limits.PEER_SILENCE_MS_MAX + 5_000, 500):
        lost += told(tick(core, NOW_MS + at_ms), "peer_lost")
    assert lost == [peer.address]
    assert core.neighbours.peers.confirmed() == []


def test_patience_with_a_peer_that_comes_and_goes_grows() -> None:
    presence = Presence(60_000)
    now_ms, lost_at = NOW_MS, []
    for _ in range(8):
        presence.look([("a", "n", now_ms)], now_ms)
        heard_ms = now_ms
        while not presence.look([("a", "n", heard_ms)], now_ms)[1]:
            now_ms += 1_000
        lost_at.append(now_ms - heard_ms)
        now_ms += 1_000
    assert lost_at == [60_000, 120_000, 240_000, 480_000, *[limits.PEER_SILENCE_MS_MAX] * 4]
