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
from crabnet.core.replica.records import SegmentRow
from crabnet.core.replica.rows import seed_row
from crabnet.core.replica.snapshot import Snapshot, restore
from crabnet.domain.state import Caps
from crabnet.errors import Reason, RefusedError
from crabnet.protocol.envelope import Envelope
from tests.support.envelopes import NOW_S, Author, seed_id_of, signer

CAPS = Caps(open_seeds_max=2, bids_per_seed_max=2)
NOW_MS = NOW_S * 1000


def new_core() -> Core:
    return Core(CoreConfig(caps=CAPS), signer("observer"), lambda: 1)


def tell(core: Core, envelope: Envelope) -> tuple[str, object]:
    """Kind and Reason of the event that tells of an envelope."""
    effects = Effects()
    core.handle(Received("udp:192.0.2.1:9012", envelope.raw), NOW_MS, effects)
    told = next(notice for notice in effects.notices if notice.kind.startswith("envelope_"))
    return told.kind, told.fields.get("reason")


def settle_ends(core: Core) -> None:
    """Draw all consequences of forks, as a node does when it has handled its messages."""
    while core.hungry:
        core.rest(NOW_MS, Effects())


VOID_SEED = ("envelope_rejected", "too_many_open_seeds")
VOID_BID = ("envelope_rejected", "too_many_own_bids")
TAKEN = ("envelope_accepted", None)


def open_seeds(core: Core, author: Author) -> int:
    return len(core.replica.feeds.get(author.id).open_seeds)


def test_seeds_beyond_the_cap_are_void_until_others_are_closed() -> None:
    core, author = new_core(), Author("publisher")
    one, two, three = author.publish(), author.publish(), author.publish()
    assert [tell(core, envelope) for envelope in (one, two, three)] == [TAKEN, TAKEN, VOID_SEED]
    assert seed_id_of(three) not in core.replica.state.records
    assert core.replica.feeds.get(author.id).head_seq == 3, "the feed goes on"
    assert tell(core, author.settle(one, "Expired")) == TAKEN
    assert tell(core, author.publish()) == TAKEN
    assert tell(core, author.publish()) == VOID_SEED
    assert tell(core, Author("another").publish()) == TAKEN


def test_a_seed_is_closed_once_however_often_its_creator_says_so() -> None:
    core, author = new_core(), Author("publisher")
    one, two = author.publish(), author.publish()
    for envelope in (one, two, *(author.settle(one, "Expired") for _ in range(3))):
        tell(core, envelope)
    assert tell(core, author.publish()) == TAKEN
    assert tell(core, author.publish()) == VOID_SEED


def test_nobody_else_closes_a_seed() -> None:
    core, author = new_core(), Author("publisher")
    one, two = author.publish(), author.publish()
    for envelope in (one, two, Author("stranger").settle(one, "Expired")):
        tell(core, envelope)
    assert tell(core, author.publish()) == VOID_SEED


def test_what_the_creator_says_closes_a_seed_even_if_it_does_not_count() -> None:
    """The count is a function of one feed: what others have said meanwhile, here or elsewhere, has no part in it."""
    core, author, worker = new_core(), Author("publisher"), Author("worker")
    one, two = author.publish(), author.publish()
    bid = worker.bid(one)
    for envelope in (one, two, bid, author.claim(bid)):
        assert tell(core, envelope) == TAKEN
    assert tell(core, author.settle(one, "Expired")) == ("envelope_rejected", "wrong_state"), "the claim is not named"
    assert (open_seeds(core, author), core.record(seed_id_of(one)).progress.status) == (1, "Claimed")
    assert tell(core, author.publish()) == TAKEN


def test_a_forfeit_closes_no_seed() -> None:
    core, author, worker = new_core(), Author("publisher"), Author("worker")
    one, two = author.publish(), author.publish()
    bid = worker.bid(one)
    claim = author.claim(bid)
    for envelope in (one, two, bid, claim, author.settle(claim, "Forfeited", NOW_S + 10)):
        assert tell(core, envelope) == TAKEN
    assert open_seeds(core, author) == 2
    assert tell(core, author.publish()) == VOID_SEED


def test_bids_beyond_the_cap_are_void_and_take_no_room() -> None:
    core, author, eager = new_core(), Author("publisher"), Author("eager")
    seed = author.publish()
    tell(core, seed)
    assert [tell(core, eager.bid(seed)) for _ in range(4)] == [TAKEN, TAKEN, VOID_BID, VOID_BID]
    assert tell(core, Author("modest").bid(seed)) == TAKEN
    assert len(core.replica.state.records[seed_id_of(seed)].bids) == 3
    assert core.replica.feeds.get(eager.id).head_seq == 4


