"""Measures what observers cost: ingest of a whole node while its metrics are scraped each second, as a ratio to ingest
without that.

Turns with and without a scraper alternate in one process, so other load of the machine affects both alike. The scraper
is a process of its own. It asks over the control socket and renders the answer, as the web process does.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import msgspec
import trio

from bench.ingest import MemoryTransport
from bench.report import Measure, at_least, percentile, spread
from bench.workload import Message, Population
from crabnet.control.client import call
from crabnet.node.clock import wall_ms
from crabnet.node.network.network import Network
from crabnet.node.network.signatures import Signatures, verifier_spec
from crabnet.node.network.verifier import ParallelVerifier, processors
from crabnet.node.node import Node
from crabnet.node.operations.control_server import serve_control
from crabnet.node.operations.doors import dispatch
from crabnet.node.run import tune_collector
from crabnet.operations.metrics import Metrics
from crabnet.settings import Settings
from crabnet.storage.layout import CONTROL_SOCKET
from crabnet.transport.base import Address, parse_address
from crabnet.web.exposition import render

GROUP: Final = "Ingest while observed"
_SCRAPE_EVERY_S: Final = 1.0
_SCRAPE_MS: Final = 30_000
_SEEDS: Final = 10_000


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
    addresses = {source: parse_address(source.replace("10.", "127.", 1)) for source in sources}
    return [(message.raw, addresses[message.source]) for message in messages]


class _Ingest:
    """A node that gets datagrams from memory besides those of its sockets."""

    def __init__(self, node: Node, verifier: ParallelVerifier) -> None:
        self._node = node
        self.population = Population(wall_ms() // 1000)
        node.core.replica.state.load(self.population.hold(_SEEDS), 1)
        node.core.replica.feeds.load(self.population.feeds(), 1)
        self._transport = MemoryTransport()
        notify = node.reporter.notify
        self.network = Network(
            node.core,
            self._transport,
            node.outbox,
            node.committer,
            notify,
            node.clock_ms,
            Signatures(verifier, node.children.on_demand(verifier_spec()), processors=processors()),
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


async def _turns(directory: Path, rounds: int, count: int) -> tuple[list[float], list[float], list[float]]:
    """The rates without and with a scraper, and the seconds of all scrapes."""
    tune_collector()
    verifier = ParallelVerifier()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    data_dir = directory / "node"
    scraper = context.Process(target=_scrape_all, args=(data_dir, theirs), daemon=True)
    without: list[float] = []
    scraped: list[float] = []
    scrapes: list[float] = []
    async with Node(_settings(data_dir)) as node, trio.open_nursery() as nursery:
        await nursery.start(partial(serve_control, data_dir / CONTROL_SOCKET, partial(dispatch, node)))
        ingest = _Ingest(node, verifier)
        nursery.start_soon(ingest.network.receive)
        scraper.start()
        theirs.close()
        await ingest.rate(count)
        for _ in range(rounds):
            without.append(await ingest.rate(count))
            ours.send(True)
            scraped.append(await ingest.rate(count))
            ours.send(False)
            scrapes += await trio.to_thread.run_sync(ours.recv)
        ours.send(False)
        nursery.cancel_scope.cancel()
    await trio.to_thread.run_sync(scraper.join)
    verifier.close()
    return without, scraped, scrapes


def measure(*, quick: bool) -> list[Measure]:
    """Measure turns of one or two seconds, with and without a scraper."""
    rounds, count = (8, 5_000) if quick else (20, 8_000)
    with tempfile.TemporaryDirectory(prefix="crabnet-bench-") as directory:
        without, scraped, scrapes = trio.run(_turns, Path(directory), rounds, count)
    ratios = [some / none for some, none in zip(scraped, without, strict=True)]
    return [
        Measure(GROUP, "ingest of a whole node", statistics.median(without), "1/s", note=f"{_SEEDS:,} seeds"),
        Measure(GROUP, "ingest with a scrape each second", statistics.median(scraped), "1/s"),
        Measure(GROUP, "ratio", statistics.median(ratios), "", at_least(0.95), spread(ratios)),
        Measure(
            GROUP,
            "a scrape, rendered",
            1000 * statistics.median(scrapes),
            "ms",
            note=f"p99 {1000 * percentile(scrapes, 99):.1f} ms, {len(scrapes)} scrapes",
        ),
    ]
