"""The kinds of buyers of simulated markets. All are nodes with a real core, whose operators may not keep their word."""

from __future__ import annotations

from hashlib import sha256
from random import Random

from msgspec import Struct

from crabnet.core.commands import Operation, Publish, Settle
from crabnet.domain.acceptance import Acceptance
from crabnet.domain.model import FINAL, Seed, SeedStatus, TaskResult
from crabnet.domain.record import EMPTY, Record
from crabnet.errors import RefusedError
from crabnet.market.policies import Accepting, AwardRule, Terms
from tests.sim.trade.tasks import BROKEN_CHECK, CHECK, WORDS, is_true, truth
from tests.sim.world import SimNode

ASKED_MS = 8_000
"""How long an honest operator takes to look at a result that its node cannot judge."""
_SETTLE_WINDOW_MS = (5_000, 30_000, 600_000)


class Asked(Struct, frozen=True, kw_only=True):
    """A purchase as its operator ordered it. ``terms`` is None where the settings of the node decide."""

    buyer: str
    seed: Seed
    terms: Terms | None


class Buyer:
    """An honest operator: its node awards and settles, and it looks at what the node cannot judge."""

    honest = True

    def __init__(self, node: SimNode, rng: Random) -> None:
        self.node = node
        self.rng = rng
        self.by_hand: set[str] = set()
        """Seeds that the operator has settled or withdrawn."""
        self.settling = False
        """True while it does so."""
        self.asked: dict[str, int] = {}
        """Results that its node cannot judge, and since when it knows that, in milliseconds."""

    # --- what it buys ----------------------------------------------------------------------------------

    def order(self) -> Asked | None:
        """Publish a task. None if the node may not write at the moment."""
        wish = self.wish()
        try:
            seed = self.node.operate(wish)
        except RefusedError:
            return None
        if not isinstance(seed, Seed):
            raise TypeError("Publish gives a seed")
        return Asked(buyer=self.node.name, seed=seed, terms=wish.terms)

    def wish(self) -> Publish:
        """A task with short windows, so that all of its deadlines pass within a simulation."""
        rng = self.rng
        command = f"{rng.choice(WORDS)} {rng.randrange(10**6)}"
        timeout_ms = rng.choice([2_000, 4_000])
        return Publish(
            title="task",
            command=command,
            timeout_ms=timeout_ms,
            bid_window_ms=rng.choice([4_000, 10_000, 15_000]),
            claim_window_ms=rng.choice([20_000, 40_000]),
            exec_deadline_ms=timeout_ms + rng.choice([4_000, 8_000]),
            min_price=rng.choice([0, 0, 3]),
            max_bids=rng.choice([0, 0, 0, 2]),
            reward=rng.choice([0, 8, 12, 30]),
            acceptance=self._acceptance(command),
            settle_window_ms=rng.choice(_SETTLE_WINDOW_MS),
            terms=self._terms(),
        )

    def _terms(self) -> Terms | None:
        rng = self.rng
        if self.node.config.auto_award is not None and rng.random() < 0.7:
            return None
        return Terms(
            award=rng.choice(list(AwardRule)),
            bid_wait_ms=rng.choice([0, 1_000, 2_000]),
            price_max=rng.choice([None, None, 5]),
            worker=rng.choice([other.id for other in self.node.world.nodes.values()]) if rng.random() < 0.1 else None,
            tries_max=rng.randint(1, 4),
            accept=rng.choice([Accepting.AUTO, Accepting.AUTO, Accepting.CHECK]),
        )

    def _acceptance(self, command: str) -> Acceptance | None:
        """Conditions that an honest result meets, but for some."""
        rng, true = self.rng, truth(command)
        if rng.random() < 0.2:
            return None
        wrong = rng.random() < 0.08
        chance = rng.random()
        check = None
        if chance < 0.5:
            check = (BROKEN_CHECK if chance < 0.05 else CHECK) + command
        digest = sha256(b"wrong").hexdigest() if wrong else true.sha256
        exits = not true.timed_out and rng.random() < 0.5
        return Acceptance(
            exit_code=true.exit_code if exits else None,
            stdout_sha256=digest if chance >= 0.4 else None,
            duration_ms_max=rng.choice([None, 4_000]),
            check=check,
        )

    # --- what it does with it --------------------------------------------------------------------------

    def turn(self) -> None:
        """Look at all own tasks that are not over."""
        if self.node.core is None:
            return
        for seed_id, record in list(self.node.running.replica.state.records.items()):
            seed = record.definition
            if seed is None or seed.created_by != self.node.id or record.progress.status in FINAL:
                continue
            wish = self.next_step(seed, record)
            if wish is not None and self._try(wish):
                self.by_hand.add(seed_id)

    def next_step(self, seed: Seed, record: Record) -> Operation | None:
        """What the operator does about one of its tasks by hand."""
        status = record.progress.status
        if status is SeedStatus.OPEN and self.rng.random() < 0.001:
            return Settle(seed_id=seed.id, outcome=SeedStatus.EXPIRED, note="not needed any more")
        since_ms = None if record.result is None else self.asked.get(record.result.key)
        asked = status is SeedStatus.DONE and since_ms is not None and self.node.now_ms >= since_ms + ASKED_MS
        return self._settle(seed, record) if asked else None

    def _settle(self, seed: Seed, record: Record) -> Operation | None:
        result = None if record.result is None else record.result.body
        if not isinstance(result, TaskResult):
            return None
        outcome = SeedStatus.ACCEPTED if is_true(seed.command, result) else SeedStatus.REJECTED
        return Settle(seed_id=seed.id, outcome=outcome, note="looked at")

    def _try(self, wish: Operation) -> bool:
        self.settling = True
        try:
            self.node.operate(wish)
        except RefusedError:
            return False
        finally:
            self.settling = False
        return True


