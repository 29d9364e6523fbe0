"""What the core answers to each kind of envelope: accept, ignore or reject, with the Reason that names why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import NamedTuple

import pytest

from crabnet import limits
from crabnet.core.commands import Received, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.core.replica.records import Via
from crabnet.domain.record import counting_bids
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.protocol.canonical import JsonObject, JsonValue
from crabnet.protocol.envelope import Envelope, Kind, content_of
from tests.support.envelopes import NOW_S, Author, edit, signer

SOURCE = "udp:192.0.2.1:9012"
MAX_BIDS = 2
STEPS = ("seed", "bid", "claim", "run", "result", "settle", "acknowledge")
NOWHERE = "f" * 64
"""The id of an envelope that nobody holds."""


class Answer(NamedTuple):
    """The event that tells of an envelope."""

    kind: str
    reason: str | None = None


ACCEPTED = Answer("envelope_accepted")


def ignored(reason: str) -> Answer:
    return Answer("envelope_ignored", reason)


def rejected(reason: str) -> Answer:
    return Answer("envelope_rejected", reason)


def waits(reason: str) -> Answer:
    return Answer("envelope_parked", reason)


class Scene:
    """A core, and authors who tell it things about one seed."""

    def __init__(self, policy: AdmissionPolicy | None = None, core: Core | None = None) -> None:
        self.core = core or Core(CoreConfig(policy=policy or AdmissionPolicy()), signer("observer"), lambda: 1)
        self.creator, self.worker, self.rival = Author("creator"), Author("worker"), Author("rival")
        self.seed_id = self.creator.next_object_id()
        self.made: dict[str, Envelope] = {}
        """The last envelope of each step that its rightful author has made: what the next step rests on."""
        self.now_s = NOW_S

    def tell(self, raw: bytes | Envelope, now_s: int | None = None) -> Answer:
        """What becomes of a message."""
        data = raw if isinstance(raw, bytes) else raw.raw
        effects = Effects()
        self.core.handle(Received(SOURCE, data), (now_s or self.now_s) * 1000, effects)
        told = [notice for notice in effects.notices if notice.kind.startswith("envelope_")]
        reason = told[0].fields.get("reason")
        return Answer(told[0].kind, None if reason is None else str(reason))

    @property
    def status(self) -> str:
        return self.core.record(self.seed_id).progress.status.value

    # --- envelopes of the story: each may be made wrong by ``changes`` to its object ---------------------

    def _keep(self, step: str, envelope: Envelope, *, rightful: bool = True) -> Envelope:
        if rightful:
            self.made[step] = envelope
        return envelope

    def seed(self, **changes: JsonValue) -> Envelope:
        given: JsonObject = {"max_bids": MAX_BIDS, "timeout_ms": 1_000, "exec_deadline_ms": 10_000}
        return self._keep("seed", self.creator.publish(NOW_S, **{**given, **changes}))

    def bid(self, by: Author | None = None, ts: int = NOW_S, **changes: JsonValue) -> Envelope:
        by = by or self.worker
        envelope = by.bid(self.made["seed"], ts, **{"price": 3, **changes})
        return self._keep("bid", envelope, rightful=by is self.worker)

    def claim(self, by: Author | None = None, ts: int = NOW_S, **changes: JsonValue) -> Envelope:
        by = by or self.creator
        return self._keep("claim", by.claim(self.made["bid"], ts, **changes), rightful=by is self.creator)

    def run(self, by: Author | None = None, **changes: JsonValue) -> Envelope:
        by = by or self.worker
        envelope = by.start(self.made["claim"], NOW_S, **changes)
        return self._keep("run", envelope, rightful=by is self.worker and "renews" not in changes)

    def result(self, by: Author | None = None, ts: int = NOW_S, **changes: JsonValue) -> Envelope:
        by = by or self.worker
        start = self.made.get("run", self.made["claim"])
        return self._keep("result", by.finish(start, ts, **changes), rightful=by is self.worker)

    def settle(
        self, by: Author | None = None, status: str = "Accepted", ts: int = NOW_S, **changes: JsonValue
    ) -> Envelope:
        """A settlement of the result, or of the claim for what ends one without a result."""
        by = by or self.creator
        about = self.made["claim" if status in {"Forfeited", "Expired"} else "result"]
        return self._keep("settle", by.settle(about, status, ts, **changes), rightful=by is self.creator)

    def acknowledge(self, by: Author | None = None, **changes: JsonValue) -> Envelope:
        by = by or self.worker
        return self._keep(
            "acknowledge", by.acknowledge(self.made["settle"], NOW_S, **changes), rightful=by is self.worker
        )

    def make(self, step: str) -> Envelope:
        """The envelope of a step as it should be."""
        made: Envelope = getattr(self, step)()
        return made

    def until(self, step: str) -> Scene:
        """Everything in order up to this step, all accepted."""
        for name in STEPS[: STEPS.index(step) + 1]:
            assert self.tell(self.make(name)) == ACCEPTED
        return self


def test_the_whole_job_is_accepted() -> None:
    assert Scene().until("acknowledge").status == "Accepted"


def _signed(change: Callable[[Envelope], bytes]) -> Callable[[Scene], bytes]:
    return lambda scene: change(scene.seed())


def _set(path: str, value: JsonValue) -> Callable[[Scene], bytes]:
    return _signed(lambda envelope: edit(envelope.raw, path, value))


BEFORE_THE_FEED: dict[str, tuple[Callable[[Scene], bytes], Answer]] = {
    "nothing": (lambda _: b"", rejected("empty")),
    "too large": (lambda _: b"{" + b" " * limits.ENVELOPE_BYTES_MAX + b"}", rejected("too_large")),
    "no JSON": (lambda _: b"{", rejected("malformed")),
    "no object": (lambda _: b"[]", rejected("malformed")),
    "no meta": (lambda _: b'{"payload":{}}', rejected("malformed")),
    "payload is no object": (_set("payload", 1), rejected("malformed")),
    "unsigned": (
        _signed(lambda e: edit(edit(e.raw, "meta.v", ...), "meta.signature", "")),
        rejected("missing_signature"),
    ),
    "version 3": (_set("meta.v", 3), ignored("unsupported_version")),
    "empty signature": (_set("meta.signature", ""), rejected("missing_signature")),
    "another namespace": (_set("meta.ns", "other"), ignored("wrong_namespace")),
    "changed content": (_set("payload.seed.title", "changed"), rejected("wrong_id")),
    "another algorithm": (
        lambda scene: _resealed(scene, "meta.alg", "ml-dsa-65"),
        rejected("unknown_algorithm"),
    ),
    "another key id": (lambda scene: _resealed(scene, "meta.key_id", "ed25519:" + "0" * 32), rejected("unknown_key")),
    "another author": (lambda scene: _resealed(scene, "meta.from", scene.rival.id), rejected("unknown_key")),
    "author is no key": (lambda scene: _resealed(scene, "meta.from", "somebody"), rejected("unknown_key")),
    "a signature of something else": (_set("meta.signature", "A" * 86), rejected("bad_signature")),
    "a feed kind without seq": (lambda scene: _resealed(scene, "meta.seq", 0), rejected("malformed")),
    "an unknown kind outside feeds": (
        lambda scene: edit(_resealed(scene, "meta.kind", "Gossip"), "meta.seq", 0),
        ignored("unknown_kind"),
    ),
    "an unknown kind with a broken signature": (_set("meta.kind", "Gossip"), ignored("unknown_kind")),
}


def _resealed(scene: Scene, path: str, value: JsonValue) -> bytes:
    """An envelope with one field changed and the id that goes with it; the signature does not."""
    changed = edit(scene.seed().raw, path, value)
    return edit(changed, "meta.id", hashlib.sha256(content_of(json.loads(changed))).hexdigest())


@pytest.mark.parametrize("name", BEFORE_THE_FEED)
def test_what_is_refused_before_the_feed_leaves_nothing(name: str) -> None:
    scene = Scene()
    make, expected = BEFORE_THE_FEED[name]
    before = scene.core.replica.state_hash()
    raw = make(scene)
    assert scene.tell(raw) == expected
    assert scene.core.replica.state_hash() == before
    assert len(scene.core.replica.seen) == 0
    assert scene.tell(raw) == expected


def test_time_and_duplicates() -> None:
    scene = Scene(AdmissionPolicy(message_ttl_s=100, future_skew_s=10))
    seed = scene.seed()
    assert scene.tell(seed, NOW_S + 101) == ignored("expired")
    assert scene.tell(seed, NOW_S - 11) == ignored("from_the_future")
    assert scene.tell(seed, NOW_S + 100) == ACCEPTED
    assert scene.tell(seed) == ignored("duplicate")
    early = Scene(AdmissionPolicy(message_ttl_s=100, future_skew_s=10))
    assert early.tell(early.seed(), NOW_S - 10) == ACCEPTED


def test_places_in_a_feed() -> None:
    scene = Scene()
    other = Scene()
    first, second, third = scene.seed(), scene.seed(), scene.seed()
    assert scene.tell(third) == waits("gap")
    assert scene.tell(third) == ignored("duplicate")
    assert scene.tell(first) == ACCEPTED
    assert scene.tell(second) == ACCEPTED
    assert scene.core.replica.feeds.get(scene.creator.id).head_seq == 3
    other.creator.seq, other.creator.head = 3, NOWHERE
    assert scene.tell(other.seed()) == waits("broken_chain")
    assert scene.tell(scene.seed()) == rejected("fork"), "what does not link is signed as well"
    assert scene.core.replica.feeds.get(scene.creator.id).head_seq == 3


@pytest.mark.parametrize("swapped", [True, False])
def test_of_two_envelopes_for_one_place_none_stands(swapped: bool) -> None:
    scene, twin = Scene(), Scene()
    first = scene.seed(title="shared")
    assert scene.tell(first) == ACCEPTED
    twin.creator.seq, twin.creator.head = 1, first.meta.id
    branches = [scene.seed(title="a"), twin.seed(title="b")]
    if swapped:
        branches.reverse()
    assert scene.tell(branches[0]) == ACCEPTED
    assert scene.tell(branches[1]) == rejected("fork")
    feed = scene.core.replica.feeds.get(scene.creator.id)
    assert (feed.head_seq, feed.head_id, feed.end) == (1, first.meta.id, 2)
    assert scene.tell(branches[0]) == ignored("duplicate")
    assert scene.tell(branches[1]) == ignored("feed_ended")
    assert scene.tell(scene.seed()) == ignored("feed_ended")
    assert scene.core.replica.feeds.get(scene.creator.id) == feed


@pytest.mark.parametrize("swapped", [True, False])
def test_a_fork_of_what_waits_ends_the_feed_before_it_is_reached(swapped: bool) -> None:
    scene, twin = Scene(), Scene()
    first = scene.seed(title="shared")
    twin.creator.seq, twin.creator.head = 1, first.meta.id
    branches = [scene.seed(title="a"), twin.seed(title="b")]
    if swapped:
        branches.reverse()
    assert scene.tell(branches[0]) == waits("gap")
    assert scene.tell(branches[1]) == rejected("fork")
    assert scene.core.replica.feeds.get(scene.creator.id).end == 2
    assert len(scene.core.replica.parking) == 0
    assert scene.tell(first) == ACCEPTED, "what lies before the fork stands"
    assert scene.tell(branches[0]) == ignored("feed_ended")


IN_THE_FEED: dict[str, tuple[str, Callable[[Scene], Envelope], Answer]] = {
    "a payload of another kind": (
        "seed",
        lambda s: s.creator.say(Kind.CLAIM_CREATED, {"seed": s.creator.seed()}),
        rejected("malformed"),
    ),
    "a bid without price": ("seed", lambda s: s.bid(price=None), rejected("malformed")),
    "a bid that names nothing": ("seed", lambda s: s.bid(rests_on=None), rejected("malformed")),
    "a bid that names no id": ("seed", lambda s: s.bid(rests_on="0"), rejected("malformed")),
    "a bid on a signed seed as if it were unsigned": ("seed", lambda s: s.bid(rests_on=""), ignored("unknown_seed")),
    "another's object id": ("seed", lambda s: s.bid(id=s.rival.next_object_id()), rejected("wrong_id")),
    "created_at is not ts": ("seed", lambda s: s.bid(created_at=NOW_S - 1), rejected("malformed")),
    "a bid for another": ("seed", lambda s: s.bid(bidder=s.rival.id), rejected("unauthorised")),
    "a bid below the minimum": ("seed", lambda s: s.bid(price=0), rejected("price_too_low")),
    "a bid after the deadline": ("seed", lambda s: s.bid(ts=NOW_S + 61), rejected("deadline_passed")),
    "a bid on a bid": ("bid", lambda s: s.rival.bid(s.made["bid"]), rejected("wrong_parent")),
    "an unknown kind": ("seed", lambda s: _later_kind(s.creator), ignored("unknown_kind")),
    "a claim by a stranger": ("bid", lambda s: s.claim(s.rival), rejected("unauthorised")),
    "a claim by the worker": ("bid", lambda s: s.claim(s.worker), rejected("unauthorised")),
    "a claim for another worker": ("bid", lambda s: s.claim(worker=s.rival.id), rejected("wrong_parent")),
    "a claim of another bid than it names": ("bid", lambda s: s.claim(bid_id="nothing"), rejected("wrong_parent")),
    "a claim that rests on the seed": (
        "bid",
        lambda s: s.claim(rests_on=s.made["seed"].meta.id),
        rejected("wrong_parent"),
    ),
    "a claim after the deadline": ("bid", lambda s: s.claim(ts=NOW_S + 60 + 3601), rejected("deadline_passed")),
    "a claim of attempt 2": ("bid", lambda s: s.claim(attempt=2), rejected("wrong_state")),
    "a second claim": ("claim", lambda s: s.claim(), rejected("wrong_state")),
    "a settle that rests on the claim": (
        "claim",
        lambda s: s.creator.settle(s.made["claim"], result_id="nothing"),
        rejected("wrong_parent"),
    ),
    "a run by a stranger": ("claim", lambda s: s.run(s.rival), rejected("unauthorised")),
    "a run by the creator": ("claim", lambda s: s.run(s.creator), rejected("unauthorised")),
    "a second run": ("run", lambda s: s.run(), ignored("wrong_state")),
    "a run of another claim than it names": ("claim", lambda s: s.run(claim_id="nothing"), rejected("wrong_parent")),
    "a result by a stranger": ("run", lambda s: s.result(s.rival), rejected("unauthorised")),
    "a result of another claim than it names": (
        "run",
        lambda s: s.result(claim_id="nothing"),
        rejected("wrong_parent"),
    ),
    "a result without claim": ("run", lambda s: s.result(claim_id=None), rejected("malformed")),
    "a result that rests on the claim though a run was started": (
        "run",
        lambda s: s.result(rests_on=s.made["claim"].meta.id),
        rejected("wrong_parent"),
    ),
    "a forfeit before it is due": ("run", lambda s: s.settle(ts=NOW_S + 9, status="Forfeited"), rejected("not_due")),
    "a forfeit of another attempt": (
        "run",
        lambda s: s.settle(ts=NOW_S + 10, status="Forfeited", attempt=2),
        rejected("wrong_state"),
    ),
    "a forfeit that rests on the run": (
        "run",
        lambda s: s.creator.settle(s.made["run"], "Forfeited", NOW_S + 10),
        rejected("wrong_parent"),
    ),
    "a settle by a stranger": ("result", lambda s: s.settle(s.rival), rejected("unauthorised")),
    "a settle by the worker": ("result", lambda s: s.settle(s.worker), rejected("unauthorised")),
    "a settle of another result": ("result", lambda s: s.settle(result_id="another"), rejected("unknown_result")),
    "a settle as Open": ("result", lambda s: s.settle(status="Open"), rejected("malformed")),
    "a settle that names nothing": ("result", lambda s: s.settle(rests_on=None), rejected("malformed")),
    "a second result": ("result", lambda s: s.result(), ignored("wrong_state")),
    "a close of a done seed": ("result", lambda s: s.settle(status="Expired", claim_id=None), rejected("wrong_state")),
    "a withdrawal by the worker": ("run", lambda s: s.settle(s.worker, "Expired"), rejected("unauthorised")),
    "a withdrawal of another claim": (
        "run",
        lambda s: s.settle(status="Expired", claim_id="another"),
        rejected("wrong_state"),
    ),
    "a withdrawal that rests on the seed": (
        "run",
        lambda s: s.settle(status="Expired", rests_on=s.made["seed"].meta.id),
        rejected("wrong_parent"),
    ),
    "a withdrawal of a settled seed": ("settle", lambda s: s.settle(status="Expired"), rejected("wrong_state")),
    "a renewal of another run": ("run", lambda s: s.run(renews="another"), ignored("wrong_state")),
    "a renewal by a stranger": ("run", lambda s: s.run(s.rival, renews="another"), rejected("unauthorised")),
    "a renewal without a run": ("claim", lambda s: s.run(renews="another"), ignored("wrong_state")),
    "a second settle": ("settle", lambda s: s.settle(status="Rejected"), rejected("wrong_state")),
    "a settle by a stranger, later": ("settle", lambda s: s.settle(s.rival), rejected("unauthorised")),
    "a claim of a settled seed": ("settle", lambda s: s.claim(attempt=2), rejected("wrong_state")),
    "a bid on a settled seed": ("settle", lambda s: s.bid(s.rival), ignored("wrong_state")),
    "a result for a settled seed": ("settle", lambda s: s.result(), ignored("wrong_state")),
    "an acknowledgement of the result": (
        "result",
        lambda s: s.worker.acknowledge(s.made["result"]),
        rejected("wrong_parent"),
    ),
    "an acknowledgement for another": ("settle", lambda s: s.acknowledge(worker=s.rival.id), rejected("unauthorised")),
    "an acknowledgement by a stranger": ("settle", lambda s: s.acknowledge(s.rival), rejected("unauthorised")),
    "an acknowledgement by the creator": ("settle", lambda s: s.acknowledge(s.creator), rejected("unauthorised")),
    "a second acknowledgement": ("acknowledge", lambda s: s.acknowledge(), rejected("duplicate")),
}


def _later_kind(author: Author) -> Envelope:
    """An envelope of a feed whose kind is "", which is as unknown here as any kind of a later version."""
    return author.say(Kind.UNKNOWN, {"what": "later"})


@pytest.mark.parametrize("name", IN_THE_FEED)
def test_what_is_refused_keeps_its_place_and_changes_no_status(name: str) -> None:
    step, make, expected = IN_THE_FEED[name]
    scene = Scene().until(step)
    before = scene.status
    envelope = make(scene)
    assert scene.tell(envelope, envelope.meta.ts) == expected
    assert scene.status == before
    author = envelope.meta.from_
    assert scene.core.replica.feeds.get(author).head_id == envelope.meta.id
    assert scene.tell(envelope, envelope.meta.ts) == ignored("duplicate")


@pytest.mark.parametrize("step", STEPS[1:])
def test_what_rests_on_something_unknown_waits_outside_its_feed(step: str) -> None:
    scene = Scene().until(STEPS[STEPS.index(step) - 1])
    before = scene.core.replica.state_hash()
    lost = getattr(scene, step)(rests_on=NOWHERE)
    assert scene.tell(lost) == waits("unknown_parent")
    assert scene.tell(lost) == ignored("duplicate")
    assert scene.core.replica.state_hash() == before


def test_parents_that_come_late() -> None:
    scene = Scene()
    seed, bid, claim, run, result, settle = map(scene.make, STEPS[:6])
    assert scene.tell(bid) == waits("unknown_parent")
    assert scene.tell(run) == waits("gap")
    assert scene.tell(seed) == ACCEPTED
    assert scene.tell(claim) == ACCEPTED
    assert scene.status == "Running"
    assert scene.tell(settle) == waits("unknown_parent")
    assert scene.tell(result) == ACCEPTED
    assert scene.status == "Accepted"
    assert len(scene.core.replica.parking) == 0


def test_what_waits_for_one_parent_waits_for_no_other() -> None:
    """A parent about another seed is none, though its id is right."""
    scene = Scene()
    seed, other = scene.seed(), scene.seed()
    assert scene.tell(seed) == ACCEPTED
    stray = scene.bid(seed_id=scene.seed_id, rests_on=other.meta.id)
    assert scene.tell(stray) == waits("unknown_parent")
    assert scene.tell(other) == ACCEPTED
    assert scene.core.replica.feeds.get(scene.worker.id).head_seq == 0
    assert scene.core.record(scene.seed_id).bids == ()


def test_of_more_than_max_bids_the_first_count() -> None:
    scene = Scene().until("seed")
    bidders = [Author(f"bidder{number}") for number in range(5)]
    bids = [scene.bid(bidder, NOW_S + number) for number, bidder in enumerate(bidders)]
    assert scene.tell(bids[3]) == ACCEPTED
    assert scene.tell(bids[1]) == ACCEPTED
    assert scene.tell(bids[4]) == ignored("too_many_bids")
    assert scene.tell(bids[2]) == ACCEPTED
    assert scene.tell(bids[0]) == ACCEPTED
    counting = {fact.author for fact in counting_bids(scene.core.record(scene.seed_id))}
    assert counting == {bidders[0].id, bidders[1].id}


def test_baseline_envelopes_cannot_speak_for_keys() -> None:
    scene = Scene(AdmissionPolicy(require_signatures=False))
    stripped = edit(edit(scene.seed().raw, "meta.v", ...), "meta.signature", "")
    assert scene.tell(stripped) == rejected("unauthorised")
    anonymous = edit(edit(stripped, "meta.from", "node-1"), "payload.seed.created_by", "node-1")
    assert scene.tell(anonymous) == rejected("wrong_id")
    assert scene.tell(edit(anonymous, "payload.seed.id", "seed-1")) == ACCEPTED


@pytest.mark.parametrize(("via", "told"), [(Via.LIVE, []), (Via.IMPORT, ["envelope_parked"])])
def test_that_a_fetched_envelope_waits_is_told_to_an_operator_alone(via: Via, told: list[str]) -> None:
    """It waits for the rest of what was asked for. An import is counted by what is told of each envelope."""
    core, author = Core(CoreConfig(), signer("observer"), lambda: 1), Author("author")
    core.neighbours.trusted = frozenset({SOURCE})
    _, second, third = (author.publish() for _ in range(3))
    effects = Effects()
    core.handle(Received(SOURCE, third.raw), NOW_S * 1000, effects)
    core.handle(Tick(), NOW_S * 1000, effects)
    assert any(notice.kind == "gap_requested" for notice in effects.notices)
    effects = Effects()
    core.handle(Received(SOURCE, second.raw, via), NOW_S * 1000, effects)
    assert core.replica.parking.holds(second.meta.id)
    assert [notice.kind for notice in effects.notices] == told
