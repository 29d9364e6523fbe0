"""Purchases on virtual time: what a node does by itself with tasks of its own, whatever happens in between."""

from __future__ import annotations

from itertools import count

import pytest
from msgspec.structs import replace

from crabnet import limits
from crabnet.core.commands import (
    ChangeTerms,
    Checked,
    FinishRun,
    Input,
    Settle,
    StartRun,
    SubmitBid,
    Tick,
)
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import CheckOrder, Effects, Notice
from crabnet.core.replica.records import PurchaseRecord
from crabnet.domain.acceptance import Acceptance
from crabnet.domain.model import FactKind, Failure, Seed, SeedStatus, Termination, TerminationCause
from crabnet.domain.record import Record
from crabnet.errors import Reason, RefusedError
from crabnet.market.policies import Accepting, AwardRule, CheckOutcome, Terms
from tests.core.test_operations import WISH
from tests.sim.market import result
from tests.sim.world import START_MS, SimNode, World
from tests.support.envelopes import signer

GRACE_MS = 2_000
S = SeedStatus
FIRST = Terms(award=AwardRule.FIRST)
CHEAPEST = Terms(bid_wait_ms=5_000)


class Market:
    """A buyer and three workers who hear everything at once."""

    def __init__(self, **settings: object) -> None:
        self.world = World(1)
        config = CoreConfig(execution_grace_ms=GRACE_MS, parked_ttl_s=20)
        self.buyer = self.world.add("buyer", replace(config, **settings))
        self.cheap, self.middle, self.dear = (self.world.add(name, config) for name in ("cheap", "middle", "dear"))
        self.prices = {self.cheap: 3, self.middle: 4, self.dear: 5}
        for node in self.world.nodes.values():
            node.targets = [other for other in self.world.nodes if other != node.address]
            node.start()
        self.wait(GRACE_MS + 1_000)

    def wait(self, duration_ms: int = 500) -> None:
        self.world.run(duration_ms, tick_ms=100 if duration_ms <= 1_000 else 500)

    def publish(self, terms: Terms | None, **changes: object) -> str:
        reply = self.buyer.operate(replace(WISH, terms=terms, **changes))
        assert isinstance(reply, Seed)
        self.wait()
        return reply.id

    def bid(self, seed_id: str, *workers: SimNode) -> None:
        for worker in workers:
            worker.operate(SubmitBid(seed_id=seed_id, price=self.prices[worker]))
        self.wait()

    def do(self, worker: SimNode, seed_id: str, exit_code: int = 0, failed: Failure | None = None) -> None:
        worker.operate(StartRun(seed_id=seed_id, lease_ms=60_000))
        self.wait()
        cause = TerminationCause.CANCELLED if failed else TerminationCause.EXITED
        wish = replace(result(seed_id), exit_code=exit_code, failed=failed, termination=Termination(cause=cause))
        worker.operate(wish)
        self.wait(1_000)

    def record(self, seed_id: str) -> Record:
        return self.buyer.running.record(seed_id)

    def status(self, seed_id: str) -> SeedStatus:
        return self.record(seed_id).progress.status

    def worker(self, seed_id: str) -> str | None:
        names = {node.id: node.name for node in self.world.nodes.values()}
        claimed_by = self.record(seed_id).progress.claimed_by
        return None if claimed_by is None else names[claimed_by]

    def is_open(self, seed_id: str) -> bool:
        return self.buyer.running.replica.purchases.get(seed_id) is not None

    def follower(self, seed_id: str) -> str:
        follower = self.buyer.running.trading.follower(seed_id)
        assert follower is not None
        return follower

    def told(self, kind: str) -> list[Notice]:
        return [notice for notice in self.buyer.notices if notice.kind == kind]

    def restart(self) -> None:
        self.buyer.sync()
        self.buyer.crash()
        self.wait(1_000)
        self.buyer.start()
        self.wait(1_000)


