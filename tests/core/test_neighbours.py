"""Talk between neighbours: proof of address, heads, requests, gaps, and what a stranger cannot make a node do."""

from __future__ import annotations

from itertools import count, pairwise

import pytest

from crabnet import limits
from crabnet.core.budgets.sources import SourceRates
from crabnet.core.commands import Received, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope, Kind, seal
from crabnet.protocol.sync import Head, Heads, Hello, NodeIdentity, Request, Talk, Want
from tests.support.envelopes import NOW_S, Author, signer
from tests.support.talking import Neighbour, talk_in

NOW_MS = NOW_S * 1000
CONFIGURED = "udp:192.0.2.7:9012"
TALK_KINDS = {Kind.NODE_HELLO, Kind.FEED_HEADS, Kind.FEED_REQUEST}


@pytest.fixture
def core() -> Core:
    numbers = count(1)
    core = Core(CoreConfig(), signer("observer"), lambda: next(numbers))
    core.neighbours.trusted = frozenset({CONFIGURED})
    return core


@pytest.fixture
def peer(core: Core) -> Neighbour:
    return Neighbour(core, "peer", "udp:192.0.2.1:9012")


def feed(author: Author, number: int, ts: int = NOW_S) -> list[Envelope]:
    """So many seeds."""
    return [author.say(Kind.SEED_CREATED, {"seed": author.seed(ts)}, ts) for _ in range(number)]


def tick(core: Core, now_ms: int = NOW_MS) -> Effects:
    effects = Effects()
    core.handle(Tick(), now_ms, effects)
    return effects


def requests(effects: Effects) -> list[tuple[str | None, list[Want]]]:
    """(address, wants) of all requests."""
    found: list[tuple[str | None, list[Want]]] = []
    for send in effects.sends:
        talk = talk_in(send)
        if isinstance(talk, Request):
            found.append((send.to, talk.wants))
    return found


def held(core: Core, author: Author) -> int:
    return core.replica.feeds.get(author.id).head_seq


def talks(effects: Effects, to: str) -> list[Talk]:
    return [talk for send in effects.sends if send.to == to and (talk := talk_in(send)) is not None]


class TestProofOfAddress:
    def test_a_challenge_and_its_echo_confirm(self, core: Core, peer: Neighbour) -> None:
        (hello,) = talks(peer.hello(), peer.address)
        assert isinstance(hello, Hello)
        assert hello.challenge
        assert not core.neighbours.peers.is_confirmed(peer.address)
        effects = peer.hello(echo=hello.challenge)
        assert core.neighbours.peers.confirmed() == [peer.address]
        assert [notice.kind for notice in effects.notices] == ["peer_confirmed"]
        assert talks(effects, peer.address) == []

    def test_a_wrong_echo_or_one_from_elsewhere_confirms_nobody(self, core: Core, peer: Neighbour) -> None:
        (hello,) = talks(peer.hello(), peer.address)
        assert isinstance(hello, Hello)
        peer.hello(echo="guess")
        peer.hello(echo="")
        Neighbour(core, "other", "udp:192.0.2.99:9012").hello(echo=hello.challenge)
        assert core.neighbours.peers.confirmed() == []

    def test_a_challenge_is_echoed(self, core: Core, peer: Neighbour) -> None:
        peer.confirm()
        (hello,) = talks(peer.hello(challenge="mine"), peer.address)
        assert isinstance(hello, Hello)
        assert (hello.challenge, hello.echo) == ("", "mine")

    def test_an_address_is_challenged_once_a_second_with_the_same_challenge(self, core: Core, peer: Neighbour) -> None:
        seen = []
        for at_ms in (0, 10, 999, 1_000, 1_500, 2_000):
            seen += [(at_ms, talk) for talk in talks(peer.hello(now_ms=NOW_MS + at_ms), peer.address)]
        assert [at_ms for at_ms, _ in seen] == [0, 1_000, 2_000]
        assert len({talk.challenge for _, talk in seen if isinstance(talk, Hello)}) == 1

    def test_a_silent_peer_is_forgotten(self, core: Core, peer: Neighbour) -> None:
        peer.confirm()
        effects = tick(core, NOW_MS + limits.PEER_SILENCE_MS_MAX + 1)
        assert "peer_lost" in [notice.kind for notice in effects.notices]
        assert core.neighbours.peers.confirmed() == []

    def test_a_hello_speaks_for_its_author_only(self, core: Core, peer: Neighbour) -> None:
        real = peer.signer
        peer.signer = signer("other")
        (hello,) = talks(peer.hello(), peer.address)
        assert isinstance(hello, Hello)
        effects = peer.say(Hello(NodeIdentity(real.node_id), "", hello.challenge))
        assert [(notice.kind, notice.fields["reason"]) for notice in effects.notices] == [
            ("envelope_rejected", "unauthorised")
        ]
        assert core.neighbours.peers.confirmed() == []

    def test_addresses_are_bounded_and_confirmed_ones_stay(self, core: Core, peer: Neighbour) -> None:
        peer.confirm()
        for number in range(limits.PEERS_MAX + 10):
            core.neighbours.peers.heard(f"udp:198.51.100.1:{number}", NOW_MS)
        assert core.neighbours.peers.is_confirmed(peer.address)


