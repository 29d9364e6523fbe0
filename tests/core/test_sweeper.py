"""What time does to one's own seeds, on virtual time: forfeits, claims of the next bid, silent runs, withdrawals."""

from __future__ import annotations

from itertools import count

import pytest
from msgspec.structs import replace

from crabnet import limits
from crabnet.core.commands import CreateClaim, FinishRun, Operation, RenewRun, Settle, StartRun, SubmitBid, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects, Notice
from crabnet.domain.lifecycle import is_overdue, settlement_due_s
from crabnet.domain.model import Claim, FactKind, Failure, SeedStatus, Settlement, Termination, TerminationCause
from crabnet.errors import Reason, RefusedError
from crabnet.protocol.envelope import Kind
from tests.core.test_operations import WISH
from tests.sim.market import result
from tests.sim.world import START_MS, SimNode, World
from tests.support.envelopes import signer

GRACE_MS = 2_000
LEASE_MS = 60_000
S = SeedStatus


class Market:
    """A publisher and three workers who hear everything at once, and let time pass."""

    def __init__(self, *, auto_reclaim: bool = False, attempts_max: int = 3) -> None:
        self.world = World(1)
        config = CoreConfig(
            execution_grace_ms=GRACE_MS, auto_reclaim=auto_reclaim, reclaim_attempts_max=attempts_max, parked_ttl_s=20
        )
        self.publisher, self.cheap, self.middle, self.dear = (
            self.world.add(name, config) for name in ("publisher", "cheap", "middle", "dear")
        )
        self.workers = (self.cheap, self.middle, self.dear)
        for node in self.world.nodes.values():
            node.targets = [other for other in self.world.nodes if other != node.address]
            node.start()
        self.wait(GRACE_MS + 1_000)

    def wait(self, duration_ms: int) -> None:
        self.world.run(duration_ms)

    def publish(self, **changes: object) -> str:
        reply = self.publisher.operate(replace(WISH, **changes))
        self.wait(300)
        return reply.id  # type: ignore[union-attr]

    def bids(self, seed_id: str) -> dict[SimNode, str]:
        made = {}
        for price, worker in enumerate(self.workers, 3):
            made[worker] = worker.operate(SubmitBid(seed_id=seed_id, price=price)).id  # type: ignore[union-attr]
        self.wait(300)
        return made

    def claimed(self, worker: SimNode, **changes: object) -> str:
        seed_id = self.publish(**changes)
        bid_id = self.bids(seed_id)[worker]
        self.publisher.operate(CreateClaim(seed_id=seed_id, bid_id=bid_id))
        self.wait(300)
        return seed_id

    def status(self, seed_id: str) -> SeedStatus:
        """On which all nodes agree."""
        (status,) = {node.running.record(seed_id).progress.status for node in self.world.nodes.values()}
        return status

    def workers_of(self, seed_id: str) -> list[str]:
        """The names of the workers that were chosen, in the order of attempts."""
        names = {node.id: node.name for node in self.world.nodes.values()}
        facts = self.publisher.running.record(seed_id).others
        claims = [fact.body for fact in sorted(facts, key=lambda fact: fact.seq) if isinstance(fact.body, Claim)]
        return [names[claim.worker] for claim in claims]

    def told(self, kind: str) -> list[Notice]:
        return [notice for notice in self.publisher.notices if notice.kind == kind]


