"""Random but plausible operators: they publish, bid, claim, run, settle, and forget to."""

from __future__ import annotations

from random import Random

from msgspec.structs import replace

from crabnet.core.commands import (
    CreateClaim,
    FinishRun,
    Operation,
    Publish,
    Received,
    RenewRun,
    Settle,
    StartRun,
    SubmitBid,
)
from crabnet.core.effects import Effects, FeedPlace, Send
from crabnet.domain.model import FINAL, FactKind, Failure, Seed, SeedStatus, Termination, TerminationCause
from crabnet.domain.record import Record, counting_bids
from crabnet.errors import CrabnetError, RefusedError
from tests.sim.world import SimNode, World, attempt

CLAIMABLE = {SeedStatus.OPEN, SeedStatus.FORFEITED}
OUTCOMES = (SeedStatus.ACCEPTED, SeedStatus.ACCEPTED, SeedStatus.REJECTED)
_LOOKS = 60
"""Seeds that an operator looks at in one turn, the latest that moved."""
_OPEN_WANTED = 10
"""Seeds of its own beyond which an operator seldom offers more."""


def publish(rng: Random) -> Publish:
    """A seed with short windows, so that deadlines pass within a simulation."""
    return Publish(
        title=f"task {rng.randrange(10**6)}",
        command="true",
        timeout_ms=rng.choice([500, 3_000]),
        bid_window_ms=rng.choice([5_000, 20_000]),
        claim_window_ms=rng.choice([10_000, 40_000]),
        exec_deadline_ms=rng.choice([5_000, 20_000]),
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


def failure(seed_id: str) -> FinishRun:
    """What a worker states that could not do it."""
    termination = Termination(cause=TerminationCause.CANCELLED)
    return replace(result(seed_id), exit_code=143, termination=termination, failed=Failure.WORKER)


def next_step(rng: Random, me: str, seed_id: str, record: Record) -> Operation | None:
    """What ``me`` could do about a seed."""
    status = record.progress.status
    if record.definition is None or status in FINAL:
        return None
    if record.progress.claimed_by == me and status is SeedStatus.CLAIMED:
        return StartRun(seed_id=seed_id, lease_ms=rng.choice([None, 2_000]))
    if record.progress.claimed_by == me and status is SeedStatus.RUNNING:
        chance = rng.random()
        if chance < 0.7:
            return result(seed_id) if chance < 0.6 else failure(seed_id)
        return RenewRun(seed_id=seed_id, lease_ms=2_000)
    if record.definition.created_by != me:
        return SubmitBid(seed_id=seed_id, price=rng.randrange(12)) if status is SeedStatus.OPEN else None
    if rng.random() < 0.01:
        return Settle(seed_id=seed_id, outcome=SeedStatus.EXPIRED, note="withdrawn")
    if status is SeedStatus.DONE:
        return Settle(seed_id=seed_id, outcome=rng.choice(OUTCOMES))
    bids = counting_bids(record)
    return CreateClaim(seed_id=seed_id, bid_id=rng.choice(bids).key) if bids and status in CLAIMABLE else None


def _is_pressing(me: str, record: Record) -> bool:
    """True if a job waits for ``me``: to claim, to work, or to settle."""
    status, seed = record.progress.status, record.definition
    if seed is None:
        return False
    if seed.created_by == me:
        return status is SeedStatus.DONE or (status in CLAIMABLE and bool(record.bids))
    return record.progress.claimed_by == me and status in {SeedStatus.CLAIMED, SeedStatus.RUNNING}


class Job:
    """One whole job of two honest operators, who try each step until it is done."""

    def __init__(self, publisher: SimNode, worker: SimNode) -> None:
        self._publisher = publisher
        self._worker = worker
        self._seed_id = ""

    @property
    def done(self) -> bool:
        """True when it is settled and acknowledged, and the publisher knows."""
        record = self._record(self._publisher)
        return record is not None and any(fact.kind is FactKind.ACKNOWLEDGED for fact in record.others)

    def __str__(self) -> str:
        records = [(node.name, self._record(node)) for node in (self._publisher, self._worker)]
        stages = [f"at {name} {'nothing' if record is None else record.progress}" for name, record in records]
        return f"seed {self._seed_id or 'not published'}, {', '.join(stages)}"

    def go_on(self) -> None:
        """What can be done next by either of them."""
        if not self._seed_id:
            wish = Publish(
                title="job", command="true", timeout_ms=1_000, bid_window_ms=600_000, claim_window_ms=600_000
            )
            seed = attempt(self._publisher, wish)
            self._seed_id = seed.id if isinstance(seed, Seed) else ""
            return
        for node in (self._publisher, self._worker):
            record = self._record(node)
            step = None if record is None else self._wish(node, record)
            if step is not None:
                attempt(node, step)

    def _wish(self, node: SimNode, record: Record) -> Operation | None:
        status, seed_id = record.progress.status, self._seed_id
        own = next((bid for bid in record.bids if bid.author == self._worker.id), None)
        if node is self._publisher:
            if status is SeedStatus.OPEN and own is not None:
                return CreateClaim(seed_id=seed_id, bid_id=own.key)
            return Settle(seed_id=seed_id, outcome=SeedStatus.ACCEPTED) if status is SeedStatus.DONE else None
        if status is SeedStatus.OPEN:
            return SubmitBid(seed_id=seed_id, price=1) if own is None else None
        if status is SeedStatus.CLAIMED:
            return StartRun(seed_id=seed_id)
        return result(seed_id) if status is SeedStatus.RUNNING else None

    def _record(self, node: SimNode) -> Record | None:
        return node.running.replica.state.records.get(self._seed_id)


class Market:
    """Many operators at work: each knows the unfinished seeds of its node without looking at all of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._unfinished: dict[str, dict[str, None]] = {}
        self.done = 0
        self.refused = 0

    def turn(self, node: SimNode) -> None:
        """One operator does one thing that its node allows, or is refused."""
        if node.core is None:
            return
        wish = self._wish(node)
        if wish is None:
            return
        try:
            node.operate(wish)
        except RefusedError:
            self.refused += 1
        except CrabnetError as error:
            raise AssertionError(f"{node.name}: {wish} raised {error!r}") from error
        else:
            self.done += 1

    def publish(self, node: SimNode) -> None:
        """One operator offers something."""
        node.operate(publish(self._world.rng))

    def _wish(self, node: SimNode) -> Operation | None:
        """Mostly what brings a job to its end, and what nobody else would do."""
        rng = self._world.rng
        seeds = self._unfinished.setdefault(node.name, {})
        records = node.running.replica.state.records
        own = 0
        found: dict[bool, list[tuple[str, Record]]] = {True: [], False: []}
        for seed_id in list(seeds)[-_LOOKS:]:
            record = records.get(seed_id)
            if record is None or record.progress.status in FINAL or record.definition is None:
                del seeds[seed_id]
                continue
            own += record.definition.created_by == node.id
            if not any(bid.author == node.id for bid in record.bids) or record.progress.status is not SeedStatus.OPEN:
                found[_is_pressing(node.id, record)].append((seed_id, record))
        if rng.random() < (0.2 if own < _OPEN_WANTED else 0.02):
            return publish(rng)
        for pressing in (True, False) if rng.random() < 0.8 else (False, True):
            rng.shuffle(found[pressing])
            for seed_id, record in found[pressing]:
                wish = next_step(rng, node.id, seed_id, record)
                if wish is not None:
                    return wish
        return publish(rng) if own < _OPEN_WANTED else None

    def stepped(self, node: SimNode, effects: Effects) -> None:
        """Take note of seeds that moved."""
        for notice in effects.notices:
            if notice.kind == "seed_changed":
                seeds = self._unfinished.setdefault(node.name, {})
                seeds.pop(str(notice.fields["seed_id"]), None)
                seeds[str(notice.fields["seed_id"])] = None

    def started(self, node: SimNode) -> None:
        """Look at everything once."""
        self._unfinished[node.name] = {
            seed_id: None
            for seed_id, record in node.running.replica.state.records.items()
            if record.progress.status not in FINAL
        }

    def received(self, node: SimNode, given: Received, effects: Effects) -> None:
        """Nothing to note."""

    def durable(self, node: SimNode, effects: Effects) -> None:
        """Nothing to note."""

    def acknowledged(self, node: SimNode, place: FeedPlace) -> None:
        """Nothing to note."""

    def sent(self, node: SimNode, send: Send) -> None:
        """Nothing to note."""
