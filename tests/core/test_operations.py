"""What the operator asks for: refusals leave nothing, deadlines are kept, runs are never repeated silently."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
from msgspec.structs import replace

from crabnet import limits
from crabnet.core.commands import (
    CreateClaim,
    Operation,
    Publish,
    Received,
    RenewRun,
    Settle,
    StartRun,
    SubmitBid,
    Tick,
)
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects, EndedClaim, Notice, RunOrder
from crabnet.core.replica.records import decode_frame, frame_of
from crabnet.domain.model import Bid, Claim, FactKind, Seed, SeedStatus, TaskResult, TerminationCause
from crabnet.errors import CrabnetError, Reason, RefusedError, UsageError
from tests.sim.market import result
from tests.support.envelopes import NOW_S, signer

WISH = Publish(title="t", command="true", timeout_ms=1_000, bid_window_ms=60_000, exec_deadline_ms=10_000, min_price=2)
GRACE_MS = 5_000


class Pair:
    """Two cores that hear everything the other says, at once, and a journal of each."""

    def __init__(self) -> None:
        self.now_ms = NOW_S * 1000
        self._numbers = count(1)
        self.cores: dict[str, Core] = {}
        self.journals: dict[str, list[bytes]] = {"creator": [], "worker": []}
        self.notices: list[Notice] = []
        self.on_the_way: list[tuple[str, bytes]] = []
        self.silent = False
        for name in self.journals:
            self.restart(name)

    def restart(self, name: str) -> Effects:
        """A new core from the journal."""
        core = Core(CoreConfig(execution_grace_ms=GRACE_MS), signer(name), lambda: next(self._numbers))
        for frame in self.journals[name]:
            for record in decode_frame(frame):
                core.replica.replay(record)
        self.cores[name] = core
        effects = Effects()
        core.begin(self.now_ms, effects)
        self._carry_out(name, effects)
        return effects

    def do(self, name: str, wish: Operation | Tick) -> Effects:
        """An input, and what follows from it."""
        effects = Effects()
        self.cores[name].handle(wish, self.now_ms, effects)
        self._carry_out(name, effects)
        return effects

    def _carry_out(self, name: str, effects: Effects) -> None:
        self.notices += effects.notices
        if effects.records:
            self.journals[name].append(frame_of(effects.records))
        self.on_the_way += [(other, send.data) for send in effects.sends for other in self.cores if other != name]
        if not self.silent:
            self.deliver()

    def deliver(self) -> None:
        """Everything that is on the way arrives; answers are not sent."""
        arriving, self.on_the_way = self.on_the_way, []
        for other, data in arriving:
            heard = Effects()
            self.cores[other].handle(Received("udp:192.0.2.1:9012", data), self.now_ms, heard)
            self.notices += heard.notices
            if heard.records:
                self.journals[other].append(frame_of(heard.records))

    def status(self, seed_id: str) -> str:
        """The status, on which both agree."""
        (status,) = {core.record(seed_id).progress.status.value for core in self.cores.values()}
        return status

    def publish(self, **changes: object) -> str:
        reply = self.do("creator", replace(WISH, **changes)).reply
        assert isinstance(reply, Seed)
        return reply.id

    def bid(self, seed_id: str, price: int = 3) -> str:
        reply = self.do("worker", SubmitBid(seed_id=seed_id, price=price)).reply
        assert isinstance(reply, Bid)
        return reply.id

    def claimed(self) -> tuple[str, str]:
        """A seed with two bids, one claimed; (seed, the other bid)."""
        seed_id = self.publish()
        bid_id, spare = self.bid(seed_id), self.bid(seed_id)
        reply = self.do("creator", CreateClaim(seed_id=seed_id, bid_id=bid_id)).reply
        assert isinstance(reply, Claim)
        return seed_id, spare


def test_the_whole_job_with_its_replies() -> None:
    pair = Pair()
    seed_id, _ = pair.claimed()
    order = pair.do("worker", StartRun(seed_id=seed_id)).reply
    assert isinstance(order, RunOrder)
    assert (order.seed_id, order.command, order.timeout_ms, order.attempt) == (seed_id, "true", 1_000, 1)
    reply = pair.do("worker", result(seed_id)).reply
    assert isinstance(reply, TaskResult)
    assert pair.status(seed_id) == "Done"
    pair.do("creator", Settle(seed_id=seed_id, outcome=SeedStatus.ACCEPTED, note="good"))
    assert pair.status(seed_id) == "Accepted"
    one, other = (core.replica.state_hash() for core in pair.cores.values())
    assert one == other


def acknowledgements(pair: Pair, seed_id: str) -> list[int]:
    """How many acknowledgements count in each node."""
    records = [core.record(seed_id) for core in pair.cores.values()]
    return [sum(fact.kind is FactKind.ACKNOWLEDGED for fact in record.others) for record in records]


@pytest.mark.parametrize("outcome", [SeedStatus.ACCEPTED, SeedStatus.REJECTED])
@pytest.mark.parametrize("restarts", [True, False])
def test_the_worker_acknowledges_a_settlement_once(outcome: SeedStatus, restarts: bool) -> None:
    pair = Pair()
    seed_id, _ = pair.claimed()
    pair.do("worker", result(seed_id))
    pair.do("creator", Settle(seed_id=seed_id, outcome=outcome))
    assert acknowledgements(pair, seed_id) == [0, 0]
    if restarts:
        pair.restart("worker")
    for _ in range(3):
        pair.do("creator", Tick())
        pair.do("worker", Tick())
        assert acknowledgements(pair, seed_id) == [1, 1]
    assert pair.status(seed_id) == outcome.value


@pytest.mark.parametrize("outcome", [SeedStatus.FORFEITED, SeedStatus.EXPIRED])
def test_what_is_no_settlement_is_not_acknowledged(outcome: SeedStatus) -> None:
    pair = Pair()
    seed_id, _ = pair.claimed()
    pair.now_ms += 60_000
    pair.do("creator", Settle(seed_id=seed_id, outcome=outcome))
    pair.do("worker", Tick())
    assert acknowledgements(pair, seed_id) == [0, 0]


Refusal = tuple[str, Callable[[str, str], Operation], type[CrabnetError], Reason]
REFUSED_WHEN_CLAIMED: dict[str, Refusal] = {
    "no such seed": ("worker", lambda s, b: SubmitBid(seed_id="x", price=1), RefusedError, Reason.UNKNOWN_SEED),
    "no such bid": ("creator", lambda s, b: CreateClaim(seed_id=s, bid_id="x"), RefusedError, Reason.UNKNOWN_BID),
    "a bid on a claimed seed": ("worker", lambda s, b: SubmitBid(seed_id=s, price=3), RefusedError, Reason.WRONG_STATE),
    "a second claim": ("creator", lambda s, b: CreateClaim(seed_id=s, bid_id=b), RefusedError, Reason.WRONG_STATE),
    "a claim by the worker": (
        "worker",
        lambda s, b: CreateClaim(seed_id=s, bid_id=b),
        RefusedError,
        Reason.UNAUTHORISED,
    ),
    "a run by the creator": ("creator", lambda s, b: StartRun(seed_id=s), RefusedError, Reason.UNAUTHORISED),
    "a result by the creator": ("creator", lambda s, b: result(s), RefusedError, Reason.UNAUTHORISED),
    "a settle without result": (
        "creator",
        lambda s, b: Settle(seed_id=s, outcome=SeedStatus.ACCEPTED),
        RefusedError,
        Reason.WRONG_STATE,
    ),
    "a settle by the worker": (
        "worker",
        lambda s, b: Settle(seed_id=s, outcome=SeedStatus.REJECTED),
        RefusedError,
        Reason.UNAUTHORISED,
    ),
    "a forfeit too early": (
        "creator",
        lambda s, b: Settle(seed_id=s, outcome=SeedStatus.FORFEITED),
        RefusedError,
        Reason.NOT_DUE,
    ),
    "a withdrawal by the worker": (
        "worker",
        lambda s, b: Settle(seed_id=s, outcome=SeedStatus.EXPIRED),
        RefusedError,
        Reason.UNAUTHORISED,
    ),
    "a renewal of a run that has not begun": (
        "worker",
        lambda s, b: RenewRun(seed_id=s, lease_ms=60_000),
        RefusedError,
        Reason.WRONG_STATE,
    ),
    "a renewal by the creator": (
        "creator",
        lambda s, b: RenewRun(seed_id=s, lease_ms=60_000),
        RefusedError,
        Reason.UNAUTHORISED,
    ),
    "settled as Open": (
        "creator",
        lambda s, b: Settle(seed_id=s, outcome=SeedStatus.OPEN),
        UsageError,
        Reason.INVALID_ARGUMENT,
    ),
    "a negative price": ("worker", lambda s, b: SubmitBid(seed_id=s, price=-1), UsageError, Reason.INVALID_ARGUMENT),
    "a price beyond 2^53": (
        "worker",
        lambda s, b: SubmitBid(seed_id=s, price=2**53),
        UsageError,
        Reason.INVALID_ARGUMENT,
    ),
    "notes too long": (
        "worker",
        lambda s, b: SubmitBid(seed_id=s, price=3, notes="n" * (limits.NOTES_CHARS_MAX + 1)),
        UsageError,
        Reason.INVALID_ARGUMENT,
    ),
    "notes that are no Unicode": (
        "worker",
        lambda s, b: SubmitBid(seed_id=s, price=3, notes="\ud800"),
        UsageError,
        Reason.INVALID_ARGUMENT,
    ),
    "no command": ("creator", lambda s, b: replace(WISH, command=""), UsageError, Reason.INVALID_ARGUMENT),
    "no time": ("creator", lambda s, b: replace(WISH, timeout_ms=0), UsageError, Reason.INVALID_ARGUMENT),
    "too much time": (
        "creator",
        lambda s, b: replace(WISH, bid_window_ms=limits.TIMEOUT_MS_MAX + 1),
        UsageError,
        Reason.INVALID_ARGUMENT,
    ),
    "a seed that fits in no envelope": (
        "creator",
        lambda s, b: replace(WISH, description="\U0001f980" * limits.DESCRIPTION_CHARS_MAX, rules="\x01" * 65_000),
        UsageError,
        Reason.TOO_LARGE,
    ),
}


@pytest.mark.parametrize("name", REFUSED_WHEN_CLAIMED)
def test_a_refused_operation_leaves_nothing(name: str) -> None:
    who, make, error, reason = REFUSED_WHEN_CLAIMED[name]
    pair = Pair()
    seed_id, spare = pair.claimed()
    core = pair.cores[who]
    before = (core.replica.state_hash(), core.replica.feeds.heads(), len(core.replica.seen))
    effects = Effects()
    with pytest.raises(error) as caught:
        core.handle(make(seed_id, spare), pair.now_ms, effects)
    assert caught.value.reason is reason
    assert caught.value.message
    assert effects == Effects()
    assert (core.replica.state_hash(), core.replica.feeds.heads(), len(core.replica.seen)) == before


def test_refusals_of_bids() -> None:
    pair = Pair()
    seed_id = pair.publish(max_bids=1)
    for price, at_s, reason in [(1, 0, Reason.PRICE_TOO_LOW), (2, 61, Reason.DEADLINE_PASSED)]:
        with pytest.raises(RefusedError) as caught:
            pair.cores["worker"].handle(SubmitBid(seed_id=seed_id, price=price), (NOW_S + at_s) * 1000, Effects())
        assert caught.value.reason is reason
    pair.bid(seed_id)
    with pytest.raises(RefusedError) as caught:
        pair.bid(seed_id)
    assert caught.value.reason is Reason.TOO_MANY_BIDS


def test_the_largest_seed_can_be_settled() -> None:
    """Whatever is published can be closed: the settlement, which repeats the seed, fits in an envelope, too."""
    pair = Pair()
    largest, beyond = 0, limits.DESCRIPTION_CHARS_MAX
    fill = {"rules": "\x01" * 30_000, "command": "\x01" * 35_000}
    while beyond - largest > 1:
        middle = (largest + beyond) // 2
        try:
            pair.publish(description="\x01" * middle, **fill)
            largest = middle
        except UsageError as error:
            assert error.reason is Reason.TOO_LARGE  # noqa: PT017
            beyond = middle
    assert 0 < largest < limits.DESCRIPTION_CHARS_MAX - 1
    seed_id = pair.publish(description="\x01" * largest, **fill)
    pair.do("creator", Settle(seed_id=seed_id, outcome=SeedStatus.EXPIRED, note="withdrawn"))
    assert pair.status(seed_id) == "Expired"


class TestDeadlines:
    def test_a_seed_that_nobody_claimed_is_closed(self) -> None:
        pair = Pair()
        seed_id = pair.publish(claim_window_ms=30_000)
        pair.now_ms += 90_999
        pair.do("creator", Tick())
        assert pair.status(seed_id) == "Open"
        pair.now_ms += 1
        pair.do("worker", Tick())
        assert pair.status(seed_id) == "Open"
        pair.do("creator", Tick())
        assert pair.status(seed_id) == "Expired"

    @pytest.mark.parametrize("started", [True, False])
    def test_an_overdue_attempt_is_forfeited_and_another_bid_gets_its_chance(self, started: bool) -> None:
        pair = Pair()
        seed_id, spare = pair.claimed()
        if started:
            pair.do("worker", StartRun(seed_id=seed_id))
        pair.now_ms += 10_000 + GRACE_MS - 1
        pair.do("creator", Tick())
        assert pair.status(seed_id) == ("Running" if started else "Claimed")
        pair.now_ms += 1
        pair.silent = True
        heard = pair.do("creator", Tick())
        assert [send.kind for send in heard.sends].count("TaskSettle") == 1
        pair.do("worker", result(seed_id))
        assert {name: core.record(seed_id).progress.status.value for name, core in pair.cores.items()} == {
            "creator": "Forfeited",
            "worker": "Done",
        }
        pair.silent = False
        pair.deliver()
        assert pair.status(seed_id) == "Forfeited"
        for core in pair.cores.values():
            assert [fact.kind for fact in core.record(seed_id).others] == [FactKind.CLAIM, FactKind.FORFEIT]
        assert len({core.replica.state_hash() for core in pair.cores.values()}) == 1
        pair.do("creator", CreateClaim(seed_id=seed_id, bid_id=spare))
        progress = pair.cores["worker"].record(seed_id).progress
        assert (progress.status, progress.attempt) == (SeedStatus.CLAIMED, 2)
        pair.do("worker", result(seed_id))
        pair.do("creator", Settle(seed_id=seed_id, outcome=SeedStatus.ACCEPTED))
        assert pair.status(seed_id) == "Accepted"

    def test_the_workers_run_is_cancelled_by_the_forfeit(self) -> None:
        pair = Pair()
        seed_id, _ = pair.claimed()
        pair.do("worker", StartRun(seed_id=seed_id))
        claim_id = pair.cores["worker"].record(seed_id).progress.claim_id or ""
        pair.now_ms += 10_000
        forfeit = Effects()
        pair.cores["creator"].handle(Settle(seed_id=seed_id, outcome=SeedStatus.FORFEITED), pair.now_ms, forfeit)
        heard = Effects()
        pair.cores["worker"].handle(Received("udp:creator:9012", forfeit.sends[0].data), pair.now_ms, heard)
        assert heard.ended_claims == [EndedClaim(seed_id, claim_id, SeedStatus.FORFEITED)]

    def test_deadlines_are_known_after_a_restart(self) -> None:
        pair = Pair()
        seed_id = pair.publish(claim_window_ms=1_000)
        pair.now_ms += 70_000
        pair.restart("creator")
        assert pair.status(seed_id) == "Open"
        pair.do("creator", Tick())
        assert pair.status(seed_id) == "Expired"


class TestInterruptedRuns:
    def test_a_run_that_a_crash_interrupted_is_recorded_and_not_repeated(self) -> None:
        pair = Pair()
        seed_id, _ = pair.claimed()
        pair.do("worker", StartRun(seed_id=seed_id))
        effects = pair.restart("worker")
        assert "run_interrupted" in [notice.kind for notice in effects.notices]
        assert pair.status(seed_id) == "Done"
        record = pair.cores["creator"].record(seed_id)
        bodies = [fact.body for fact in record.others if isinstance(fact.body, TaskResult)]
        assert [body.termination and body.termination.cause for body in bodies] == [TerminationCause.INTERRUPTED]
        assert bodies[0].exit_code == limits.EXIT_CODE_INTERRUPTED
        assert pair.restart("worker").records == []
        with pytest.raises(RefusedError) as caught:
            pair.do("worker", StartRun(seed_id=seed_id))
        assert caught.value.reason is Reason.WRONG_STATE

    def test_a_run_is_started_once(self) -> None:
        pair = Pair()
        seed_id, _ = pair.claimed()
        pair.do("worker", StartRun(seed_id=seed_id))
        with pytest.raises(RefusedError) as caught:
            pair.do("worker", StartRun(seed_id=seed_id))
        assert caught.value.reason is Reason.RUN_IN_PROGRESS

    def test_a_claim_that_was_not_started_is_no_interrupted_run(self) -> None:
        pair = Pair()
        seed_id, _ = pair.claimed()
        assert pair.restart("worker").records == []
        assert pair.status(seed_id) == "Claimed"


def test_no_announce_keeps_the_envelope_for_sync() -> None:
    pair = Pair()
    effects = pair.do("creator", replace(WISH, announce=False))
    assert effects.sends == []
    assert len(effects.records) == 1