def test_a_result_that_is_not_settled_in_time_is_told_once_to_publisher_and_worker() -> None:
    market = Market()
    seed_id = market.claimed(market.cheap, settle_window_ms=60_000)
    market.cheap.operate(StartRun(seed_id=seed_id))
    market.cheap.operate(result(seed_id))
    market.wait(59_000)
    assert market.told("settlement_overdue") == []
    market.wait(5_000)
    (alert,) = market.told("settlement_overdue")
    (warning,) = [notice for notice in market.cheap.notices if notice.kind == "settlement_missing"]
    assert alert.fields["seed_id"] == warning.fields["seed_id"] == seed_id
    assert alert.fields["worker"] == market.cheap.id
    assert warning.fields["publisher"] == market.publisher.id
    assert not [notice for notice in market.middle.notices if notice.kind.startswith("settlement_")]
    due = {settlement_due_s(node.running.record(seed_id)) for node in market.world.nodes.values()}
    assert due == {alert.fields["settle_by"]}, "every node derives the same"

    market.middle.operate(SubmitBid(seed_id=market.publish(), price=3))
    market.wait(60_000)
    market.publisher.operate(Settle(seed_id=seed_id, outcome=S.ACCEPTED))
    market.wait(1_000)
    assert len(market.told("settlement_overdue")) == 1
    assert not is_overdue(market.middle.running.record(seed_id), market.world.now_ms // 1000)


def test_a_result_in_which_the_worker_failed_is_never_overdue() -> None:
    market = Market()
    seed_id = market.claimed(market.cheap, settle_window_ms=1_000)
    market.cheap.operate(StartRun(seed_id=seed_id))
    market.cheap.operate(failure(seed_id, began=True))
    market.wait(10_000)
    assert market.told("settlement_overdue") == []


@pytest.mark.parametrize("started", [True, False])
def test_an_overdue_claim_is_forfeited_with_an_alert(started: bool) -> None:
    market = Market()
    seed_id = market.claimed(market.cheap)
    if started:
        market.cheap.operate(StartRun(seed_id=seed_id, lease_ms=LEASE_MS))
    market.wait(10_000)
    assert market.status(seed_id) is (S.RUNNING if started else S.CLAIMED)
    market.wait(GRACE_MS + 1_000)
    assert market.status(seed_id) is S.FORFEITED
    (alert,) = market.told("claim_overdue")
    assert alert.fields["seed_id"] == seed_id
    assert alert.fields["worker"] == market.cheap.id
    assert alert.fields["status_before"] == ("Running" if started else "Claimed")


def test_a_deadline_within_a_second_is_not_missed_for_want_of_grace() -> None:
    """Forfeits are dated in whole seconds: what is due at half past a second can be stated in the next one."""
    world = World(2)
    publisher = world.add("publisher", CoreConfig(execution_grace_ms=0))
    publisher.start()
    seed_id = publisher.operate(replace(WISH, exec_deadline_ms=1_500)).id  # type: ignore[union-attr]
    bid_id = publisher.operate(SubmitBid(seed_id=seed_id, price=3)).id  # type: ignore[union-attr]
    publisher.operate(CreateClaim(seed_id=seed_id, bid_id=bid_id))
    world.run(3_000)
    assert publisher.running.record(seed_id).progress.status is S.FORFEITED
    assert [notice for notice in publisher.notices if notice.kind == "command_refused"] == []


def test_after_a_restart_results_that_are_under_way_have_a_grace_to_arrive() -> None:
    market = Market()
    seed_id = market.claimed(market.cheap)
    market.publisher.crash()
    market.cheap.operate(result(seed_id))
    market.wait(60_000)
    market.publisher.start(feed_risk=False)
    assert market.publisher.running.overdue_at_start == 1
    market.wait(GRACE_MS * 3)
    assert market.status(seed_id) is S.DONE
    assert market.told("claim_overdue") == []


def test_the_next_best_bid_is_claimed_and_the_same_worker_only_when_there_is_no_other() -> None:
    market = Market(auto_reclaim=True, attempts_max=4)
    seed_id = market.claimed(market.middle)
    market.wait(3 * (10_000 + GRACE_MS + 2_000))
    assert market.workers_of(seed_id) == ["middle", "cheap", "dear", "cheap"]
    assert [notice.fields["attempt"] for notice in market.told("seed_reclaimed")] == [2, 3, 4]
    market.wait(30_000)
    assert market.status(seed_id) is S.FORFEITED
    assert len(market.workers_of(seed_id)) == 4


def test_without_the_setting_the_operator_chooses() -> None:
    market = Market()
    seed_id = market.claimed(market.middle)
    market.wait(30_000)
    assert market.status(seed_id) is S.FORFEITED
    assert market.workers_of(seed_id) == ["middle"]


def test_a_forfeit_by_the_operator_is_followed_by_a_claim_too() -> None:
    market = Market(auto_reclaim=True)
    seed_id = market.claimed(market.cheap)
    market.wait(10_500)
    market.publisher.operate(Settle(seed_id=seed_id, outcome=S.FORFEITED))
    market.wait(1_000)
    assert market.workers_of(seed_id) == ["cheap", "middle"]


def test_a_crash_between_forfeit_and_claim_is_made_good() -> None:
    market = Market(auto_reclaim=True)
    seed_id = market.claimed(market.cheap)
    market.wait(10_500)
    market.publisher.operate(Settle(seed_id=seed_id, outcome=S.FORFEITED))
    market.publisher.sync()
    market.publisher.crash()
    market.publisher.start()
    market.wait(1_000)
    assert market.workers_of(seed_id) == ["cheap", "middle"]


def test_a_forfeited_seed_that_nobody_else_wants_is_closed_in_the_end() -> None:
    market = Market()
    seed_id = market.claimed(market.cheap, claim_window_ms=20_000)
    market.wait(10_000 + GRACE_MS + 1_000)
    assert market.status(seed_id) is S.FORFEITED
    market.wait(90_000)
    assert market.status(seed_id) is S.EXPIRED


def test_a_silent_run_is_told_once_and_a_renewed_one_not_at_all() -> None:
    market = Market()
    seed_id = market.claimed(market.cheap, timeout_ms=600_000, exec_deadline_ms=700_000)
    market.cheap.operate(StartRun(seed_id=seed_id, lease_ms=LEASE_MS))
    for _ in range(5):
        market.wait(LEASE_MS // 2)
        market.cheap.operate(RenewRun(seed_id=seed_id, lease_ms=LEASE_MS))
    market.wait(300)
    assert market.told("run_silent") == []
    assert len(market.told("run_renewed")) == 5
    assert market.publisher.running.record(seed_id).progress.renewals == 5
    market.wait(LEASE_MS - 2_000)
    assert market.told("run_silent") == []
    market.wait(3_000)
    (alert,) = market.told("run_silent")
    assert (alert.fields["seed_id"], alert.fields["lease_ms"]) == (seed_id, LEASE_MS)
    assert LEASE_MS <= int(str(alert.fields["duration_ms"])) < LEASE_MS + 2_000
    market.cheap.operate(RenewRun(seed_id=seed_id, lease_ms=LEASE_MS))
    market.wait(3 * LEASE_MS)
    assert len(market.told("run_silent")) == 1
    market.cheap.operate(result(seed_id))
    market.wait(1_000)
    assert market.status(seed_id) is S.DONE


def test_a_run_without_a_lease_is_never_silent() -> None:
    market = Market()
    seed_id = market.claimed(market.cheap, timeout_ms=600_000, exec_deadline_ms=700_000)
    market.cheap.operate(StartRun(seed_id=seed_id))
    market.wait(300_000)
    assert market.told("run_silent") == []


def test_strangers_who_renew_change_nothing() -> None:
    market = Market()
    seed_id = market.claimed(market.cheap, timeout_ms=600_000, exec_deadline_ms=700_000)
    market.cheap.operate(StartRun(seed_id=seed_id, lease_ms=LEASE_MS))
    with pytest.raises(RefusedError) as caught:
        market.dear.operate(RenewRun(seed_id=seed_id, lease_ms=LEASE_MS))
    assert caught.value.reason is Reason.UNAUTHORISED


@pytest.mark.parametrize("started", [True, False])
def test_a_withdrawal_ends_the_claim_and_a_late_result_is_void_everywhere(started: bool) -> None:
    market = Market()
    seed_id = market.claimed(market.cheap)
    if started:
        market.cheap.operate(StartRun(seed_id=seed_id))
        market.wait(300)
    market.world.partition([market.publisher], list(market.workers))
    market.publisher.operate(Settle(seed_id=seed_id, outcome=S.EXPIRED, note="withdrawn"))
    late: FinishRun = result(seed_id)
    market.cheap.operate(late)
    market.wait(2_000)
    assert market.dear.running.record(seed_id).progress.status is S.DONE
    market.world.partition()
    market.wait(10_000)
    assert market.status(seed_id) is S.EXPIRED
    for node in market.world.nodes.values():
        kinds = [fact.kind for fact in node.running.record(seed_id).others]
        assert kinds.count(FactKind.CLOSE) == 1
        assert not {FactKind.RESULT, FactKind.STARTED} & set(kinds)
    assert len(market.world.hashes()) == 1


def test_what_has_a_result_is_settled_and_not_withdrawn() -> None:
    market = Market()
    seed_id = market.claimed(market.cheap)
    market.cheap.operate(result(seed_id))
    market.wait(300)
    with pytest.raises(RefusedError) as caught:
        market.publisher.operate(Settle(seed_id=seed_id, outcome=S.EXPIRED))
    assert caught.value.reason is Reason.WRONG_STATE
    market.publisher.operate(Settle(seed_id=seed_id, outcome=S.ACCEPTED))
    market.wait(300)
    assert market.status(seed_id) is S.ACCEPTED


def test_time_passes_for_nobody_but_the_creator() -> None:
    market = Market()
    seed_id = market.claimed(market.cheap)
    market.publisher.crash()
    market.wait(3_600_000 // 10)
    for worker in market.workers:
        assert worker.running.record(seed_id).progress.status is S.CLAIMED
        worker.give(Tick())


# --- a worker that says that it failed (ADR 31) -----------------------------------------------------------


def failure(seed_id: str, *, began: bool) -> FinishRun:
    """What a worker states that could not do it: before the command began, or after that."""
    cause = TerminationCause.CANCELLED if began else TerminationCause.REFUSED
    refusal = None if began else Reason.WORKDIR_MISSING
    said = "" if began else "refused: workdir_missing: the disk\x1b is\nfull\n"
    return replace(
        result(seed_id),
        failed=Failure.WORKER,
        exit_code=126,
        stderr=said,
        refusal=refusal,
        termination=Termination(cause=cause),
    )


def fail(market: Market, worker: SimNode, seed_id: str, *, began: bool) -> None:
    if began:
        worker.operate(StartRun(seed_id=seed_id, lease_ms=LEASE_MS))
        market.wait(300)
    worker.operate(failure(seed_id, began=began))
    market.wait(1_000)


@pytest.mark.parametrize("began", [True, False])
def test_a_worker_that_failed_loses_the_claim_at_once(began: bool) -> None:
    market = Market()
    seed_id = market.claimed(market.cheap)
    fail(market, market.cheap, seed_id, began=began)
    assert market.status(seed_id) is S.FORFEITED
    (warning,) = market.told("worker_failed")
    assert warning.fields["worker"] == market.cheap.id
    reason = "cancelled" if began else "refused: workdir_missing: the disk\x1b is full"
    assert market.publisher.running.record(seed_id).progress.note == f"the worker failed: {reason}"
    assert market.told("claim_overdue") == []


@pytest.mark.parametrize("began", [True, False])
def test_the_next_bid_is_claimed_at_once(began: bool) -> None:
    market = Market(auto_reclaim=True)
    seed_id = market.claimed(market.cheap)
    fail(market, market.cheap, seed_id, began=began)
    assert market.status(seed_id) is S.CLAIMED
    assert market.workers_of(seed_id) == ["cheap", "middle"]


def test_a_worker_that_began_is_never_chosen_again() -> None:
    market = Market(auto_reclaim=True, attempts_max=10)
    seed_id = market.claimed(market.cheap)
    for worker in market.workers:
        fail(market, worker, seed_id, began=True)
    assert market.workers_of(seed_id) == ["cheap", "middle", "dear"]
    market.wait(120_000)
    assert market.status(seed_id) is S.FORFEITED
    assert market.workers_of(seed_id) == ["cheap", "middle", "dear"]


def test_a_worker_that_never_began_is_chosen_again_after_a_pause() -> None:
    market = Market(auto_reclaim=True, attempts_max=10)
    seed_id = market.claimed(market.cheap)
    for worker, began in ((market.cheap, False), (market.middle, True), (market.dear, True)):
        fail(market, worker, seed_id, began=began)
    assert market.status(seed_id) is S.FORFEITED
    market.wait(limits.RECLAIM_SAME_WORKER_MS)
    assert market.status(seed_id) is S.CLAIMED
    assert market.workers_of(seed_id) == ["cheap", "middle", "dear", "cheap"]


def test_a_worker_that_began_and_fell_silent_is_not_chosen_again() -> None:
    market = Market(auto_reclaim=True, attempts_max=10)
    seed_id = market.claimed(market.cheap)
    for worker in market.workers:
        worker.operate(StartRun(seed_id=seed_id, lease_ms=LEASE_MS))
        market.wait(10_000 + GRACE_MS + 2_000)
    assert market.status(seed_id) is S.FORFEITED
    market.wait(60_000)
    assert market.workers_of(seed_id) == ["cheap", "middle", "dear"]


def test_a_claim_of_another_bid_forfeits_first() -> None:
    """An operator need not wait for the node: in a one-shot command no time passes."""
    numbers = count(1)
    core, effects = Core(CoreConfig(), signer("alone"), lambda: next(numbers)), Effects()

    def operate(wish: Operation) -> str:
        core.handle(wish, START_MS, effects)
        return getattr(effects.reply, "id", "")

    seed_id = operate(WISH)
    first, second = (operate(SubmitBid(seed_id=seed_id, price=price)) for price in (3, 4))
    operate(CreateClaim(seed_id=seed_id, bid_id=first))
    operate(failure(seed_id, began=False))
    assert core.record(seed_id).progress.status is S.DONE
    operate(CreateClaim(seed_id=seed_id, bid_id=second))
    progress = core.record(seed_id).progress
    assert (progress.status, progress.attempt) == (S.CLAIMED, 2)
    assert [send.kind for send in effects.sends][-2:] == [Kind.TASK_SETTLE, Kind.CLAIM_CREATED]
    notes = [fact.body.note for fact in core.record(seed_id).others if isinstance(fact.body, Settlement)]
    assert notes == ["the worker failed: refused: workdir_missing: the disk\x1b is full"]


def test_an_operator_may_choose_a_worker_that_began_once_more() -> None:
    market = Market()
    seed_id = market.publish()
    bids = market.bids(seed_id)
    for _ in range(2):
        market.publisher.operate(CreateClaim(seed_id=seed_id, bid_id=bids[market.cheap]))
        market.wait(300)
        fail(market, market.cheap, seed_id, began=True)
    assert market.workers_of(seed_id) == ["cheap", "cheap"]


@pytest.mark.parametrize("outcome", [S.ACCEPTED, S.REJECTED])
def test_an_operator_cannot_settle_it(outcome: SeedStatus) -> None:
    market = Market()
    seed_id = market.claimed(market.cheap)
    market.publisher.crash()
    market.cheap.operate(failure(seed_id, began=False))
    market.wait(1_000)
    market.publisher.start(feed_risk=False)
    market.wait(5_000)
    with pytest.raises(RefusedError) as caught:
        market.publisher.operate(Settle(seed_id=seed_id, outcome=outcome))
    assert caught.value.reason is Reason.WRONG_STATE
    assert market.status(seed_id) is S.FORFEITED
