"""Accounts: sums over tasks, the same whatever the order of facts, and kept up to date as tasks change."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.core.replica.records import SegmentRow
from crabnet.core.replica.replica import Replica
from crabnet.core.replica.rows import decode_seed_row, record_of_row, seed_row
from crabnet.core.trading.histories import ArchivedTask, Histories, archived_task, place_of
from crabnet.domain.model import FINAL, Fact, SeedStatus
from crabnet.domain.record import Record
from crabnet.domain.state import State
from crabnet.market.history import Account, Tally, account, bucket_of, middle_of, total_of
from tests.core.test_large_state import fresh
from tests.domain.story import Story
from tests.support.facts import CREATOR, WORKER, Witness
from tests.support.made_up import histories, interleaved

RANDOMS = st.randoms(use_true_random=False)
DAY_S = limits.SETTLE_WINDOW_S_DEFAULT
S = SeedStatus


def accounts(state: State, now_s: int = 0) -> tuple[Account, Account]:
    totals = total_of(state.records.values())
    publisher, worker = (account(author, totals.get(author, Counter()), now_s) for author in (CREATOR, WORKER))
    return publisher, worker


@pytest.mark.parametrize(
    ("status", "published", "worked"),
    [
        (S.OPEN, {"published": 1, "open": 1, "awarded": 0}, {"won": 0}),
        (S.EXPIRED, {"published": 1, "open": 0, "withdrawn": 1}, {"won": 0}),
        (S.CLAIMED, {"open": 1, "awarded": 1, "committed": 5, "spent": 0}, {"won": 1, "owed": 0, "in_time": 0}),
        (S.RUNNING, {"open": 1, "awarded": 1, "committed": 5}, {"won": 1, "owed": 0}),
        (
            S.DONE,
            {"open": 1, "awaiting": 1, "overdue": 0, "committed": 5, "settled_share": None},
            {"in_time": 1, "owed": 5, "earned": 0, "accepted_share": None},
        ),
        (
            S.ACCEPTED,
            {"open": 0, "accepted": 1, "spent": 5, "committed": 0, "settled_share": 1.0},
            {"accepted": 1, "earned": 5, "owed": 0, "accepted_share": 1.0, "median_result_s": 0},
        ),
        (S.REJECTED, {"rejected": 1, "spent": 0}, {"rejected": 1, "earned": 0, "accepted_share": 0.0}),
        (S.FORFEITED, {"open": 1, "forfeited": 1, "committed": 0}, {"forfeited": 1, "accepted_share": 0.0}),
        (S.DISPUTED, {"published": 0, "awarded": 0}, {"won": 0}),
    ],
)
def test_what_a_task_of_each_status_counts(
    status: SeedStatus, published: dict[str, object], worked: dict[str, object]
) -> None:
    publisher, worker = accounts(Story(status).state)

    assert {name: getattr(publisher.publisher, name) for name in published} == published
    assert {name: getattr(worker.worker, name) for name in worked} == worked


def test_a_result_that_is_not_settled_in_time_is_overdue_for_both() -> None:
    story = Story(S.DONE)
    due_s = story.scribe.now_s + DAY_S

    for now_s, late in ((due_s, 0), (due_s + 1, 1)):
        publisher, worker = accounts(story.state, now_s)
        assert (publisher.publisher.overdue, worker.worker.overdue) == (late, late)
        assert publisher.settled_share == (0.0 if late else None)
        assert (worker.worker.awaiting, worker.worker.owed) == (1, 5)


def test_a_late_settlement_counts_as_late_and_pays_all_the_same() -> None:
    story = Story(S.DONE)
    story.scribe.now_s += DAY_S + 1
    story.accepts()
    publisher, worker = accounts(story.state)

    assert (publisher.publisher.settled_late, publisher.settled_share) == (1, 0.0)
    assert (worker.worker.earned, worker.accepted_share) == (5, 1.0)
    assert publisher.publisher.median_settlement_s == pytest.approx(DAY_S, rel=0.15)


def test_a_worker_that_says_that_it_failed_is_told_from_one_that_is_silent() -> None:
    story = Story(S.RUNNING)
    result = story.tell(story.scribe.result(story.seed, story.claim, failed="worker"))
    for forfeited in (False, True):
        publisher, worker = accounts(story.state)
        assert (worker.worker.failed, worker.worker.forfeited, worker.worker.owed) == (1, 0, 0)
        assert (publisher.publisher.failed, publisher.publisher.awaiting) == (1, 0)
        if not forfeited:
            settlement = story.scribe.settle(story.seed, S.FORFEITED, story.claim, rests_on=result.envelope)
            story.tell(settlement)


def test_what_an_author_does_with_itself_proves_nothing() -> None:
    """It is counted, but in no share."""
    story = Story(S.OPEN)
    bid = story.tell(story.scribe.bid(story.seed, CREATOR))
    claim = story.tell(story.scribe.claim(story.seed, bid.key, CREATOR))
    story.result = story.tell(story.scribe.result(story.seed, claim.key, CREATOR)).key
    story.claim = claim.key
    story.accepts()
    publisher, _ = accounts(story.state)

    assert (publisher.worker.earned, publisher.publisher.spent) == (5, 5)
    assert (publisher.accepted_share, publisher.settled_share) == (None, None)


@given(st.integers(0, 2**40))
def test_a_bucket_tells_a_time_to_within_a_seventh(seconds: int) -> None:
    assert abs(middle_of(bucket_of(seconds)) - seconds) <= seconds / 7


@given(histories(facts_max=30, seeds_max=3), RANDOMS)
def test_nodes_with_equal_state_have_equal_accounts(facts: list[Fact], random: Random) -> None:
    one, other = Witness(facts).state, Witness(interleaved(facts, random)).state

    assert one.digest() == other.digest()
    assert total_of(one.records.values()) == total_of(other.records.values())


class Keeper:
    """A replica that hears facts, archives tasks that are over, brings them back, and keeps accounts meanwhile."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.replica: Replica = fresh()
        self.witness = Witness()
        self.witness.state = self.replica.state
        self.rows: dict[str, bytes] = {}
        self.replica.archived.read_row = self.rows.get
        self.start()

    def start(self) -> None:
        """As at the start of a node."""
        self.histories = Histories(self.replica)
        self.histories.begin()
        for seed_id in self.replica.state.records:
            self.histories.watch(seed_id)
        self.page: list[ArchivedTask] | None = None

    def hear(self, fact: Fact) -> None:
        self.replica.archived.readmit((fact.seed_id,))
        before = self.replica.state.records.get(fact.seed_id)
        self.witness.observe(fact)
        if self.replica.state.records.get(fact.seed_id) is not before:
            self.histories.watch(fact.seed_id)

    def archive(self) -> None:
        over = [
            (seed_id, record)
            for seed_id, record in self.replica.state.records.items()
            if record.progress.status in FINAL and self.random.random() < 0.7
        ]
        for seed_id, record in over:
            self.rows[seed_id] = seed_row(seed_id, record)
        segment = SegmentRow(len(self.replica.archived.segments) + 1, "ab" * 32, len(over))
        self.replica.archived.archive(segment, [seed_id for seed_id, _ in over])
        self.histories.archived(over)

    def read_archive(self) -> None:
        """Reading and counting are two steps, with others between them."""
        if self.page is None:
            place = self.histories.archive_place
            stored = sorted((*place_of(seed_id, self.record(row)), row) for seed_id, row in self.rows.items())
            rest = [each for each in stored if place is None or each[:2] > place]
            self.page = [archived_task(seed_id, self.record(row)) for _, seed_id, row in rest[:1]]
        elif not self.histories.archive_done:
            self.histories.add_archived(self.page)
            self.page = None

    def record(self, row: bytes) -> Record:
        return record_of_row(decode_seed_row(row))

    def step(self) -> None:
        steps = (self.archive, self.read_archive, self.read_archive, self.start, lambda: self.histories.fold_some(1, 0))
        self.random.choices(steps, weights=(2, 4, 4, 1, 4))[0]()

    def from_scratch(self) -> dict[str, Tally]:
        live = self.replica.state.records
        away = [self.record(row) for seed_id, row in self.rows.items() if seed_id not in live]
        return total_of([*live.values(), *away])


@given(histories(facts_max=40, seeds_max=4), RANDOMS)
def test_accounts_that_are_kept_up_to_date_are_those_from_scratch(facts: list[Fact], random: Random) -> None:
    keeper = Keeper(random)
    for fact in facts:
        keeper.hear(fact)
        keeper.step()
        keeper.step()
    while not keeper.histories.complete:
        keeper.read_archive()
        keeper.histories.fold_some(100, 0)

    expected = keeper.from_scratch()
    assert keeper.histories.authors() == sorted(expected)
    for author, tally in expected.items():
        assert keeper.histories.account(author, 0) == account(author, tally, 0)
