"""Serves stored envelopes to neighbours that lack them, to each neighbour in turn and at a limited rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import trio

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.core.commands import Answered
from crabnet.core.core import Core
from crabnet.core.effects import Effects, FieldValue, Serve, ServeNamed, ServeProof
from crabnet.errors import CrabnetError
from crabnet.node.durable.committer import Committer
from crabnet.node.durable.indexing import Stored, StoredEnvelope
from crabnet.node.network.outbox import steady_ms
from crabnet.node.part import Job, Part
from crabnet.protocol.sync import Served
from crabnet.source import Scheme, scheme_of
from crabnet.transport.base import Carrier

Notify = Callable[[str, dict[str, FieldValue]], None]


class _Range:
    """The progress of one range. ``last`` is the seq of the last envelope of it that was sent."""

    def __init__(self, serve: Serve) -> None:
        self.serve = serve
        self.last = serve.from_seq - 1
        self.sent = 0


class Reader(Protocol):
    """Reads stored envelopes. Methods block and raise CrabnetError."""

    def read(self, serves: list[Serve]) -> list[Stored]:
        """The held envelopes of each range."""
        ...

    def proof(self, author: str, seq: int) -> bytes | None:
        """The proof of a fork of the author at ``seq``; None without one."""
        ...

    def named(self, seed_id: str, envelope_id: str) -> bytes | None:
        """An envelope about a seed, by the envelope's id; None if it is not stored."""
        ...


class Paces(NamedTuple):
    """The bytes per second that may be served to all neighbours together, and to one neighbour. 0 means no limit."""

    bytes_per_s: int
    peer_bytes_per_s: int


