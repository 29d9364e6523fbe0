"""Measures envelope ingest (verify, decide, journal, apply), as a ratio to bare Ed25519 verification of the same
envelopes.

Each number of held seeds has a separate process. The processes take turns. In each turn a process ingests some
envelopes and then verifies the signatures of the same envelopes. So other load of the machine affects all alike.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import random
import statistics
import tempfile
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import trio
from msgspec import Struct
from nacl.bindings import crypto_sign_open

from bench.report import Measure, at_least, at_most, spread
from bench.workload import NAMESPACE, Message, Population
from crabnet import limits
from crabnet.collector import tune_collector
from crabnet.core.budgets.authors import AuthorRates
from crabnet.core.budgets.sources import SourceRates
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.monitor.index.index import EventIndex
from crabnet.monitor.writer import EventLog
from crabnet.node.children.children import Children
from crabnet.node.clock import wall_ms
from crabnet.node.durable.checkpoints import Checkpointer
from crabnet.node.durable.committer import Committer
from crabnet.node.durable.framing import Durable
from crabnet.node.durable.indexing import History
from crabnet.node.durable.store import entropy
from crabnet.node.event_index import keep_index
from crabnet.node.network.deliveries import Deliveries
from crabnet.node.network.intake import Intake
from crabnet.node.network.network import Network
from crabnet.node.network.outbox import Outbox
from crabnet.node.network.signatures import Signatures, verifier_spec
from crabnet.node.network.verifier import ParallelVerifier, processors
from crabnet.node.reporting import Reporter
from crabnet.protocol.identity import Signer, pre_authentication_encoding
from crabnet.storage.feed_index import FeedIndex
from crabnet.storage.files import RealFiles
from crabnet.storage.layout import Layout
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import LockRole
from crabnet.transport.base import Address, address_of

GROUP: Final = "Envelope ingest"
SEEDS: Final = (1_000, 10_000, 100_000)
_WRITE_BEHIND_SEEDS: Final = 10_000
_WARM_UP_TURNS_MAX: Final = 10
"""The most warm-up turns. They end when the process that checks signatures has started."""
_DRAIN: Final = 256
"""The number of datagrams that the transport returns at once, as the UDP transport does."""


_FAR: Final = 10_000_000
"""A limit that is checked, and so costs time, but refuses nothing."""
_SOURCES: Final = SourceRates(
    threshold_per_s=_FAR, rejects_per_s=_FAR, strangers_per_s=_FAR, peer_per_s=_FAR, total_per_s=_FAR
)
_AUTHORS: Final = AuthorRates(
    envelopes_per_s=_FAR,
    bytes_per_s=1000 * _FAR,
    newcomer_envelopes_per_s=_FAR,
    newcomer_bytes_per_s=1000 * _FAR,
    history_envelopes_per_s=_FAR,
)


class Turn(Struct, frozen=True):
    """Seconds per envelope in one turn: wall time, and processor time of all threads."""

    ingest_s: float
    ingest_cpu_s: float
    verify_s: float
    verify_cpu_s: float

    @property
    def ratio(self) -> float:
        """Ingest rate divided by verification rate."""
        return self.verify_s / self.ingest_s

    @property
    def cpu_ratio(self) -> float:
        """The ratio of the processor times, which stands for a machine with one processor."""
        return self.verify_cpu_s / self.ingest_cpu_s


class MemoryTransport:
    """A transport that receives datagrams from memory and discards those that are sent."""

    def __init__(self) -> None:
        self._put, self._take = trio.open_memory_channel[list[tuple[bytes, Address]]](math.inf)

    def deliver(self, datagrams: list[tuple[bytes, Address]]) -> None:
        """Queue datagrams for ``receive``."""
        for at in range(0, len(datagrams), _DRAIN):
            self._put.send_nowait(datagrams[at : at + _DRAIN])

    async def receive(self) -> list[tuple[bytes, Address]]:
        """The next datagrams."""
        return await self._take.receive()

    async def send(self, data: bytes, to: Address) -> None:
        """Discard a datagram."""

    async def aclose(self) -> None:
        """Do nothing, since there is nothing to release."""


class Rig:
    """The receiving half of a node with ``seeds`` seeds, on a real disk: network, core, committer, ledger, events."""

    def __init__(self, directory: Path, seeds: int) -> None:
        now_ms = wall_ms()
        files = RealFiles()
        self.population = Population(now_ms // 1000)
        self._verifier = ParallelVerifier()
        self.core = Core(CoreConfig(sources=_SOURCES, authors=_AUTHORS), Signer(b"\1" * 32), entropy, self._verifier)
        self.core.replica.state.load(self.population.hold(seeds), 1)
        self.core.replica.feeds.load(self.population.feeds(), 1)
        gc.collect()
        gc.freeze()
        tune_collector()
        self.ledger = Ledger.open(directory / "node", files=files, now_ms=now_ms, role=LockRole.NODE)
        self.events = EventLog.open(files, directory / "node", self.core.signer.node_id, now_ms=now_ms)
        self.reporter = Reporter(self.core.signer.node_id, self.events, wall_ms)
        self.committer = Committer(self.ledger, self.release)
        self.checkpointer = Checkpointer(self.core, self.ledger, self.committer, self.reporter.notify, wall_ms)
        self._transport = MemoryTransport()
        outbox = Outbox(
            self._transport,
            list,
            neighbours=self.core.neighbours.peers.confirmed,
            is_present=self.core.neighbours.is_present,
            legacy=False,
            datagrams_per_s=0,
            deliveries=Deliveries(1),
            notify=self.reporter.notify,
        )
        children = Children(self.reporter.notify, wall_ms, random.random)
        self.signatures = Signatures(self._verifier, children.on_demand(verifier_spec()), processors=processors())
        self.intake = Intake(self.core, self.committer, self.signatures, wall_ms)
        self.network = Network(self.core, self._transport, outbox, self.intake, self.reporter.notify, wall_ms)
        self._index = FeedIndex.open(files, directory / "node" / "index.sqlite", journal_last_lsn=0)
        self._history = History(self.ledger, self._index, files, Layout(directory / "node"), NAMESPACE)
        self.core.replica.held = self._history
        self._arrived = trio.Event()
        self._durable = self._expected = 0

    def release(self, durable: list[Durable]) -> None:
        """Handle durable effects as a node does, without sending."""
        self._history.note(durable)
        for item in durable:
            self._durable += len(item.effects.records)
            for notice in item.effects.notices:
                self.reporter.notify(notice.kind, notice.fields)
        if self._durable >= self._expected:
            self._arrived.set()

    def close(self) -> None:
        """Close the files."""
        self._history.flush()
        self._index.close()
        self.events.close(wall_ms())
        self.ledger.close()
        self._verifier.close()

    async def ingest(self, datagrams: list[tuple[bytes, Address]]) -> float:
        """Ingest datagrams. Returns the seconds until all of them are durable."""
        self._expected = self._durable + len(datagrams)
        self._arrived = trio.Event()
        begun = time.perf_counter()
        self._transport.deliver(datagrams)
        await self._arrived.wait()
        return time.perf_counter() - begun

    async def turn(self, count: int) -> Turn:
        """Ingest ``count`` new envelopes and verify the signatures of the same ones."""
        messages = self.population.messages(count)
        datagrams = addressed(messages)
        verify = bare_verification(messages)
        self.events.flush(wall_ms())
        self._history.flush()
        begun_cpu = self._cpu_s()
        ingest_s = await self.ingest(datagrams)
        ingest_cpu_s = self._cpu_s() - begun_cpu
        begun, begun_cpu = time.perf_counter(), time.process_time()
        verify()
        verify_s, verify_cpu_s = time.perf_counter() - begun, time.process_time() - begun_cpu
        return Turn(ingest_s / count, ingest_cpu_s / count, verify_s / count, verify_cpu_s / count)

    def _cpu_s(self) -> float:
        """Processor time of this process and of the one that checks signatures, in seconds."""
        pid = self.signatures.pid
        return time.process_time() + (0.0 if pid is None else time.clock_gettime(_process_clock(pid)))

    async def _write_index(self) -> None:
        while True:
            await trio.sleep(limits.INDEX_FLUSH_MS / 1000)
            await trio.to_thread.run_sync(self._history.flush)

    async def write_behind(self, event_index: EventIndex | None) -> None:
        """Do the node's background jobs that write the event file, the feed index and, if given, the events' index."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_index)
            if event_index is not None:
                nursery.start_soon(keep_index, event_index, self.reporter.notify)
            while True:
                await trio.sleep(limits.EVENTS_FLUSH_MS / 1000)
                await trio.to_thread.run_sync(self.events.flush, wall_ms())