class TestServing:
    def test_only_proven_addresses_are_served(self, core: Core, peer: Neighbour) -> None:
        author = Author("author")
        for envelope in feed(author, 3):
            peer.pass_on(envelope)
        want = Want(author.id, 1, 3)
        assert peer.ask(want).serves == []
        peer.confirm()
        (serve,) = peer.ask(want).serves
        assert (serve.author, serve.from_seq, serve.to_seq, serve.to) == (author.id, 1, 3, peer.address)
        assert len(Neighbour(core, "configured", CONFIGURED).ask(want).serves) == 1

    def test_an_answer_is_bounded(self, core: Core, peer: Neighbour) -> None:
        author = Author("author")
        peer.pass_on(feed(author, 1)[0])
        peer.confirm()
        (serve,) = peer.ask(Want(author.id, 1, 10**9)).serves
        assert serve.to_seq - serve.from_seq + 1 == limits.SYNC_WANT_ENTRIES_MAX

    def test_beyond_its_end_the_answer_is_the_head(self, core: Core, peer: Neighbour) -> None:
        author = Author("author")
        envelopes = feed(author, 2)
        for envelope in envelopes:
            peer.pass_on(envelope)
        peer.confirm()
        effects = peer.ask(Want(author.id, 3, 66), Want(Author("unknown").id, 1, 64))
        assert effects.serves == []
        assert talks(effects, peer.address) == [Heads([Head(author.id, 2, envelopes[1].meta.id)])]

    def test_its_own_voice_is_not_answered(self, core: Core) -> None:
        echo = Neighbour(core, "observer", CONFIGURED)
        effects = echo.hello(challenge="x")
        assert effects.sends == []


