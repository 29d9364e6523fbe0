"""The parts of a node that have no package of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import trio

from crabnet import limits
from crabnet.core.commands import Tick
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.core.mending import Mending
from crabnet.errors import CrabnetError
from crabnet.monitor.events import Event
from crabnet.monitor.index.index import EventIndex
from crabnet.monitor.meters import Meters
from crabnet.monitor.registry import Severity
from crabnet.node.clock import ClockStep, NodeClock
from crabnet.node.config import runner_of
from crabnet.node.durable.checkpoints import Checkpointer
from crabnet.node.durable.committer import Committer
from crabnet.node.durable.indexing import History
from crabnet.node.durable.own_feed import OwnFeed
from crabnet.node.durable.store import Store, open_store
from crabnet.node.event_index import keep_index
from crabnet.node.execution.runs import Perform, RunManager, RunManagerConfig
from crabnet.node.execution.task import Task, task_of
from crabnet.node.faults import Faults
from crabnet.node.network.network import Network
from crabnet.node.network.verifier import ParallelVerifier
from crabnet.node.part import Job, Part, Run
from crabnet.node.reporting import Notify, Reporter, Told, open_events, report_sandbox, report_start, report_step
from crabnet.settings import Settings
from crabnet.storage.feed_index import INDEX_NAME
from crabnet.storage.files import Files
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import LockRole

ClockMs = Callable[[], int]


class Disk(Part):
    """The open data dir with its core, and the threads that check signatures for it."""

    store: Store

    def __init__(self, settings: Settings, files: Files, role: LockRole, clock_ms: ClockMs) -> None:
        self._open_store = partial(open_store, settings, files, role=role)
        self._clock_ms = clock_ms
        self.verify_all = ParallelVerifier()

    async def open(self) -> None:
        """Raises what ``open_store`` raises."""
        try:
            self.store = await trio.to_thread.run_sync(
                partial(self._open_store, now_ms=self._clock_ms(), verify_all=self.verify_all)
            )
        except BaseException:
            self.verify_all.close()
            raise

    async def close(self) -> None:
        """Close the data dir and end the threads."""
        try:
            await trio.to_thread.run_sync(self.store.close)
        finally:
            self.verify_all.close()


class EventReporting(Part):
    """Events and counters."""

    reporter: Reporter

    def __init__(
        self,
        settings: Settings,
        files: Files,
        role: LockRole,
        store: Store,
        clock_ms: ClockMs,
        told: Told | None,
        *,
        listen: bool,
    ) -> None:
        """A node that listens also keeps the index of the events up to date; a command leaves that to the next one."""
        self._core, self._ledger = store.core, store.ledger
        self.index = EventIndex(files, settings.monitor_events.parent) if listen else None
        self._told = told
        self._open_events = partial(
            open_events,
            files,
            settings,
            self._core.signer.node_id,
            role,
            None if told is None else partial(told.warn, kind="event_log"),
        )
        self._events_per_s = settings.events_per_reason_per_sec
        self._clock_ms = clock_ms
        self._contained = self._core.mending.separately("events")
        self._written = trio.Event()
        self.begin_after = 0
        """The id of the last event before this start of the node."""

    async def open(self) -> None:
        """Raises what ``open_events`` raises."""
        self.events = await trio.to_thread.run_sync(self._open_events, self._clock_ms())
        if self.events is not None:
            self.begin_after = self.events.gauges(self._clock_ms()).last_id
        self.reporter = Reporter(
            self._core.signer.node_id, self.events, self._clock_ms, self._told, events_per_s=self._events_per_s
        )

    def jobs(self) -> Sequence[Job]:
        """The job that writes queued events to the log every EVENTS_FLUSH_MS milliseconds, and the one of its index."""
        jobs = [Job(self._write, "events")]
        if self.index is not None and self.events is not None:
            jobs.append(Job(partial(keep_index, self.index, self.reporter.notify), "events"))
        return jobs

    async def _write(self) -> None:
        tidy_s = trio.current_time()
        while True:
            await trio.sleep(limits.EVENTS_FLUSH_MS / 1000)
            self.reporter.tick()
            if self.events is not None and (self.events.queued or trio.current_time() >= tidy_s):
                tidy_s = trio.current_time() + limits.EVENTS_TIDY_MS / 1000
                report = await trio.to_thread.run_sync(self.events.flush, self._clock_ms())
                if report.written:
                    written, self._written = self._written, trio.Event()
                    written.set()

    def next_written(self) -> trio.Event:
        """Set when further events are written."""
        return self._written

    def recent(self) -> Sequence[Event]:
        """The newest events that are written, oldest first, without a gap."""
        return () if self.events is None else self.events.recent

    def on_durable(self, effects: Effects) -> None:
        """Report the notices of effects that have become durable."""
        for notice in effects.notices:
            with self._contained:
                self.reporter.notify(notice.kind, notice.fields)

    async def close(self) -> None:
        """Report a failure of the ledger, if there was one, and write the queued events."""
        failure = self._ledger.failure
        if failure is not None:
            self.reporter.notify(
                "ledger_poisoned",
                {"reason": failure.reason.value, "detail": failure.message[: limits.EVENT_DETAIL_CHARS]},
            )
        if self.index is not None:
            with suppress(OSError):
                await trio.to_thread.run_sync(self.index.close)
        if self.events is not None:
            await trio.to_thread.run_sync(self.events.close, self._clock_ms())


class CommitWriter(Part):
    """The writer of the journal. It also handles failed jobs of all parts: it is their ``Failures``."""

    def __init__(self, committer: Committer, faults: Faults, mending: Mending, ledger: Ledger) -> None:
        self._committer = committer
        self._faults = faults
        self._mending = mending
        self._ledger = ledger

    async def open(self) -> None:
        """Load the list of messages on which a node has failed before."""
        await self._faults.load()

    def jobs(self) -> Sequence[Job]:
        """The job that writes faults to quarantine."""
        return [Job(self._faults.run)]

    async def contained(self, name: str, job: Run) -> None:
        """See ``Failures``."""
        await self._faults.contained(name, job)

    async def failed(self, error: BaseException) -> None:
        """See ``Failures``."""
        await self._faults.failed(error)
        await self._committer.fail(error)

    async def finish(self) -> bool:
        """Commit all queued effects, which hands them to the other parts. False if the ledger or memory has failed."""
        broken = self._mending.broken
        if broken is not None:
            await self._faults.failed(broken)
        await self._committer.close()
        self._faults.take()
        await self._faults.keep()
        return self._ledger.failure is None and broken is None


class Runs(Part):
    """Runs of claimed commands, and their sandbox."""

    def __init__(
        self,
        settings: Settings,
        core: Core,
        notify: Notify,
        perform: Perform,
        changed: Callable[[], None],
        meters: Meters,
    ) -> None:
        self.runner = runner_of(settings)
        bounds = RunManagerConfig(settings.runner_runs_max, settings.runner_queue_max, settings.runner_lease_ms)
        self.manager = RunManager(self.runner, bounds, self._task, core.awaits_result, perform, notify, changed, meters)
        self._core = core
        self._notify = notify

    def _task(self, seed_id: str) -> Task:
        return task_of(self._core.record(seed_id), seed_id, self._core.signer.node_id)

    def jobs(self) -> Sequence[Job]:
        """The job that tests the sandbox while the node starts."""
        return [Job(self._prepare, "runner")]

    async def _prepare(self) -> None:
        report_sandbox(self._notify, await self.runner.prepare())

    def on_durable(self, effects: Effects) -> None:
        """End the runs whose claims are over."""
        for claim in effects.ended_claims:
            with self._core.mending.separately("runs"):
                self.manager.ended(claim)

    async def close(self) -> None:
        """Remove control groups and end the process that starts runs."""
        self.runner.close()


class Index(Part):
    """The index of the journal. It is written a little after the journal."""

    def __init__(self, history: History, notify: Notify) -> None:
        self._history = history
        self._notify = notify

    def jobs(self) -> Sequence[Job]:
        """The job that writes the index a few times a second, checks it part by part, and rebuilds it after damage."""
        return [Job(self._run)]

    async def open(self) -> None:
        """Report if the index had to be rebuilt at the start."""
        if self._history.was_built_anew:
            detail = "the index was damaged, or it was not sealed when the node ended"
            self._notify("index_rebuilt", {"file": INDEX_NAME, "detail": detail})

    async def _run(self) -> None:
        look_s = trio.current_time()
        while True:
            await trio.sleep(limits.INDEX_FLUSH_MS / 1000)
            try:
                await trio.to_thread.run_sync(self._history.flush)
                if trio.current_time() >= look_s:
                    look_s = trio.current_time() + limits.INDEX_LOOK_MS / 1000
                    await trio.to_thread.run_sync(self._history.look_at_some)
                if self._history.is_damaged:
                    await self._mend()
            except CrabnetError as error:
                self._failed(error)
                await trio.sleep(0 if self._history.is_damaged else limits.INDEX_RETRY_MS / 1000)

    async def _mend(self) -> None:
        self._notify("index_damaged", {"file": INDEX_NAME, "detail": "the node rebuilds it from the journal"})
        entries = await trio.to_thread.run_sync(
            partial(self._history.catch_up, pause_s=limits.INDEX_CATCH_UP_PAUSE_MS / 1000)
        )
        self._notify("index_rebuilt", {"file": INDEX_NAME, "entries": entries})

    async def finish(self) -> bool:
        """Write the noted entries. If that fails, the next start rebuilds the index from the journal."""
        try:
            await trio.to_thread.run_sync(self._history.flush)
        except CrabnetError as error:
            self._failed(error)
        return True

    def _failed(self, error: CrabnetError) -> None:
        self._notify("job_failed", {"job": "index", "reason": error.reason.value, "detail": error.message})


class Checkpoints(Part):
    """Checkpoints while the node runs, and one at its end."""

    def __init__(self, settings: Settings, checkpointer: Checkpointer, ledger: Ledger) -> None:
        self._checkpointer = checkpointer
        self._ledger = ledger
        self._run = partial(
            checkpointer.run,
            journal_bytes=settings.checkpoint_journal_bytes,
            interval_ms=settings.checkpoint_interval_s * 1000,
        )

    def jobs(self) -> Sequence[Job]:
        """The job that makes a checkpoint when the journal has grown enough, or after the configured interval."""
        return [Job(self._run)]

    async def finish(self) -> bool:
        """Make a last checkpoint, if there is none yet or the journal has grown since the last one."""
        if self._ledger.replay_bytes or self._ledger.checkpoint_lsn is None:
            await trio.to_thread.run_sync(self._checkpointer.make_now)
        return True


class Ticker(Part):
    """The work of each tick: the core's tick, lost fragments, faults, steps of the clock, the mark of feed risk."""

    def __init__(
        self, core: Core, network: Network, committer: Committer, faults: Faults, own_feed: OwnFeed,
        notify: Notify, clock_ms: ClockMs,
    ) -> None:  # fmt: skip
        self._core = core
        self._network = network
        self._committer = committer
        self._faults = faults
        self._own_feed = own_feed
        self._told = ""
        self._tolerance_s = core.config.policy.future_skew_s
        self._notify = notify
        self._clock_ms = clock_ms

    def jobs(self) -> Sequence[Job]:
        """The job that ticks several times a second."""
        return [Job(self._run)]

    async def _run(self) -> None:
        while True:
            effects = Effects()
            self._observe_clock()
            self._core.handle(Tick(), self._clock_ms(), effects)
            self._network.tick()
            self._committer.enqueue(effects)
            self._faults.take()
            await remember_feed_risk(self._core, self._own_feed)
            self._tell_trouble()
            await trio.sleep(limits.TICK_MS / 1000)

    def _observe_clock(self) -> None:
        clock = self._clock_ms
        if not isinstance(clock, NodeClock):
            return
        step = clock.observe()
        if step is not None:
            report_step(self._notify, step)
        behind_s = self._core.clock_behind_s(clock())
        if behind_s > 0 and abs(clock.ahead_ms // 1000 - behind_s) <= self._tolerance_s:
            ahead_ms = clock.ahead_ms
            clock.catch_up()
            report_step(self._notify, ClockStep(ahead_ms, 0, followed=True))

    def _tell_trouble(self) -> None:
        trouble = self._own_feed.high_water.trouble
        if trouble and trouble != self._told:
            self._notify("feed_mark_failed", {"detail": trouble[: limits.EVENT_DETAIL_CHARS]})
        self._told = trouble

    async def finish(self) -> bool:
        """Report a failure with the high-water mark, if there was one that was not reported yet."""
        self._tell_trouble()
        return True


async def remember_feed_risk(core: Core, own_feed: OwnFeed) -> None:
    """Record durably whether the end of this node's own feed is in doubt. Raises StorageFailedError."""
    mark = own_feed.risk_mark
    if core.feed_risk != mark.present:
        await trio.to_thread.run_sync(mark.keep, core.feed_risk)


class StartStopEvents(Part):
    """The first and the last event of a node. This must be the last part."""

    def __init__(self, settings: Settings, store: Store, notify: Notify, clock_ms: ClockMs, *, listen: bool) -> None:
        self._settings = settings
        self._store = store
        self._notify = notify
        self._clock_ms = clock_ms
        self._listen = listen
        self._started_ms = clock_ms()

    async def open(self) -> None:
        """Report the data dir, the settings, and the start of the node."""
        report_start(
            self._notify,
            self._settings,
            self._store.core,
            self._store,
            one_shot=not self._listen,
            state_hash=await state_hash(self._store.core),
        )

    async def finish(self) -> bool:
        """Report that the node has stopped cleanly."""
        self._notify(
            "node_stopped",
            {
                "clean": True,
                "duration_ms": self._clock_ms() - self._started_ms,
                "state_hash": self._store.core.replica.state_hash(),
            },
            None if self._listen else Severity.DEBUG,
        )
        return True


async def state_hash(core: Core) -> str:
    """The hash of all replicated state, in hex. It is updated in slices, so that other tasks can run in between."""
    state = core.replica.state
    while state.hash_pending() > limits.HASH_SLICE:
        state.hash_some(limits.HASH_SLICE)
        await trio.lowlevel.checkpoint()
    return core.replica.state_hash()
