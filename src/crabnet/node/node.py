"""The node: one data dir, one identity, one core, and the jobs around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Self

import trio

from crabnet import limits
from crabnet.core.commands import (
    CreateClaim,
    Operation,
    Publish,
    Settle,
    SubmitBid,
    Tick,
)
from crabnet.core.effects import Effects, Reply
from crabnet.core.mending import ReplicaFailedError
from crabnet.domain.model import Bid, Claim, Seed, SeedStatus, TaskResult
from crabnet.errors import (
    CrabnetError,
    DataDirDamagedError,
    NetworkError,
    Reason,
    RefusedError,
    StorageFailedError,
    principal,
)
from crabnet.monitor.registry import Severity
from crabnet.node.clock import NodeClock
from crabnet.node.config import runner_of, sends_per_s
from crabnet.node.durable.archiving import Archivist
from crabnet.node.durable.checkpoints import Checkpointer
from crabnet.node.durable.committer import Committer
from crabnet.node.durable.framing import Durable
from crabnet.node.durable.store import Store, open_store
from crabnet.node.failures import failure_of
from crabnet.node.faults import Faults
from crabnet.node.network.network import Network
from crabnet.node.network.outbox import Outbox
from crabnet.node.network.remembering import PeerKeeper, PeersFile
from crabnet.node.network.serving import Paces, Serving
from crabnet.node.network.signatures import Signatures
from crabnet.node.network.verifier import ParallelVerifier, processors
from crabnet.node.quarantine import Quarantine
from crabnet.node.reporting import Reporter, open_events, report_absence, report_sandbox, report_start, report_step
from crabnet.node.seeds import SeedState, find_seeds, seed_state
from crabnet.node.watching import Watch
from crabnet.node.work.work import RunManager, RunManagerConfig, Stage, Task, task_of
from crabnet.settings import Settings
from crabnet.storage.files import Files, RealFiles
from crabnet.storage.lock import LockRole
from crabnet.transport.base import parse_address
from crabnet.transport.udp import UdpTransport


class Node:
    """A participant of the network, to be used as ``async with Node(settings) as node`` inside trio.

    With ``listen`` it takes part for as long as the block lasts; without, it only does what it is told and sends it, as
    the one-shot commands do. Everything that an operation returns is durable.

    ``clock_ms`` gives the node's time; without, it is that of the system, without its steps (``NodeClock``).

    Raises on entering: DataDirBusyError, DataDirDamagedError, StorageFailedError, NetworkError, UsageError.
    A StorageFailedError or DataDirDamagedError of a background job cancels the block and is raised on leaving it; so is
    a ReplicaFailedError, after an unexpected error that makes memory worthless: open the data dir again to go on.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        listen: bool = True,
        files: Files | None = None,
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        self.settings = settings
        self.listen = listen
        self.files: Files = RealFiles() if files is None else files
        self.clock_ms = NodeClock(settings.clock_follow_ms) if clock_ms is None else clock_ms
        self.started_ms = self.clock_ms()
        self.listen_address: str | None = None
        self.imports_waiting: dict[str, str] = {}
        """Envelopes of imports that are parked, and the Reason under which they were counted."""
        self._stack = AsyncExitStack()
        self._stopping = False
        self._changed = trio.Event()

    # --- operations ------------------------------------------------------------------------------------

    @property
    def node_id(self) -> str:
        """The id of this node, which is its public key."""
        return self.core.signer.node_id

    async def publish(self, wish: Publish) -> Seed:
        """Offer a task. Raises UsageError, RefusedError."""
        reply = await self.perform(wish)
        if not isinstance(reply, Seed):
            raise TypeError("Publish gives a seed")
        return reply

    async def bid(self, seed_id: str, price: int, *, notes: str = "", announce: bool = True) -> Bid:
        """Offer to run a seed for ``price``. Raises UsageError, RefusedError."""
        reply = await self.perform(SubmitBid(seed_id=seed_id, price=price, notes=notes, announce=announce))
        if not isinstance(reply, Bid):
            raise TypeError("SubmitBid gives a bid")
        return reply

    async def claim(self, seed_id: str, bid_id: str, *, announce: bool = True) -> Claim:
        """Choose a bid for one's own seed. Raises RefusedError."""
        reply = await self.perform(CreateClaim(seed_id=seed_id, bid_id=bid_id, announce=announce))
        if not isinstance(reply, Claim):
            raise TypeError("CreateClaim gives a claim")
        return reply

    async def run(self, seed_id: str, *, announce: bool = True) -> TaskResult:
        """Run a seed claimed for this node and state the result; returns when that is durable. Raises RefusedError.

        Waits while as many run as may. A run that is ended because its claim is over has no result: CLAIM_OVER.
        """
        return await self.run_manager.run(seed_id, announce)

    async def cancel(self, seed_id: str, *, note: str = "", announce: bool = True) -> str:
        """End a seed, or this node's run of one: says which, ``seed``, ``queued`` (a run that waited) or ``run``.

        A seed of one's own is withdrawn for good, claimed or not; a run of another's seed is ended with a result that
        says so, or leaves the queue. Raises RefusedError.
        """
        definition = self.core.record(seed_id).definition
        if definition is not None and definition.created_by == self.node_id:
            await self.perform(
                Settle(seed_id=seed_id, outcome=SeedStatus.EXPIRED, note=note or "withdrawn", announce=announce)
            )
            return "seed"
        return "queued" if await self.run_manager.cancel(seed_id) is Stage.QUEUED else "run"

    async def settle(self, seed_id: str, outcome: SeedStatus, *, note: str = "", announce: bool = True) -> SeedState:
        """Accept or reject a result, forfeit an overdue attempt, or close (Expired) a seed. Raises RefusedError."""
        await self.perform(Settle(seed_id=seed_id, outcome=outcome, note=note, announce=announce))
        return await self.show(seed_id)

    async def show(self, seed_id: str) -> SeedState:
        """How a seed stands, archived or not. Raises RefusedError (UNKNOWN_SEED)."""
        state = seed_state(self.core.record(seed_id), self.clock_ms() // 1000)
        await self.durable()
        return state

    async def seeds(
        self, *, status: SeedStatus | None = None, limit: int = 100, after: SeedState | None = None
    ) -> list[SeedState]:
        """Seeds, newest first, at most ``limit``; ``after`` is the last of the page before."""
        now_s = self.clock_ms() // 1000
        place = None if after is None else (after.seed.created_at, after.seed.id)
        page = find_seeds(
            self.core.replica.state.records, self.archivist.page, now_s, status=status, limit=limit, after=place
        )
        states = [seed_state(found.record, now_s) for found in page]
        await self.durable()
        return states

    async def wait_for(self, seed_id: str, ready: Callable[[SeedState], bool]) -> SeedState:
        """How a seed stands as soon as it is known and ``ready``; bound the waiting with ``trio.fail_after``."""
        while True:
            changed = self._changed
            if seed_id in self.core.replica.state.records and self.core.replica.definition(seed_id) is not None:
                state = await self.show(seed_id)
                if ready(state):
                    return state
            await changed.wait()

    async def changed(self) -> None:
        """Wait until something has changed: what is replicated, or a run of this node."""
        await self._changed.wait()

    def _has_changed(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def perform(self, wish: Operation) -> Reply:
        """Do any operation; returns when it is durable. Raises RefusedError, UsageError, StorageFailedError."""
        if self._stopping:
            raise RefusedError("the node is stopping; try again when it runs", Reason.NODE_STOPPING)
        effects = Effects()
        try:
            self.core.handle(wish, self.clock_ms(), effects)
        except CrabnetError as error:
            self.reporter.notify(
                "command_refused",
                {
                    "operation": type(wish).__name__,
                    "reason": error.reason.value,
                    "detail": error.message[: limits.EVENT_DETAIL_CHARS],
                    "seed_id": None if isinstance(wish, Publish) else wish.seed_id,
                },
            )
            raise
        finally:
            self.faults.take()
        with trio.CancelScope(shield=True):
            await self.committer.submit(effects)
        return effects.reply

    async def durable(self) -> None:
        """Wait until all that memory shows now is durable; to be awaited before showing it to anybody."""
        await self.committer.submit(Effects())

    async def state_hash(self) -> str:
        """Hex hash of everything replicated, as in the design; brought up to date in slices."""
        state = self.core.replica.state
        while state.hash_pending() > limits.HASH_SLICE:
            state.hash_some(limits.HASH_SLICE)
            await trio.lowlevel.checkpoint()
        return self.core.replica.state_hash()

    async def settle_ends(self) -> None:
        """Draw at once what follows from the ends of feeds; a node that listens does it by and by.

        Raises StorageFailedError.
        """
        progress = True
        while progress and self.core.replica.settling.pending:
            effects = Effects()
            self.core.settle_ends(self.clock_ms(), effects)
            progress = bool(effects.records)
            await self.committer.submit(effects)

    # --- life ------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._stopping = True
        try:
            return bool(await self._stack.__aexit__(kind, error, traceback))
        except BaseExceptionGroup as group:
            first = principal(group)
            if isinstance(first, StorageFailedError | DataDirDamagedError | ReplicaFailedError):
                raise first from group
            if error is not None and group.split(lambda found: found is error)[1] is None:
                return False  # only the block failed: its exception goes on as it was raised
            raise

    async def _open(self) -> None:
        settings = self.settings
        role = LockRole.NODE if self.listen else LockRole.COMMAND
        runner = runner_of(settings)
        self._verify_all = ParallelVerifier()
        self._stack.callback(self._verify_all.close)
        store = await trio.to_thread.run_sync(
            partial(open_store, settings, self.files, role=role, now_ms=self.clock_ms(), verify_all=self._verify_all)
        )
        self._stack.push_async_callback(self._close_store, store)
        self.ledger, self.core, self._risk_mark = store.ledger, store.core, store.risk_mark
        self._last_ms = store.last_ms
        self.history = store.history
        self.events = await trio.to_thread.run_sync(
            open_events, self.files, settings, self.node_id, role, self.clock_ms()
        )
        self.reporter = Reporter(
            self.node_id, self.events, self.clock_ms, events_per_s=settings.events_per_reason_per_sec
        )
        self._stack.push_async_callback(self._close_events)
        mending = self.core.mending
        quarantine = Quarantine(self.files, settings.data_dir)
        self.faults = Faults(mending, quarantine, self.reporter.notify, self.clock_ms)
        await self.faults.load()
        self.committer = Committer(store.ledger, self._release, lambda: mending.broken)
        self.checkpointer = Checkpointer(self.core, store.ledger, self.committer, self.reporter.notify, self.clock_ms)
        self.archivist = Archivist(self.core, store.archive, self.committer, self.clock_ms)
        self._stack.callback(runner.close)
        self.runner = runner
        bounds = RunManagerConfig(settings.runner_runs_max, settings.runner_queue_max, settings.runner_lease_ms)
        self.run_manager = RunManager(
            runner,
            bounds,
            self._task_of,
            self.core.awaits_result,
            self.perform,
            self.reporter.notify,
            self._has_changed,
        )
        self._peer_keeper = PeerKeeper(
            PeersFile(self.files, settings.data_dir), self.core.neighbours, self.reporter.notify
        )
        await self._peer_keeper.load(self.clock_ms())
        await self._open_network()
        report_start(
            self.reporter.notify,
            settings,
            self.core,
            store,
            one_shot=not self.listen,
            state_hash=await self.state_hash(),
        )
        await self._start_jobs()

    async def _open_network(self) -> None:
        settings = self.settings
        listen = parse_address(settings.listen_addr) if self.listen else None
        try:
            transport = await UdpTransport.open(listen, receive_buffer_bytes=settings.udp_receive_buffer_bytes)
        except NetworkError as error:
            self.reporter.notify(
                "listener_failed",
                {"address": settings.listen_addr, "reason": error.reason.value, "detail": error.message},
            )
            raise
        self._stack.push_async_callback(transport.aclose)
        self.transport = transport
        self.outbox = Outbox(
            transport,
            [*settings.announce_addrs, *settings.bootstrap_peers],
            neighbours=self.core.confirmed_peers,
            legacy=settings.legacy_peers,
            datagrams_per_s=sends_per_s(settings),
            notify=self.reporter.notify,
        )
        self.core.neighbours.trusted = frozenset((*settings.announce_addrs, *settings.bootstrap_peers))
        self.network = Network(
            self.core,
            transport,
            self.outbox,
            self.committer,
            self.reporter.notify,
            self.clock_ms,
            Signatures(
                self._verify_all, self.reporter.notify, processors=processors() if settings.verify_process else 1
            ),
        )
        self.serving = Serving(
            self.core,
            transport,
            self.outbox,
            self.committer,
            self.reporter.notify,
            self.clock_ms,
            self.history,
            Paces(settings.sync_serve_bytes_per_s, settings.sync_serve_peer_bytes_per_s),
        )
        if transport.local_address is not None:
            self.listen_address = str(transport.local_address)
            self.reporter.notify(
                "listener_started",
                {"transport": "udp", "address": self.listen_address, "bytes": transport.receive_buffer_bytes},
            )

    async def _start_jobs(self) -> None:
        """The writer outlives all other jobs: what they do in their last moments becomes durable as well."""
        writing = await self._stack.enter_async_context(trio.open_nursery())
        self._stack.push_async_callback(self._finish)
        writing.start_soon(self._write)
        jobs = await self._stack.enter_async_context(trio.open_nursery())
        self._stack.callback(jobs.cancel_scope.cancel)
        effects = Effects()
        self.core.begin(self.clock_ms(), effects)
        await self.committer.submit(effects)
        if not self.listen:
            await self.settle_ends()
        for job in self._jobs():
            jobs.start_soon(self._watched, job)

    def _jobs(self) -> list[Callable[[], Awaitable[None]]]:
        soft = self._soft_job
        always: list[Callable[[], Awaitable[None]]] = [
            self.faults.run,
            soft("events", self._write_events),
            soft("outbox", self.outbox.run),
        ]
        if not self.listen:
            return always
        report_absence(self.reporter.notify, self._last_ms, self.started_ms, self.core.overdue_at_start)
        checkpoints = partial(
            self.checkpointer.run,
            journal_bytes=self.settings.checkpoint_journal_bytes,
            interval_ms=self.settings.checkpoint_interval_s * 1000,
        )
        return [
            *always,
            soft("runner", self._prepare_runner),
            self.network.receive,
            soft("serving", self.serving.run),
            self._tick,
            self.history.run,
            self.archivist.run,
            soft("peers_file", self._peer_keeper.run),
            soft("watch", Watch(self.ledger, self.transport, self.outbox, self.reporter.notify).run),
            checkpoints,
        ]

    def _soft_job(self, name: str, job: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        return partial(self.faults.contained, name, job)

    async def _write(self) -> None:
        """Ended by ``_finish`` alone, however the node is left."""
        with trio.CancelScope(shield=True):
            await self._watched(self.committer.run)

    async def _watched(self, job: Callable[[], Awaitable[None]]) -> None:
        """Do a job; when it fails, nothing more is acknowledged, and those who wait are told before all ends."""
        try:
            await job()
        except BaseException as error:
            failure = failure_of(error)
            if failure is not None:
                await self.faults.failed(principal(failure))
                await self.committer.fail(principal(failure))
            raise

    async def _finish(self) -> None:
        """All other jobs have ended: what they left becomes durable and is sent, and a checkpoint is made."""
        with trio.CancelScope(shield=True):
            broken = self.core.mending.broken
            if broken is not None:
                await self.faults.failed(broken)
            await self.committer.close()
            self.faults.take()
            await self.faults.keep()
            if self.ledger.failure is not None or broken is not None:
                return
            with trio.move_on_after(limits.SHUTDOWN_SEND_S):
                await self.outbox.drain()
            try:
                await trio.to_thread.run_sync(self.history.flush)
            except CrabnetError as error:  # the index is made anew from the journal
                self.reporter.notify(
                    "job_failed", {"job": "index", "reason": error.reason.value, "detail": error.message}
                )
            if self.listen:
                await self._peer_keeper.save()
            if self.ledger.replay_bytes or self.ledger.checkpoint_lsn is None:
                await trio.to_thread.run_sync(self.checkpointer.make_now)
        self.reporter.notify(
            "node_stopped",
            {
                "clean": True,
                "duration_ms": self.clock_ms() - self.started_ms,
                "state_hash": self.core.replica.state_hash(),
            },
            None if self.listen else Severity.DEBUG,
        )

    async def _close_store(self, store: Store) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(store.close)

    async def _close_events(self) -> None:
        failure = self.ledger.failure
        if failure is not None:
            self.reporter.notify(
                "ledger_poisoned",
                {"reason": failure.reason.value, "detail": failure.message[: limits.EVENT_DETAIL_CHARS]},
            )
        if self.events is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.events.close, self.clock_ms())

    # --- jobs ------------------------------------------------------------------------------------------

    def _release(self, durable: list[Durable]) -> None:
        """Everything here is durable: now it may be told, sent and served."""
        self._has_changed()
        self.history.note(durable)
        separately = self.core.mending.separately
        for item in durable:
            effects = item.effects
            for claim in effects.ended_claims:
                with separately("runs"):
                    self.run_manager.ended(claim)
            for notice in effects.notices:
                with separately("events"):
                    self.reporter.notify(notice.kind, notice.fields)
            with separately("outbox"):
                for send in effects.sends:
                    self.outbox.put(send)
            with separately("serving"):
                for serve in effects.serves:
                    self.serving.put(serve)
                for proof in effects.proofs:
                    self.serving.put_single(proof)
                for named in effects.serves_named:
                    self.serving.put_single(named)

    async def remember_feed_risk(self) -> None:
        """Make durable whether the end of this node's own feed is in doubt. Raises StorageFailedError."""
        if self.core.feed_risk != self._risk_mark.present:
            await trio.to_thread.run_sync(self._risk_mark.keep, self.core.feed_risk)

    async def _tick(self) -> None:
        while True:
            effects = Effects()
            step = self.clock_ms.observe() if isinstance(self.clock_ms, NodeClock) else None
            if step is not None:
                report_step(self.reporter.notify, step)
            now_ms = self.clock_ms()
            self.core.handle(Tick(), now_ms, effects)
            self.network.tick()
            self.committer.enqueue(effects)
            self.faults.take()
            await self.remember_feed_risk()
            await trio.sleep(limits.TICK_MS / 1000)

    async def _write_events(self) -> None:
        while True:
            await trio.sleep(limits.EVENTS_FLUSH_MS / 1000)
            self.reporter.tick()
            if self.events is not None and self.events.status().queued:
                await trio.to_thread.run_sync(self.events.flush, self.clock_ms())

    async def _prepare_runner(self) -> None:
        report_sandbox(self.reporter.notify, await self.runner.prepare())

    def _task_of(self, seed_id: str) -> Task:
        return task_of(self.core.record(seed_id), seed_id, self.node_id)
