"""What ``node.trading`` and ``node.execution`` do for a node, on virtual time: runs, checks, load and time of day."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from zlib import crc32

from msgspec import Struct

from crabnet import limits
from crabnet.core.commands import Checked, Operation, RenewRun, StartRun
from crabnet.core.core import Core
from crabnet.core.effects import CheckOrder, Effects, RunOrder
from crabnet.domain.model import Seed, TaskResult
from crabnet.domain.record import EMPTY
from crabnet.errors import PASSING, CrabnetError, Reason, RefusedError
from crabnet.market.policies import CheckOutcome, Declined
from crabnet.market.work import Demand, Machine, WorkPolicy
from tests.sim.trade.tasks import check_says
from tests.sim.trade.workers import WORKERS
from tests.sim.world import SimNode

_LEASE_MS = 2_000
_GAUGES_MS = 5_000
"""For how long load and charge stay as they are."""
_BROKEN_SHARE = 0.1
"""Of the checks that are begun, the part that give no answer."""


class Shop(Struct, frozen=True, kw_only=True):
    """How a node of a market works for others."""

    worker: str
    policy: WorkPolicy
    allows: frozenset[str]
    memory_bytes: int
    paused_ms: tuple[int, int] = (0, 0)
    """From when until when its operator has paused it, since the beginning."""
    runs: bool = True
    """False: it does not work for others."""


def gauges(name: str, now_ms: int) -> tuple[int, int]:
    """Load and charge of a machine, in percent: they change every few seconds."""
    noise = crc32(f"{name} {now_ms // _GAUGES_MS}".encode())
    return noise % 150, noise // 150 % 101


class Trader:
    """Keeps a node's shop. ``begun`` is called when the process of a run starts, and once for each start."""

    def __init__(self, node: SimNode, shop: Shop, rng: Random, begun: Callable[[SimNode, RunOrder], None]) -> None:
        self.shop = shop
        self._node = node
        self._rng = rng
        self._begun = begun
        self._given: dict[str, str] = {}
        """Seeds whose claim was given to the runs, with the claim."""
        self._jobs: dict[str, str] = {}
        """Seeds that wait or run, with the claim."""
        node.trading = self

    # --- what the node calls ---------------------------------------------------------------------------

    def opened(self, core: Core) -> None:
        """Tell the policies of a new life about this machine."""
        around = core.trading.surroundings
        around.machine = self.machine
        around.fit = self.fit
        self._given, self._jobs = {}, {}
        self._worker = WORKERS[self.shop.worker](self._rng, core.replica)

    def durable(self, effects: Effects) -> None:
        """Something has changed."""
        if isinstance(effects.reply, RunOrder):
            self._run(effects.reply)
        for claim in effects.ended_claims:
            if self._jobs.get(claim.seed_id) == claim.claim_id:
                del self._jobs[claim.seed_id]
        for order in effects.checks:
            self._later(self._rng.randint(20, 3_000), partial(self._check, order))
        self._begin_won()

    def machine(self) -> Machine:
        """The state of the machine now."""
        now_ms = self._node.now_ms
        load, charge = gauges(self._node.name, now_ms)
        return Machine(
            minute=now_ms // 60_000 % (7 * 24 * 60),
            load_percent=load,
            battery_percent=charge,
            paused=self.shop.paused_ms[0] <= self._node.world.virtual_ms < self.shop.paused_ms[1],
        )

    def fit(self, seed: Seed) -> Demand | Declined:
        """What a run takes here, or why this worker would refuse it."""
        word = seed.command.partition(" ")[0]
        if word not in self.shop.allows:
            return Declined(Reason.NOT_ALLOWED, f"it does not allow {word}")
        return Demand(memory_bytes=self.shop.memory_bytes)

    # --- runs ------------------------------------------------------------------------------------------

    def _later(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Do something in a while, unless the node has died by then."""
        life = self._node.lives

        def act() -> None:
            if self._node.core is not None and self._node.lives == life:
                action()

        self._node.world.later(delay_ms, act)

    def _begin_won(self) -> None:
        """Begin what was won, as far as there are places, each claim once."""
        core = self._node.core
        if core is None or not core.config.auto_run or self.machine().paused:
            return
        records = core.replica.state.records
        for seed_id in core.trading.won():
            claim = records.get(seed_id, EMPTY).progress.claim_id
            if claim is None or self._given.get(seed_id) == claim:
                continue
            if len(self._jobs) >= self.shop.policy.runs_max:
                return
            self._given[seed_id] = claim
            if self._worker.begins():
                self._jobs[seed_id] = claim
                self._later(self._rng.randint(1, 50), partial(self._start, seed_id, claim))

    def _start(self, seed_id: str, claim: str) -> None:
        if self._jobs.get(seed_id) != claim:
            return
        try:
            self._node.operate(StartRun(seed_id=seed_id, lease_ms=_LEASE_MS))
        except RefusedError as error:
            del self._jobs[seed_id]
            if error.reason in PASSING:
                self._given.pop(seed_id)
                self._later(limits.RUN_RESULT_RETRY_MS, self._begin_won)

    def _run(self, order: RunOrder) -> None:
        """The start is durable, so the process starts."""
        self._begun(self._node, order)
        seed = self._node.running.replica.definition(order.seed_id)
        if self._jobs.get(order.seed_id) != order.claim_id or seed is None:
            return
        lasts_ms = self._worker.lasts_ms(order, max(seed.exec_deadline_ms, seed.timeout_ms))
        self._later(_LEASE_MS // 2, partial(self._renew, order))
        self._later(lasts_ms, partial(self._end, order, lasts_ms))

    def _renew(self, order: RunOrder) -> None:
        if self._jobs.get(order.seed_id) == order.claim_id:
            self._try(RenewRun(seed_id=order.seed_id, lease_ms=_LEASE_MS))
            self._later(_LEASE_MS // 2, partial(self._renew, order))

    def _end(self, order: RunOrder, ran_ms: int) -> None:
        if self._jobs.get(order.seed_id) == order.claim_id:
            wish = self._worker.result(order, ran_ms)
            if wish is None:
                del self._jobs[order.seed_id]
            else:
                self._state(order, wish)

    def _state(self, order: RunOrder, wish: Operation) -> None:
        """State a result, unless the claim is over, as soon as the node may state anything."""
        if not self._node.running.awaits_result(order.seed_id, order.claim_id):
            self._jobs.pop(order.seed_id, None)
        elif self._try(wish):
            self._later(limits.RUN_RESULT_RETRY_MS, partial(self._state, order, wish))
        else:
            self._jobs.pop(order.seed_id, None)
            self._later(1, self._begin_won)

    def _try(self, wish: Operation) -> bool:
        """Do an operation. True if it is worth another try."""
        try:
            self._node.operate(wish)
        except CrabnetError as error:
            return error.reason in PASSING
        return False

    # --- checks ----------------------------------------------------------------------------------------

    def _check(self, order: CheckOrder) -> None:
        result = self._node.running.replica.state.records.get(order.seed_id, EMPTY).result
        if result is None or result.key != order.result_id or not isinstance(result.body, TaskResult):
            return
        outcome = check_says(order.command, result.body.stdout)
        if self._rng.random() < _BROKEN_SHARE:
            outcome = CheckOutcome(detail="the machine is too busy")
        self._node.give(Checked(order.seed_id, order.result_id, outcome))