def test_the_first_bid_is_claimed_at_once_and_its_result_accepted() -> None:
    market = Market()
    seed_id = market.publish(FIRST)
    market.bid(seed_id, market.dear)
    assert market.worker(seed_id) == "dear"
    market.do(market.dear, seed_id, exit_code=7)
    assert market.status(seed_id) is S.ACCEPTED
    assert not market.is_open(seed_id)
    assert {notice.fields.get("auto") for notice in market.told("seed_changed")} == {True}
    (awarded,), (judged,) = market.told("bid_awarded"), market.told("result_judged")
    assert awarded.fields["rule"] == "first"
    assert (judged.fields["judgement"], judged.fields["status"], judged.fields["reason"]) == (
        "ask", "Accepted", "no_conditions",
    )  # fmt: skip


def test_bids_are_collected_before_the_cheapest_is_chosen() -> None:
    market = Market()
    seed_id = market.publish(CHEAPEST)
    market.bid(seed_id, market.dear)
    market.wait(3_000)
    market.bid(seed_id, market.cheap)
    assert market.status(seed_id) is S.OPEN
    market.wait(1_500)
    assert market.worker(seed_id) == "cheap"


def test_after_the_time_for_bids_the_first_that_comes_is_taken() -> None:
    market = Market()
    seed_id = market.publish(CHEAPEST)
    market.wait(10_000)
    market.bid(seed_id, market.dear)
    assert market.worker(seed_id) == "dear"


@pytest.mark.parametrize(
    ("terms", "chosen"),
    [
        (replace(CHEAPEST, price_max=2), None),
        (replace(CHEAPEST, price_max=4), "cheap"),
        (replace(FIRST, price_max=4), "middle"),
        (replace(CHEAPEST, worker="{dear}"), "dear"),
        (replace(FIRST, award=None), None),
    ],
)
def test_terms_say_which_bid_fits(terms: Terms, chosen: str | None) -> None:
    market = Market()
    if terms.worker is not None:
        terms = replace(terms, worker=market.dear.id)
    seed_id = market.publish(terms)
    for worker in (market.dear, market.middle, market.cheap):
        if market.status(seed_id) is S.OPEN:
            market.bid(seed_id, worker)
    market.wait(6_000)
    assert market.worker(seed_id) == chosen


@pytest.mark.parametrize(("prices", "reason"), [((), "no_bids"), ((3,), "no_bid_fits")])
def test_a_purchase_without_a_bid_that_fits_ends_with_the_bid_window(prices: tuple[int, ...], reason: str) -> None:
    market = Market()
    seed_id = market.publish(replace(FIRST, price_max=2), bid_window_ms=8_000)
    for _ in prices:
        market.bid(seed_id, market.cheap)
    market.wait(7_000)
    assert market.status(seed_id) is S.OPEN
    market.wait(limits.BID_LATE_MS + 3_000)
    assert market.status(seed_id) is S.EXPIRED
    assert market.record(seed_id).progress.note.startswith(f"{reason}: ")
    assert [notice.fields["reason"] for notice in market.told("purchase_given_up")] == [reason]
    assert not market.is_open(seed_id)


def test_after_a_forfeit_the_next_bid_is_claimed_until_no_try_is_left() -> None:
    market = Market()
    seed_id = market.publish(replace(FIRST, tries_max=2))
    market.bid(seed_id, market.cheap)
    assert market.worker(seed_id) == "cheap"
    market.do(market.cheap, seed_id, failed=Failure.WORKER)
    assert market.status(seed_id) is S.FORFEITED
    market.bid(seed_id, market.dear)
    assert market.worker(seed_id) == "dear"
    market.do(market.dear, seed_id, failed=Failure.WORKER)
    assert market.status(seed_id) is S.EXPIRED
    assert market.record(seed_id).progress.note.startswith("attempts_exhausted: ")
    assert not market.is_open(seed_id)


def test_a_forfeited_task_without_further_bids_is_published_again() -> None:
    market = Market()
    seed_id = market.publish(FIRST, bid_window_ms=5_000)
    market.bid(seed_id, market.cheap)
    market.do(market.cheap, seed_id, failed=Failure.WORKER)
    market.wait(10_000)
    again = market.follower(seed_id)
    seed = market.record(again).definition
    assert seed is not None
    assert (seed.follows, seed.command) == (seed_id, WISH.command)
    assert market.status(seed_id) is S.EXPIRED
    assert not market.is_open(seed_id)
    market.bid(again, market.cheap, market.middle)
    assert market.worker(again) == "middle"
    market.do(market.middle, again)
    assert market.status(again) is S.ACCEPTED


