"""Measures what observers cost: ingest of a whole node while its metrics are scraped each second and readers follow its
events, as a ratio to ingest without that, and to ingest beside a process that only uses as much processor time.

Turns with and without observers alternate in one process, so other load of the machine affects both alike. The scraper
is a process of its own. It asks over the control socket and renders the answer, as the web process does. The readers
are another process. They read server-sent events from a web process: one reader for each 100 events per second, but no
more than it serves. The last ratio leaves out what any other process costs on the same machine. What remains is what
observers cost the node.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import trio

from bench.ingest import MemoryTransport
from bench.report import Measure, at_least, percentile, spread
from bench.workload import Message, Population
from crabnet.access.secret import digest_of, make_secret
from crabnet.collector import tune_collector
from crabnet.control.client import call
from crabnet.limits import WEB_STREAMS_MAX
from crabnet.node.clock import wall_ms
from crabnet.node.network.intake import Intake
from crabnet.node.network.network import Network
from crabnet.node.network.signatures import Signatures, verifier_spec
from crabnet.node.network.verifier import ParallelVerifier, processors
from crabnet.node.node import Node
from crabnet.node.operations.control_server import serve_control
from crabnet.node.operations.doors import dispatch, dispatch_stream, perform
from crabnet.operations.access import TOKEN_NEW, NewTokenRequest
from crabnet.operations.metrics import Metrics
from crabnet.operations.model import Scope
from crabnet.settings import Settings
from crabnet.storage.layout import CONTROL_SOCKET
from crabnet.transport.base import Address, address_of
from crabnet.web.exposition import render

GROUP: Final = "Ingest while observed"
_SCRAPE_EVERY_S: Final = 1.0
_SCRAPE_MS: Final = 30_000
_SEEDS: Final = 10_000
_EVENTS_PER_READER: Final = 100
_READ_S: Final = 0.2
_BURN_S: Final = 0.01
_CONNECT_S: Final = 60.0


def _scrape_all(data_dir: Path, connection: Connection) -> None:
    """The body of the scraper: scrapes each second while it is told to. Answers with the seconds of each scrape."""
    while connection.recv():
        took_s = []
        due_s = time.perf_counter()
        while not connection.poll(max(0.0, due_s - time.perf_counter())):
            begun_s = time.perf_counter()
            answer = msgspec.convert(call(data_dir, "metrics", {}, _SCRAPE_MS), Metrics)
            render(answer.families)
            took_s.append(time.perf_counter() - begun_s)
            due_s += _SCRAPE_EVERY_S
        connection.recv()
        connection.send(took_s)


def _read_all(address: str, secret: str, connection: Connection) -> None:
    """The body of the readers: so many as it is told follow, until it is told again.

    Answers with the number of those that follow, once the place of each is known, and at last with the bytes that came.
    """
    while count := connection.recv():
        over, all_follow = threading.Event(), threading.Barrier(count + 1)
        counts = [0] * count
        readers = [
            threading.Thread(target=_read_one, args=(address, secret, all_follow, over, counts, number))
            for number in range(count)
        ]
        for reader in readers:
            reader.start()
        all_follow.wait()
        connection.send(count)
        connection.recv()
        over.set()
        for reader in readers:
            reader.join()
        connection.send(sum(counts))


def _read_one(
    address: str, secret: str, all_follow: threading.Barrier, over: threading.Event, counts: list[int], number: int
) -> None:
    host, _, port = address.rpartition("/")[2].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=_CONNECT_S) as sock:
        head = f"GET /api/v1/events/stream HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {secret}"
        sock.sendall(f"{head}\r\n\r\n".encode())
        begun = b""
        while b"\nid: " not in begun:
            begun += _received(sock)
        all_follow.wait(_CONNECT_S)
        sock.settimeout(_READ_S)
        while not over.is_set():
            with suppress(TimeoutError):
                counts[number] += len(_received(sock))


def _received(sock: socket.socket) -> bytes:
    """What has come. Raises ConnectionError if the stream is over."""
    chunk = sock.recv(1 << 20)
    if not chunk:
        raise ConnectionError("a stream of events has ended")
    return chunk


def _burn(connection: Connection) -> None:
    """The body of the control: uses the share of a processor that it is told, until it is told again."""
    while share := connection.recv():
        while not connection.poll((1 - share) * _BURN_S):
            until_s = time.process_time() + share * _BURN_S
            while time.process_time() < until_s:
                pass
        connection.recv()


def _processor_s(pids: list[int]) -> float:
    """The processor time that processes have used, in seconds (proc(5): fields 14 and 15 of stat)."""
    fields = [Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _web(data_dir: Path) -> Iterator[tuple[str, int]]:
    """The address and the process id of a web process beside the node."""
    words = [sys.executable, "-m", "crabnet", "web", "serve", "--data-dir", str(data_dir)]
    words += ["--web-addr", "127.0.0.1:0", "--web-address-connections-max", "1000", "--web-requests-per-sec", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None:
                raise ValueError("the web process has no output")
            yield process.stdout.readline().split()[-1], process.pid
        finally:
            process.terminate()


def _settings(data_dir: Path) -> Settings:
    """A node that limits nobody and knows nobody."""
    return Settings(
        data_dir=data_dir,
        listen_addr="127.0.0.1:0",
        announce_addrs=(),
        udp_datagrams_per_sec=0,
        udp_peer_datagrams_per_sec=0,
        udp_strangers_per_sec=0,
        udp_source_fast_fail_threshold_per_sec=0,
        udp_source_rejects_per_sec=0,
        author_envelopes_per_sec=0,
        author_bytes_per_sec=0,
        newcomer_envelopes_per_sec=0,
        newcomer_bytes_per_sec=0,
        history_envelopes_per_sec=0,
        archive_after_s=0,
    )


def _on_loopback(messages: list[Message]) -> list[tuple[bytes, Address]]:
    """Messages as if they came from loopback addresses, so that answers to them stay on this machine."""
    sources = {message.source for message in messages}
    addresses = {source: address_of(source.replace("10.", "127.", 1)) for source in sources}
    return [(message.raw, addresses[message.source]) for message in messages]


class _Ingest:
    """A node that gets datagrams from memory besides those of its sockets."""

    def __init__(self, node: Node, verifier: ParallelVerifier) -> None:
        self._node = node
        self.population = Population(wall_ms() // 1000)
        node.core.replica.state.load(self.population.hold(_SEEDS), 1)
        node.core.replica.feeds.load(self.population.feeds(), 1)
        self._transport = MemoryTransport()
        signatures = Signatures(verifier, node.children.on_demand(verifier_spec()), processors=processors())
        self.intake = Intake(node.core, node.committer, signatures, node.clock_ms)
        self.network = Network(
            node.core, self._transport, node.outbox, self.intake, node.reporter.notify, node.clock_ms
        )

    async def rate(self, count: int) -> float:
        """Envelopes per second until all of ``count`` new ones are durable."""
        messages = self.population.messages(count)
        wanted = self._accepted() + count
        begun_s = time.perf_counter()
        self._transport.deliver(_on_loopback(messages))
        while self._accepted() < wanted:
            await self._node.changed()
        return count / (time.perf_counter() - begun_s)

    def _accepted(self) -> int:
        return self._node.reporter.counters["envelope_accepted"]


class _Rates(NamedTuple):
    """Envelopes per second of each turn: without observers, with the scraper, with scraper and readers, and beside a
    process that uses as much processor time as scraper, readers and web process.
    """

    without: list[float]
    scraped: list[float]
    observed: list[float]
    beside: list[float]
    shares: list[float]
    """Processors that the observers used in each turn."""
    scrapes: list[float]
    """Seconds of each scrape."""
    readers: int
    events_per_s: float
    bytes_read: list[int]


async def _turns(directory: Path, rounds: int, count: int) -> _Rates:
    tune_collector()
    verifier = ParallelVerifier()
    context = multiprocessing.get_context("spawn")
    data_dir, secret = directory / "node", make_secret()
    rates = _Rates([], [], [], [], [], [], 0, 0.0, [])
    async with Node(_settings(data_dir)) as node, trio.open_nursery() as nursery:
        door = partial(serve_control, data_dir / CONTROL_SOCKET, partial(dispatch, node))
        await nursery.start(partial(door, stream=partial(dispatch_stream, node)))
        token = NewTokenRequest(name="bench", scope=Scope.READ, secret_sha256=digest_of(secret))
        await perform(node, TOKEN_NEW, token)
        ingest = _Ingest(node, verifier)
        nursery.start_soon(ingest.network.receive)
        for job in ingest.intake.jobs():
            nursery.start_soon(job.run)
        events_per_s = await _events_per_s(node, ingest, count)
        readers = min(WEB_STREAMS_MAX, max(1, round(events_per_s / _EVENTS_PER_READER)))
        with ExitStack() as stack:
            address, web_pid = await trio.to_thread.run_sync(stack.enter_context, _web(data_dir))
            scraper, scraper_pid = _observer(context, stack, _scrape_all, data_dir)
            reader, reader_pid = _observer(context, stack, _read_all, address, secret)
            burner, _ = _observer(context, stack, _burn)
            pids = [web_pid, scraper_pid, reader_pid]
            for _ in range(rounds):
                rates.without.append(await ingest.rate(count))
                scraper.send(1)
                rates.scraped.append(await ingest.rate(count))
                reader.send(readers)
                await trio.to_thread.run_sync(reader.recv)
                used_s = _processor_s(pids)
                rates.observed.append(await ingest.rate(count))
                rates.shares.append((_processor_s(pids) - used_s) * rates.observed[-1] / count)
                for observer in (reader, scraper):
                    observer.send(0)
                rates.bytes_read.append(await trio.to_thread.run_sync(reader.recv))
                rates.scrapes.extend(await trio.to_thread.run_sync(scraper.recv))
                burner.send(min(0.95, max(0.01, rates.shares[-1])))
                rates.beside.append(await ingest.rate(count))
                burner.send(0)
            for observer in (reader, scraper, burner):
                observer.send(0)
        nursery.cancel_scope.cancel()
    verifier.close()
    return rates._replace(readers=readers, events_per_s=events_per_s)


async def _events_per_s(node: Node, ingest: _Ingest, count: int) -> float:
    """Events per second that the node writes during ingest. The first turn warms up."""
    if node.events is None:
        raise ValueError("the node has no event log")
    await ingest.rate(count)
    before, begun_s = node.events.gauges(node.clock_ms()), time.perf_counter()
    await ingest.rate(count)
    after, took_s = node.events.gauges(node.clock_ms()), time.perf_counter() - begun_s
    return (after.written + after.queued - before.written - before.queued) / took_s


def _observer(
    context: SpawnContext, stack: ExitStack, body: Callable[..., None], *args: object
) -> tuple[Connection, int]:
    """The pipe to a process that observes, and its id."""
    ours, theirs = context.Pipe()
    process = context.Process(target=body, args=(*args, theirs), daemon=True)
    process.start()
    theirs.close()
    stack.callback(process.join)
    if process.pid is None:
        raise ValueError("a process has no id")
    return ours, process.pid


def measure(*, quick: bool) -> list[Measure]:
    """Measure turns of one or two seconds, with and without observers."""
    rounds, count = (8, 5_000) if quick else (20, 8_000)
    with tempfile.TemporaryDirectory(prefix="crabnet-bench-") as directory:
        rates = trio.run(_turns, Path(directory), rounds, count)
    scraped = [some / none for some, none in zip(rates.scraped, rates.without, strict=True)]
    observed = [some / none for some, none in zip(rates.observed, rates.without, strict=True)]
    beside = [some / none for some, none in zip(rates.observed, rates.beside, strict=True)]
    note = f"{rates.events_per_s:,.0f} events/s; {statistics.median(rates.bytes_read):,.0f} bytes read in a turn"
    return [
        Measure(GROUP, "ingest of a whole node", statistics.median(rates.without), "1/s", note=f"{_SEEDS:,} seeds"),
        Measure(GROUP, "with a scrape each second", statistics.median(scraped), "", at_least(0.95), spread(scraped)),
        Measure(
            GROUP,
            f"with a scrape each second and {rates.readers} readers of events",
            statistics.median(observed),
            "",
            at_least(0.95),
            f"{spread(observed)}; {note}",
        ),
        Measure(
            GROUP,
            "the same beside a process that uses as much processor time",
            statistics.median(beside),
            "",
            note=f"{spread(beside)}; the observers used {statistics.median(rates.shares):.2f} processors",
        ),
        Measure(
            GROUP,
            "a scrape, rendered",
            1000 * statistics.median(rates.scrapes),
            "ms",
            note=f"p99 {1000 * percentile(rates.scrapes, 99):.1f} ms, {len(rates.scrapes)} scrapes",
        ),
    ]
