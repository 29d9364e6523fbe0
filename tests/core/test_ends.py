"""The end of a feed at any depth: what it costs, how it is worked off, and that all nodes come to the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crabnet import limits
from crabnet.core.commands import Publish, Received
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.core.replica.applied import Applied
from crabnet.core.replica.records import SegmentRow, Via, decode_frame, frame_of
from crabnet.core.replica.rows import seed_row
from crabnet.domain.model import FactKind
from crabnet.domain.state import Caps, Outcome
from crabnet.errors import Reason, RefusedError
from crabnet.protocol.envelope import Envelope, Kind
from tests.support.envelopes import NOW_S, Author, seed_id_of, signer
from tests.support.facts import definitions
from tests.support.journals import Journal


def feed(author: Author, entries: int, *, seeds_every: int = 1) -> list[Envelope]:
    """A feed in which each so many-th entry is a seed, and the others are of a later version."""
    return [
        author.say(Kind.UNKNOWN, {"later": number}) if number % seeds_every else author.publish()
        for number in range(entries)
    ]


def fork_of(author: Author, envelope: Envelope) -> Envelope:
    """Another envelope for the same place."""
    return author.twin().rewind(envelope).publish(title="fork")


def test_a_fork_far_beyond_the_window_reaches_all_nodes() -> None:
    """Of a feed of 4,150 entries that was forked at 60, and then at 50, when one node had joined late."""
    author, worker = Author("author"), Author("worker")
    entries = feed(author, 4_150, seeds_every=25)
    bids = [worker.bid(envelope) for envelope in entries if envelope.meta.kind == Kind.SEED_CREATED]
    at_60, at_50 = fork_of(author, entries[59]), fork_of(author, entries[49])
    old, late, last = Journal(), Journal(), Journal()
    old.tell(*entries, *bids, at_60)
    assert old.settle().replica.feeds.get(author.id).end == 60
    late.tell(*entries[:59], at_60, entries[59])
    named = [envelope for envelope in entries if envelope.meta.kind == Kind.SEED_CREATED]
    for bid, seed in zip(bids, named, strict=True):
        late.tell(bid, seed)
    assert late.hash == old.hash

    old.tell(at_50)
    late.tell(at_50)
    last.tell(at_50, *entries[:50], at_60)
    for bid, seed in zip(bids, named, strict=True):
        last.tell(bid, seed)

    assert old.hash == late.hash == last.hash == old.replayed().hash
    feed_of = old.replica.feeds.get(author.id)
    assert (feed_of.head_seq, feed_of.head_id, feed_of.end) == (49, entries[48].meta.id, 50)
    assert all(old.status(seed) == "Open" for seed in named), "all were bid on"


def archive(journal: Journal, seed_ids: list[str]) -> None:
    """Let seeds leave memory for an archive."""
    state = journal.replica.state
    rows = {seed_id: seed_row(seed_id, state.records[seed_id]) for seed_id in seed_ids}
    journal.replica.archived.read_row = rows.get
    journal.records.append(journal.replica.archive(SegmentRow(1, "0" * 64, len(rows)), tuple(rows), NOW_S))


def job(creator: Author, worker: Author) -> list[Envelope]:
    """A whole one, acknowledged."""
    seed = creator.publish(description="d" * 1_000)
    bid = worker.bid(seed)
    claim = creator.claim(bid)
    result = worker.finish(claim)
    settled = creator.settle(result)
    return [seed, bid, claim, result, settled, worker.acknowledge(settled)]


@pytest.mark.parametrize("forked", ["before all", "in the midst"])
def test_a_large_branch_that_was_archived_is_taken_back_by_all(forked: str) -> None:
    """What both sides have signed stands, in the archive as elsewhere; the rest is gone, for good."""
    creator, worker = Author("creator"), Author("worker")
    first = creator.publish()
    closed: list[Envelope] = []
    jobs: list[Envelope] = []
    for _ in range(150):
        seed = creator.publish()
        closed += [seed, creator.settle(seed, "Expired")]
        jobs += job(creator, worker)
    everything = sorted([first, *closed, *jobs], key=lambda e: (e.meta.from_ == worker.id, e.meta.seq))
    fork = fork_of(creator, closed[0] if forked == "before all" else closed[150])
    plain, tidy = Journal(), Journal()
    for journal in (plain, tidy):
        for _ in range(3):
            journal.tell(*everything)
        assert not len(journal.replica.parking)
    archive(tidy, [seed_id_of(envelope) for envelope in everything if envelope.meta.kind == Kind.SEED_CREATED])
    assert not tidy.replica.state.records
    assert tidy.hash == plain.hash

    plain.tell(fork)
    tidy.tell(fork)

    assert tidy.hash == plain.hash
    assert plain.status(jobs[0]) == plain.status(jobs[-1]) == "Accepted"
    assert plain.status(closed[-1]) == ""
    counts = plain.replica.state.counts
    assert tidy.replica.state.counts + tidy.replica.state.archived == counts
    assert seed_id_of(closed[-1]) not in definitions(tidy.replica.state)


def test_a_seed_is_closed_and_the_next_opened_again_and_again() -> None:
    """With a cap of one open seed: those who hear it live and those who hear it as history agree, forked or not."""
    creator, worker = Author("creator"), Author("worker")
    said: list[Envelope] = []
    opened: list[Envelope] = []
    for _ in range(60):
        opened.append(creator.publish())
        said += [opened[-1], worker.bid(opened[-1])]
        beyond = creator.publish()
        said += [beyond, creator.settle(opened[-1], "Expired")]
    caps = Caps(open_seeds_max=1)
    live, history, backwards = Journal(caps), Journal(caps), Journal(caps)
    assert [each.reason for each in live.tell(*said)] == [None, None, Reason.TOO_MANY_OPEN_SEEDS, None] * 60
    history.tell(*(each for each in said if each.meta.from_ == worker.id))
    history.tell(*(each for each in said if each.meta.from_ == creator.id))
    while backwards.replica.feeds.get(worker.id).head_seq < 60:
        backwards.tell(*reversed(said))
    assert live.hash == history.hash == backwards.hash
    assert {live.status(seed) for seed in opened} == {"Expired"}

    fork = fork_of(creator, opened[30])
    for journal in (live, history, backwards):
        journal.tell(fork)
    assert live.hash == history.hash == backwards.hash == live.replayed().hash
    assert [live.status(seed) for seed in opened] == ["Expired"] * 30 + ["Open"] * 30


def test_forks_of_one_feed_cost_what_came_in() -> None:
    """199 forks, each lower than the one before, of a feed whose seeds have all been bid on."""
    author, worker = Author("author"), Author("worker")
    seeds = feed(author, 200)
    said = [envelope for seed in seeds for envelope in (seed, worker.bid(seed))]
    forks = [fork_of(author, seed) for seed in reversed(seeds[1:])]
    journal = Journal()
    journal.tell(*said)
    for fork in forks:
        journal.tell(fork)
        journal.settle()
    received = sum(len(envelope.raw) for envelope in (*said, *forks))
    assert journal.replica.feeds.get(author.id).end == 2
    assert journal.written() <= 8 * received
    assert len(journal.records) <= 4 * len((*said, *forks)), "each seed is folded anew but once"
    assert journal.replayed().hash == journal.hash


@pytest.mark.deep
def test_the_end_of_a_long_feed_is_worked_off_in_slices() -> None:
    author = Author("author")
    seeds = feed(author, 10_000)
    journal = Journal()
    journal.tell(*seeds, fork_of(author, seeds[1]))
    slices = []
    cuts = []
    while journal.replica.settling.pending:
        slices.append(len(journal.keep(journal.replica.settling.settle_some(limits.SETTLED_AT_ONCE_MAX, NOW_S))))
        cuts.append(len(journal.records))
    assert max(slices) <= limits.SETTLED_AT_ONCE_MAX + 1
    assert len(slices) >= 10_000 // limits.SETTLED_AT_ONCE_MAX
    assert definitions(journal.replica.state) == {seed_id_of(seeds[0])}

    for cut in (cuts[len(cuts) // 2], cuts[-1] - 1):
        again = journal.replayed(cut)
        assert again.replica.settling.pending
        assert again.hash == journal.hash
        assert again.replica.state.records == journal.replica.state.records
    assert not journal.replayed().replica.settling.pending
    assert not journal.restored().replica.settling.pending


def test_a_checkpoint_in_the_midst_of_an_end_resumes_it() -> None:
    author = Author("author")
    seeds = feed(author, 200)
    journal = Journal()
    journal.tell(*seeds, fork_of(author, seeds[1]))
    journal.keep(journal.replica.settling.settle_some(50, NOW_S))
    restored = journal.restored()
    assert restored.replica.settling.pending
    assert restored.hash == journal.hash


def test_a_lower_end_that_comes_while_a_higher_one_is_worked_off() -> None:
    author = Author("author")
    seeds = feed(author, 300)
    one, other = Journal(), Journal()
    one.tell(*seeds, fork_of(author, seeds[150]))
    one.keep(one.replica.settling.settle_some(20, NOW_S))
    one.tell(fork_of(author, seeds[3]))
    one.keep(one.replica.settling.settle_some(20, NOW_S))
    cut = len(one.records)
    other.tell(*seeds, fork_of(author, seeds[3]))
    assert one.hash == other.hash == one.replayed(cut).hash


def test_all_facts_of_one_place_are_settled_however_many() -> None:
    """A worker signs bids on many seeds for one place of its feed: that which it had in its feed is taken back, too."""
    worker = Author("worker")
    creators = [Author(f"creator{number}") for number in range(12)]
    seeds = [creator.publish() for creator in creators]
    bids = [worker.twin().bid(seed) for seed in seeds]
    claims = [creator.claim(bid) for creator, bid in zip(creators, bids, strict=True)]
    ids = sorted(seed_id_of(seed) for seed in seeds)
    last = next(bid for bid in bids if seed_id_of(bid) == ids[-1])
    others = [bid for bid in bids if bid is not last]
    journal = Journal()
    journal.tell(*seeds, last)
    journal.tell(*(claim for claim in claims if seed_id_of(claim) != ids[-1]))
    journal.tell(*others)
    while journal.replica.settling.pending:
        journal.keep(journal.replica.settling.settle_some(2, NOW_S))
    assert journal.record(last).bids == ()
    assert {journal.status(bid) for bid in others} == {"Claimed"}


class TestWhatStandsBehind:
    """Envelopes behind an end are taken only when something that waits names them."""

    def test_nobody_takes_what_nobody_names(self) -> None:
        author = Author("author")
        seeds = feed(author, 5)
        journal = Journal()
        journal.tell(seeds[0], seeds[1], fork_of(author, seeds[1]))
        before = len(journal.settle().records)
        assert [each.reason for each in journal.tell(*seeds[2:])] == [Reason.FEED_ENDED] * 3
        assert len(journal.records) == before

    def test_what_is_named_is_taken_with_all_that_it_rests_on_and_enters_no_feed(self) -> None:
        creator, worker = Author("creator"), Author("worker")
        shared = creator.publish()
        seed, bid, claim, result, settled, acknowledged = job(creator, worker)
        journal = Journal()
        journal.tell(shared, fork_of(creator, seed), seed)
        assert journal.replica.feeds.get(creator.id).head_seq == 1
        for envelope in (acknowledged, result, bid):
            journal.tell(envelope)
        for _ in range(4):
            journal.tell(acknowledged, settled, result, claim, bid, seed)
        assert journal.status(seed) == "Accepted"
        assert not len(journal.replica.parking)
        assert (journal.replica.feeds.get(creator.id).head_seq, journal.replica.feeds.get(worker.id).head_seq) == (1, 3)
        assert journal.replayed().hash == journal.hash

    def test_one_that_never_comes_stops_only_the_feed_that_names_it(self) -> None:
        creator, liar, honest = Author("creator"), Author("liar"), Author("honest")
        seed = creator.publish()
        lost = liar.bid(seed, rests_on="f" * 64)
        more = [liar.bid(seed) for _ in range(3)]
        others = [honest.bid(seed), creator.publish()]
        journal = Journal()
        journal.tell(seed, lost, *more, *others)
        heads = {author.id: journal.replica.feeds.get(author.id).head_seq for author in (creator, liar, honest)}
        assert heads == {creator.id: 2, liar.id: 0, honest.id: 1}
        assert len(journal.replica.parking) == 4

    def test_what_waited_too_long_must_come_again(self) -> None:
        creator, worker = Author("creator"), Author("worker")
        seed = creator.publish()
        bid = worker.bid(seed)
        journal = Journal()
        journal.tell(bid)
        assert len(journal.replica.parking.expire(NOW_S + 61)) == 1
        journal.tell(seed)
        assert journal.replica.feeds.get(worker.id).head_seq == 0
        assert journal.tell(bid)[0].outcome is Outcome.ACCEPTED


def test_a_journal_is_imported_in_its_order_into_any_node() -> None:
    """With all that stands behind ends, though nothing that waits names it yet."""
    creator, worker, rival = Author("creator"), Author("worker"), Author("rival")
    shared = creator.publish()
    steps = job(creator, worker)
    open_seed = creator.publish()
    bid = rival.bid(open_seed)
    source = Journal()
    source.tell(shared, *steps, open_seed, bid, fork_of(creator, steps[0]), fork_of(worker, steps[1]))
    exported = [bytes(record.raw) for record in decode_frame(frame_of(source.records)) if hasattr(record, "raw")]
    assert len(exported) == 11
    imported = Journal()
    for raw in exported:
        imported.keep(imported.replica.receive(raw, NOW_S, via=Via.IMPORT))
    again = Journal()
    again.tell(fork_of(creator, steps[0]), steps[0])
    for raw in exported:
        again.keep(again.replica.receive(raw, NOW_S, via=Via.IMPORT))
    assert source.hash == imported.hash == again.hash == again.replayed().hash
    assert (source.status(steps[0]), source.status(open_seed), source.status(shared)) == ("", "Open", "Open")


class TestOwnFeed:
    """A key that was used in two places: the node whose feed it was says so, and writes no more."""

    WISH = Publish(title="t", command="true", timeout_ms=1_000, bid_window_ms=600_000)

    def test_the_operator_is_told_and_refused(self) -> None:
        core = Core(CoreConfig(), signer("operator"), iter(range(1, 1_000)).__next__)
        for _ in range(3):
            core.handle(self.WISH, NOW_S * 1000, Effects())
        twin = Author("operator")
        effects = Effects()
        core.handle(Received("udp:192.0.2.1:9", twin.publish(title="copy").raw), NOW_S * 1000, effects)
        kinds = [notice.kind for notice in effects.notices]
        assert "feed_ended" in kinds
        assert "fork_detected" in kinds
        assert "feed_at_risk" not in kinds, "nothing was lost"
        records = len(effects.records)
        with pytest.raises(RefusedError, match="crabnet id renew") as refused:
            core.handle(self.WISH, NOW_S * 1000, effects)
        assert refused.value.reason is Reason.FEED_ENDED
        assert len(effects.records) == records
        assert core.replica.feeds.get(core.signer.node_id).head_seq == 0

    def test_that_its_feed_has_ended_is_said_rather_than_that_it_is_at_risk(self) -> None:
        core = Core(CoreConfig(), signer("operator"), iter(range(1, 1_000)).__next__)
        core.handle(self.WISH, NOW_S * 1000, Effects())
        core.handle(Received("udp:192.0.2.1:9", Author("operator").publish(title="copy").raw), NOW_S * 1000, Effects())
        core.endanger_feed("the data dir was repaired")
        with pytest.raises(RefusedError) as refused:
            core.handle(self.WISH, NOW_S * 1000, Effects())
        assert refused.value.reason is Reason.FEED_ENDED

    def test_others_forks_are_no_alert(self) -> None:
        core = Core(CoreConfig(), signer("operator"), iter(range(1, 1_000)).__next__)
        author, effects = Author("author"), Effects()
        first = author.publish()
        for envelope in (first, fork_of(author, first)):
            core.handle(Received("udp:192.0.2.1:9", envelope.raw), NOW_S * 1000, effects)
        kinds = [notice.kind for notice in effects.notices]
        assert "fork_detected" in kinds
        assert "feed_ended" not in kinds
        core.handle(self.WISH, NOW_S * 1000, effects)


def test_evidence_is_journalled_once_and_told_as_one_fork() -> None:
    author = Author("author")
    first, second = feed(author, 2)
    third = fork_of(author, second)
    journal = Journal()
    told: list[Applied] = []
    journal.tell(third)
    told = journal.keep(journal.replica.receive(second.raw, NOW_S))
    assert [each.fork is not None for each in told] == [False, True]
    assert [each.quiet for each in told] == [False, True]
    assert all(each.record is not None for each in told)
    before = len(journal.records)
    journal.tell(second, third, fork_of(author.twin(), second))
    assert len(journal.records) == before
    journal.tell(first)
    assert journal.replica.feeds.get(author.id).head_seq == 1
    assert journal.replayed().hash == journal.hash


def counted(journal: Journal, envelope: Envelope, kind: FactKind) -> int:
    return sum(fact.kind is kind for fact in journal.record(envelope).others)


@pytest.mark.parametrize(
    ("make", "most"),
    [(Author.start, limits.STARTS_PER_AUTHOR_PER_STEP_MAX), (Author.finish, limits.RESULTS_PER_AUTHOR_PER_STEP_MAX)],
)
def test_what_an_author_says_of_one_step_is_bounded(make: Callable[..., Envelope], most: int) -> None:
    creator, worker = Author("creator"), Author("worker")
    seed = creator.publish()
    bid = worker.bid(seed)
    claim = creator.claim(bid)
    journal = Journal()
    journal.tell(seed, bid, claim)
    reasons = [journal.tell(make(worker, claim))[0].reason for _ in range(most + 2)]
    assert reasons[0] is None
    assert set(reasons[1:-2]) == {Reason.WRONG_STATE}
    assert reasons[-2:] == [Reason.TOO_MANY_OWN_STEPS] * 2
    settled = [journal.tell(creator.claim(bid))[0].reason for _ in range(limits.STEPS_PER_AUTHOR_PER_SEED_MAX + 1)]
    assert settled[-2:] == [Reason.TOO_MANY_OWN_STEPS] * 2
    assert counted(journal, seed, FactKind.CLAIM) == 1
