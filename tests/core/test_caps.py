"""Caps on what one author may state: the same in every node, whatever came when, was archived, or forked."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.core.commands import Publish, Received, SubmitBid
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.core.records import SegmentRow
from crabnet.core.rows import seed_row
from crabnet.core.snapshot import Snapshot, restore
from crabnet.domain.state import Caps
from crabnet.errors import Reason, RefusedError
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope, Kind
from tests.core.test_forks import lower, rewind
from tests.support.envelopes import NOW_S, Author, signer

CAPS = Caps(open_seeds_max=2, bids_per_seed_max=2)
NOW_MS = NOW_S * 1000


def new_core() -> Core:
    return Core(CoreConfig(caps=CAPS), signer("observer"), lambda: 1)


def tell(core: Core, envelope: Envelope) -> tuple[str, object]:
    """Kind and Reason of the event that tells of an envelope."""
    effects = Effects()
    core.handle(Received("192.0.2.1:9012", envelope.raw), NOW_MS, effects)
    told = next(notice for notice in effects.notices if notice.kind.startswith("envelope_"))
    return told.kind, told.fields.get("reason")


def publish(author: Author) -> tuple[str, Envelope]:
    seed_id = author.next_object_id()
    return seed_id, author.say(Kind.SEED_CREATED, {"seed": author.seed()})


def bid(author: Author, seed_id: str) -> Envelope:
    body: JsonObject = {
        "id": author.next_object_id(),
        "seed_id": seed_id,
        "bidder": author.id,
        "price": 10,
        "created_at": NOW_S,
    }
    return author.say(Kind.BID_SUBMITTED, {"bid": body})


def close(author: Author, seed_id: str) -> Envelope:
    return author.say(Kind.TASK_SETTLE, {"seed": {"id": seed_id, "status": "Expired"}})


VOID_SEED = ("envelope_rejected", "too_many_open_seeds")
VOID_BID = ("envelope_rejected", "too_many_own_bids")
TAKEN = ("envelope_accepted", None)


def test_seeds_beyond_the_cap_are_void_until_others_are_closed() -> None:
    core, author = new_core(), Author("publisher")
    (first, one), (_, two), (third, three) = publish(author), publish(author), publish(author)
    assert [tell(core, envelope) for envelope in (one, two, three)] == [TAKEN, TAKEN, VOID_SEED]
    assert third not in core.replica.state.records
    assert core.replica.feeds.get(author.id).head_seq == 3, "the feed goes on"
    assert tell(core, close(author, first)) == TAKEN
    assert tell(core, publish(author)[1]) == TAKEN
    assert tell(core, publish(author)[1]) == VOID_SEED
    assert tell(core, publish(Author("another"))[1]) == TAKEN


def test_a_seed_is_closed_once_however_often_its_creator_says_so() -> None:
    core, author = new_core(), Author("publisher")
    (first, one), (_, two) = publish(author), publish(author)
    for envelope in (one, two, close(author, first), close(author, first), close(author, first)):
        tell(core, envelope)
    assert tell(core, publish(author)[1]) == TAKEN
    assert tell(core, publish(author)[1]) == VOID_SEED


def test_nobody_else_closes_a_seed() -> None:
    core, author = new_core(), Author("publisher")
    (first, one), (_, two) = publish(author), publish(author)
    for envelope in (one, two, close(Author("stranger"), first)):
        tell(core, envelope)
    assert tell(core, publish(author)[1]) == VOID_SEED


def test_bids_beyond_the_cap_are_void_and_take_no_room() -> None:
    core, author, eager = new_core(), Author("publisher"), Author("eager")
    seed_id, seed = publish(author)
    tell(core, seed)
    assert [tell(core, bid(eager, seed_id)) for _ in range(4)] == [TAKEN, TAKEN, VOID_BID, VOID_BID]
    assert tell(core, bid(Author("modest"), seed_id)) == TAKEN
    assert len(core.replica.state.records[seed_id].bids) == 3
    assert core.replica.feeds.get(eager.id).head_seq == 4


def test_it_is_the_same_when_the_seed_comes_last() -> None:
    author, eager = Author("publisher"), Author("eager")
    seed_id, seed = publish(author)
    said = [seed, *(bid(eager, seed_id) for _ in range(4))]
    early, late = new_core(), new_core()
    for envelope in said:
        tell(early, envelope)
    for envelope in (*said[1:], seed):
        tell(late, envelope)
    assert early.replica.state_hash() == late.replica.state_hash()


def test_archived_seeds_count_also_after_a_restart() -> None:
    core, author = new_core(), Author("publisher")
    (first, one), (second, two) = publish(author), publish(author)
    tell(core, one)
    tell(core, two)
    replica = core.replica
    rows = {seed_id: seed_row(seed_id, core.record(seed_id)) for seed_id in (first, second)}
    replica.archive(SegmentRow(1, "0" * 64, 2), (first, second), NOW_S)
    restarted = new_core()
    restore(restarted.replica, list(Snapshot(replica).rows()))
    for each in (core, restarted):
        each.replica.attic.thaw = rows.get
    void, closing, allowed = publish(author)[1], close(author, first), publish(author)[1]
    for each in (core, restarted):
        assert tell(each, void) == VOID_SEED
        assert tell(each, closing) == TAKEN
        assert tell(each, allowed) == TAKEN
    assert core.replica.state_hash() == restarted.replica.state_hash()
    assert core.replica.state.open_seeds == restarted.replica.state.open_seeds == {author.id: 2}


def test_a_fork_takes_its_seeds_out_of_the_count() -> None:
    core, author = new_core(), Author("publisher")
    one, two = publish(author)[1], publish(author)[1]
    tell(core, one)
    tell(core, two)
    rewind(author, two)
    won = lower(author, lambda: close(author, "unknown"), two)
    tell(core, won)
    assert core.replica.state.open_seeds[author.id] == 1
    assert tell(core, publish(author)[1]) == TAKEN
    assert tell(core, publish(author)[1]) == VOID_SEED


def test_the_operator_is_told_before_anything_is_signed() -> None:
    core = Core(CoreConfig(caps=CAPS), signer("operator"), lambda: 1)
    effects = Effects()
    for _ in range(2):
        core.handle(Publish(title="t", command="true"), NOW_MS, effects)
    with pytest.raises(RefusedError, match="settle or close some") as refused:
        core.handle(Publish(title="t", command="true"), NOW_MS, effects)
    assert refused.value.reason is Reason.TOO_MANY_OPEN_SEEDS
    for price in (1, 2):
        core.handle(SubmitBid(seed_id=effects.reply_seed_id, price=price), NOW_MS, effects)
    with pytest.raises(RefusedError) as refused:
        core.handle(SubmitBid(seed_id=effects.reply_seed_id, price=3), NOW_MS, effects)
    assert refused.value.reason is Reason.TOO_MANY_OWN_BIDS
    assert core.replica.feeds.get(core.signer.node_id).head_seq == 4


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 5)), max_size=30), st.randoms())
def test_all_orders_of_the_same_feeds_end_alike(steps: list[tuple[int, int, int]], random: Random) -> None:
    authors = [Author(name) for name in ("a", "b", "c")]
    feeds: list[list[Envelope]] = [[], [], []]
    seeds: list[str] = ["unknown"]
    for who, what, which in steps:
        seed_id = seeds[which % len(seeds)]
        if what == 0:
            seed_id, envelope = publish(authors[who])
            seeds.append(seed_id)
        else:
            envelope = close(authors[who], seed_id) if what == 1 else bid(authors[who], seed_id)
        feeds[who].append(envelope)
    hashes = set()
    for order in ([0, 1, 2], [2, 1, 0]):
        core = new_core()
        for who in order:
            for envelope in feeds[who]:
                tell(core, envelope)
        hashes.add(core.replica.state_hash())
        assert all(number <= CAPS.open_seeds_max for number in core.replica.state.open_seeds.values())
    core, waiting = new_core(), [list(feed) for feed in feeds]
    while any(waiting):
        feed = random.choice([feed for feed in waiting if feed])
        tell(core, feed.pop(0))
    assert hashes == {core.replica.state_hash()}