def test_it_is_the_same_when_the_seed_comes_last() -> None:
    author, eager = Author("publisher"), Author("eager")
    seed = author.publish()
    said = [seed, *(eager.bid(seed) for _ in range(4))]
    early, late = new_core(), new_core()
    for envelope in said:
        tell(early, envelope)
    for envelope in (*said[1:], seed):
        tell(late, envelope)
    assert early.replica.state_hash() == late.replica.state_hash()
    assert late.replica.feeds.get(eager.id).head_seq == 4


def test_a_bid_beyond_the_cap_stays_void_when_a_settled_seed_opens_again() -> None:
    """Bids that come when all is over are kept nowhere but in the journal; the cap is that of the feed all the same."""
    core, author, worker, eager = new_core(), Author("publisher"), Author("worker"), Author("eager")
    seed = author.publish()
    bid = worker.bid(seed)
    claim = author.claim(bid)
    result = worker.finish(claim)
    settled = author.settle(result)
    for envelope in (seed, bid, claim, result, settled):
        assert tell(core, envelope) == TAKEN
    assert [tell(core, eager.bid(seed))[1] for _ in range(3)] == ["wrong_state", "wrong_state", "too_many_own_bids"]
    tell(core, author.rewind(settled).settle(result, "Rejected"))
    settle_ends(core)
    record = core.record(seed_id_of(seed))
    assert record.progress.status == "Done"
    assert sorted(fact.seq for fact in record.bids if fact.author == eager.id) == [1, 2]


@pytest.mark.parametrize("late", [True, False])
def test_what_stands_behind_an_end_is_free_of_caps(late: bool) -> None:
    """Of its prefix nothing is known for sure, whether the fork or the bid comes first."""
    core, author, worker = new_core(), Author("publisher"), Author("worker")
    one, two, beyond = author.publish(), author.publish(), author.publish()
    bid, fork = worker.bid(beyond), author.rewind(beyond).publish(title="other")
    for envelope in (one, two, beyond):
        tell(core, envelope)
    for envelope in (bid, fork) if late else (fork, bid):
        tell(core, envelope)
    settle_ends(core)
    record = core.record(seed_id_of(beyond))
    assert (record.progress.status, [fact.author for fact in record.bids]) == ("Open", [worker.id])


def test_archived_seeds_count_also_after_a_restart() -> None:
    core, author = new_core(), Author("publisher")
    one, two = author.publish(), author.publish()
    tell(core, one)
    tell(core, two)
    replica = core.replica
    ids = (seed_id_of(one), seed_id_of(two))
    rows = {seed_id: seed_row(seed_id, core.record(seed_id)) for seed_id in ids}
    replica.archive(SegmentRow(1, "0" * 64, 2), ids, NOW_S)
    restarted = new_core()
    restore(restarted.replica, list(Snapshot(replica).rows()))
    restarted.replica.held = replica.held
    for each in (core, restarted):
        each.replica.archived.read_row = rows.get
    void, closing, allowed = author.publish(), author.settle(one, "Expired"), author.publish()
    for each in (core, restarted):
        assert tell(each, void) == VOID_SEED
        assert tell(each, closing) == TAKEN
        assert tell(each, allowed) == TAKEN
    assert core.replica.state_hash() == restarted.replica.state_hash()
    assert open_seeds(core, author) == open_seeds(restarted, author) == 2


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
    seeds: list[Envelope] = []
    for who, what, which in steps:
        if what == 0 or not seeds:
            envelope = authors[who].publish()
            seeds.append(envelope)
        else:
            seed = seeds[which % len(seeds)]
            envelope = authors[who].settle(seed, "Expired") if what == 1 else authors[who].bid(seed)
        feeds[who].append(envelope)
    hashes = set()
    for order in ([0, 1, 2], [2, 1, 0]):
        core = new_core()
        for who in order:
            for envelope in feeds[who]:
                tell(core, envelope)
        hashes.add(core.replica.state_hash())
        assert [core.replica.feeds.get(author.id).head_seq for author in authors] == list(map(len, feeds))
        assert all(open_seeds(core, author) <= CAPS.open_seeds_max for author in authors)
    core, waiting = new_core(), [list(feed) for feed in feeds]
    while any(waiting):
        feed = random.choice([feed for feed in waiting if feed])
        tell(core, feed.pop(0))
    assert hashes == {core.replica.state_hash()}
