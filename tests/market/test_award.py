"""Which bid is claimed, how long to wait for a better one, and why none is."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from crabnet import limits
from crabnet.domain.model import (
    Bid,
    Claim,
    Fact,
    FactKind,
    Progress,
    Run,
    Seed,
    SeedStatus,
    Settlement,
    TaskResult,
    Termination,
)
from crabnet.domain.record import Record
from crabnet.errors import Reason
from crabnet.market.award import award, bids_until_ms, tries
from crabnet.market.policies import AwardRule, Declined, Terms, Wait

PUBLISHED_S = 1_000
PUBLISHED_MS = PUBLISHED_S * 1_000
WINDOW_S = 60
LAST_MS = (PUBLISHED_S + WINDOW_S + 1) * 1_000 + limits.BID_LATE_MS
SEED = Seed(
    id="s",
    title="t",
    command="true",
    timeout_ms=1_000,
    bid_deadline_ts=PUBLISHED_S + WINDOW_S,
    exec_deadline_ms=10_000,
    created_by="me",
    created_at=PUBLISHED_S,
    claim_deadline_ts=PUBLISHED_S + 600,
)
CHEAPEST = Terms()
FIRST = Terms(award=AwardRule.FIRST)


class Known(NamedTuple):
    """What is known of a worker."""

    accepted_share: float | None = None
    median_result_ms: int | None = None


NOTHING = Known()
KNOWN = {
    "quick": Known(0.4, 100),
    "slow": Known(1.0, 90_000),
    "fair": Known(0.8, 2_000),
    "liar": Known(0.0, 1),
}


def past(author: str) -> Known:
    return KNOWN.get(author, NOTHING)


def fact(kind: FactKind, author: str, body: object, seq: int = 1) -> Fact:
    return Fact(kind=kind, author=author, seq=seq, ts=PUBLISHED_S, body=body, envelope=f"e-{body.id}")  # type: ignore[arg-type, attr-defined]


def bid(worker: str, price: int, at_s: int = PUBLISHED_S) -> Fact:
    body = Bid(id=f"b-{worker}-{price}", seed_id="s", bidder=worker, price=price, created_at=at_s)
    return fact(FactKind.BID, worker, body)


def record(*bids: Fact, seed: Seed = SEED) -> Record:
    ordered = sorted(bids, key=lambda each: (each.body.created_at or 0, each.key))
    return Record(seed=fact(FactKind.SEED, "me", seed), bids=tuple(ordered))


def forfeited(before: Record, worker: str, *, began: bool, by_word: bool, at_s: int = PUBLISHED_S) -> Record:
    """The same after a forfeit of ``worker``'s attempt: by its own word, or by the deadline."""
    attempt = before.progress.attempt if before.progress.status is SeedStatus.OPEN else before.progress.attempt + 1
    claim = fact(
        FactKind.CLAIM,
        "me",
        Claim(id=f"c{attempt}", seed_id="s", bid_id="b", worker=worker, created_at=at_s, attempt=attempt),
    )
    facts = [claim]
    named = claim.envelope
    if began:
        run = Run(id=f"r{attempt}", seed_id="s", claim_id=f"c{attempt}", worker=worker, created_at=at_s)
        facts.append(fact(FactKind.STARTED, worker, run))
    if by_word:
        cause = Termination(cause="cancelled" if began else "refused")
        answer = TaskResult(
            id=f"t{attempt}",
            seed_id="s",
            worker=worker,
            exit_code=126,
            timed_out=False,
            output_hash="",
            duration_ms=0,
            claim_id=f"c{attempt}",
            termination=cause,
            failed="worker",
        )
        facts.append(fact(FactKind.RESULT, worker, answer))
        named = facts[-1].envelope
    forfeit = Settlement(
        id=f"f{attempt}",
        seed_id="s",
        outcome=SeedStatus.FORFEITED,
        attempt=attempt,
        created_at=at_s,
        rests_on=named,
    )
    facts.append(fact(FactKind.FORFEIT, "me", forfeit))
    progress = Progress(status=SeedStatus.FORFEITED, attempt=attempt, settled_at=at_s)
    return replace(before, others=(*before.others, *facts), progress=progress)


ALL = (bid("slow", 1), bid("quick", 9, PUBLISHED_S + 1), bid("fair", 5, PUBLISHED_S + 2), bid("new", 3), bid("liar", 2))


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        (AwardRule.CHEAPEST, "slow"),
        (AwardRule.FASTEST, "liar"),
        (AwardRule.BEST_HISTORY, "slow"),
        (AwardRule.FIRST, "liar"),  # of those of the same second, the lowest id
    ],
)
def test_the_rule_decides_among_the_bids_that_fit(rule: AwardRule, chosen: str) -> None:
    found = award(record(*ALL), Terms(award=rule), past, PUBLISHED_MS + 10_000)
    assert isinstance(found, Bid)
    assert found.bidder == chosen


