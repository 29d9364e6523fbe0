"""A node that is told things, and counts what it hears, what that costs it, and what it writes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import trio

from crabnet.core.commands import Input, Received
from crabnet.core.effects import Effects
from crabnet.node.node import Node
from crabnet.protocol.envelope import Envelope
from tests.operator.support import Clock, settings_of

SOURCE = "192.0.2.1:9012"
FLUSHED_EVERY = 64
"""Messages after which index and events are written, as a node does a few times a second."""
_UNLIMITED = {
    "events_per_reason_per_sec": 0,
    "author_envelopes_per_sec": 0,
    "author_bytes_per_sec": 0,
    "newcomer_envelopes_per_sec": 0,
    "newcomer_bytes_per_sec": 0,
}


class Written(NamedTuple):
    """Bytes in files."""

    journal: int
    indexes: int
    rest: int
    """Archive and one checkpoint."""
    events: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.journal + self.indexes + self.rest + self.events

    def since(self, before: Written) -> Written:
        """What was written after ``before``."""
        return Written(*(now - then for now, then in zip(self, before, strict=True)))


class Victim:
    """A node without a network and without budgets, what it was told, and what it has written."""

    def __init__(self, node: Node, clock: Clock) -> None:
        self.node = node
        self.clock = clock
        self.heard = 0
        self.messages = 0
        self.cpu_s = 0.0
        """Processor time of all threads for what was heard."""

    async def tell(self, *envelopes: Envelope) -> None:
        """Envelopes come, one by one; each is durable and has had all its consequences before the next."""
        for envelope in envelopes:
            await self.hear(envelope.raw)

    async def hear(self, data: bytes, source: str = SOURCE) -> None:
        """Any message comes, as ``tell``."""
        self.heard += len(data)
        self.messages += 1
        await self.do(Received(source, data))
        if self.messages % FLUSHED_EVERY == 0:
            await self.flush()

    async def do(self, given: Input) -> None:
        """Give the node an input, with all its consequences."""
        began_s = time.process_time()
        effects = Effects()
        self.node.core.handle(given, self.clock.now_ms, effects)
        while self.node.core.replica.settling.pending:
            self.node.core.rest(self.clock.now_ms, effects)
        await self.node.committer.submit(effects)
        self.cpu_s += time.process_time() - began_s

    async def wait(self, ms: int = 2_000) -> None:
        """Time passes, and what is at rest for long enough goes to the archive."""
        began_s = time.process_time()
        self.clock.now_ms += ms
        while await self.node.archivist.archive_due():
            pass
        self.cpu_s += time.process_time() - began_s

    async def written(self) -> Written:
        """Bytes in all files that hold what was said."""
        journal = self.node.ledger.replay_bytes
        await self.flush()
        await self.node.checkpointer.make()
        data_dir = self.node.settings.data_dir
        return Written(
            journal,
            _size(*data_dir.glob("*.sqlite*")),
            _size(data_dir / "state.json", *(data_dir / "archive").rglob("*")),
            _size(*data_dir.glob("events*.ndjson")),
        )

    async def flush(self) -> None:
        """Index and events are written."""
        await trio.to_thread.run_sync(self.node.history.flush)
        if self.node.events is not None:
            await trio.to_thread.run_sync(self.node.events.flush, self.clock.now_ms)


def _size(*paths: Path) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


@asynccontextmanager
async def victim_in(data_dir: Path) -> AsyncIterator[Victim]:
    """A new node that nothing holds back."""
    clock = Clock()
    async with Node(settings_of(data_dir, **_UNLIMITED), listen=False, clock_ms=clock) as node:
        yield Victim(node, clock)
