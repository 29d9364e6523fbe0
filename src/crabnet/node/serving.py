"""Answers to neighbours that lack something: stored envelopes, sent again at a bounded pace, to all in turn."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

import trio

from crabnet import limits
from crabnet.core.commands import Answered
from crabnet.core.core import Core
from crabnet.core.effects import Effects, FieldValue, Serve, ServeNamed, ServeProof
from crabnet.errors import CrabnetError, NetworkError
from crabnet.node.committer import Committer
from crabnet.node.outbox import Outbox, steady_ms
from crabnet.protocol.sync import Served
from crabnet.transport.base import Address, Transport, parse_address

Notify = Callable[[str, dict[str, FieldValue]], None]
Stored = list[tuple[int, str, bytes]]


class Reader(Protocol):
    """What is stored. Methods block, and raise CrabnetError."""

    def read(self, serves: list[Serve]) -> list[Stored]:
        """For each range what is held of it."""
        ...

    def proof(self, author: str, seq: int) -> bytes | None:
        """The proof of a fork."""
        ...

    def named(self, seed_id: str, envelope_id: str) -> bytes | None:
        """An envelope about a seed, by its id."""
        ...


class Paces(NamedTuple):
    """Bytes that may be served in a second: to all together, and to one neighbour. 0 means no limit."""

    bytes_per_s: int
    peer_bytes_per_s: int


class Pace:
    """Bytes that may be sent: a token bucket of one second's worth, by a clock in milliseconds. 0 means no limit."""

    def __init__(self, bytes_per_s: int, now_ms: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._tokens = float(bytes_per_s)
        self._earned_ms = now_ms

    def wait_ms(self, now_ms: int) -> float:
        """Until something may be sent; 0 for now."""
        if not self._bytes_per_s:
            return 0
        earned = max(0, now_ms - self._earned_ms) * self._bytes_per_s / 1000
        self._tokens = min(float(self._bytes_per_s), self._tokens + earned)
        self._earned_ms = now_ms
        return max(0.0, -self._tokens * 1000 / self._bytes_per_s)

    def spend(self, sent_bytes: int) -> None:
        """So much was sent: it may be more than there was, and is waited for afterwards."""
        self._tokens -= sent_bytes


class _Line:
    """What one neighbour waits for, in the order in which it asked."""

    def __init__(self, bytes_per_s: int, now_ms: int) -> None:
        self.waiting: OrderedDict[tuple[str, int], Serve] = OrderedDict()
        self.pace = Pace(bytes_per_s, now_ms)


class Serving:
    """One task. Each neighbour in turn gets some answers, so that a greedy one delays nobody but itself."""

    def __init__(
        self,
        core: Core,
        transport: Transport,
        outbox: Outbox,
        committer: Committer,
        notify: Notify,
        clock_ms: Callable[[], int],
        history: Reader,
        paces: Paces,
    ) -> None:
        self._core = core
        self._transport = transport
        self._outbox = outbox
        self._committer = committer
        self._notify = notify
        self._clock_ms = clock_ms
        self._history = history
        self._pace = Pace(paces.bytes_per_s, steady_ms())
        self._peer_bytes_per_s = paces.peer_bytes_per_s
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._singles: OrderedDict[ServeProof | ServeNamed, None] = OrderedDict()
        self._wake = trio.Event()
        self.dropped = 0
        self.envelopes = 0
        self.bytes = 0

    def put(self, serve: Serve) -> None:
        """Queue an answer; the same request again replaces it. Beyond the bound of a neighbour its newest goes."""
        line = self._lines.get(serve.to)
        if line is None:
            line = self._lines[serve.to] = _Line(self._peer_bytes_per_s, steady_ms())
            self._forget_idle()
        line.waiting[(serve.author, serve.from_seq)] = serve
        if len(line.waiting) > limits.SERVES_WAITING_MAX:
            line.waiting.popitem(last=True)
            self.dropped += 1
        self._wake.set()

    def put_single(self, serve: ServeProof | ServeNamed) -> None:
        """Queue the proof of a fork, or an envelope that others rest on, for a neighbour that asked for it."""
        self._singles[serve] = None
        if len(self._singles) > limits.SERVES_WAITING_MAX:
            self._singles.popitem(last=False)
            self.dropped += 1
        self._wake.set()

    def _forget_idle(self) -> None:
        if len(self._lines) > limits.PEERS_MAX:
            idle = next((to for to, line in self._lines.items() if not line.waiting), next(iter(self._lines)))
            del self._lines[idle]

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while (wait_ms := await self._round()) is not None:
                with trio.move_on_after(wait_ms / 1000):
                    await self._wake.wait()

    async def _round(self) -> float | None:
        """Some answers for each neighbour; how long to wait until the next round, None if nobody waits."""
        soonest_ms: float | None = None
        while self._singles and not (wait_ms := self._pace.wait_ms(steady_ms())):
            single, _ = self._singles.popitem(last=False)
            await self._send_single(single)
        if self._singles:
            soonest_ms = wait_ms
        for to, line in list(self._lines.items()):
            if not line.waiting:
                continue
            now_ms = steady_ms()
            wait_ms = max(self._pace.wait_ms(now_ms), line.pace.wait_ms(now_ms))
            if not wait_ms:
                await self._answer(to, line)
            if line.waiting:
                soonest_ms = wait_ms if soonest_ms is None else min(soonest_ms, wait_ms)
        return soonest_ms

    async def _answer(self, to: str, line: _Line) -> None:
        serves: list[Serve] = []
        entries = 0
        while line.waiting and len(serves) < limits.SERVE_WANTS_AT_ONCE and entries < limits.SERVE_ENTRIES_AT_ONCE:
            _, serve = line.waiting.popitem(last=False)
            serves.append(serve)
            entries += serve.to_seq - serve.from_seq + 1
        try:
            found = await trio.to_thread.run_sync(self._history.read, serves)
        except CrabnetError as error:
            self._failed(error)
            return
        address = parse_address(to)
        ranges = []
        for serve, stored in zip(serves, found, strict=True):
            last = await self._send(serve, stored, address, line)
            ranges.append(Served(serve.author, serve.from_seq, last))
        effects = Effects()
        self._core.handle(Answered(to, ranges), self._clock_ms(), effects)
        self._committer.enqueue(effects)

    async def _send(self, serve: Serve, stored: Stored, address: Address, line: _Line) -> int:
        """Send what stands of the envelopes; the seq of the last one."""
        feed = self._core.replica.feeds.get(serve.author)
        sent, sent_bytes, last = 0, 0, serve.from_seq - 1
        for seq, envelope_id, raw in stored:
            if seq > feed.head_seq or feed.in_window(seq) not in {None, envelope_id}:
                continue
            try:
                for datagram in self._outbox.sent.split(raw, steady_ms()):
                    await self._transport.send(datagram, address)
                    self._outbox.datagrams_sent += 1
            except NetworkError:
                self.dropped += 1
                break
            sent, sent_bytes, last = sent + 1, sent_bytes + len(raw), seq
        self._pace.spend(sent_bytes)
        line.pace.spend(sent_bytes)
        self.envelopes += sent
        self.bytes += sent_bytes
        if sent:
            self._notify(
                "sync_served",
                {"author": serve.author, "first_seq": serve.from_seq, "entries": sent, "address": serve.to},
            )
        return last

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
            await self._outbox.send_raw(self._outbox.sent.split(found, steady_ms()), parse_address(serve.to))

    def _failed(self, error: CrabnetError) -> None:
        self._notify("job_failed", {"job": "serve", "reason": error.reason.value, "detail": error.message})