class Pace:
    """A token bucket for bytes to send. It holds the tokens of one second. Its clock is in milliseconds. A rate of 0
    means no limit.
    """

    def __init__(self, bytes_per_s: int, now_ms: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._tokens = float(bytes_per_s)
        self._earned_ms = now_ms

    def wait_ms(self, now_ms: int) -> float:
        """Milliseconds until something may be sent; 0 if it may be sent at once."""
        if not self._bytes_per_s:
            return 0
        earned = max(0, now_ms - self._earned_ms) * self._bytes_per_s / 1000
        self._tokens = min(float(self._bytes_per_s), self._tokens + earned)
        self._earned_ms = now_ms
        return max(0.0, -self._tokens * 1000 / self._bytes_per_s)

    def spend(self, sent_bytes: int) -> None:
        """Take tokens for bytes that were sent. It may be more than there are; ``wait_ms`` then waits for the rest."""
        self._tokens -= sent_bytes


class _Line:
    """The ranges for which one neighbour waits, in the order of its requests."""

    def __init__(self, bytes_per_s: int, now_ms: int) -> None:
        self.waiting: BoundedTable[tuple[str, int], Serve] = BoundedTable(limits.SERVES_WAITING_MAX)
        self.pace = Pace(bytes_per_s, now_ms)


class Serving(Part):
    """Serves in one task. Each neighbour in turn gets some answers, so that a greedy neighbour delays only itself."""

    def __init__(
        self,
        core: Core,
        committer: Committer,
        notify: Notify,
        clock_ms: Callable[[], int],
        history: Reader,
        paces: Paces,
    ) -> None:
        self._core = core
        self.carriers: dict[Scheme, Carrier] = {}
        """Who brings messages to the neighbours of each kind."""
        self._committer = committer
        self._notify = notify
        self._clock_ms = clock_ms
        self._history = history
        self._pace = Pace(paces.bytes_per_s, steady_ms())
        self._peer_bytes_per_s = paces.peer_bytes_per_s
        self._lines: BoundedTable[str, _Line] = BoundedTable(limits.PEERS_MAX)
        """Lines by address, least recently served first. A line is held while requests wait in it."""
        self._singles: BoundedTable[ServeProof | ServeNamed, None] = BoundedTable(limits.SERVES_WAITING_MAX)
        self._wake = trio.Event()
        self.dropped = 0
        self.envelopes = 0
        self.bytes = 0

    def put(self, serve: Serve) -> None:
        """Queue an answer. A repeated request replaces the queued one. If the neighbour's queue is full, a new request
        is dropped.

        If there are too many neighbours, those without waiting requests are evicted first.
        """
        line = self._lines.get(serve.to)
        if line is None:
            line = _Line(self._peer_bytes_per_s, steady_ms())
            for _, gone in self._lines.put(serve.to, line):
                self.dropped += len(gone.waiting)
                gone.waiting.clear()
        if not line.waiting.offer((serve.author, serve.from_seq), serve):
            self.dropped += 1
        self._lines.hold(serve.to)
        self._wake.set()

    def put_single(self, serve: ServeProof | ServeNamed) -> None:
        """Queue the proof of a fork, or an envelope on which others rest, for a neighbour that requested it."""
        self.dropped += len(self._singles.put(serve, None))
        self._wake.set()

    def jobs(self) -> Sequence[Job]:
        """The job that serves."""
        return [Job(self.run, "serving")]

    def on_durable(self, effects: Effects) -> None:
        """Queue what is to be served."""
        if effects.serves or effects.proofs or effects.serves_named:
            with self._core.mending.separately("serving"):
                for serve in effects.serves:
                    self.put(serve)
                for proof in effects.proofs:
                    self.put_single(proof)
                for named in effects.serves_named:
                    self.put_single(named)

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            wait_ms = await self._round()
            with trio.move_on_after(math.inf if wait_ms is None else wait_ms / 1000):
                await self._wake.wait()
            self._wake = trio.Event()

    async def _round(self) -> float | None:
        """Send some answers to each neighbour. Returns the milliseconds until the next round; None if nothing waits."""
        soonest_ms: float | None = None
        while self._singles and not (wait_ms := self._pace.wait_ms(steady_ms())):
            single = self._singles.pop_first()
            if single is not None:
                await self._send_single(single[0])
        if self._singles:
            soonest_ms = wait_ms
        for to, line in list(self._lines.items()):
            if not line.waiting:
                continue
            now_ms = steady_ms()
            wait_ms = max(self._pace.wait_ms(now_ms), line.pace.wait_ms(now_ms))
            carrier = self._carrier(to)
            if carrier is not None and not carrier.has_room(to):
                wait_ms = max(wait_ms, limits.SERVE_LOOK_MS)
            if not wait_ms:
                await self._answer(to, line)
            if line.waiting:
                soonest_ms = wait_ms if soonest_ms is None else min(soonest_ms, wait_ms)
        return soonest_ms

    async def _answer(self, to: str, line: _Line) -> None:
        serves: list[Serve] = []
        entries = 0
        while len(serves) < limits.SERVE_WANTS_AT_ONCE and entries < limits.SERVE_ENTRIES_AT_ONCE:
            first = line.waiting.pop_first()
            if first is None:
                break
            serves.append(first[1])
            entries += first[1].to_seq - first[1].from_seq + 1
        self._lines.touch(to)
        if not line.waiting:
            self._lines.release(to)
        try:
            found = await trio.to_thread.run_sync(self._history.read, serves)
        except CrabnetError as error:
            self._failed(error)
            return
        ranges = [_Range(serve) for serve in serves]
        await self._send(ranges, found, to, line)
        effects = Effects()
        served = [Served(each.serve.author, each.serve.from_seq, each.last) for each in ranges]
        self._core.handle(Answered(to, served), self._clock_ms(), effects)
        self._committer.enqueue(effects)

    async def _send(self, ranges: list[_Range], found: list[Stored], to: str, line: _Line) -> None:
        """Send those of the found envelopes that are still part of their feed.

        The envelopes of all feeds are sent in the order in which this node took them. So each arrives after those on
        which it rests, and need not wait for one that is still on its way.
        """
        stored = [(each, part) for part, envelopes in zip(ranges, found, strict=True) for each in envelopes]
        stored.sort(key=lambda each: each[0].order)
        standing = [(envelope, part) for envelope, part in stored if self._stands(envelope, part)]
        delivered = await self._deliver([envelope.raw for envelope, _ in standing], to)
        for envelope, part in standing[:delivered]:
            part.sent, part.last = part.sent + 1, envelope.seq
        self.dropped += len(standing) - delivered
        sent_bytes = sum(len(envelope.raw) for envelope, _ in standing[:delivered])
        self._pace.spend(sent_bytes)
        line.pace.spend(sent_bytes)
        self.envelopes += sum(part.sent for part in ranges)
        self.bytes += sent_bytes
        for part in ranges:
            if part.sent:
                fields: dict[str, FieldValue] = {
                    "author": part.serve.author,
                    "first_seq": part.serve.from_seq,
                    "entries": part.sent,
                    "address": part.serve.to,
                }
                self._notify("sync_served", fields)

    def _stands(self, envelope: StoredEnvelope, part: _Range) -> bool:
        feed = self._core.replica.feeds.get(part.serve.author)
        return envelope.seq <= feed.head_seq and feed.in_window(envelope.seq) in {None, envelope.envelope_id}

    def _carrier(self, to: str) -> Carrier | None:
        return self.carriers.get(scheme_of(to))

    async def _deliver(self, messages: list[bytes], to: str) -> int:
        carrier = self._carrier(to)
        return 0 if carrier is None or not messages else await carrier.deliver(messages, to)

    async def _send_single(self, serve: ServeProof | ServeNamed) -> None:
        try:
            if isinstance(serve, ServeProof):
                found = await trio.to_thread.run_sync(self._history.proof, serve.author, serve.seq)
            else:
                found = await trio.to_thread.run_sync(self._history.named, serve.seed_id, serve.envelope_id)
        except CrabnetError as error:
            self._failed(error)
            return
        if found is not None:
            self._pace.spend(len(found))
            self.dropped += not await self._deliver([found], serve.to)

    def _failed(self, error: CrabnetError) -> None:
        self._notify("job_failed", {"job": "serve", "reason": error.reason.value, "detail": error.message})