class _Cheat(Buyer):
    """Its node awards, and settles nothing."""

    honest = False

    def _terms(self) -> Terms | None:
        return Terms(award=AwardRule.CHEAPEST, bid_wait_ms=1_000, tries_max=3, accept=Accepting.NEVER)

    def wish(self) -> Publish:
        wish = super().wish()
        return Publish(**{name: getattr(wish, name) for name in wish.__struct_fields__} | {"settle_window_ms": 5_000})

    def next_step(self, seed: Seed, record: Record) -> Operation | None:
        return None


class Debtor(_Cheat):
    """Never settles."""


class Rejector(_Cheat):
    """Rejects whatever comes."""

    def next_step(self, seed: Seed, record: Record) -> Operation | None:
        done = record.progress.status is SeedStatus.DONE and not record.worker_failed
        return Settle(seed_id=seed.id, outcome=SeedStatus.REJECTED, note="bad") if done else None


class Withdrawer(_Cheat):
    """Withdraws what was claimed or begun."""

    def next_step(self, seed: Seed, record: Record) -> Operation | None:
        under_way = record.progress.status in {SeedStatus.CLAIMED, SeedStatus.RUNNING}
        if not under_way or self.rng.random() > 0.3:
            return None
        return Settle(seed_id=seed.id, outcome=SeedStatus.EXPIRED, note="no, thanks")


class Tardy(_Cheat):
    """Settles when it is overdue."""

    def next_step(self, seed: Seed, record: Record) -> Operation | None:
        result = None if record.result is None else record.result.body
        done = record.progress.status is SeedStatus.DONE and not record.worker_failed
        if not done or not isinstance(result, TaskResult) or result.created_at is None:
            return None
        overdue = self.node.now_ms // 1000 > result.created_at + (seed.settle_window_s or 0) + 2
        return Settle(seed_id=seed.id, outcome=SeedStatus.ACCEPTED) if overdue else None


BUYERS: dict[str, type[Buyer]] = {
    "honest": Buyer,
    "debtor": Debtor,
    "rejector": Rejector,
    "withdrawer": Withdrawer,
    "tardy": Tardy,
}


def record_of(node: SimNode, seed_id: str) -> Record:
    """What a node holds about a seed."""
    return node.running.replica.state.records.get(seed_id, EMPTY)
