"""Work for others: tells the policies about this machine, and runs the tasks that the node has won."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

import trio

from crabnet import limits
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.domain.record import EMPTY
from crabnet.errors import PASSING, CrabnetError, Reason
from crabnet.market.work import Machine
from crabnet.node.execution.prechecks import fit
from crabnet.node.execution.runs import RunManager
from crabnet.node.part import Job, Part
from crabnet.node.trading.machine import Gauges, minute_of_week, read_gauges
from crabnet.node.trading.session import Session
from crabnet.runner.runner import Runner


def surround(core: Core, runner: Runner, machine: Callable[[], Machine] = Machine) -> None:
    """Tell the policies of a core what ``runner`` would run, and the state of this machine."""
    around = core.trading.surroundings
    around.machine = machine
    around.minute_at = minute_of_week
    around.fit = partial(fit, runner)


class Working(Part):
    """The part of a node that sells.

    With ``auto_run`` it runs each claim of this node once: a run that was interrupted has a result, so its claim is no
    longer open. ``clock_ms`` is the node's time.
    """

    def __init__(
        self, core: Core, runs: RunManager, clock_ms: Callable[[], int], read: Callable[[], Gauges] = read_gauges
    ) -> None:
        self._core = core
        self._runs = runs
        self._clock_ms = clock_ms
        self._read = read
        self._gauges = Gauges(None, None)
        self._changed = trio.Event()
        self._changed.set()  # some tasks may have been won before the start
        self.session = Session(core.signer.node_id, clock_ms())
        self._begun: dict[str, str] = {}
        """Seeds whose claim this part has given to the run manager, with the claim."""

    async def open(self) -> None:
        """Give the policies what they need to know."""
        surround(self._core, self._runs.runner, self._machine)
        if self._watches:
            self._gauges = await trio.to_thread.run_sync(self._read)

    def _machine(self) -> Machine:
        return Machine(
            minute=minute_of_week(self._clock_ms()),
            load_percent=self._gauges.load_percent,
            battery_percent=self._gauges.battery_percent,
            paused=self._runs.turns.paused,
            ending=self._runs.stopping,
        )

    @property
    def _watches(self) -> bool:
        policy = self._core.config.work
        return bool(policy.load_max_percent or policy.battery_min_percent)

    def jobs(self) -> Sequence[Job]:
        """The jobs that look at the machine, and that run what was won."""
        jobs = [Job(self._watch, "work")] if self._watches else []
        return [*jobs, Job(self._run_won)] if self._core.config.auto_run else jobs

    def on_durable(self, effects: Effects) -> None:
        """Something has changed, and may have been won."""
        self.session.note(effects.notices)
        self._changed.set()

    def summary(self) -> str:
        """What this worker has done since the start, in one line."""
        debts = self._core.trading.seller.commitments.debts().values()
        return self.session.summary(sum(debt.price for debt in debts), sum(debt.results for debt in debts))

    async def _watch(self) -> None:
        while True:
            await trio.sleep(limits.WORK_LOOK_MS / 1000)
            self._gauges = await trio.to_thread.run_sync(self._read)

    async def _run_won(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                if not self._runs.stopping:
                    for seed_id, claim_id in self._to_begin():
                        self._begun[seed_id] = claim_id
                        nursery.start_soon(self._run, seed_id)

    def _to_begin(self) -> list[tuple[str, str]]:
        """The claims to begin now, oldest first, as many as the run manager has room for."""
        won = self._core.trading.won()
        gone = self._begun.keys() - set(won)
        for seed_id in gone:
            del self._begun[seed_id]
        records = self._core.replica.state.records
        claims = ((seed_id, records.get(seed_id, EMPTY).progress.claim_id) for seed_id in won)
        new = ((seed_id, claim) for seed_id, claim in claims if claim and self._begun.get(seed_id) != claim)
        return list(islice(new, self._runs.room))

    async def _run(self, seed_id: str) -> None:
        """Run one task. What becomes of it is in the events and in its result.

        After an obstacle that passes it is tried again. After any other it is not, until the node is started again.
        """
        again = False
        with self._core.mending.separately("work"):
            try:
                await self._runs.run(seed_id, announce=True)
            except CrabnetError as error:
                again = error.reason in PASSING or error.reason is Reason.QUEUE_FULL
                if error.reason in PASSING:
                    await trio.sleep(limits.RUN_RESULT_RETRY_MS / 1000)
        if again:
            self._begun.pop(seed_id, None)
        self._changed.set()
