"""Every transition and every rule, one by one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crabnet import limits
from crabnet.domain.decision import decide
from crabnet.domain.lifecycle import (
    EMPTY,
    TRANSITIONS,
    claim_deadline_s,
    counting_bids,
    execution_deadline_ms,
    status_at,
)
from crabnet.domain.model import RANK, Fact, FactKind, Progress, Seed, SeedStatus, Verdict
from crabnet.domain.state import Decision, Outcome, Propose, State
from crabnet.errors import Reason
from tests.support.facts import CREATOR, RIVAL, START_S, STRANGER, WORKER, Scribe, observe

S = SeedStatus
K = FactKind


class Story:
    """One seed, its facts, and the state they lead to."""

    def __init__(self, status: SeedStatus = S.OPEN, *, max_bids: int = 0) -> None:
        self.scribe = Scribe()
        self.state = State()
        self.seed = self.tell(self.scribe.seed(max_bids=max_bids)).key
        self.bid = self.tell(self.scribe.bid(self.seed)).key
        self.claim = self.result = ""
        path: dict[SeedStatus, list[Callable[[], object]]] = {
            S.OPEN: [],
            S.EXPIRED: [self.closes],
            S.CLAIMED: [self.claims],
            S.RUNNING: [self.claims, self.starts],
            S.DONE: [self.claims, self.starts, self.returns],
            S.ACCEPTED: [self.claims, self.returns, self.accepts],
            S.REJECTED: [self.claims, self.starts, self.returns, self.rejects],
            S.FORFEITED: [self.claims, self.forfeits],
        }
        for step in path[status]:
            step()
        assert self.progress.status is status

    @property
    def progress(self) -> Progress:
        return self.state.records[self.seed].progress

    def tell(self, fact: Fact) -> Fact:
        decision = observe(self.state, fact)
        assert decision.outcome is Outcome.ACCEPTED, decision
        return fact

    def claims(self) -> None:
        self.claim = self.tell(self.fact(K.CLAIM)).key

    def starts(self) -> None:
        self.tell(self.fact(K.STARTED))

    def returns(self) -> None:
        self.result = self.tell(self.fact(K.RESULT)).key

    def accepts(self) -> None:
        self.tell(self.fact(K.SETTLE))

    def rejects(self) -> None:
        self.tell(self.scribe.settle(self.seed, S.REJECTED, self.claim, self.result))

    def forfeits(self) -> None:
        self.tell(self.fact(K.FORFEIT))

    def closes(self) -> None:
        self.tell(self.fact(K.CLOSE))

    def fact(self, kind: FactKind, author: str | None = None) -> Fact:
        """A fact of this kind that is right in every respect but, perhaps, the status of the seed."""
        scribe, seed, attempt = self.scribe, self.seed, self.progress.attempt
        if kind is K.BID:
            return scribe.bid(seed, author or RIVAL)
        if kind is K.CLAIM:
            attempt += self.progress.status is S.FORFEITED
            return scribe.claim(seed, self.bid, author=author or CREATOR, attempt=attempt)
        if kind is K.STARTED:
            renews = self.progress.run_id if self.progress.status is S.RUNNING else None
            return scribe.started(seed, self.claim or "none", author or WORKER, renews=renews)
        if kind is K.RESULT:
            return scribe.result(seed, self.claim or "none", author or WORKER)
        if kind is K.SETTLE:
            return scribe.settle(
                seed, S.ACCEPTED, self.claim, self.result or "none", author or CREATOR, attempt=attempt
            )
        if kind is K.FORFEIT:
            scribe.now_s += 11
            return scribe.settle(seed, S.FORFEITED, self.claim, None, author or CREATOR, attempt=attempt)
        return scribe.settle(seed, S.EXPIRED, self.progress.claim_id, author=author or CREATOR, attempt=attempt)

    def refused(self, fact: Fact) -> Reason | None:
        """Why a fact is void; it must not change anything."""
        before = self.progress
        decision = observe(self.state, fact)
        assert decision.outcome is not Outcome.ACCEPTED
        assert self.progress == before
        entries = (*self.state.records[self.seed].bids, *self.state.records[self.seed].others)
        assert next(e.judgement.verdict for e in entries if e.fact.key == fact.key) is Verdict.VOID
        return decision.reason


ALLOWED = {
    (S.OPEN, K.CLAIM): S.CLAIMED,
    (S.OPEN, K.CLOSE): S.EXPIRED,
    (S.CLAIMED, K.STARTED): S.RUNNING,
    (S.CLAIMED, K.RESULT): S.DONE,
    (S.CLAIMED, K.FORFEIT): S.FORFEITED,
    (S.CLAIMED, K.CLOSE): S.EXPIRED,
    (S.RUNNING, K.STARTED): S.RUNNING,
    (S.RUNNING, K.RESULT): S.DONE,
    (S.RUNNING, K.FORFEIT): S.FORFEITED,
    (S.RUNNING, K.CLOSE): S.EXPIRED,
    (S.DONE, K.SETTLE): S.ACCEPTED,
    (S.DONE, K.FORFEIT): S.FORFEITED,
    (S.DONE, K.CLOSE): S.EXPIRED,
    (S.FORFEITED, K.CLAIM): S.CLAIMED,
    (S.FORFEITED, K.CLOSE): S.EXPIRED,
}
WAITS = {
    (S.OPEN, K.STARTED): Reason.UNKNOWN_CLAIM,
    (S.OPEN, K.RESULT): Reason.UNKNOWN_CLAIM,
    (S.EXPIRED, K.STARTED): Reason.UNKNOWN_CLAIM,
    (S.EXPIRED, K.RESULT): Reason.UNKNOWN_CLAIM,
    (S.CLAIMED, K.SETTLE): Reason.UNKNOWN_RESULT,
    (S.RUNNING, K.SETTLE): Reason.UNKNOWN_RESULT,
}
LATE = {(S.FORFEITED, K.STARTED), (S.FORFEITED, K.RESULT), (S.ACCEPTED, K.STARTED)}
"""Work on a claim that has ended since: it is noted, but the status stays."""
STEPS = [kind for kind in K if kind not in {K.SEED, K.BID}]


def test_the_table_of_this_test_is_whole() -> None:
    assert set(ALLOWED) == set(TRANSITIONS)
    assert TRANSITIONS[S.DONE, K.SETTLE] == {S.ACCEPTED, S.REJECTED}


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("status", S)
def test_every_status_and_fact(status: SeedStatus, kind: FactKind) -> None:
    story = Story(status)
    before = story.progress
    decision = observe(story.state, story.fact(kind))
    expected = ALLOWED.get((status, kind), status)
    assert story.progress.status is expected
    if (status, kind) in ALLOWED:
        assert decision.outcome is Outcome.ACCEPTED
        assert (story.progress.version > before.version) == ((status, kind) != (S.RUNNING, K.STARTED))
        assert story.progress.version >= before.version
        assert story.progress.version == story.progress.attempt * 10 + RANK[expected]
    elif (status, kind) in WAITS:
        assert (decision.outcome, decision.reason) == (Outcome.IGNORED, WAITS[status, kind])
        assert story.progress == before
    elif (status, kind) not in LATE:
        assert decision.reason is Reason.WRONG_STATE
        harmless = kind in {K.STARTED, K.RESULT}
        assert decision.outcome is (Outcome.IGNORED if harmless else Outcome.REJECTED)
        assert story.progress == before


@pytest.mark.parametrize("status", S)
def test_bids_are_noted_in_every_status(status: SeedStatus) -> None:
    story = Story(status)
    before = story.progress
    assert observe(story.state, story.fact(K.BID)).outcome is Outcome.ACCEPTED
    assert story.progress == before


@pytest.mark.parametrize("status", [S.EXPIRED, S.ACCEPTED, S.REJECTED])
@pytest.mark.parametrize("author", [CREATOR, WORKER, STRANGER])
def test_nothing_opens_a_finished_seed_again(status: SeedStatus, author: str) -> None:
    story = Story(status)
    before = story.progress
    for attempt in (1, 2, 3):
        observe(story.state, story.scribe.claim(story.seed, story.bid, author=author, attempt=attempt))
        for outcome in (S.ACCEPTED, S.REJECTED, S.FORFEITED, S.EXPIRED):
            observe(
                story.state,
                story.scribe.settle(story.seed, outcome, story.claim, story.result, author, attempt=attempt),
            )
    definition = story.state.records[story.seed].seed
    assert definition is not None
    assert observe(story.state, definition).reason is Reason.DUPLICATE
    assert story.progress.status is before.status
    assert story.progress == before


@pytest.mark.parametrize("author", [WORKER, RIVAL, STRANGER])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (S.OPEN, K.CLAIM),
        (S.OPEN, K.CLOSE),
        (S.CLAIMED, K.FORFEIT),
        (S.RUNNING, K.FORFEIT),
        (S.DONE, K.SETTLE),
        (S.DONE, K.FORFEIT),
        (S.CLAIMED, K.CLOSE),
        (S.RUNNING, K.CLOSE),
        (S.DONE, K.CLOSE),
        (S.FORFEITED, K.CLAIM),
        (S.FORFEITED, K.CLOSE),
    ],
)
def test_only_the_creator_decides(status: SeedStatus, kind: FactKind, author: str) -> None:
    story = Story(status)
    assert story.refused(story.fact(kind, author)) is Reason.UNAUTHORISED


@pytest.mark.parametrize("author", [CREATOR, RIVAL, STRANGER])
@pytest.mark.parametrize(
    ("status", "kind"), [(S.CLAIMED, K.STARTED), (S.CLAIMED, K.RESULT), (S.RUNNING, K.RESULT), (S.DONE, K.RESULT)]
)
def test_only_the_worker_of_the_claim_works(status: SeedStatus, kind: FactKind, author: str) -> None:
    story = Story(status)
    fact = story.fact(kind, author)
    assert story.refused(fact) is Reason.UNAUTHORISED


def test_a_strangers_work_is_rejected_but_late_work_only_ignored() -> None:
    story = Story(S.DONE)
    assert observe(story.state, story.fact(K.RESULT, STRANGER)).outcome is Outcome.REJECTED
    assert observe(story.state, story.fact(K.RESULT)).outcome is Outcome.IGNORED


def test_nobody_publishes_for_another() -> None:
    scribe, state = Scribe(), State()
    decision = observe(state, scribe.seed(STRANGER, created_by=CREATOR))
    assert (decision.outcome, decision.reason) == (Outcome.REJECTED, Reason.UNAUTHORISED)
    assert state.records == {}


@pytest.mark.parametrize(
    ("bidder", "price", "wait_s", "reason"),
    [
        (WORKER, 2, 100, None),
        (RIVAL, 2, 0, Reason.UNAUTHORISED),
        (WORKER, 1, 0, Reason.PRICE_TOO_LOW),
        (WORKER, 2, 101, Reason.DEADLINE_PASSED),
        (RIVAL, 1, 101, Reason.UNAUTHORISED),
        (WORKER, 1, 101, Reason.PRICE_TOO_LOW),
    ],
)
def test_rules_of_bids(bidder: str, price: int, wait_s: int, reason: Reason | None) -> None:
    scribe, state = Scribe(), State()
    seed = scribe.seed()
    observe(state, seed)
    scribe.now_s += wait_s
    decision = observe(state, scribe.bid(seed.key, WORKER, price=price, bidder=bidder))
    assert decision.reason is reason
    assert decision.outcome is (Outcome.ACCEPTED if reason is None else Outcome.REJECTED)


@pytest.mark.parametrize(
    ("wait_s", "attempt", "worker", "bid", "reason"),
    [
        (200, 1, WORKER, "good", None),
        (201, 1, WORKER, "good", Reason.DEADLINE_PASSED),
        (0, 2, WORKER, "good", Reason.WRONG_STATE),
        (0, 1, RIVAL, "good", Reason.UNKNOWN_BID),
        (0, 1, WORKER, "cheap", Reason.UNKNOWN_BID),
        (201, 2, RIVAL, "cheap", Reason.DEADLINE_PASSED),
        (0, 2, RIVAL, "cheap", Reason.WRONG_STATE),
    ],
)
def test_rules_of_claims(wait_s: int, attempt: int, worker: str, bid: str, reason: Reason | None) -> None:
    story = Story()
    cheap = story.scribe.bid(story.seed, WORKER, price=1)
    observe(story.state, cheap)
    story.scribe.now_s += wait_s
    bid_id = story.bid if bid == "good" else cheap.key
    claim = story.scribe.claim(story.seed, bid_id, worker, attempt=attempt)
    if reason is None:
        story.tell(claim)
    else:
        assert story.refused(claim) is reason


def test_the_claim_deadline_is_an_hour_after_the_bid_deadline_unless_given() -> None:
    scribe = Scribe()
    seed = scribe.seed(claim_window_s=None).body
    assert isinstance(seed, Seed)
    assert seed.claim_deadline_s == seed.bid_deadline_ts + limits.CLAIM_WINDOW_S_DEFAULT == START_S + 3_700
    other = scribe.seed(claim_window_s=7).body
    assert isinstance(other, Seed)
    assert other.claim_deadline_s == START_S + 7


@pytest.mark.parametrize(
    ("claim", "attempt", "result", "reason"),
    [
        ("other", 1, None, Reason.WRONG_STATE),
        (None, 2, None, Reason.WRONG_STATE),
        (None, 1, "other", Reason.UNKNOWN_RESULT),
        ("other", 1, "other", Reason.WRONG_STATE),
    ],
)
def test_rules_of_settling(claim: str | None, attempt: int, result: str | None, reason: Reason) -> None:
    story = Story(S.DONE)
    fact = story.scribe.settle(story.seed, S.ACCEPTED, claim or story.claim, result or story.result, attempt=attempt)
    assert story.refused(fact) is reason


@pytest.mark.parametrize(("after_s", "due"), [(0, False), (9, False), (10, True), (11, True)])
def test_a_claim_is_forfeited_only_when_it_is_overdue(after_s: int, due: bool) -> None:
    story = Story(S.CLAIMED)
    story.scribe.now_s += after_s
    fact = story.scribe.settle(story.seed, S.FORFEITED, story.claim)
    if due:
        story.tell(fact)
    else:
        assert story.refused(fact) is Reason.NOT_DUE


def test_the_execution_deadline_is_never_shorter_than_the_timeout() -> None:
    scribe = Scribe()
    for exec_ms, timeout_ms, allowed_ms in ((10_000, 5_000, 10_000), (0, 5_000, 5_000), (7, 7, 7)):
        seed = scribe.seed(exec_deadline_ms=exec_ms, timeout_ms=timeout_ms).body
        assert isinstance(seed, Seed)
        assert execution_deadline_ms(seed, 3) == 3_000 + allowed_ms


def test_forfeiting_another_attempt_or_claim() -> None:
    story = Story(S.CLAIMED)
    story.scribe.now_s += 60
    assert story.refused(story.scribe.settle(story.seed, S.FORFEITED, "other")) is Reason.WRONG_STATE
    assert story.refused(story.scribe.settle(story.seed, S.FORFEITED, story.claim, attempt=2)) is Reason.WRONG_STATE


def test_attempts_follow_one_another() -> None:
    story = Story(S.FORFEITED)
    assert story.refused(story.scribe.claim(story.seed, story.bid, attempt=1)) is Reason.WRONG_STATE
    assert story.refused(story.scribe.claim(story.seed, story.bid, attempt=3)) is Reason.WRONG_STATE
    story.claims()
    assert (story.progress.status, story.progress.attempt) == (S.CLAIMED, 2)
    story.returns()
    old = story.scribe.settle(story.seed, S.ACCEPTED, story.claim, story.result, attempt=1)
    assert story.refused(old) is Reason.WRONG_STATE
    story.accepts()
    assert (story.progress.status, story.progress.attempt) == (S.ACCEPTED, 2)


def test_a_result_that_came_too_late_stays_void_after_the_forfeit() -> None:
    story = Story(S.CLAIMED)
    first = story.claim
    story.forfeits()
    late = story.scribe.result(story.seed, first)
    decision = observe(story.state, late)
    assert (decision.outcome, decision.reason) == (Outcome.IGNORED, Reason.WRONG_STATE)
    assert story.progress.status is S.FORFEITED
    assert story.progress.result_id is None


@pytest.mark.parametrize("status", [S.CLAIMED, S.RUNNING, S.DONE])
def test_a_claim_is_withdrawn_only_by_name(status: SeedStatus) -> None:
    story = Story(status)
    assert story.refused(story.scribe.settle(story.seed, S.EXPIRED)) is Reason.WRONG_STATE
    assert story.refused(story.scribe.settle(story.seed, S.EXPIRED, "other")) is Reason.WRONG_STATE
    assert story.refused(story.scribe.settle(story.seed, S.EXPIRED, story.claim, attempt=2)) is Reason.WRONG_STATE
    story.closes()
    withdrawn = story.progress
    assert (withdrawn.status, withdrawn.attempt, withdrawn.claim_id, withdrawn.result_id) == (S.EXPIRED, 2, None, None)


@pytest.mark.parametrize("result_first", [True, False])
def test_a_result_that_crosses_a_withdrawal_is_void_in_either_order(result_first: bool) -> None:
    story = Story(S.RUNNING)
    result = story.fact(K.RESULT)
    withdrawal = story.scribe.settle(story.seed, S.EXPIRED, story.claim)
    for fact in (result, withdrawal) if result_first else (withdrawal, result):
        observe(story.state, fact)
    record = story.state.records[story.seed]
    assert record.progress.status is S.EXPIRED
    verdicts = {entry.fact.key: (entry.judgement.verdict, entry.judgement.reason) for entry in record.others}
    assert verdicts[result.key] == (Verdict.VOID, Reason.WRONG_STATE)


def test_a_run_is_renewed_by_its_worker_while_it_runs() -> None:
    story = Story(S.RUNNING)
    run = story.progress.run_id
    story.scribe.now_s += 30
    assert story.refused(story.fact(K.STARTED, RIVAL)) is Reason.UNAUTHORISED
    assert story.refused(story.scribe.started(story.seed, story.claim)) is Reason.WRONG_STATE
    assert story.refused(story.scribe.started(story.seed, story.claim, renews="other")) is Reason.WRONG_STATE
    assert (story.progress.renewals, story.progress.renewed_at) == (0, None)
    story.starts()
    assert (story.progress.status, story.progress.run_id) == (S.RUNNING, run)
    assert (story.progress.renewals, story.progress.renewed_at) == (1, START_S + 30)
    story.returns()
    assert (story.progress.run_id, story.progress.renewals) == (run, 0)
    late = observe(story.state, story.scribe.started(story.seed, story.claim, renews=run))
    assert (late.outcome, late.reason) == (Outcome.IGNORED, Reason.WRONG_STATE)


def test_a_renewal_before_its_start_is_void() -> None:
    story = Story(S.CLAIMED)
    assert story.refused(story.scribe.started(story.seed, story.claim, renews="run")) is Reason.WRONG_STATE


def test_renewals_are_bounded() -> None:
    story = Story(S.RUNNING)
    for _ in range(limits.RUN_RENEWALS_MAX):
        story.starts()
    beyond = observe(story.state, story.fact(K.STARTED))
    assert (beyond.outcome, beyond.reason) == (Outcome.IGNORED, Reason.LIMIT_EXCEEDED)
    story.returns()


def test_a_forfeit_begins_the_time_for_claiming_anew() -> None:
    story = Story(S.CLAIMED)
    story.scribe.now_s = START_S + 500
    story.forfeits()
    forfeited_s = story.scribe.now_s
    record = story.state.records[story.seed]
    assert record.definition is not None
    assert claim_deadline_s(record.definition, record.progress) == forfeited_s + 100
    story.scribe.now_s = forfeited_s + 101
    assert story.refused(story.fact(K.CLAIM)) is Reason.DEADLINE_PASSED
    story.scribe.now_s = forfeited_s + 100
    story.claims()
    assert (story.progress.status, story.progress.attempt) == (S.CLAIMED, 2)


def test_a_claim_waits_for_its_bid_and_all_behind_it() -> None:
    story = Story()
    bid = story.scribe.bid(story.seed, RIVAL)
    claim = story.scribe.claim(story.seed, bid.key, RIVAL)
    close = story.scribe.settle(story.seed, S.EXPIRED)
    waits = observe(story.state, claim)
    assert (waits.outcome, waits.reason) == (Outcome.IGNORED, Reason.UNKNOWN_BID)
    behind = observe(story.state, close)
    assert (behind.outcome, behind.reason) == (Outcome.IGNORED, Reason.UNKNOWN_PARENT)
    assert story.progress == Progress()
    story.tell(bid)
    assert (story.progress.status, story.progress.claimed_by) == (S.CLAIMED, RIVAL)


def test_facts_about_an_unknown_seed_wait_for_it() -> None:
    scribe, state = Scribe(), State()
    seed = scribe.seed()
    bid = scribe.bid(seed.key)
    claim = scribe.claim(seed.key, bid.key)
    for fact in (claim, bid):
        decision = observe(state, fact)
        assert (decision.outcome, decision.reason) == (Outcome.IGNORED, Reason.UNKNOWN_SEED)
    assert state.orphans_total == 2
    assert observe(state, seed).outcome is Outcome.ACCEPTED
    assert state.orphans_total == 0
    assert state.records[seed.key].progress.status is S.CLAIMED


def test_one_author_cannot_fill_the_place_of_orphans() -> None:
    scribe, state = Scribe(), State()
    for number in range(limits.ORPHAN_FACTS_PER_AUTHOR_MAX):
        assert observe(state, scribe.bid(f"unknown-{number % 100}", STRANGER)).reason is Reason.UNKNOWN_SEED
    full = observe(state, scribe.bid("unknown", STRANGER))
    assert (full.outcome, full.reason, full.events) == (Outcome.IGNORED, Reason.UNKNOWN_SEED, ())
    assert full.asleep == "unknown"
    assert observe(state, scribe.bid("unknown", WORKER)).reason is Reason.UNKNOWN_SEED
    assert state.orphans_total == limits.ORPHAN_FACTS_PER_AUTHOR_MAX + 1


@pytest.mark.deep
def test_all_authors_together_cannot_fill_it_either() -> None:
    scribe, state = Scribe(), State()
    for number in range(limits.ORPHAN_FACTS_MAX):
        observe(state, scribe.bid(f"unknown-{number}", f"author-{number % 60}"))
    assert observe(state, scribe.bid("unknown", WORKER)).asleep == "unknown"
    assert state.orphans_total == limits.ORPHAN_FACTS_MAX


@pytest.mark.deep
def test_facts_that_wait_within_one_seed_are_bounded() -> None:
    story = Story()
    for number in range(limits.WAITING_FACTS_PER_SEED_MAX):
        decision = observe(story.state, story.scribe.result(story.seed, "unknown", f"author-{number % 60}"))
        assert decision.reason is Reason.UNKNOWN_CLAIM
    full = observe(story.state, story.scribe.result(story.seed, "unknown", STRANGER))
    assert (full.outcome, full.reason, full.events) == (Outcome.IGNORED, Reason.UNKNOWN_CLAIM, ())
    assert full.asleep == "unknown"
    story.claims()
    story.returns()
    story.accepts()
    assert story.progress.status is S.ACCEPTED


@pytest.mark.parametrize("order", [1, -1])
def test_of_more_than_max_bids_the_first_by_time_and_id_count(order: int) -> None:
    scribe, state = Scribe(), State()
    seed = scribe.seed(max_bids=2)
    observe(state, seed)
    bids = []
    for wait_s, author in ((0, RIVAL), (0, WORKER), (5, "a-late-one"), (0, "another")):
        scribe.now_s += wait_s
        bids.append(scribe.bid(seed.key, author))
    cheap = scribe.bid(seed.key, "cheap", price=1)
    for fact in [cheap, *bids][::order]:
        observe(state, fact)
    record = state.records[seed.key]
    assert [fact.author for fact in counting_bids(record)] == [RIVAL, WORKER]
    observe(state, scribe.claim(seed.key, bids[3].key, "another"))
    claimed = state.records[seed.key]
    assert claimed.progress.status is S.CLAIMED
    assert [fact.author for fact in counting_bids(claimed)] == [RIVAL, WORKER, "another"]
    assert counting_bids(EMPTY) == []


def test_a_bid_beyond_max_bids_is_ignored() -> None:
    story = Story(max_bids=1)
    story.scribe.now_s += 1
    decision = observe(story.state, story.scribe.bid(story.seed, RIVAL))
    assert (decision.outcome, decision.reason) == (Outcome.IGNORED, Reason.TOO_MANY_BIDS)


def proposed(story: Story, fact: Fact, now_s: int | None = None) -> Decision:
    """What a node says to its own operator."""
    return decide(story.state, Propose(fact), story.scribe.now_s if now_s is None else now_s)


@pytest.mark.parametrize("status", S)
def test_operators_bid_only_on_what_is_to_be_had(status: SeedStatus) -> None:
    story = Story(status)
    decision = proposed(story, story.fact(K.BID))
    expected = None if status in {S.OPEN, S.FORFEITED} else Reason.WRONG_STATE
    assert decision.reason is expected


def test_operators_bid_only_in_time_by_their_own_clock() -> None:
    story = Story()
    bid = story.fact(K.BID)
    assert proposed(story, bid, START_S + 100).outcome is Outcome.ACCEPTED
    late = proposed(story, bid, START_S + 101)
    assert (late.outcome, late.reason, late.events) == (Outcome.REJECTED, Reason.DEADLINE_PASSED, ())


def test_operators_bid_and_claim_only_within_max_bids() -> None:
    story = Story(max_bids=1)
    story.scribe.now_s += 1
    surplus = story.scribe.bid(story.seed, RIVAL)
    assert proposed(story, surplus).reason is Reason.TOO_MANY_BIDS
    observe(story.state, surplus)
    claim = story.scribe.claim(story.seed, surplus.key, RIVAL)
    assert proposed(story, claim).reason is Reason.TOO_MANY_BIDS
    assert observe(story.state, claim).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("kind", [K.FORFEIT, K.CLOSE])
def test_operators_do_not_take_back_a_claim_whose_result_has_come(kind: FactKind) -> None:
    story = Story(S.DONE)
    assert proposed(story, story.fact(kind)).reason is Reason.WRONG_STATE


@pytest.mark.parametrize("kind", [kind for kind in K if kind is not K.SEED])
def test_operators_speak_of_known_seeds_only(kind: FactKind) -> None:
    story = Story()
    decision = decide(State(), Propose(story.fact(kind)), START_S)
    assert (decision.outcome, decision.reason) == (Outcome.REJECTED, Reason.UNKNOWN_SEED)
    assert story.seed in decision.detail


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("status", S)
def test_operators_state_only_what_takes_effect_at_once(status: SeedStatus, kind: FactKind) -> None:
    story = Story(status)
    before = story.state.records[story.seed]
    decision = proposed(story, story.fact(kind))
    allowed = (status, kind) in ALLOWED and (status, kind) not in {(S.DONE, K.FORFEIT), (S.DONE, K.CLOSE)}
    assert (decision.outcome is Outcome.ACCEPTED) == allowed
    assert allowed or (decision.reason is not None and decision.detail + decision.reason)
    assert story.state.records[story.seed] is before


def test_an_open_seed_past_its_claim_deadline_is_shown_as_expired() -> None:
    story = Story()
    record = story.state.records[story.seed]
    assert status_at(record, START_S + 200) is S.OPEN
    assert status_at(record, START_S + 201) is S.EXPIRED
    assert story.progress.status is S.OPEN
    for status in set(S) - {S.OPEN}:
        other = Story(status)
        assert status_at(other.state.records[other.seed], START_S + 10_000) is status


def test_totals_and_counts_follow_the_records() -> None:
    story = Story(S.ACCEPTED)
    assert dict(+story.state.counts) == {S.ACCEPTED: 1}
    assert dict(+story.state.totals) == {K.BID: 1, K.CLAIM: 1, K.RESULT: 1, K.SETTLE: 1}
    story.state.replace(story.seed, None)
    assert not +story.state.counts
    assert not +story.state.totals
    assert story.state.digest() == State().digest()
