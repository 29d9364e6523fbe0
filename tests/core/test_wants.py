"""What others have told of and is lacked: proofs of forks, and what steps rest on. Asked for by name, within bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from crabnet import limits
from crabnet.core.commands import Received, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects, Notice, ServeNamed, ServeProof
from crabnet.core.replica.records import decode_frame, frame_of
from crabnet.core.replica.snapshot import Snapshot, restore
from crabnet.core.sync.wants import STRANGERS, Wants
from crabnet.protocol.envelope import Envelope
from crabnet.protocol.fork_proof import document_of
from crabnet.protocol.sync import ForkMark, ForkRequest, Head, Heads, Named, Request
from tests.support.envelopes import NOW_S, Author, edit, seed_id_of, signer
from tests.support.talking import Neighbour, talk_in

NOW_MS = NOW_S * 1000
PEER, OTHER = "udp:192.0.2.7:9012", "udp:192.0.2.8:9012"
LONG_MS = 600_000


def new_core() -> Core:
    return Core(CoreConfig(), signer("observer"), iter(range(1, 10**6)).__next__)


def give(core: Core, data: bytes, source: str = PEER) -> Effects:
    effects = Effects()
    core.handle(Received(source, data), NOW_MS, effects)
    return effects


def tick(core: Core, now_ms: int = NOW_MS) -> Effects:
    effects = Effects()
    core.handle(Tick(), now_ms, effects)
    return effects


def proven(core: Core, name: str = "peer", address: str = PEER) -> Neighbour:
    peer = Neighbour(core, name, address)
    peer.confirm()
    return peer


class Forger:
    """An author with a few entries and two for the last place."""

    def __init__(self, shared: int = 0) -> None:
        self.author = Author("forger")
        self.shared = [self.author.publish() for _ in range(shared)]
        self.one = self.author.publish(title="a")
        self.two = self.author.twin().rewind(self.one).publish(title="b")
        self.document = document_of(*sorted([self.one.raw, self.two.raw], key=_id_of))
        self.seq = shared + 1
        self.mark = ForkMark(self.author.id, self.seq)

    @property
    def id(self) -> str:
        return self.author.id

    def head(self) -> Head:
        """What a node says that knows all of it."""
        last = self.shared[-1].meta.id if self.shared else ""
        return Head(self.id, self.seq - 1, last, self.seq)


def _id_of(raw: bytes) -> str:
    start = raw.index(b'"id":"') + 6
    return raw[start : start + 64].decode()


def asked(effects: Effects, kind: type[Request | ForkRequest], source: str = PEER) -> Iterator[Request | ForkRequest]:
    for send in effects.sends:
        talk = talk_in(send)
        if send.to == source and isinstance(talk, kind):
            yield talk


def marks(effects: Effects, source: str = PEER) -> list[ForkMark]:
    """The proofs that a source is asked for."""
    requests = asked(effects, ForkRequest, source)
    return [mark for request in requests if isinstance(request, ForkRequest) for mark in request.wants]


def names(effects: Effects, source: str = PEER) -> list[Named]:
    """What a source is asked for by name."""
    return [
        named for request in asked(effects, Request, source) if isinstance(request, Request) for named in request.names
    ]


def reasons(notices: list[Notice]) -> list[object]:
    return [notice.fields.get("reason") for notice in notices if notice.kind.startswith("envelope_")]


def heads_told(core: Core) -> list[Head]:
    """What the core says within some time that it holds."""
    talks = [talk_in(send) for at in range(0, 20_000, 500) for send in tick(core, NOW_MS + at).sends]
    return [head for talk in talks if isinstance(talk, Heads) for head in talk.heads]


class TestProofs:
    def test_an_end_is_told_with_the_head(self) -> None:
        core, forger = new_core(), Forger(2)
        proven(core)
        for envelope in (*forger.shared, forger.one, forger.two):
            give(core, envelope.raw)
        assert forger.head() in heads_told(core)

    def test_an_end_of_a_feed_of_which_nothing_is_held_is_told_as_well(self) -> None:
        core, forger = new_core(), Forger()
        proven(core)
        for envelope in (forger.one, forger.two):
            give(core, envelope.raw)
        assert Head(forger.id, 0, "", 1) in heads_told(core)

    def test_one_that_nobody_asked_for_is_ignored_unverified(self) -> None:
        core, forger = new_core(), Forger()
        assert reasons(give(core, forger.document).notices) == ["unsolicited"]
        proven(core).heads(Head(Author("else").id, 0, "", 1))
        assert reasons(give(core, forger.document).notices) == ["unsolicited"]
        assert not core.replica.feeds.equivocators()

    def test_a_stranger_can_neither_have_one_asked_for_nor_get_one(self) -> None:
        core, forger = new_core(), Forger()
        peer, stranger = proven(core), Neighbour(core, "stranger", "udp:192.0.2.9:9012")
        stranger.heads(forger.head())
        assert not len(core.neighbours.proofs)
        for envelope in (forger.one, forger.two):
            give(core, envelope.raw)
        assert stranger.say(ForkRequest([forger.mark])).proofs == []
        assert peer.say(ForkRequest([forger.mark])).proofs == [ServeProof(forger.id, 1, PEER)]

    @pytest.mark.parametrize("held", ["nothing", "what was shared", "one", "the other"])
    def test_it_is_asked_for_taken_told_and_served(self, held: str) -> None:
        core, forger = new_core(), Forger(2)
        peer = proven(core)
        have = {"nothing": [], "what was shared": forger.shared, "one": [*forger.shared, forger.one]}
        for envelope in have.get(held, [*forger.shared, forger.two]):
            give(core, envelope.raw, OTHER)
        peer.heads(forger.head())
        assert marks(tick(core)) == [forger.mark]
        effects = give(core, forger.document)
        assert [notice.kind for notice in effects.notices].count("fork_detected") == 1
        feed = core.replica.feeds.get(forger.id)
        assert (feed.end, feed.head_seq) == (3, 0 if held == "nothing" else 2)
        assert Head(forger.id, feed.head_seq, feed.head_id, 3) in heads_told(core)
        assert reasons(give(core, forger.document).notices) == ["unsolicited"]
        assert peer.say(ForkRequest([forger.mark])).proofs == [ServeProof(forger.id, 3, PEER)]
        assert peer.say(ForkRequest([ForkMark(forger.id, 2)])).proofs == []

    def test_one_of_an_author_nobody_knows_is_kept(self) -> None:
        """Its feed, should it come, grows up to there."""
        core, forger = new_core(), Forger(2)
        proven(core).heads(forger.head())
        records = give(core, forger.document).records
        assert core.replica.feeds.equivocators() == [forger.id]
        for envelope in (*forger.shared, forger.one):
            records += give(core, envelope.raw).records
        feed = core.replica.feeds.get(forger.id)
        assert (feed.head_id, feed.end) == (forger.shared[1].meta.id, 3)

        again, restored = new_core(), new_core()
        for record in decode_frame(frame_of(records)):
            again.replica.replay(record)
        restore(restored.replica, list(Snapshot(core.replica).rows()))
        for other in (again, restored):
            assert other.replica.state_hash() == core.replica.state_hash()
            assert other.replica.feeds.get(forger.id) == feed

    def test_only_a_lower_end_is_news(self) -> None:
        core, forger = new_core(), Forger(3)
        peer = proven(core)
        for envelope in (*forger.shared, forger.one, forger.two):
            give(core, envelope.raw)
        for end in (4, 5, 2**40):
            peer.heads(Head(forger.id, 3, forger.shared[2].meta.id, end))
        assert marks(tick(core)) == []
        peer.heads(Head(forger.id, 1, forger.shared[0].meta.id, 2))
        assert marks(tick(core)) == [ForkMark(forger.id, 2)]
        lower = forger.author.twin().rewind(forger.shared[1]).publish(title="c")
        give(core, document_of(*sorted([forger.shared[1].raw, lower.raw], key=_id_of)))
        assert (core.replica.feeds.get(forger.id).end, core.replica.feeds.get(forger.id).head_seq) == (2, 1)

    @pytest.mark.parametrize("learned", ["as envelopes", "from another"])
    def test_what_was_learned_meanwhile_is_not_asked_for(self, learned: str) -> None:
        core, forger = new_core(), Forger()
        proven(core).heads(forger.head())
        if learned == "from another":
            proven(core, "other", OTHER).heads(forger.head())
            give(core, forger.document, OTHER)
        else:
            for envelope in (forger.one, forger.two):
                give(core, envelope.raw)
        assert marks(tick(core)) == marks(tick(core), OTHER) == []
        assert not len(core.neighbours.proofs)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda raw: raw.replace(b'"title":"a"', b'"title":"x"'), "wrong_id"),
            (lambda raw: raw.replace(b'"version":1}', b'"version":9}'), "unsupported_version"),
            (lambda raw: raw[:-1], "malformed"),
        ],
    )
    def test_one_that_does_not_verify_changes_nothing(self, change: Callable[[bytes], bytes], reason: str) -> None:
        core, forger = new_core(), Forger()
        proven(core).heads(forger.head())
        assert reasons(give(core, change(forger.document)).notices) == [reason]
        assert not core.replica.feeds.equivocators()
        assert marks(tick(core)) == [forger.mark], "it is still wanted"

    def test_an_envelope_altered_within_one_is_found(self) -> None:
        core, forger = new_core(), Forger()
        proven(core).heads(forger.head())
        forged = edit(forger.one.raw, "payload.seed.reward", 99)
        assert reasons(give(core, document_of(forger.one.raw, forged)).notices) == ["wrong_id"]

    def test_retries_are_bounded_in_number_and_time(self) -> None:
        core, forger = new_core(), Forger()
        proven(core).heads(forger.head())
        times = [at for at in range(0, LONG_MS, 100) if marks(tick(core, NOW_MS + at))]
        assert len(times) == limits.WANT_ATTEMPTS_MAX
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert pauses == sorted(pauses)
        assert pauses[0] == limits.SYNC_REQUEST_RETRY_MS
        assert not len(core.neighbours.proofs)

    def test_a_liar_who_fills_the_table_keeps_no_proof_from_being_asked_for(self) -> None:
        core, forger = new_core(), Forger()
        liar, honest = proven(core, "liar"), proven(core, "honest", OTHER)
        made_up = [Head(Author(f"a{number}").id, 0, "", 1) for number in range(2 * limits.FORK_WANTS_MAX)]
        for at in range(0, len(made_up), limits.SYNC_HEADS_PER_MESSAGE_MAX):
            liar.heads(*made_up[at : at + limits.SYNC_HEADS_PER_MESSAGE_MAX])
        assert len(core.neighbours.proofs) == limits.FORK_WANTS_MAX
        honest.heads(forger.head())
        assert marks(tick(core), OTHER) == [forger.mark]
        give(core, forger.document, OTHER)
        assert core.replica.feeds.equivocators() == [forger.id]
        asked_of_liar = sum(len(marks(tick(core, NOW_MS + at))) for at in range(0, 2 * LONG_MS, 500))
        assert asked_of_liar <= limits.FORK_WANTS_MAX * limits.WANT_ATTEMPTS_MAX
        assert not len(core.neighbours.proofs)


class TestNames:
    """A step rests on an envelope that is not held: it is asked for by its name."""

    def story(self) -> tuple[Author, Author, Envelope, Envelope, Named]:
        creator, worker = Author("creator"), Author("worker")
        seed = creator.publish()
        return creator, worker, seed, worker.bid(seed), Named(seed_id_of(seed), seed.meta.id)

    def test_what_is_lacked_is_asked_for_and_all_go_on(self) -> None:
        core = new_core()
        peer = proven(core)
        _, worker, seed, bid, named = self.story()
        later = worker.publish()
        assert reasons(peer.pass_on(bid).notices) == ["unknown_parent"]
        peer.pass_on(later)
        assert names(tick(core)) == [], "mostly it is on its way"
        assert names(tick(core, NOW_MS + limits.SYNC_QUIET_MS)) == [named]
        effects = peer.pass_on(seed)
        assert [notice.kind for notice in effects.notices].count("envelope_accepted") == 3
        assert core.replica.feeds.get(worker.id).head_seq == 2
        assert [each for at in range(0, LONG_MS, 500) for each in names(tick(core, NOW_MS + at))] == []

    def test_what_came_meanwhile_is_not_asked_for(self) -> None:
        core = new_core()
        peer = proven(core)
        _, _, seed, bid, _ = self.story()
        peer.pass_on(bid)
        peer.pass_on(seed)
        assert names(tick(core, NOW_MS + limits.SYNC_QUIET_MS)) == []
        assert not len(core.neighbours.named)

    def test_what_lies_behind_an_end_is_asked_for_as_well(self) -> None:
        core = new_core()
        peer = proven(core)
        creator, worker, seed, bid, named = self.story()
        other = creator.twin().rewind(seed).publish(title="other")
        give(core, other.raw)
        assert reasons(give(core, seed.raw).notices) == ["fork"]
        peer.pass_on(bid)
        assert names(tick(core, NOW_MS + limits.SYNC_QUIET_MS)) == [named]
        peer.pass_on(seed)
        assert core.replica.feeds.get(worker.id).head_seq == 1
        assert core.record(named.seed_id).progress.status == "Open"

    def test_one_that_never_comes_stops_one_feed_and_is_given_up(self) -> None:
        core = new_core()
        peer = proven(core)
        creator, worker, seed, bid, named = self.story()
        peer.pass_on(bid)
        other = creator.twin().rewind(seed).publish(title="the only one that is to be had")
        times = []
        for at in range(0, 60_000, 100):
            times += [at for each in names(tick(core, NOW_MS + at)) if each == named]
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert pauses == sorted(pauses)
        assert pauses[-1] == limits.SYNC_REQUEST_RETRY_MS_MAX
        peer.pass_on(other, NOW_MS + 60_000)
        assert core.replica.feeds.get(creator.id).head_seq == 1
        for at in range(60_000, LONG_MS, 1_000):
            tick(core, NOW_MS + at)
        assert (core.replica.feeds.get(worker.id).head_seq, len(core.replica.parking)) == (0, 0)
        assert not len(core.neighbours.named)

    def test_another_source_is_asked_when_the_first_does_not_have_it(self) -> None:
        core = new_core()
        peer, other = proven(core), proven(core, "other", OTHER)
        _, _, seed, bid, named = self.story()
        peer.pass_on(bid)
        rival = Author("rival").bid(seed)
        other.pass_on(rival)
        sources = set()
        for at in range(0, 20_000, 100):
            effects = tick(core, NOW_MS + at)
            sources |= {source for source in (PEER, OTHER) if named in names(effects, source)}
        assert sources == {PEER, OTHER}

    def test_names_are_served_to_who_has_proved_its_address(self) -> None:
        core = new_core()
        named = Named("seed", "0" * 64)
        stranger = Neighbour(core, "stranger", "udp:192.0.2.9:9012")
        assert stranger.say(Request([], names=[named])).serves_named == []
        assert proven(core).say(Request([], names=[named])).serves_named == [ServeNamed("seed", "0" * 64, PEER)]

    def test_an_unproven_address_is_asked_once_for_each_of_its_messages(self) -> None:
        core = new_core()
        stranger = Neighbour(core, "stranger", "udp:192.0.2.9:9012")
        _, _, _, bid, _ = self.story()
        stranger.pass_on(bid)
        asked_names = [names(tick(core, NOW_MS + at), stranger.address) for at in range(0, 30_000, 100)]
        assert sum(map(len, asked_names)) == 1


class TestTable:
    """The table itself: shares, sources in turn, what is not lacked any more."""

    def test_who_told_of_most_makes_room(self) -> None:
        wants: Wants[int] = Wants(8, 3)
        assert [wants.note(number, "greedy", 0, teller="greedy") for number in range(10)] == [True] * 8 + [False] * 2
        taken = [wants.note(100 + number, "modest", 0, teller="modest") for number in range(8)]
        assert sum(taken) == 4
        assert len(wants) == 8
        assert all(number in wants for number in range(4)), "those that it told of last are given up"

    def test_sources_are_asked_in_turn_and_those_that_may_not_be_asked_are_left(self) -> None:
        wants: Wants[int] = Wants(8, 4)
        for source in ("a", "b"):
            wants.note(1, source, 0, teller=source)
        asked_of = [wants.requests(at, lambda _: True, lambda _: True, 5) for at in (0, 10_000, 20_000)]
        assert asked_of == [[("a", [1])], [("b", [1])], [("a", [1])]]
        assert wants.requests(90_000, lambda _: True, lambda source: source == "a", 5) == [("a", [1])]
        assert wants.requests(180_000, lambda _: True, lambda _: False, 5) == []
        assert 1 in wants

    def test_a_source_that_comes_late_need_not_wait_for_the_others(self) -> None:
        wants: Wants[int] = Wants(8, 4)
        wants.note(1, "a", 0, teller="a")
        wants.requests(0, lambda _: True, lambda _: True, 5)
        wants.note(1, "b", 100, teller="b")
        assert wants.requests(100, lambda _: True, lambda _: True, 5) == [("b", [1])]

    def test_strangers_take_half_of_the_room_and_make_room_first(self) -> None:
        wants: Wants[int] = Wants(8, 3)
        assert sum(wants.note(number, "stranger", 0, teller=STRANGERS) for number in range(8)) == 4
        for number in range(10, 18):
            assert wants.note(number, "proven", 0, teller="proven")
        assert len(wants) == 8
        assert not any(number in wants for number in range(8))
        assert not wants.note(9, "stranger", 0, teller=STRANGERS)

    def test_a_message_names_no_more_than_it_may_and_the_rest_comes_next(self) -> None:
        wants: Wants[int] = Wants(8, 3)
        for number in range(5):
            wants.note(number, "a", 0, teller="a")
        assert wants.requests(0, lambda _: True, lambda _: True, 3) == [("a", [0, 1, 2])]
        assert wants.requests(0, lambda _: True, lambda _: True, 3) == [("a", [3, 4])]
        assert wants.requests(0, lambda _: True, lambda _: True, 3) == []

    def test_what_is_lacked_no_more_is_forgotten(self) -> None:
        wants: Wants[int] = Wants(8, 3)
        wants.note(1, "a", 0, teller="a")
        assert wants.requests(0, lambda _: False, lambda _: True, 3) == []
        assert 1 not in wants