def test_a_rejected_result_is_followed_by_another_try_with_another_worker() -> None:
    market = Market()
    seed_id = market.publish(replace(FIRST, tries_max=2), acceptance=Acceptance(exit_code=0))
    market.bid(seed_id, market.cheap)
    market.do(market.cheap, seed_id, exit_code=1)
    assert market.status(seed_id) is S.REJECTED
    assert market.record(seed_id).progress.note.startswith("exit_code_differs: ")
    again = market.follower(seed_id)
    assert not market.is_open(seed_id)
    market.bid(again, market.cheap)
    assert market.status(again) is S.OPEN
    market.bid(again, market.dear)
    assert market.worker(again) == "dear"
    market.do(market.dear, again, exit_code=1)
    assert market.status(again) is S.REJECTED
    assert market.buyer.running.trading.follower(again) is None
    assert not market.is_open(again)
    assert market.told("purchase_ended")[-1].fields["reason"] == "attempts_exhausted"


@pytest.mark.parametrize("power", [False, pytest.param(True, marks=pytest.mark.deep)])
@pytest.mark.parametrize(
    "stage",
    [
        "retried",
        *(
            pytest.param(stage, marks=pytest.mark.deep)
            for stage in ("checkpoint", "published", "bid", "claimed", "running", "done", "rejected")
        ),
    ],
)
def test_a_restart_at_any_stage_changes_nothing(stage: str, power: bool) -> None:
    market = Market()
    buyer = market.buyer
    acceptance = Acceptance(exit_code=0)

    def pass_stage(name: str) -> None:
        if name != stage:
            return
        market.wait()
        if power:
            buyer.sync()
        buyer.crash(power=power)
        market.wait(1_000)
        buyer.start()
        market.wait(1_000)

    buyer.takes_turns = stage != "rejected"  # it has none between the rejection and the crash
    seed_id = market.publish(CHEAPEST, acceptance=acceptance)
    if stage == "checkpoint":
        buyer.checkpoint()
    pass_stage("checkpoint")
    pass_stage("published")
    market.bid(seed_id, market.cheap)
    pass_stage("bid")
    market.wait(6_000)
    assert market.worker(seed_id) == "cheap"
    pass_stage("claimed")
    market.cheap.operate(StartRun(seed_id=seed_id, lease_ms=60_000))
    pass_stage("running")
    if stage == "done":
        buyer.crash()
    market.cheap.operate(replace(result(seed_id), exit_code=1))
    if stage == "done":
        market.wait(1_000)
        buyer.start()
    if stage == "rejected":  # the rejection is durable, and the next try is not
        while market.status(seed_id) is not S.REJECTED:
            market.wait(100)
        assert buyer.running.trading.follower(seed_id) is None
        buyer.sync()
        buyer.crash(power=power)
        market.wait(500)
        buyer.start()
    market.wait(5_000)
    assert market.status(seed_id) is S.REJECTED
    again = market.follower(seed_id)
    pass_stage("retried")
    market.bid(again, market.cheap, market.dear)
    market.wait(6_000)
    assert market.worker(again) == "dear"
    market.do(market.dear, again)
    market.wait(1_000)
    assert market.status(again) is S.ACCEPTED
    assert not market.is_open(again)
    followers = [
        record
        for record in buyer.running.replica.state.records.values()
        if record.definition is not None and record.definition.follows
    ]
    assert len(followers) == 1
    for one in (seed_id, again):
        kinds = [fact.kind for fact in market.record(one).others]
        assert kinds.count(FactKind.CLAIM) == kinds.count(FactKind.SETTLE) == 1


def test_a_buyer_that_was_away_from_the_claim_to_long_after_the_deadline_judges_what_came() -> None:
    market = Market()
    seed_id = market.publish(FIRST)
    market.bid(seed_id, market.cheap)
    assert market.worker(seed_id) == "cheap"
    market.buyer.sync()
    market.buyer.crash()
    market.cheap.operate(StartRun(seed_id=seed_id, lease_ms=60_000))
    market.cheap.operate(result(seed_id))
    market.wait(60_000)
    assert market.buyer.now_ms > START_MS + 10_000 + GRACE_MS  # the execution deadline
    market.buyer.start()
    market.wait(5_000)
    assert market.status(seed_id) is S.ACCEPTED
    assert market.cheap.running.record(seed_id).progress.status is S.ACCEPTED


