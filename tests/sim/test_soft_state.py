"""Bugs planted in the soft parts of one node, at each call: the node goes on, and the job gets done."""

from __future__ import annotations

import pytest

from crabnet.core.commands import CreateClaim, FinishRun, Operation, Publish, Settle, StartRun, SubmitBid
from crabnet.core.mending import Part
from crabnet.domain.model import Bid, Seed, SeedStatus, Termination, TerminationCause
from crabnet.errors import Reason, RefusedError
from tests.sim.node import SimNode
from tests.sim.scenario import default_config
from tests.sim.world import Weather, World
from tests.support.planted import part_of, plant

ATTEMPTS = 100
HISTORY = 40
NOT_UNDER_WAY = {
    Part.SOURCES: {"blocked_peers", "overran", "reject", "take_blocks"},
    Part.BUDGETS: {"begin", "paused"},
    Part.PEERS: {
        "heard_ms",
        "introduced",
        "introduction",
        "invite",
        "joined",
        "last_heard_ms",
        "last_refused",
        "left",
        "others",
        "passed_on",
        "present",
        "refused",
        "round_trip_ms",
        "spend_answer",
    },
    Part.ADDRESS_BOOK: {"failures", "has", "load", "peers"},
    Part.WANTS: {"forked", "has_told_much", "holders", "missing", "missing_of"},
    Part.PARKING: {"lacks_named", "lacking", "last_named", "take_behind"},
    Part.DIGESTS: {"bucket", "heads"},
    Part.COMPARISONS: {"told_bucket"},
    Part.PROOFS: {"drop", "note", "sources"},
    Part.NAMED: {"drop", "note", "sources"},
    Part.RELAY: {"asked", "prunes", "provider", "repeated"},
    Part.ANNOUNCER: {"buckets"},
    Part.FEED_GUARD: {"endanger", "inherit", "proved", "wait_for_word", "wait_left_ms"},
    Part.PRESENCE: {"lose"},
    Part.CLOCKS: {"agrees", "ahead_s", "ask_again", "unheard"},
    Part.DEADLINES: {"again", "begin"},
    Part.BUYER: {"again", "begin", "checked", "follower", "leaves", "next_ms", "terms_of"},
    Part.SELLER: {"again", "declined", "next_ms", "offer"},
    Part.HISTORIES: {"account", "add_archived", "archived", "authors", "begin", "dealt"},
    Part.DECLINES: {"decline", "due", "hear", "may_pass_on", "of"},
}
"""Calls that an honest job among honest nodes does not need, or that only show the state."""


def calls_of(part: Part) -> list[str]:
    """The public methods of a part."""
    world = World(0)
    node = world.add("x", default_config())
    node.start()
    found = type(part_of(node.running, part))
    return sorted(name for name in vars(found) if not name.startswith("_") and callable(getattr(found, name)))


class Market:
    """A publisher with some history, a worker in the middle that is told of nobody, and a node that only the worker
    knows; datagrams are lost now and then. ``part`` and ``call`` are what is planted in the worker.
    """

    def __init__(self, seed: int, part: Part, call: str) -> None:
        self.world = World(seed)
        self.world.weather = Weather(loss=0.2, duplicate=0.1, delay_ms=(1, 60))
        self.publisher, self.worker, self.far = (self.world.add(name, default_config()) for name in "pwf")
        self.publisher.targets = [self.worker.address, self.far.address]
        self.far.targets = [self.worker.address]
        for node in (self.publisher, self.far):
            node.start()
        for _ in range(HISTORY):
            self.publisher.operate(Publish(title="t", command="true", bid_window_ms=600_000))
        self.worker.tolerates_faults = True
        self.worker.start()
        self.found = part_of(self.worker.running, part)
        plant(self.worker.running, part, call)
        self.world.run(3_000)

    def until(self, node: SimNode, seed_id: str, status: SeedStatus, bids: int = 0) -> None:
        """Let time pass until a node knows that a seed stands so."""
        for _ in range(ATTEMPTS):
            record = node.running.replica.state.records.get(seed_id)
            if record is not None and record.progress.status is status and len(record.bids) >= bids:
                return
            self.world.run(500)
        raise AssertionError(f"{node.name} does not come to know that {seed_id} is {status}")

    def job(self) -> str:
        """Publish, bid, claim, run, settle."""
        seed = self.publisher.operate(Publish(title="t", command="true", bid_window_ms=600_000))
        assert isinstance(seed, Seed)
        self.until(self.worker, seed.id, SeedStatus.OPEN)
        bid = self.insist(self.worker, SubmitBid(seed_id=seed.id, price=1))
        assert isinstance(bid, Bid)
        self.until(self.publisher, seed.id, SeedStatus.OPEN, bids=1)
        self.publisher.operate(CreateClaim(seed_id=seed.id, bid_id=bid.id))
        self.until(self.worker, seed.id, SeedStatus.CLAIMED)
        self.insist(self.worker, StartRun(seed_id=seed.id))
        self.insist(self.worker, result_of(seed.id))
        self.until(self.publisher, seed.id, SeedStatus.DONE)
        self.publisher.operate(Settle(seed_id=seed.id, outcome=SeedStatus.ACCEPTED))
        self.until(self.far, seed.id, SeedStatus.ACCEPTED)
        return seed.id

    def insist(self, node: SimNode, wish: Operation) -> object:
        """A feed guard that has just failed says no once."""
        try:
            return node.operate(wish)
        except RefusedError as error:
            if error.reason is not Reason.FEED_RISK:
                raise
            return node.operate(wish)


def result_of(seed_id: str) -> FinishRun:
    return FinishRun(
        seed_id=seed_id,
        exit_code=0,
        timed_out=False,
        stdout="",
        stderr="",
        output_hash="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        duration_ms=1,
        termination=Termination(cause=TerminationCause.EXITED),
    )


SEEDS = range(7, 17)
PLANTS = [(part, call) for part in Part for call in calls_of(part)]


@pytest.mark.expects_faults
@pytest.mark.parametrize(("part", "call"), PLANTS, ids=[f"{part.value}-{call}" for part, call in PLANTS])
def test_a_soft_part_that_fails_is_made_anew_and_the_job_gets_done(part: Part, call: str) -> None:
    """Chance decides whether a call is needed: if it was not, the same is done with other chances."""
    for seed in SEEDS:
        market = Market(seed, part, call)
        market.job()
        assert market.world.settle()
        faults = market.worker.faults
        told = {(fault.part, str(fault.error)) for fault in faults}
        assert told <= {(part.value, f"{type(market.found).__name__}.{call}")}
        if faults:
            assert part is Part.DEADLINES or part_of(market.worker.running, part) is not market.found
        if faults or call in NOT_UNDER_WAY[part]:
            return
    raise AssertionError(f"{part.value}: nothing calls {call}")