class TestGaps:
    def test_the_source_of_a_gap_is_asked_for_it(self, core: Core, peer: Neighbour) -> None:
        author = Author("author")
        envelopes = feed(author, 5)
        peer.pass_on(envelopes[0])
        effects = peer.pass_on(envelopes[4])
        assert "gap_detected" in [notice.kind for notice in effects.notices]
        assert requests(tick(core)) == [(peer.address, [Want(author.id, 2, 4)])]
        for envelope in envelopes[1:3]:
            peer.pass_on(envelope)
        peer.confirm()
        assert requests(tick(core, NOW_MS + 60_000)) == [(peer.address, [Want(author.id, 4, 4)])]
        effects = peer.pass_on(envelopes[3])
        assert "gap_filled" in [notice.kind for notice in effects.notices]
        assert held(core, author) == 5
        assert requests(tick(core, NOW_MS + 120_000)) == []

    def test_all_holes_are_asked_for_at_once(self, core: Core, peer: Neighbour) -> None:
        """Else each lost envelope of a range costs a round of its own."""
        author = Author("author")
        envelopes = feed(author, 6)
        peer.confirm()
        for at in (0, 2, 4, 5):
            peer.pass_on(envelopes[at])
        assert requests(tick(core)) == [(peer.address, [Want(author.id, 2, 2), Want(author.id, 4, 4)])]

    def test_an_unproven_address_is_asked_once_for_each_of_its_messages(self, core: Core, peer: Neighbour) -> None:
        """A forged source address must not make us flood its owner."""
        author = Author("author")
        envelopes = feed(author, 5)
        peer.pass_on(envelopes[4])
        asked = sum(bool(requests(tick(core, NOW_MS + second * 1_000))) for second in range(60))
        assert asked == 1
        peer.pass_on(envelopes[3])
        asked = sum(bool(requests(tick(core, NOW_MS + second * 1_000))) for second in range(60, 120))
        assert asked == 1

    def test_a_proven_address_is_asked_again_with_growing_pauses(self, core: Core, peer: Neighbour) -> None:
        peer.confirm()
        peer.pass_on(feed(Author("author"), 2)[1])
        times = [at_ms for at_ms in range(0, 60_000, 100) if requests(tick(core, NOW_MS + at_ms))]
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert times[0] == 0
        assert pauses[:4] == [500, 1_000, 2_000, 4_000]
        assert set(pauses[4:]) == {limits.SYNC_REQUEST_RETRY_MS_MAX}

    def test_other_sources_are_asked_in_turn(self, core: Core, peer: Neighbour) -> None:
        envelopes = feed(Author("author"), 3)
        other = Neighbour(core, "other", CONFIGURED)
        peer.confirm()
        peer.pass_on(envelopes[1])
        other.pass_on(envelopes[2])
        asked = [to for at_ms in range(0, 20_000, 100) for to, _ in requests(tick(core, NOW_MS + at_ms))]
        assert set(asked) == {peer.address, CONFIGURED}

    def test_heads_tell_what_is_missing(self, core: Core, peer: Neighbour) -> None:
        author = Author("author")
        envelopes = feed(author, 100)
        peer.confirm()
        peer.heads(Head(author.id, 100, envelopes[99].meta.id))
        assert requests(tick(core)) == [(peer.address, [Want(author.id, 1, 64), Want(author.id, 65, 100)])]
        for envelope in envelopes:
            peer.pass_on(envelope)
        peer.heads(Head(author.id, 100, envelopes[99].meta.id))
        assert requests(tick(core, NOW_MS + 200)) == []

    def test_what_was_asked_for_may_be_old_and_nothing_else(self) -> None:
        numbers = count(1)
        core = Core(CoreConfig(policy=AdmissionPolicy(message_ttl_s=60)), signer("observer"), lambda: next(numbers))
        peer = Neighbour(core, "peer", "udp:192.0.2.1:9012")
        author, stranger = Author("author"), Author("stranger")
        old = feed(author, 3, NOW_S - 1_000)
        unwanted = feed(stranger, 1, NOW_S - 1_000)
        peer.confirm()
        assert "expired" in [notice.fields.get("reason") for notice in peer.pass_on(old[0]).notices]
        peer.heads(Head(author.id, 2, old[1].meta.id))
        tick(core)
        for envelope in (*old, *unwanted):
            peer.pass_on(envelope)
        assert (held(core, author), held(core, stranger)) == (2, 0)

    def test_what_is_missing_is_bounded(self, core: Core, peer: Neighbour) -> None:
        for number in range(limits.SYNC_MISSING_FEEDS_MAX // limits.SYNC_HEADS_PER_MESSAGE_MAX + 1):
            peer.heads(*[Head(f"author-{number}-{each}", 5, "0" * 64) for each in range(64)])
        planner = core.neighbours.planner
        assert len(planner) == limits.SYNC_MISSING_FEEDS_MAX // 2
        proven = Neighbour(core, "configured", CONFIGURED)
        proven.heads(Head("known", 5, "0" * 64))
        assert len(planner) == limits.SYNC_MISSING_FEEDS_MAX // 2 + 1

    def test_a_liar_full_of_promises_keeps_nobody_from_telling_what_differs(self, core: Core, peer: Neighbour) -> None:
        peer.confirm()
        for number in range(limits.SYNC_MISSING_FEEDS_MAX // limits.SYNC_HEADS_PER_MESSAGE_MAX):
            peer.heads(*[Head(f"author-{number}-{each}", 5, "0" * 64) for each in range(64)])
        assert len(core.neighbours.planner) == limits.SYNC_MISSING_FEEDS_MAX

        effects = Neighbour(core, "configured", CONFIGURED).say(Heads([], root="ab" * 16))
        core.rest(NOW_MS, effects)

        asked = [talk for talk in talks(effects, CONFIGURED) if isinstance(talk, Request)]
        assert [request.buckets for request in asked] == [[""]]

    def test_what_never_comes_is_given_up(self, core: Core, peer: Neighbour) -> None:
        peer.confirm()
        peer.heads(Head("author", 5, "0" * 64))
        for at_ms in range(0, limits.SYNC_MISSING_TTL_MS + 20_000, 1_000):
            tick(core, NOW_MS + at_ms)
        assert len(core.neighbours.planner) == 0


class TestParking:
    def test_it_is_bounded_for_each_feed(self, core: Core, peer: Neighbour) -> None:
        envelopes = feed(Author("author"), limits.PARKED_ENVELOPES_PER_FEED_MAX + 3)
        reasons = [peer.pass_on(envelope).notices[0].fields["reason"] for envelope in envelopes[1:]]
        assert reasons == ["gap"] * limits.PARKED_ENVELOPES_PER_FEED_MAX + ["parking_full"] * 2
        assert len(core.replica.parking) == limits.PARKED_ENVELOPES_PER_FEED_MAX
        peer.pass_on(envelopes[0])
        assert len(core.replica.parking) == 0
        assert core.replica.feeds.get(envelopes[0].meta.from_).head_seq == limits.PARKED_ENVELOPES_PER_FEED_MAX + 1

    def test_it_is_bounded_in_bytes(self, core: Core, peer: Neighbour, monkeypatch: pytest.MonkeyPatch) -> None:
        envelopes = feed(Author("author"), 5)
        monkeypatch.setattr(limits, "PARKED_BYTES_MAX", 2 * 2 * len(envelopes[4].raw))
        reasons = [peer.pass_on(envelope).notices[0].fields["reason"] for envelope in envelopes[1:]]
        assert reasons == ["gap", "gap", "parking_full", "parking_full"]

    def test_its_time_to_live(self, core: Core, peer: Neighbour) -> None:
        envelopes = feed(Author("author"), 3)
        peer.pass_on(envelopes[2])
        peer.pass_on(envelopes[1], NOW_MS + 10_000)
        tick(core, NOW_MS + 60_000)
        assert len(core.replica.parking) == 2
        effects = tick(core, NOW_MS + 61_000)
        dropped = [notice for notice in effects.notices if notice.kind == "envelope_dropped"]
        assert [notice.fields["envelope_id"] for notice in dropped] == [envelopes[2].meta.id]
        assert len(core.replica.parking) == 1
        peer.pass_on(envelopes[0], NOW_MS + 62_000)
        assert core.replica.feeds.get(envelopes[0].meta.from_).head_seq == 2

    def test_two_that_wait_for_one_place_end_the_feed_there(self, core: Core, peer: Neighbour) -> None:
        author, twin = Author("author"), Author("author")
        first = feed(author, 1)[0]
        feed(twin, 1)
        for envelope in (author.publish(title="a"), twin.publish(title="b"), first):
            peer.pass_on(envelope)
        held_feed = core.replica.feeds.get(author.id)
        assert (held_feed.head_seq, held_feed.head_id, held_feed.end) == (1, first.meta.id, 2)
        assert len(core.replica.parking) == 0

    def test_what_waits_behind_a_fork_is_dropped(self, core: Core, peer: Neighbour) -> None:
        author = Author("author")
        envelopes = feed(author, 6)
        other = author.rewind(envelopes[2]).publish(title="other")
        for envelope in (envelopes[0], *envelopes[2:]):
            peer.pass_on(envelope)
        assert len(core.replica.parking) == 4
        effects = peer.pass_on(other)
        assert "fork_detected" in [notice.kind for notice in effects.notices]
        assert len(core.replica.parking) == 0
        peer.pass_on(envelopes[1])
        assert (core.replica.feeds.get(author.id).head_seq, core.replica.feeds.get(author.id).end) == (2, 3)


def test_a_node_among_baseline_peers_says_nothing_of_ours() -> None:
    numbers = count(1)
    core = Core(CoreConfig(talk=False), signer("observer"), lambda: next(numbers))
    peer = Neighbour(core, "peer", "udp:192.0.2.1:9012")
    effects = [peer.hello(challenge="x"), peer.heads(Head("a", 5, "0" * 64)), peer.pass_on(feed(Author("a"), 3)[2])]
    effects += [tick(core, NOW_MS + second * 1_000) for second in range(5)]
    assert not any(each.sends or each.serves for each in effects)


def test_a_flood_from_one_source_is_blocked_for_a_while() -> None:
    core = Core(CoreConfig(sources=SourceRates(threshold_per_s=5, block_ms=3_000)), signer("observer"), lambda: 1)
    effects = Effects()
    allowed = [core.allows(f"udp:192.0.2.1:{port}", NOW_MS, effects) for port in range(8)]
    assert allowed == [True] * 5 + [False] * 3
    assert [notice.kind for notice in effects.notices] == ["source_blocked"]
    assert core.allows("udp:192.0.2.2:1", NOW_MS, effects)
    assert not core.allows("udp:192.0.2.1:1", NOW_MS + 2_999, effects)
    assert core.allows("udp:192.0.2.1:1", NOW_MS + 3_000, effects)


def test_talk_that_cannot_be_understood_is_held_against_its_source() -> None:
    core = Core(CoreConfig(sources=SourceRates(rejects_per_s=5, block_ms=3_000)), signer("observer"), lambda: 1)
    kinds: list[str] = []
    for nonce in range(7):
        payload: JsonObject = {"hello": 7}
        broken = seal(signer("peer"), kind=Kind.NODE_HELLO, namespace="default", ts=NOW_S, nonce=nonce, payload=payload)
        effects = Effects()
        if core.allows("udp:192.0.2.1:1", NOW_MS, effects):
            core.handle(Received("udp:192.0.2.1:1", broken.raw), NOW_MS, effects)
        kinds += [notice.kind for notice in effects.notices]
    assert kinds == [*["envelope_rejected"] * 6, "source_blocked"]


def test_the_seen_window_is_pruned_and_says_so() -> None:
    core = Core(CoreConfig(seen_ttl_s=100), signer("observer"), lambda: 1)
    effects = Effects()
    core.handle(Received("udp:192.0.2.1:1", feed(Author("a"), 1)[0].raw), NOW_MS, effects)
    seen = len(core.replica.seen)
    effects = tick(core, NOW_MS + 101_000)
    pruned = [notice.fields for notice in effects.notices if notice.kind == "seen_pruned"]
    assert pruned[0]["expired"] == seen
    assert core.replica.feeds.get(Author("a").id).head_seq == 1