@pytest.mark.parametrize(
    ("workers", "order"),
    [
        (("new", "liar"), ["new", "liar"]),  # nobody knows the one, and the other has only been rejected
        (("new", "fair"), ["fair", "new"]),
    ],
)
def test_a_newcomer_is_trusted_less_than_a_good_worker_and_more_than_a_bad_one(
    workers: tuple[str, ...], order: list[str]
) -> None:
    terms = Terms(award=AwardRule.BEST_HISTORY)
    bids = [bid(worker, 3) for worker in workers]
    found = award(record(*bids), terms, past, PUBLISHED_MS + 10_000)
    assert isinstance(found, Bid)
    assert found.bidder == order[0]


@pytest.mark.parametrize(
    ("terms", "chosen"),
    [
        (replace(CHEAPEST, price_max=1), "slow"),
        (replace(CHEAPEST, worker="fair"), "fair"),
        (replace(CHEAPEST, worker="fair", price_max=5), "fair"),
        (replace(CHEAPEST, shunned=("slow", "liar")), "new"),
        (replace(CHEAPEST, price_max=0), Reason.NO_BID_FITS),
        (replace(CHEAPEST, worker="fair", price_max=4), Reason.NO_BID_FITS),
        (replace(CHEAPEST, worker="nobody"), Reason.NO_BID_FITS),
        (replace(CHEAPEST, tries_before=3), Reason.ATTEMPTS_EXHAUSTED),
        (replace(CHEAPEST, award=None), Reason.WRONG_STATE),
    ],
)
@pytest.mark.parametrize("over", [False, True])
def test_terms(terms: Terms, chosen: str | Reason, over: bool) -> None:
    found = award(record(*ALL), terms, past, LAST_MS if over else PUBLISHED_MS + 10_000)
    if isinstance(found, Bid):
        assert found.bidder == chosen
    elif isinstance(found, Wait):
        assert found.reason is chosen
        assert (not over and found.until_ms == LAST_MS) or terms.award is None
    else:
        assert found.reason is chosen
        assert over or chosen is Reason.ATTEMPTS_EXHAUSTED


def test_what_is_too_dear_is_named() -> None:
    found = award(record(*ALL), replace(CHEAPEST, price_max=0), past, LAST_MS)
    assert found == Declined(Reason.NO_BID_FITS, "the cheapest bid is 1, above the highest price 0", 1)


def test_nobody_with_whom_no_deals_are_made() -> None:
    found = award(record(*ALL), CHEAPEST, past, PUBLISHED_MS + 10_000, denies=lambda author: author == "slow")
    assert isinstance(found, Bid)
    assert found.bidder == "liar"


@pytest.mark.parametrize(
    ("terms", "seed", "until_ms"),
    [
        (FIRST, SEED, None),
        (replace(CHEAPEST, bid_wait_ms=7_000), SEED, PUBLISHED_MS + 7_250),
        (replace(CHEAPEST, bid_wait_ms=0), SEED, None),
        (replace(CHEAPEST, bid_wait_ms=10**9), SEED, LAST_MS),
        (replace(CHEAPEST, worker="slow"), SEED, None),  # no better one can come
        (CHEAPEST, replace(SEED, max_bids=5), None),
        (CHEAPEST, replace(SEED, max_bids=6), PUBLISHED_MS + 2_250),
    ],
)
def test_bids_are_collected_for_a_while(terms: Terms, seed: Seed, until_ms: int | None) -> None:
    now_ms = PUBLISHED_MS + 300
    found = award(record(*ALL, seed=seed), terms, past, now_ms, published_ms=PUBLISHED_MS + 250)
    if until_ms is None:
        assert isinstance(found, Bid)
        return
    assert found == Wait(Reason.NOT_DUE, until_ms)
    after = award(record(*ALL, seed=seed), terms, past, until_ms, published_ms=PUBLISHED_MS + 250)
    assert isinstance(after, Bid)


def test_without_bids_it_waits_until_none_can_come_any_more() -> None:
    assert bids_until_ms(SEED) == LAST_MS
    assert award(record(), FIRST, past, PUBLISHED_MS) == Wait(Reason.NO_BIDS, LAST_MS)
    assert award(record(), FIRST, past, LAST_MS - 1) == Wait(Reason.NO_BIDS, LAST_MS)
    assert award(record(), FIRST, past, LAST_MS) == Declined(Reason.NO_BIDS, "no worker has bid")