def test_a_buyer_that_was_away_until_the_bid_window_was_over_still_claims() -> None:
    market = Market()
    seed_id = market.publish(CHEAPEST)
    market.buyer.sync()
    market.buyer.crash()
    market.cheap.operate(SubmitBid(seed_id=seed_id, price=3))
    market.wait(70_000)
    market.buyer.start()
    market.wait(5_000)
    assert market.worker(seed_id) == "cheap"


def test_a_buyer_that_was_away_until_nothing_could_be_claimed_any_more_tries_again() -> None:
    market = Market()
    seed_id = market.publish(replace(FIRST, tries_max=2), bid_window_ms=5_000, claim_window_ms=10_000)
    market.bid(seed_id, market.cheap)
    market.do(market.cheap, seed_id, failed=Failure.WORKER)
    assert market.status(seed_id) is S.FORFEITED
    market.buyer.sync()
    market.buyer.crash()
    market.wait(30_000)
    market.buyer.start()
    market.wait(5_000)
    assert market.status(seed_id) is S.EXPIRED
    assert not market.is_open(seed_id)
    assert market.is_open(market.follower(seed_id))


def test_a_purchase_for_which_nothing_came_until_its_buyer_was_back_says_so() -> None:
    market = Market()
    seed_id = market.publish(CHEAPEST, bid_window_ms=5_000, claim_window_ms=10_000)
    market.buyer.sync()
    market.buyer.crash()
    market.wait(30_000)
    market.buyer.start()
    market.wait(5_000)
    (ended,) = market.told("purchase_ended")
    assert (ended.fields["status"], ended.fields["reason"]) == ("Expired", "deadline_passed")
    assert market.record(seed_id).progress.note == "deadline_passed: no bid was claimed in time"


@pytest.mark.parametrize(
    ("award", "settle", "acceptance", "status"),
    [
        (AwardRule.FIRST, Accepting.AUTO, None, S.ACCEPTED),
        (AwardRule.CHEAPEST, Accepting.CHECK, Acceptance(exit_code=0), S.ACCEPTED),
        (AwardRule.FIRST, Accepting.CHECK, Acceptance(exit_code=3), S.REJECTED),
        (AwardRule.FIRST, Accepting.CHECK, None, S.DONE),
        (AwardRule.FIRST, None, None, S.DONE),
        (None, Accepting.AUTO, None, S.OPEN),
    ],
)
def test_settings_stand_for_terms(
    award: AwardRule | None, settle: Accepting | None, acceptance: Acceptance | None, status: SeedStatus
) -> None:
    market = Market(auto_award=award, auto_settle=settle)
    seed_id = market.publish(None, acceptance=acceptance, reward=3)
    market.bid(seed_id, market.dear)
    market.wait(3_000)
    assert market.status(seed_id) is S.OPEN  # it costs more than the reward
    market.bid(seed_id, market.cheap)
    market.wait(3_000)
    if award is not None:
        market.do(market.cheap, seed_id)
    assert market.status(seed_id) is status
    assert market.buyer.running.trading.follower(seed_id) is None


def test_an_operator_may_take_over_and_give_back() -> None:
    market = Market()
    seed_id = market.publish(replace(FIRST, accept=Accepting.NEVER))
    market.bid(seed_id, market.cheap)
    market.do(market.cheap, seed_id)
    market.wait(20_000)
    assert market.status(seed_id) is S.DONE
    market.buyer.operate(ChangeTerms(seed_id=seed_id, terms=FIRST))
    market.wait()
    assert market.status(seed_id) is S.ACCEPTED
    with pytest.raises(RefusedError) as caught:
        market.buyer.operate(ChangeTerms(seed_id=seed_id, terms=FIRST))
    assert caught.value.reason is Reason.WRONG_STATE


def test_terms_can_be_given_to_a_task_that_has_none_and_to_no_other() -> None:
    market = Market()
    seed_id = market.publish(None)
    market.bid(seed_id, market.cheap)
    market.wait(10_000)
    assert market.status(seed_id) is S.OPEN
    with pytest.raises(RefusedError) as caught:
        market.cheap.operate(ChangeTerms(seed_id=seed_id, terms=FIRST))
    assert caught.value.reason is Reason.UNAUTHORISED
    market.buyer.operate(ChangeTerms(seed_id=seed_id, terms=FIRST))
    market.wait()
    assert market.worker(seed_id) == "cheap"
    market.restart()
    market.buyer.operate(ChangeTerms(seed_id=seed_id, terms=None))
    market.do(market.cheap, seed_id)
    market.wait(10_000)
    assert market.status(seed_id) is S.DONE


