"""The node: one data dir, one identity, one core, and the jobs around it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import trio
from msgspec.structs import replace

from crabnet import limits
from crabnet.core.commands import CreateClaim, Operation, Publish, RequestTag, Settle, SubmitBid
from crabnet.core.effects import Effects, Reply
from crabnet.core.mending import ReplicaFailedError
from crabnet.domain.model import Bid, Claim, Seed, SeedStatus, TaskResult
from crabnet.errors import (
    CrabnetError,
    DataDirDamagedError,
    Reason,
    RefusedError,
    StorageFailedError,
    UsageError,
    principal,
)
from crabnet.market.policies import Terms
from crabnet.monitor.meters import Meters
from crabnet.node.assembly import (
    Checkpoints,
    CommitWriter,
    Disk,
    EventReporting,
    Index,
    Runs,
    StartStopEvents,
    Ticker,
    remember_feed_risk,
    state_hash,
)
from crabnet.node.children.children import Children
from crabnet.node.clock import NodeClock
from crabnet.node.config import sends_datagrams, sends_per_s
from crabnet.node.descriptors import demand_descriptors
from crabnet.node.durable.archiving import Archivist
from crabnet.node.durable.checkpoints import Checkpointer
from crabnet.node.durable.committer import Committer
from crabnet.node.durable.framing import Durable
from crabnet.node.durable.sizes import DiskLook
from crabnet.node.durable.store import Store
from crabnet.node.ending import Asked
from crabnet.node.execution.prechecks import demand_own_work, demand_publishable
from crabnet.node.execution.runs import Drain, Stage
from crabnet.node.faults import Faults
from crabnet.node.lagging import LagWatch, NodeGauges
from crabnet.node.network.deliveries import Deliveries, Delivery
from crabnet.node.network.dht_given import given_of
from crabnet.node.network.dht_network import NOT_IN_DHT, DhtNetwork, demand_libp2p
from crabnet.node.network.dht_outbox import DhtOutbox
from crabnet.node.network.intake import Intake
from crabnet.node.network.outbox import Outbox
from crabnet.node.network.p2p_book import BookFile
from crabnet.node.network.remembering import PeerKeeper, PeersFile
from crabnet.node.network.serving import Paces, Serving
from crabnet.node.network.signatures import Signatures, verifier_spec
from crabnet.node.network.udp_network import UdpNetwork
from crabnet.node.network.verifier import processors
from crabnet.node.part import Parts
from crabnet.node.probing import LoopProbe
from crabnet.node.quarantine import Quarantine
from crabnet.node.reporting import Told, report_absence
from crabnet.node.seeds import SeedState, find_seeds, seed_state
from crabnet.node.tokens import TokenKeeper
from crabnet.node.trading.accounts import AccountKeeper
from crabnet.node.trading.checks import Checks
from crabnet.node.trading.purchasing import bought
from crabnet.node.trading.turns import Trading
from crabnet.node.trading.working import Working
from crabnet.node.watching import Watch
from crabnet.settings import Settings
from crabnet.source import Scheme
from crabnet.storage.files import Files, RealFiles
from crabnet.storage.lock import LockRole


@dataclass(slots=True)
class UnderWay:
    """A request that is being carried out. ``digest`` stands for its content."""

    digest: str
    done: trio.Event = field(default_factory=trio.Event)


class Node:
    """A participant of the network. Use it as ``async with Node(settings) as node`` inside trio.

    With ``listen`` it takes part in the network while the block runs. Without ``listen`` it only performs operations
    and sends their envelopes, as the one-shot commands do. ``passing`` marks a node that lasts as long as one command:
    other processes wait for the data dir. Everything that an operation returns is durable.

    ``clock_ms`` gives the node's time in milliseconds since the epoch. By default that is a ``NodeClock``: the system's
    time without its steps. ``told`` gets each event that is reported, for example an ``OperatorLog``.

    Raises on entering: DataDirBusyError, DataDirDamagedError, StorageFailedError, NetworkError, UsageError.
    A StorageFailedError or DataDirDamagedError of a background job cancels the block and is raised on leaving it. The
    same holds for a ReplicaFailedError, which follows an unexpected error that makes memory worthless. Open the data
    dir again to go on after one.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        listen: bool = True,
        files: Files | None = None,
        clock_ms: Callable[[], int] | None = None,
        told: Told | None = None,
        passing: bool = False,
    ) -> None:
        self.settings = settings
        self._role = LockRole.COMMAND if not listen else LockRole.PASSING if passing else LockRole.NODE
        self._told = told
        self.listen = listen
        self.files: Files = RealFiles() if files is None else files
        self.clock_ms = NodeClock(settings.clock_follow_ms) if clock_ms is None else clock_ms
        self.started_ms = self.clock_ms()
        self.listen_address: str | None = None
        self.tokens = TokenKeeper(self.files, settings.data_dir)
        self.imports_waiting: dict[str, str] = {}
        """Id of each parked envelope of an import -> the Reason under which it was counted."""
        self.requests_under_way: dict[str, UnderWay] = {}
        """Requests of callers that are being carried out, by the ids that the callers chose."""
        self.meters = Meters()
        self.asked: Asked | None = None
        """How to ask the process of this node to end; None if a program has the node inside it."""
        self.drained = Drain()
        self._parts = Parts()
        self._stopping = False
        self._changed = trio.Event()

    # --- operations ------------------------------------------------------------------------------------

    @property
    def node_id(self) -> str:
        """The id of this node: its public key in another form."""
        return self.core.signer.node_id

    async def publish(self, wish: Publish) -> Seed:
        """Offer a task. Raises UsageError, RefusedError."""
        demand_publishable(wish)
        reply = await self.perform(wish)
        if not isinstance(reply, Seed):
            raise TypeError("Publish gives a seed")
        return reply

    async def buy(self, wish: str | Publish, *, max_price: int | None = None, terms: Terms | None = None) -> TaskResult:
        """Publish a command, or a task, and let the node go on with it by ``terms``; return the accepted result.

        ``max_price`` is the most that a bid may cost, and what workers see as the reward. If the terms leave the
        judgement to you, the result is returned before it is settled. If this call is cancelled, the node goes on.
        Raises RefusedError with NO_BIDS, NO_BID_FITS, ATTEMPTS_EXHAUSTED or what the result was rejected for;
        UsageError.
        """
        task = _task_of(wish) if isinstance(wish, str) else wish
        chosen = terms or task.terms or Terms()
        if max_price is not None:
            chosen = replace(chosen, price_max=max_price)
        task = replace(task, terms=chosen, reward=task.reward if max_price is None else max_price)
        return await self.bought((await self.publish(task)).id)

    async def bought(self, seed_id: str) -> TaskResult:
        """Wait for the end of a purchase of this node, also one of an earlier start. Returns and raises as ``buy``."""
        if not self.listen:
            raise UsageError("a node that does not listen hears no bids; open it with listen=True")
        return await bought(self.core, seed_id, self.next_change, self.durable)

    async def bid(
        self,
        seed_id: str,
        price: int,
        *,
        notes: str = "",
        announce: bool = True,
        force: bool = False,
        request: RequestTag | None = None,
    ) -> Bid:
        """Offer to run a seed for ``price``. With ``force`` bid even if this worker would refuse to run it.

        Raises UsageError, RefusedError.
        """
        if self.run_manager.stopping:
            raise RefusedError("the node is about to end: bid after it has started again", Reason.NODE_STOPPING)
        seed = self.core.record(seed_id).definition
        if seed is not None and not force:
            await self.runner.prepare()
            demand_own_work(self.runner, seed)
        wish = SubmitBid(seed_id=seed_id, price=price, notes=notes, announce=announce, request=request)
        reply = await self.perform(wish)
        if not isinstance(reply, Bid):
            raise TypeError("SubmitBid gives a bid")
        return reply

    async def claim(
        self, seed_id: str, bid_id: str, *, announce: bool = True, request: RequestTag | None = None
    ) -> Claim:
        """Choose a bid for a seed of this node. Raises RefusedError."""
        reply = await self.perform(CreateClaim(seed_id=seed_id, bid_id=bid_id, announce=announce, request=request))
        if not isinstance(reply, Claim):
            raise TypeError("CreateClaim gives a claim")
        return reply

    async def run(self, seed_id: str, *, announce: bool = True, request: RequestTag | None = None) -> TaskResult:
        """Run a seed claimed for this node and state the result. Returns when the result is durable.

        Waits while ``runner_runs_max`` other runs are going on. Raises RefusedError, with CLAIM_OVER if the run was
        stopped because its claim was over. Such a run has no result.
        """
        return await self.run_manager.run(seed_id, announce, request)

    async def drain(self, at_once: trio.Event | None = None, drain_ms: int | None = None) -> int:
        """Make no more bids, take no more runs, and wait for those that go on, for ``drain_ms`` or until ``at_once``.

        Without ``drain_ms`` that is ``runner_drain_ms``. Runs that have not ended by then are ended; their results say
        that this worker failed. Returns how many. To be called before a node that may run commands is left.
        """
        waited = trio.Event() if at_once is None else at_once
        began_s = trio.current_time()
        within_ms = self.settings.runner_drain_ms if drain_ms is None else drain_ms
        self.reporter.notify("node_draining", {"count": len(self.run_manager.views()), "timeout_ms": within_ms})
        self.drained.runs = runs = await self.run_manager.drain(within_ms, waited)
        self.drained.duration_ms = round((trio.current_time() - began_s) * 1000)
        self.drained.done.set()
        return runs.ended

    async def cancel(
        self, seed_id: str, *, note: str = "", announce: bool = True, request: RequestTag | None = None
    ) -> str:
        """Withdraw a seed of this node, or end this node's run of another node's seed.

        A seed of this node is withdrawn permanently, claimed or not. A run is stopped with a result that says so; a run
        that waits is removed from the queue. Returns what was ended: ``seed``, ``run``, or ``queued`` for a run that
        waited. Raises RefusedError.
        """
        definition = self.core.record(seed_id).definition
        if definition is not None and definition.created_by == self.node_id:
            await self.perform(
                Settle(
                    seed_id=seed_id,
                    outcome=SeedStatus.EXPIRED,
                    note=note or "withdrawn",
                    announce=announce,
                    request=request,
                )
            )
            return "seed"
        return "queued" if await self.run_manager.cancel(seed_id) is Stage.QUEUED else "run"

    async def settle(
        self,
        seed_id: str,
        outcome: SeedStatus,
        *,
        note: str = "",
        announce: bool = True,
        request: RequestTag | None = None,
    ) -> SeedState:
        """Accept or reject a result, close (Expired) a seed, or forfeit an attempt. Raises RefusedError.

        An attempt can be forfeited when it is overdue, or when its worker says that it failed. Returns the new state of
        the seed.
        """
        wish = Settle(seed_id=seed_id, outcome=outcome, note=note, announce=announce, request=request)
        await self.perform(wish)
        return await self.show(seed_id)

    async def delivery(self, seed_id: str, object_id: str) -> Delivery | None:
        """Where this node has sent the envelope with which it has just stated ``object_id``; None if not sent yet."""
        record = self.core.record(seed_id)
        stated = [fact for fact in (record.seed, *record.bids, *record.others) if fact is not None]
        envelope_id = next((fact.envelope for fact in reversed(stated) if fact.body.id == object_id), "")
        return await self.deliveries.of(envelope_id) if envelope_id else None

    async def show(self, seed_id: str) -> SeedState:
        """The state of a seed, archived or not. Raises RefusedError (UNKNOWN_SEED)."""
        state = seed_state(self.core.record(seed_id), self.clock_ms() // 1000)
        await self.durable()
        return state

    async def seeds(
        self, *, status: SeedStatus | None = None, limit: int = 100, after: SeedState | None = None
    ) -> list[SeedState]:
        """A page of at most ``limit`` seeds, newest first. ``after`` is the last seed of the previous page."""
        now_s = self.clock_ms() // 1000
        place = None if after is None else (after.seed.created_at, after.seed.id)
        page = find_seeds(
            self.core.replica.state.records, self.archivist.page, now_s, status=status, limit=limit, after=place
        )
        states = [seed_state(found.record, now_s) for found in page]
        await self.durable()
        return states

    async def wait_for(self, seed_id: str, ready: Callable[[SeedState], bool]) -> SeedState:
        """Wait until a seed is known and ``ready`` accepts its state, and return that state.

        The wait is not bounded; use ``trio.fail_after`` for that.
        """
        while True:
            changed = self._changed
            if seed_id in self.core.replica.state.records and self.core.replica.definition(seed_id) is not None:
                state = await self.show(seed_id)
                if ready(state):
                    return state
            await changed.wait()

    async def changed(self) -> None:
        """Wait until replicated state or a run of this node has changed."""
        await self._changed.wait()

    def next_change(self) -> trio.Event:
        """Set at the next change of replicated state or of a run of this node."""
        return self._changed

    def _has_changed(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def perform(self, wish: Operation) -> Reply:
        """Do any operation. Returns when it is durable. Raises RefusedError, UsageError, StorageFailedError."""
        if self._stopping:
            raise RefusedError("the node is stopping; try again when it runs", Reason.NODE_STOPPING)
        await self._await_word()
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

    async def _await_word(self) -> None:
        """Wait until a peer has said how far this node's feed goes, at most as long as the settings say (ADR 6)."""
        left_ms = self.core.feed_wait_left_ms(self.clock_ms())
        if not left_ms:
            return
        with trio.move_on_after((left_ms + limits.CLOCK_ROUNDING_MS) / 1000):
            async with self._parts.meanwhile([] if self.listen else self._hearing):
                while self.core.feed_wait_left_ms(self.clock_ms()):
                    await self._changed.wait()

    def gauges(self) -> NodeGauges:
        """How far event log, sync and sending are behind, and what they have lost."""
        now_ms = self.clock_ms()
        return NodeGauges(
            events=None if self.events is None else self.events.gauges(now_ms),
            sync=self.core.sync_gauges(now_ms),
            sending=self.outbox.gauges(),
        )

    async def durable(self) -> None:
        """Wait until all current content of memory is durable. Await this before showing any of it to others."""
        await self.committer.submit(Effects())

    async def state_hash(self) -> str:
        """The hash of all replicated state, in hex, updated in slices (docs/adr/0002-multiset-state-hash.md)."""
        return await state_hash(self.core)

    async def remember_feed_risk(self) -> None:
        """Record durably whether the end of this node's own feed is in doubt. Raises StorageFailedError."""
        await remember_feed_risk(self.core, self._own_feed)

    async def settle_ends(self) -> None:
        """Apply all consequences of ended feeds at once. A node that listens does this in the background.

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
            return await self._parts.close(kind, error, traceback)
        except BaseExceptionGroup as group:
            first = principal(group)
            if isinstance(first, StorageFailedError | DataDirDamagedError | ReplicaFailedError):
                raise first from group
            if error is not None and group.split(lambda found: found is error)[1] is None:
                return False  # only the block failed: its own exception propagates unchanged
            raise

    async def _open(self) -> None:
        demand_descriptors()
        settings, files, clock_ms, listen = self.settings, self.files, self.clock_ms, self.listen
        parts = self._parts
        disk = await parts.add(Disk(settings, files, self._role, clock_ms))
        store = disk.store
        self.ledger, self.core, self.history, self.replayed = store.ledger, store.core, store.history, store.replayed
        self._own_feed = store.own_feed
        reporting = await parts.add(
            EventReporting(settings, files, self._role, store, clock_ms, self._told, listen=listen)
        )
        self.reporting = reporting
        self.events, self.reporter = reporting.events, reporting.reporter
        notify = self.reporter.notify
        mending = self.core.mending
        self.faults = Faults(mending, Quarantine(files, settings.data_dir), notify, clock_ms)
        self.committer = Committer(
            store.ledger,
            self._release,
            lambda: mending.broken,
            note_head=store.own_feed.high_water.keep,
            meters=self.meters,
        )
        commits = await parts.add(CommitWriter(self.committer, self.faults, mending, store.ledger))
        self.archivist = Archivist(self.core, store.archive, self.committer, clock_ms)
        await parts.add(self.archivist, at_work=listen)
        doing = Runs(settings, self.core, notify, self.perform, self._has_changed, self.meters)
        runs = await parts.add(doing, at_work=listen)
        self.runner, self.run_manager = runs.runner, runs.manager
        self.children = await parts.add(Children(notify, clock_ms, random.random), at_work=listen)
        usable = processors() if settings.verify_process else 1
        signatures = Signatures(disk.verify_all, self.children.on_demand(verifier_spec()), processors=usable)
        intake = await parts.add(Intake(self.core, self.committer, signatures, clock_ms), at_work=listen)
        paces = Paces(settings.sync_serve_bytes_per_s, settings.sync_serve_peer_bytes_per_s)
        serving = Serving(self.core, self.committer, notify, clock_ms, self.history, paces)
        self.serving = await parts.add(serving, at_work=listen)
        dht = listen and settings.uses_dht
        self.deliveries = Deliveries(sends_datagrams(settings, listen=listen) + dht, NOT_IN_DHT)
        network = await parts.add(
            UdpNetwork(settings, self.core, intake, serving, self.deliveries, notify, clock_ms, listen=listen)
        )
        self.outbox = network.outbox
        self.dht = await self._open_dht(intake, network.outbox) if dht else None
        self.transport = network.transport
        self.listen_address = ",".join(network.listen_addresses) or None
        self.targets, self.unserved = network.targets, network.transport.unserved
        await parts.add(Index(self.history, notify), at_work=listen)
        peers = PeerKeeper(PeersFile(files, settings.data_dir), self.core.neighbours, notify, clock_ms, keep=listen)
        await parts.add(peers, at_work=listen)
        self.checkpointer = Checkpointer(self.core, store.ledger, self.committer, notify, clock_ms)
        await parts.add(Checkpoints(settings, self.checkpointer, store.ledger), at_work=listen)
        self.disk_look = DiskLook(files, store.ledger)
        await parts.add(LoopProbe(self.meters), at_work=listen)
        await parts.add(Watch(store.ledger, network.transport, self.outbox, notify), at_work=listen)
        await parts.add(LagWatch(settings, self.gauges, notify), at_work=listen)
        ticker = Ticker(self.core, network.network, self.committer, self.faults, store.own_feed, notify, clock_ms)
        await parts.add(ticker, at_work=listen)
        self._hearing = [*intake.jobs(), network.receiving(), *ticker.jobs()]
        await parts.add(AccountKeeper(self.core, store.archive), at_work=listen)
        checks = Checks(self.runner, self.core, self.committer, self.faults, clock_ms)
        self.checks = await parts.add(checks, at_work=listen)
        self.working = await parts.add(Working(self.core, self.run_manager, clock_ms), at_work=listen)
        await parts.add(Trading(self.core, self.committer, self.faults, clock_ms), at_work=listen)
        await parts.add(StartStopEvents(settings, store, notify, clock_ms, listen=listen))
        await parts.begin(self.committer.run, commits)
        await self._begin(store)
        parts.work()

    async def _open_dht(self, intake: Intake, udp: Outbox) -> DhtNetwork:
        settings, notify, signer = self.settings, self.reporter.notify, self.core.signer
        demand_libp2p()
        given = given_of(settings, signer.seed())
        fall_back = udp.put if settings.dht_udp_fallback and not settings.uses_udp else None
        outbox = DhtOutbox(given.publish, sends_per_s(settings, Scheme.P2P), self.deliveries, notify, fall_back)
        self.serving.carriers[Scheme.P2P] = outbox
        book = BookFile(self.files, settings.data_dir, signer, self.clock_ms)
        return await self._parts.add(
            DhtNetwork(given, self.core, intake, outbox, self.children, book, notify, self.clock_ms)
        )

    async def _begin(self, store: Store) -> None:
        """Do the work that is due at the start."""
        effects = Effects()
        self.core.begin(self.clock_ms(), effects, store.own_feed.wait)
        await self.committer.submit(effects)
        if self.listen:
            report_absence(self.reporter.notify, store.last_ms, self.started_ms, self.core.overdue_at_start)
        else:
            await self.settle_ends()

    def _release(self, durable: list[Durable]) -> None:
        """Hand effects that are durable to all parts, which report, send and serve them."""
        self._has_changed()
        self.history.note(durable)
        for item in durable:
            self._parts.on_durable(item.effects)


def _task_of(command: str) -> Publish:
    task = Publish(title=command[: limits.TITLE_CHARS_MAX], command=command)
    return replace(task, exec_deadline_ms=task.timeout_ms + limits.PURCHASE_PICK_UP_MS)