def test_bids_may_be_claimed_until_the_claim_deadline() -> None:
    at_ms = (PUBLISHED_S + 600) * 1_000
    assert isinstance(award(record(*ALL), FIRST, past, at_ms + 999), Bid)
    late = award(record(*ALL), FIRST, past, at_ms + 1_000)
    assert isinstance(late, Declined)
    assert late.reason is Reason.DEADLINE_PASSED


@pytest.mark.parametrize(("began", "by_word"), [(True, True), (True, False), (False, True), (False, False)])
def test_after_a_forfeit(began: bool, by_word: bool) -> None:
    """A worker that began is out. One that never began comes last, after a pause if it said so itself (ADR 31)."""
    now_ms = PUBLISHED_MS + 20_000
    once = forfeited(record(bid("slow", 1), bid("new", 3)), "slow", began=began, by_word=by_word)
    found = award(once, CHEAPEST, past, now_ms)
    assert isinstance(found, Bid)
    assert found.bidder == "new"
    twice = forfeited(once, "new", began=True, by_word=True, at_s=PUBLISHED_S + 15)
    last = award(twice, CHEAPEST, past, now_ms)
    again_ms = PUBLISHED_MS + limits.RECLAIM_SAME_WORKER_MS
    if began:
        assert last == Wait(Reason.NO_BID_FITS, LAST_MS)
    else:
        assert last == Wait(Reason.NOT_DUE, again_ms)
        assert isinstance(award(twice, CHEAPEST, past, again_ms), Bid)


def test_tries_are_counted_over_all_seeds_of_a_purchase() -> None:
    terms = replace(CHEAPEST, tries_max=3, tries_before=1)
    before = record(*ALL)
    assert tries(before, terms) == 1
    once = forfeited(before, "slow", began=True, by_word=True)
    assert tries(once, terms) == 2
    assert isinstance(award(once, terms, past, PUBLISHED_MS + 10_000), Bid)
    twice = forfeited(once, "liar", began=True, by_word=True)
    assert tries(twice, terms) == 3
    exhausted = award(twice, terms, past, PUBLISHED_MS + 10_000)
    assert exhausted == Declined(Reason.ATTEMPTS_EXHAUSTED, "all 3 tries have failed")


WORKERS = ["quick", "slow", "fair", "liar", "new", "other"]
BIDS = st.lists(
    st.builds(bid, st.sampled_from(WORKERS), st.integers(0, 9), st.integers(PUBLISHED_S, PUBLISHED_S + WINDOW_S)),
    max_size=8,
    unique_by=lambda each: each.key,
)
TERMS = st.builds(
    Terms,
    award=st.sampled_from(AwardRule),
    bid_wait_ms=st.integers(0, 100_000),
    price_max=st.none() | st.integers(0, 9),
    worker=st.none() | st.sampled_from(WORKERS),
    tries_max=st.integers(1, 4),
    shunned=st.lists(st.sampled_from(WORKERS), max_size=2).map(tuple),
)
FAILED = st.lists(st.tuples(st.sampled_from(WORKERS), st.booleans(), st.booleans()), max_size=3)
NOW = st.integers(PUBLISHED_MS, PUBLISHED_MS + 700_000)


@given(BIDS, TERMS, FAILED, NOW, st.data())
def test_it_takes_only_what_the_terms_allow_and_always_ends(
    bids: list[Fact], terms: Terms, failed: list[tuple[str, bool, bool]], now_ms: int, data: st.DataObject
) -> None:
    whole = record(*bids)
    for worker, began, by_word in failed:
        whole = forfeited(whole, worker, began=began, by_word=by_word)
    found = award(whole, terms, past, now_ms, published_ms=PUBLISHED_MS)
    shuffled = replace(whole, others=tuple(data.draw(st.permutations(whole.others))))
    assert award(shuffled, terms, past, now_ms, published_ms=PUBLISHED_MS) == found
    for _ in range(4):
        if not isinstance(found, Wait):
            break
        assert found.until_ms is not None
        assert found.until_ms > now_ms
        now_ms = found.until_ms
        found = award(whole, terms, past, now_ms, published_ms=PUBLISHED_MS)
    assert not isinstance(found, Wait)
    if isinstance(found, Declined):
        return
    out = {worker for worker, began, _ in failed if began} | set(terms.shunned)
    assert found.id in {each.key for each in bids}
    assert found.bidder not in out
    assert terms.price_max is None or found.price <= terms.price_max
    assert terms.worker is None or found.bidder == terms.worker
    fresh = {each.author for each in bids} - out - {worker for worker, _, _ in failed}
    fits = [
        each.body.price
        for each in bids
        if isinstance(each.body, Bid) and each.author in fresh and terms.worker in {None, each.author}
    ]
    if terms.award is AwardRule.CHEAPEST and fits:
        assert found.price == min(fits)