def test_a_withdrawn_purchase_is_over() -> None:
    market = Market()
    seed_id = market.publish(CHEAPEST)
    market.bid(seed_id, market.cheap)
    market.buyer.operate(Settle(seed_id=seed_id, outcome=S.EXPIRED, note="withdrawn"))
    market.wait(60_000)
    assert market.status(seed_id) is S.EXPIRED
    assert not market.is_open(seed_id)
    assert market.buyer.running.trading.follower(seed_id) is None


class Alone:
    """A core that buys from itself, without a network."""

    def __init__(self) -> None:
        numbers = count(1)
        self.core = Core(CoreConfig(), signer("alone"), lambda: next(numbers))
        self.now_ms = START_MS
        self.core.begin(self.now_ms, Effects())

    def give(self, given: Input) -> Effects:
        effects = Effects()
        self.core.handle(given, self.now_ms, effects)
        return effects

    def done(self, acceptance: Acceptance, finished: FinishRun | None = None, **terms: object) -> str:
        """A purchase with a result."""
        reply = self.give(replace(WISH, terms=replace(FIRST, **terms), acceptance=acceptance)).reply
        assert isinstance(reply, Seed)
        self.give(SubmitBid(seed_id=reply.id, price=3))
        self.give(Tick())
        self.give(replace(finished or result(""), seed_id=reply.id))
        return reply.id

    def status(self, seed_id: str) -> SeedStatus:
        return self.core.record(seed_id).progress.status


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (CheckOutcome(exit_code=0), S.ACCEPTED),
        (CheckOutcome(exit_code=1), S.REJECTED),
        (CheckOutcome(detail="it may not run here"), S.DONE),
    ],
)
def test_a_check_decides_once_its_outcome_is_known(outcome: CheckOutcome, status: SeedStatus) -> None:
    alone = Alone()
    seed_id = alone.done(Acceptance(check="grep good"), tries_max=1)
    effects = alone.give(Tick())
    record = alone.core.record(seed_id)
    result_id = record.progress.result_id or ""
    assert effects.checks == [CheckOrder(seed_id, result_id, "grep good")]
    assert alone.give(Tick()).checks == []
    assert alone.status(seed_id) is S.DONE
    alone.give(Checked(seed_id, "another result", CheckOutcome(exit_code=0)))
    assert alone.give(Tick()).checks == effects.checks
    alone.give(Checked(seed_id, result_id, outcome))
    alone.give(Tick())
    assert alone.status(seed_id) is status


def test_a_condition_that_fails_needs_no_check() -> None:
    alone = Alone()
    acceptance = Acceptance(exit_code=0, check="grep good")
    seed_id = alone.done(acceptance, replace(result(""), exit_code=1), tries_max=1)
    effects = alone.give(Tick())
    assert effects.checks == []
    assert alone.status(seed_id) is S.REJECTED


def test_a_node_has_at_most_so_many_purchases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PURCHASES_MAX", 1)
    alone = Alone()
    seed_id = alone.done(Acceptance(exit_code=0), replace(result(""), exit_code=1), tries_max=2)
    with pytest.raises(RefusedError) as caught:
        alone.give(replace(WISH, terms=FIRST))
    assert caught.value.reason is Reason.LIMIT_EXCEEDED
    for _ in range(3):  # another try takes the place of the one before
        alone.give(Tick())
    assert alone.status(seed_id) is S.REJECTED
    assert alone.core.trading.follower(seed_id) is not None
    assert len(alone.core.replica.purchases) == 1


def test_terms_of_a_task_that_is_unknown_are_dropped() -> None:
    """A crash may keep the terms without the task."""
    alone = Alone()
    alone.core.replica.purchases.put(PurchaseRecord("unknown", FIRST))
    alone.core.begin(alone.now_ms, Effects())
    alone.give(Tick())
    assert len(alone.core.replica.purchases) == 0
