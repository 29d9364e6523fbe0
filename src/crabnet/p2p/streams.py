"""The protocols ``/crabnet/sync/1`` and ``/crabnet/direct/1``: whole messages over streams (docs/PROTOCOL.md, 14).

Each side opens a stream for what it sends, and keeps it. The stream's flow control holds back a sender that is too
fast.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket
from crabnet.errors import Reason
from crabnet.p2p.checking import Checked, Verdict
from crabnet.p2p.prefixed import MalformedStreamError, Prefixed, prefixed
from crabnet.transport.p2p_wire import BATCH_BYTES, Path

PROTOCOLS: Final = {Path.SYNC: TProtocol("/crabnet/sync/1"), Path.DIRECT: TProtocol("/crabnet/direct/1")}
_READ_BYTES: Final = 64 * 1024

Deliver = Callable[[ID, Path, list[bytes]], Awaitable[None]]
"""Takes messages that were accepted. It waits while the node has no room for more."""


class _Line:
    """What goes to one peer over one protocol. ``stream`` is None while there is none."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.stream: INetStream | None = None


class Streams:
    """The streams with all peers."""

    def __init__(
        self,
        host: IHost,
        check: Callable[[ID, bytes], Checked],
        deliver: Deliver,
        refused: Callable[[ID, Path, Checked, int], None],
        messages_per_s: int,
    ) -> None:
        """``refused`` gets messages that are not accepted. ``messages_per_s`` is for one peer; 0 means no limit."""
        self._host = host
        self._check = check
        self._deliver = deliver
        self._refused = refused
        self._messages_per_s = messages_per_s
        self._rates: BoundedTable[ID, TokenBucket] = BoundedTable(limits.SOURCE_PEERS_MAX)
        self._lines: dict[tuple[ID, Path], _Line] = {}
        self._open: dict[tuple[ID, Path], int] = {}
        """Inbound streams that are being read."""

    def offer(self) -> None:
        """Accept streams of these protocols from now on."""
        for path, protocol in PROTOCOLS.items():

            async def handle(stream: INetStream, path: Path = path) -> None:
                await self._read(stream, path)

            self._host.set_stream_handler(protocol, handle)

    def forget(self, peer: ID) -> None:
        """Forget a peer that is not connected any more."""
        for path in PROTOCOLS:
            self._lines.pop((peer, path), None)

    async def greet(self, peer: ID) -> bool:
        """Open the sync stream to a peer. False if the peer does not speak the protocol, or is gone."""
        return await self.send(peer, Path.SYNC, []) is None

    async def send(self, peer: ID, path: Path, messages: list[bytes]) -> Reason | None:
        """Send messages, in this order. Returns None once the stream has taken them, else why it has not."""
        line = self._lines.setdefault((peer, path), _Line())
        try:
            with trio.fail_after(limits.P2P_WRITE_MS / 1000):
                async with line.lock:
                    if line.stream is None:
                        line.stream = await self._host.new_stream(peer, [PROTOCOLS[path]])
                    if messages:
                        await line.stream.write(b"".join(map(prefixed, messages)))
        except trio.TooSlowError:
            await self._give_up(line)
            return Reason.TIMEOUT
        except Exception:  # noqa: BLE001 - the library raises what it likes when a peer is gone
            await self._give_up(line)
            return Reason.SEND_FAILED
        return None

    async def _give_up(self, line: _Line) -> None:
        stream, line.stream = line.stream, None
        if stream is not None:
            with suppress(Exception):
                await stream.reset()

    async def _read(self, stream: INetStream, path: Path) -> None:
        """Read messages of a peer until its stream ends. A peer may have a few streams of a protocol."""
        peer = stream.muxed_conn.peer_id
        key = (peer, path)
        if self._open.get(key, 0) >= limits.P2P_STREAMS_PER_PROTOCOL_MAX:
            await stream.reset()
            return
        self._open[key] = self._open.get(key, 0) + 1
        cut = Prefixed(limits.FORK_PROOF_BYTES_MAX)
        try:
            while True:
                await self._take(peer, path, cut.add(await some_bytes(stream, cut)))
        except StreamEOF:
            await stream.close()
        except MalformedStreamError as error:
            self._refused(peer, path, Checked(Verdict.REJECT, Reason.MALFORMED, str(error)), 0)
            await stream.reset()
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]

    async def _take(self, peer: ID, path: Path, messages: list[bytes]) -> None:
        accepted: list[bytes] = []
        size = 0
        for message in messages:
            checked = self._check(peer, message)
            if checked.verdict is not Verdict.ACCEPT:
                self._refused(peer, path, checked, len(message))
                continue
            if size + len(message) > BATCH_BYTES and accepted:
                await self._deliver(peer, path, accepted)
                accepted, size = [], 0
            accepted.append(message)
            size += len(message)
        if accepted:
            await self._deliver(peer, path, accepted)
        await self._pace(peer, len(messages))

    async def _pace(self, peer: ID, messages: int) -> None:
        """Wait until a peer that sends too much may send more. Meanwhile the stream's flow control stops it."""
        rate = self._rates.get(peer) or TokenBucket(self._messages_per_s)
        self._rates.put(peer, rate)
        while not rate.take(now_ms := int(trio.current_time() * 1000), messages):  # noqa: ASYNC110 - waits for time
            await trio.sleep(rate.wait_ms(now_ms, messages) / 1000)


async def some_bytes(stream: INetStream, cut: Prefixed) -> bytes:
    """Some bytes. Raises StreamEOF at the end, MalformedStreamError if a message that has begun does not go on."""
    if not len(cut):
        data = await stream.read(_READ_BYTES)
    else:
        with trio.move_on_after(limits.P2P_READ_MS / 1000) as reading:
            data = await stream.read(_READ_BYTES)
        if reading.cancelled_caught:
            raise MalformedStreamError("a message that has begun did not go on")
    if not data:
        raise StreamEOF
    return data
