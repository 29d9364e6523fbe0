"""yamux with bounds: strict about frames and windows, and fair to the other connections (ADR 43).

The library's reader buffers whatever a peer sends, answers any number of pings, and waits for ever to close a
connection whose peer does not read. Here a peer that breaks the protocol loses its connection; one that is merely too
fast waits.

Streams are changed without the library's lock, because nothing here waits between looking at a stream and changing it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio
from libp2p.abc import IMuxedConn, ISecureConn
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import IOException
from libp2p.io.utils import read_exactly
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_ACK,
    FLAG_FIN,
    FLAG_RST,
    FLAG_SYN,
    GO_AWAY_NORMAL,
    GO_AWAY_PROTOCOL_ERROR,
    HEADER_SIZE,
    PROTOCOL_ID,
    TYPE_DATA,
    TYPE_GO_AWAY,
    TYPE_PING,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
    Yamux,
    YamuxStream,
)

from crabnet import limits
from crabnet.buckets import TokenBucket
from crabnet.errors import Reason
from crabnet.p2p.negotiating import bound

Misused = Callable[[ID, Reason, str, bool], None]
"""Gets a peer, a reason, words, and whether it counts against the peer."""

_HEADER: Final = struct.Struct(YAMUX_HEADER_FORMAT)
_FLAGS: Final = FLAG_SYN | FLAG_ACK | FLAG_FIN | FLAG_RST
_WINDOW_MAX: Final = 2**32 - 1
_GONE: Final = (IOException, RawConnError, OSError, trio.BrokenResourceError, trio.ClosedResourceError)
"""The connection has ended, as connections do."""


class FramingError(Exception):
    """A peer breaks the rules of yamux."""


class Channel(YamuxStream):
    """One stream. What it may receive grows with use up to a bound, in few and large steps."""

    _taken = 0
    """Bytes that were read since the peer was last told so."""

    async def read(self, n: int | None = -1) -> bytes:
        """At most ``n`` bytes, or all that have come. Raises MuxedStreamEOF and MuxedStreamReset.

        The library keeps an event for each stream that was reset while somebody read it.
        """
        if n == 0:
            return b""
        conn, number = self.conn, self.stream_id
        while True:
            buffer = conn.stream_buffers.get(number)
            if buffer:
                data = bytes(buffer) if n is None or n < 0 else bytes(buffer[:n])
                del buffer[: len(data)]
                if self.closed and not buffer:
                    conn._finalize_stream_locked(self, fully_closed=True)
                await self._auto_tune_and_send_window_update(bytes_read=len(data))
                return data
            if self.reset_received:
                raise MuxedStreamReset("the stream was reset")
            event = conn.stream_events.get(number)
            if self.recv_closed or event is None or conn.event_shutting_down.is_set():
                raise MuxedStreamEOF("the stream has ended")
            await event.wait()
            if conn.stream_events.get(number) is event:
                conn.stream_events[number] = trio.Event()

    async def _auto_tune_and_send_window_update(self, *, bytes_read: int = 0) -> None:
        self._taken += bytes_read
        if self._taken < self.target_recv_window // 4 or self.recv_closed:
            return
        more, self._taken = self._taken, 0
        if self.target_recv_window < limits.P2P_WINDOW_BYTES_MAX:
            more += self.target_recv_window
            self.target_recv_window *= 2
        self.recv_window += more
        await self.send_window_update(more)


class Muxer(Yamux):
    """The streams of one connection."""

    def __init__(self, secured: ISecureConn, peer: ID, muxers: Muxers) -> None:
        super().__init__(secured, peer, is_initiator=secured.is_initiator)
        self._muxers = muxers
        self._misused = muxers.misused
        self._frames = TokenBucket(limits.P2P_CONTROL_FRAMES_PER_S)
        self._openings = TokenBucket(limits.P2P_STREAMS_OPENED_PER_S)

    # --- receiving -------------------------------------------------------------------------------------

    async def handle_incoming(self) -> None:
        """Take frames until the connection ends. Whatever a peer sends ends nothing but its connection."""
        why = GO_AWAY_NORMAL
        self._muxers.open.add(self)
        try:
            while not self.event_shutting_down.is_set():
                await self._take_frame()
        except _GONE:
            self.event_shutting_down.set()
        except trio.TooSlowError:
            self._misused(self.peer_id, Reason.TIMEOUT, "its connection did not move", False)
        except Exception as error:  # noqa: BLE001 - such as noise.exceptions.NoiseInvalidMessage, which has no types
            why = GO_AWAY_PROTOCOL_ERROR
            detail = str(error) if isinstance(error, FramingError) else type(error).__name__
            self._misused(self.peer_id, Reason.MALFORMED, f"connection: {detail}", True)
        await self.close(why)

    async def _take_frame(self) -> None:
        header = await read_exactly(self.secured_conn, HEADER_SIZE)
        version, kind, flags, number, length = _HEADER.unpack(header)
        if version or kind > TYPE_GO_AWAY or flags & ~_FLAGS:
            raise FramingError(f"a frame of version {version}, type {kind}, flags {flags}")
        if kind == TYPE_GO_AWAY:
            raise trio.ClosedResourceError
        body = b""
        if kind == TYPE_DATA and length:
            await self._drained()
            body = await self._body(number, flags, length)
        else:
            await self._pace(self._frames)
        if kind == TYPE_PING:
            await self._pinged(flags, length)
            return
        stream: YamuxStream | None = self.streams.get(number)
        if flags & FLAG_SYN:
            stream = await self._opened(number, flags)
        if stream is not None:
            self._take(stream, flags, length if kind == TYPE_WINDOW_UPDATE else 0, body)

    async def _body(self, number: int, flags: int, length: int) -> bytes:
        """The data of a frame. Raises FramingError if it is more than the peer was allowed to send."""
        stream = self.streams.get(number)
        allowed = stream.recv_window if stream is not None else limits.P2P_WINDOW_BYTES_MAX
        if length > allowed:
            raise FramingError(f"{length} bytes on a stream with room for {allowed}")
        if stream is None and not flags & FLAG_SYN:
            await self._pace(self._frames)  # what is still on its way to a stream that is gone
        with trio.fail_after(limits.P2P_READ_MS / 1000):
            return await read_exactly(self.secured_conn, length)

    def _take(self, stream: YamuxStream, flags: int, more_window: int, body: bytes) -> None:
        """Heed one frame of a stream."""
        number = stream.stream_id
        if body and not stream.recv_closed:
            self.stream_buffers[number] += body
            stream.recv_window -= len(body)
        stream.send_window += more_window
        if stream.send_window > _WINDOW_MAX:
            raise FramingError("a window of more than 4 GiB")
        if flags & FLAG_FIN:
            stream.recv_closed = True
            stream.closed = stream.send_closed
        if flags & FLAG_RST:
            stream.closed = stream.send_closed = stream.recv_closed = stream.reset_received = True
        if body or flags & (FLAG_FIN | FLAG_RST):
            self.stream_events[number].set()
        if stream.closed:
            self._finalize_stream_locked(stream, fully_closed=True)

    async def _opened(self, number: int, flags: int) -> YamuxStream | None:
        """A peer opens a stream. None if there is no room for it."""
        if number in self.streams or not number or (number % 2 == 1) == self.is_initiator_value:
            raise FramingError(f"a new stream with the number {number}")
        await self._pace(self._openings)
        if flags & FLAG_RST:
            return None
        if len(self.streams) >= limits.P2P_STREAMS_PER_PEER_MAX:
            self._misused(self.peer_id, Reason.LIMIT_EXCEEDED, "too many streams", False)
            await self._answer(TYPE_WINDOW_UPDATE, FLAG_RST, number)
            return None
        stream = Channel(number, self, False)
        self._add(stream)
        await self._answer(TYPE_WINDOW_UPDATE, FLAG_ACK, number)
        await self.new_stream_send_channel.send(stream)
        return stream if number in self.streams else None

    async def _pinged(self, flags: int, value: int) -> None:
        if flags & FLAG_SYN:
            await self._answer(TYPE_PING, FLAG_ACK, 0, value)
        elif flags & FLAG_ACK:
            self._ping_event.set()

    async def _answer(self, kind: int, flags: int, number: int, length: int = 0) -> None:
        await self._write_frame(_HEADER.pack(0, kind, flags, number, length))

    async def _pace(self, rate: TokenBucket) -> None:
        """Wait until a peer may send more of a kind."""
        while not rate.take(now_ms := int(trio.current_time() * 1000)):  # noqa: ASYNC110 - waits for time
            await trio.sleep(rate.wait_ms(now_ms) / 1000)

    async def _drained(self) -> None:
        """Wait until enough of what the peer sent was read. Raises TooSlowError."""
        if self.buffered() <= self._muxers.share():
            return
        with trio.fail_after(limits.P2P_BUFFERED_MS_MAX / 1000):
            while self.buffered() > self._muxers.share():  # noqa: ASYNC110 - those who read tell nobody
                await trio.sleep(limits.P2P_LOOK_MS / 1000)

    def buffered(self) -> int:
        """Received bytes that wait to be read."""
        return sum(map(len, self.stream_buffers.values()))

    # --- sending and closing ---------------------------------------------------------------------------

    async def open_stream(self) -> YamuxStream:
        """Open a stream. Raises MuxedStreamError if the connection ends."""
        await self.stream_backlog_semaphore.acquire()
        if self.event_shutting_down.is_set():
            self.stream_backlog_semaphore.release()
            raise MuxedStreamError("the connection has ended")
        number = self.next_stream_id
        self.next_stream_id += 2
        stream = Channel(number, self, True)
        stream._owns_backlog_slot = True
        self._add(stream)
        try:
            await self._answer(TYPE_WINDOW_UPDATE, FLAG_SYN, number)
        except Exception as error:
            stream.reset_received = stream.closed = True
            self._finalize_stream_locked(stream, fully_closed=True)
            raise MuxedStreamError(f"cannot open a stream: {error}") from error
        return stream

    def _add(self, stream: YamuxStream) -> None:
        self.streams[stream.stream_id] = stream
        self.stream_buffers[stream.stream_id] = bytearray()
        self.stream_events[stream.stream_id] = trio.Event()

    def _finalize_stream_locked(self, stream: YamuxStream, *, fully_closed: bool) -> None:
        """What a stream has received is of no use any more when it was reset, and whoever reads it must hear so."""
        if stream.reset_received:
            self.stream_buffers.pop(stream.stream_id, None)
            event = self.stream_events.get(stream.stream_id)
            if event is not None:
                event.set()
        super()._finalize_stream_locked(stream, fully_closed=fully_closed)

    async def _write_frame(self, data: bytes) -> None:
        """Write one frame. Raises TooSlowError if the peer does not take it.

        A write that was given up may have sent half a frame. The connection is closed then.
        """
        with trio.fail_after(limits.P2P_WRITE_MS / 1000):
            async with self._write_lock:
                try:
                    await self.secured_conn.write(data)
                except BaseException:
                    self.event_shutting_down.set()
                    with trio.CancelScope(shield=True), suppress(Exception):
                        await self.secured_conn.close()
                    raise
        await trio.lowlevel.checkpoint()

    async def close(self, error_code: int = GO_AWAY_NORMAL) -> None:
        """Close the connection, whether the peer reads that or not."""
        self._muxers.open.discard(self)
        if not self.event_shutting_down.is_set():
            with trio.move_on_after(limits.P2P_CLOSE_MS / 1000), suppress(Exception):
                await self._answer(TYPE_GO_AWAY, 0, 0, error_code)
        await self._cleanup_on_error()


class Muxers(MuxerMultistream):
    """Makes a ``Muxer`` of each secured connection. The library makes its own, whichever class it is given."""

    def __init__(self, misused: Misused) -> None:
        super().__init__({TProtocol(PROTOCOL_ID): Muxer})
        self.misused = misused
        self.open: set[Muxer] = set()
        bound(self)

    def share(self) -> int:
        """How many received bytes may wait in one connection."""
        return min(limits.P2P_BUFFERED_BYTES_MAX, limits.P2P_BUFFERED_TOTAL_BYTES_MAX // max(1, len(self.open)))

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Negotiate yamux, and begin. Raises MultiselectError and MultiselectClientError."""
        protocol, _ = await self._selector.select(conn, conn.is_initiator, limits.P2P_NEGOTIATION_MS // 1000)
        return self._annotate_connection(Muxer(conn, peer_id, self), conn, protocol)