def _process_clock(pid: int) -> int:
    """The id of the clock of another process's processor time, as clock_getcpuclockid(3) computes it."""
    return (~pid << 3) | 2


def addressed(messages: list[Message]) -> list[tuple[bytes, Address]]:
    """Messages in the form in which a transport returns them."""
    addresses = {message.source: address_of(message.source) for message in messages}
    return [(message.raw, addresses[message.source]) for message in messages]


def bare_verification(messages: list[Message]) -> Callable[[], None]:
    """A function that only verifies the signatures of all messages."""
    keys = {author.id: author.signer.public_key for author in Population(0).authors}
    signed = [
        (
            urlsafe_b64decode((message.envelope.meta.signature or "") + "==")
            + pre_authentication_encoding(message.envelope.content),
            keys[message.envelope.meta.from_],
        )
        for message in messages
    ]

    def verify() -> None:
        for data, key in signed:
            crypto_sign_open(data, key)

    return verify


def _serve(connection: Connection, seeds: int, count: int, write_behind: bool, index_events: bool) -> None:
    """The body of a separate process: does one turn for every request, until a false value comes."""

    async def serve() -> None:
        with tempfile.TemporaryDirectory(prefix="crabnet-bench-") as directory:
            rig = Rig(Path(directory), seeds)
            event_index = EventIndex(RealFiles(), Path(directory) / "node") if index_events else None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.network.receive)
                for job in rig.intake.jobs():
                    nursery.start_soon(job.run)
                nursery.start_soon(rig.committer.run)
                if write_behind:
                    nursery.start_soon(rig.write_behind, event_index)
                for _ in range(_WARM_UP_TURNS_MAX):
                    await rig.turn(count)
                    if rig.signatures.pid is not None or processors() == 1:
                        break
                connection.send(None)
                while await trio.to_thread.run_sync(connection.recv):
                    connection.send(await rig.turn(count))
                nursery.cancel_scope.cancel()
            refused = {name: number for name, number in rig.reporter.counters.items() if "reject" in name}
            if event_index is not None:
                event_index.close()
            rig.close()
            connection.send(refused)

    trio.run(serve)


