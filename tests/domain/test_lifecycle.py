"""Every transition and every rule, one by one."""

from __future__ import annotations

import pytest

from crabnet import limits
from crabnet.domain.lifecycle import TRANSITIONS, claim_deadline_s, execution_deadline_ms
from crabnet.domain.model import FINAL, RANK, FactKind, Seed, SeedStatus
from crabnet.domain.record import EMPTY, counting_bids
from crabnet.domain.state import Outcome, State
from crabnet.errors import Reason
from tests.domain.story import ALLOWED, NO_PROGRESS, STEPS, Story
from tests.support.facts import CREATOR, RIVAL, START_S, STRANGER, WORKER, Scribe, Witness

S = SeedStatus
K = FactKind


def test_the_table_of_this_test_is_whole() -> None:
    assert set(ALLOWED) == set(TRANSITIONS)
    assert TRANSITIONS[S.DONE, K.SETTLE] == {S.ACCEPTED, S.REJECTED}


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("status", S)
def test_every_status_and_fact(status: SeedStatus, kind: FactKind) -> None:
    story = Story(status)
    before = story.progress
    wrong_parent = story.lacks_parent(kind)
    decision = story.observe(story.fact(kind))
    expected = ALLOWED.get((status, kind), status)
    assert story.progress.status is expected
    if (status, kind) in ALLOWED:
        assert (decision.outcome, decision.reason, decision.idle) == (Outcome.ACCEPTED, None, False)
        assert (story.progress.version > before.version) == ((status, kind) not in NO_PROGRESS)
        assert story.progress.version >= before.version
        assert story.progress.version == story.progress.attempt * 10 + RANK[expected]
        return
    assert decision.events == ()
    assert story.progress == before
    assert decision.reason is (Reason.WRONG_PARENT if wrong_parent else Reason.WRONG_STATE)
    assert decision.idle == wrong_parent
    late = kind in {K.STARTED, K.RESULT} and not wrong_parent
    assert decision.outcome is (Outcome.IGNORED if late else Outcome.REJECTED)


@pytest.mark.parametrize("status", S)
def test_bids_are_noted_until_the_seed_is_final(status: SeedStatus) -> None:
    story = Story(status)
    before = story.progress
    bid = story.fact(K.BID)
    if status in FINAL:
        assert story.refused(bid) is Reason.WRONG_STATE
    else:
        story.tell(bid)
        assert bid in story.state.records[story.seed].bids
    assert story.progress == before


@pytest.mark.parametrize("status", sorted(FINAL))
@pytest.mark.parametrize("author", [CREATOR, WORKER, STRANGER])
def test_nothing_opens_a_finished_seed_again(status: SeedStatus, author: str) -> None:
    story = Story(status)
    before = story.progress
    for attempt in (1, 2, 3):
        story.observe(story.scribe.claim(story.seed, story.bid, author=author, attempt=attempt))
        for outcome in (S.ACCEPTED, S.REJECTED, S.FORFEITED, S.EXPIRED):
            fact = story.scribe.settle(story.seed, outcome, story.claim, story.result, author, attempt=attempt)
            story.observe(fact)
    definition = story.state.records[story.seed].seed
    assert definition is not None
    assert story.observe(definition).reason is Reason.DUPLICATE
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
    assert story.observe(story.fact(K.RESULT, STRANGER)).outcome is Outcome.REJECTED
    assert story.observe(story.fact(K.RESULT)).outcome is Outcome.IGNORED


@pytest.mark.parametrize("author", [CREATOR, RIVAL, STRANGER])
def test_only_the_worker_of_the_claim_acknowledges(author: str) -> None:
    story = Story(S.ACCEPTED)
    assert story.refused(story.fact(K.ACKNOWLEDGED, author)) is Reason.UNAUTHORISED
    story.tell(story.fact(K.ACKNOWLEDGED))


def test_a_settlement_is_acknowledged_once() -> None:
    story = Story(S.REJECTED)
    story.tell(story.fact(K.ACKNOWLEDGED))
    assert story.refused(story.fact(K.ACKNOWLEDGED)) is Reason.DUPLICATE


