"""Random but plausible operators: they publish, bid, claim, run, settle, and forget to."""

from __future__ import annotations

from random import Random

from crabnet.core.commands import CreateClaim, FinishRun, Operation, Publish, Settle, StartRun, SubmitBid
from crabnet.domain.lifecycle import Record, counting_bids
from crabnet.domain.model import FINAL, SeedStatus, Termination, TerminationCause
from tests.sim.world import SimNode, World, attempt

CLAIMABLE = {SeedStatus.OPEN, SeedStatus.FORFEITED}
OUTCOMES = (SeedStatus.ACCEPTED, SeedStatus.ACCEPTED, SeedStatus.REJECTED)


def publish(rng: Random) -> Publish:
    """A seed with short windows, so that deadlines pass within a simulation."""
    return Publish(
        title=f"task {rng.randrange(10**6)}",
        command="true",
        timeout_ms=rng.choice([500, 3_000]),
        bid_window_ms=rng.choice([3_000, 20_000]),
        claim_window_ms=rng.choice([5_000, 30_000]),
        exec_deadline_ms=rng.choice([4_000, 15_000]),
        min_price=rng.choice([0, 5]),
        max_bids=rng.choice([0, 1, 2]),
        announce=rng.random() < 0.9,
    )


def result(seed_id: str) -> FinishRun:
    """What a run of ``true`` gives."""
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


def trade(world: World, node: SimNode) -> None:
    """One operator looks at its node and does one of the things that can be done, or offers something new."""
    if node.core is None:
        return
    rng = world.rng
    wishes = [
        wish
        for seed_id, record in node.core.replica.state.records.items()
        if (wish := next_step(rng, node.id, seed_id, record)) is not None
    ]
    if not wishes or rng.random() < 0.04:
        wishes = [publish(rng)]
    attempt(node, rng.choice(wishes))


def next_step(rng: Random, me: str, seed_id: str, record: Record) -> Operation | None:
    """What ``me`` could do about a seed."""
    status = record.progress.status
    if record.definition is None or status in FINAL:
        return None
    if record.progress.claimed_by == me and status is SeedStatus.CLAIMED:
        return StartRun(seed_id=seed_id)
    if record.progress.claimed_by == me and status is SeedStatus.RUNNING:
        return result(seed_id)
    if record.definition.created_by != me:
        return SubmitBid(seed_id=seed_id, price=rng.randrange(12)) if status is SeedStatus.OPEN else None
    if status is SeedStatus.DONE:
        return Settle(seed_id=seed_id, outcome=rng.choice(OUTCOMES))
    bids = counting_bids(record)
    return CreateClaim(seed_id=seed_id, bid_id=rng.choice(bids).key) if bids and status in CLAIMABLE else None


def trading(world: World) -> None:
    """One random operator has its turn."""
    trade(world, world.rng.choice(list(world.nodes.values())))