def measure(*, quick: bool) -> list[Measure]:
    """Measure interleaved turns of all sizes. Raises RuntimeError if an envelope was refused."""
    rounds, count = (12, 640) if quick else (40, 1_280)
    context = multiprocessing.get_context("spawn")
    behind = _WRITE_BEHIND_SEEDS
    kinds = [*((seeds, False, False) for seeds in SEEDS), (behind, True, False), (behind, True, True)]
    turns: list[list[Turn]] = [[] for _ in kinds]
    processes = []
    for seeds, write_behind, index_events in kinds:
        ours, theirs = context.Pipe()
        arguments = (theirs, seeds, count, write_behind, index_events)
        process = context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        processes.append((ours, process))
    for connection, _ in processes:
        connection.recv()
    for _ in range(rounds):
        for taken, (connection, _) in zip(turns, processes, strict=True):
            connection.send(True)
            taken.append(connection.recv())
    for connection, process in processes:
        connection.send(False)
        refused = connection.recv()
        if refused:
            raise RuntimeError(f"the workload was refused: {refused}")
        process.join()
    return _rows(turns)


def _rows(turns: list[list[Turn]]) -> list[Measure]:
    *by_size, behind, indexed = turns
    verified = statistics.median(turn.verify_s for taken in turns for turn in taken)
    rows = [Measure(GROUP, "bare Ed25519 verification", 1 / verified, "1/s")]
    for seeds, taken in zip(SEEDS, by_size, strict=True):
        rate = 1 / statistics.median(turn.ingest_s for turn in taken)
        rows.append(Measure(GROUP, f"ingest, {seeds:,} seeds held", rate, "1/s"))
    for seeds, taken in zip(SEEDS, by_size, strict=True):
        ratios = [turn.ratio for turn in taken]
        name = f"ratio to bare verification, {seeds:,} seeds"
        rows.append(Measure(GROUP, name, statistics.median(ratios), "", at_least(0.6), spread(ratios)))
    losses = [100 * (1 - many.ratio / few.ratio) for few, many in zip(by_size[0], by_size[-1], strict=True)]
    name = f"loss from {SEEDS[0]:,} to {SEEDS[-1]:,} seeds"
    rows.append(Measure(GROUP, name, statistics.median(losses), "%", at_most(10), spread(losses)))
    cpu = statistics.median(turn.cpu_ratio for taken in by_size for turn in taken)
    rows.append(Measure(GROUP, "the ratio with one processor", cpu, "", note="by processor time of all threads"))
    ratios = [turn.ratio for turn in behind]
    note = f"{_WRITE_BEHIND_SEEDS:,} seeds; {spread(ratios)}"
    rows.append(Measure(GROUP, "the ratio with event file and index", statistics.median(ratios), "", note=note))
    losses = [100 * (1 - with_index.ratio / without.ratio) for without, with_index in zip(behind, indexed, strict=True)]
    name = "loss by the index of the events"
    rows.append(Measure(GROUP, name, statistics.median(losses), "%", at_most(10), spread(losses)))
    return rows