def test_nobody_publishes_for_another() -> None:
    witness = Witness()
    decision = witness.observe(Scribe().seed(STRANGER, created_by=CREATOR))
    assert (decision.outcome, decision.reason, decision.idle) == (Outcome.REJECTED, Reason.UNAUTHORISED, True)
    assert witness.state.records == {}


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
    scribe = Scribe()
    seed = scribe.seed()
    witness = Witness([seed])
    scribe.now_s += wait_s
    decision = witness.observe(scribe.bid(seed.key, WORKER, price=price, bidder=bidder))
    assert (decision.reason, decision.idle) == (reason, reason is not None)
    assert decision.outcome is (Outcome.ACCEPTED if reason is None else Outcome.REJECTED)


@pytest.mark.parametrize(
    ("wait_s", "attempt", "worker", "bid", "reason"),
    [
        (200, 1, WORKER, "good", None),
        (201, 1, WORKER, "good", Reason.DEADLINE_PASSED),
        (0, 2, WORKER, "good", Reason.WRONG_STATE),
        (0, 1, RIVAL, "good", Reason.WRONG_PARENT),
        (0, 1, WORKER, "cheap", Reason.UNKNOWN_BID),
        (201, 2, RIVAL, "cheap", Reason.WRONG_PARENT),
        (201, 2, WORKER, "cheap", Reason.DEADLINE_PASSED),
        (0, 2, WORKER, "cheap", Reason.WRONG_STATE),
    ],
)
def test_rules_of_claims(wait_s: int, attempt: int, worker: str, bid: str, reason: Reason | None) -> None:
    story = Story()
    cheap = story.scribe.bid(story.seed, WORKER, price=1)
    story.observe(cheap)
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
    on = next(fact.envelope for fact in story.scribe.facts if fact.key == story.result)
    names = (claim or story.claim, result or story.result)
    assert story.refused(story.scribe.settle(story.seed, S.ACCEPTED, *names, attempt=attempt, rests_on=on)) is reason


def test_a_settlement_rests_on_the_result_that_counts() -> None:
    story = Story(S.DONE)
    second = story.fact(K.RESULT)
    assert story.refused(second) is Reason.WRONG_STATE
    by_name = story.scribe.settle(story.seed, S.ACCEPTED, story.claim, story.result, rests_on=second.envelope)
    assert story.refused(by_name) is Reason.UNKNOWN_RESULT
    assert story.refused(story.scribe.settle(story.seed, S.ACCEPTED, story.claim, second.key)) is Reason.UNKNOWN_RESULT
    story.accepts()


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
    on = story.scribe.facts[-1].envelope
    assert story.refused(story.scribe.settle(story.seed, S.FORFEITED, "other", rests_on=on)) is Reason.WRONG_STATE
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
    decision = story.observe(late)
    assert (decision.outcome, decision.reason) == (Outcome.IGNORED, Reason.WRONG_STATE)
    assert story.progress.status is S.FORFEITED
    assert story.progress.result_id is None


@pytest.mark.parametrize("status", [S.CLAIMED, S.RUNNING, S.DONE])
def test_a_claim_is_withdrawn_only_by_name(status: SeedStatus) -> None:
    story = Story(status)
    assert story.refused(story.scribe.settle(story.seed, S.EXPIRED)) is Reason.WRONG_STATE
    on = next(fact.envelope for fact in story.scribe.facts if fact.key == story.claim)
    assert story.refused(story.scribe.settle(story.seed, S.EXPIRED, "other", rests_on=on)) is Reason.WRONG_STATE
    assert story.refused(story.scribe.settle(story.seed, S.EXPIRED, story.claim, attempt=2)) is Reason.WRONG_STATE
    story.closes()
    withdrawn = story.progress
    assert (withdrawn.status, withdrawn.attempt, withdrawn.claim_id, withdrawn.result_id) == (S.EXPIRED, 2, None, None)


@pytest.mark.parametrize("work_first", [True, False])
@pytest.mark.parametrize("end", [K.FORFEIT, K.CLOSE])
def test_work_that_crosses_the_end_of_its_claim_does_not_count_in_either_order(end: FactKind, work_first: bool) -> None:
    story = Story(S.CLAIMED)
    work = [story.fact(K.STARTED)]
    work.append(story.scribe.started(story.seed, story.claim, renews=work[0].key))
    work.append(story.fact(K.RESULT))
    ending = story.fact(end)
    for fact in (*work, ending) if work_first else (ending, *work):
        decision = story.observe(fact)
        if fact is ending:
            removed = {fact.ref for fact in work} if work_first else set()
            assert [set(event.removed) for event in decision.events] == [removed]
        else:
            assert decision.reason is (None if work_first else Reason.WRONG_STATE)
    record = story.state.records[story.seed]
    assert record.progress.status is (S.FORFEITED if end is K.FORFEIT else S.EXPIRED)
    assert [fact.kind for fact in record.others] == [K.CLAIM, end]


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
    late = story.observe(story.scribe.started(story.seed, story.claim, renews=run))
    assert (late.outcome, late.reason) == (Outcome.IGNORED, Reason.WRONG_STATE)


def test_a_renewal_before_its_start_is_void() -> None:
    story = Story(S.CLAIMED)
    assert story.refused(story.scribe.started(story.seed, story.claim, renews="run")) is Reason.WRONG_STATE


def test_renewals_are_bounded() -> None:
    story = Story(S.RUNNING)
    for _ in range(limits.RUN_RENEWALS_MAX):
        story.starts()
    beyond = story.observe(story.fact(K.STARTED))
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


def test_what_does_not_count_is_judged_by_what_counts_and_not_kept_for_later() -> None:
    """A renewal before its start stays void when the start comes."""
    story = Story(S.CLAIMED)
    early = story.scribe.started(story.seed, story.claim, renews=story.scribe.next_id(WORKER)[:-1] + "9")
    assert story.refused(early) is Reason.WRONG_STATE
    story.starts()
    assert story.progress.renewals == 0
    assert early not in story.state.records[story.seed].others


def test_a_fact_that_counts_comes_only_once() -> None:
    story = Story(S.ACCEPTED)
    story.tell(story.fact(K.ACKNOWLEDGED))
    before = story.state.records[story.seed]
    for fact in story.scribe.facts:
        decision = story.observe(fact)
        assert (decision.outcome, decision.reason, decision.events) == (Outcome.IGNORED, Reason.DUPLICATE, ())
    assert story.state.records[story.seed] is before


@pytest.mark.parametrize("order", [1, -1])
def test_of_more_than_max_bids_the_first_by_time_and_id_count(order: int) -> None:
    scribe = Scribe()
    seed = scribe.seed(max_bids=2)
    witness = Witness([seed])
    bids = []
    for wait_s, author in ((0, RIVAL), (0, WORKER), (5, "a-late-one"), (0, "another")):
        scribe.now_s += wait_s
        bids.append(scribe.bid(seed.key, author))
    cheap = scribe.bid(seed.key, "cheap", price=1)
    for fact in [cheap, *bids][::order]:
        witness.observe(fact)
    record = witness.state.records[seed.key]
    assert [fact.author for fact in counting_bids(record)] == [RIVAL, WORKER]
    witness.observe(scribe.claim(seed.key, bids[3].key, "another"))
    claimed = witness.state.records[seed.key]
    assert claimed.progress.status is S.CLAIMED
    assert [fact.author for fact in counting_bids(claimed)] == [RIVAL, WORKER, "another"]
    assert counting_bids(EMPTY) == []


def test_a_bid_beyond_max_bids_is_ignored() -> None:
    story = Story(max_bids=1)
    story.scribe.now_s += 1
    decision = story.observe(story.scribe.bid(story.seed, RIVAL))
    assert (decision.outcome, decision.reason) == (Outcome.IGNORED, Reason.TOO_MANY_BIDS)
    assert [fact.author for fact in story.state.records[story.seed].bids] == [WORKER, RIVAL]


def test_totals_and_counts_follow_the_records() -> None:
    story = Story(S.ACCEPTED)
    assert dict(+story.state.counts) == {S.ACCEPTED: 1}
    assert dict(+story.state.totals) == {K.BID: 1, K.CLAIM: 1, K.RESULT: 1, K.SETTLE: 1}
    story.state.replace(story.seed, None)
    assert not +story.state.counts
    assert not +story.state.totals
    assert story.state.digest() == State().digest()
