"""A peer that speaks libp2p by hand, so that a test can break the rules of each layer: TCP, multistream, noise, yamux.

Only the handshake of noise and the protobufs of gossipsub and identify are the library's.
"""

from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Protocol

import trio

from crabnet.p2p.prefixed import prefixed
from crabnet.p2p.stand_in import without_fastecdsa
from crabnet.protocol.identity import Signer

without_fastecdsa()

from libp2p.abc import IRawConnection  # noqa: E402 - after the stand-in for a module that it imports
from libp2p.connection_types import ConnectionType  # noqa: E402
from libp2p.crypto.ed25519 import create_new_key_pair  # noqa: E402
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair  # noqa: E402
from libp2p.identity.identify.pb.identify_pb2 import Identify  # noqa: E402
from libp2p.peer.id import ID  # noqa: E402
from libp2p.pubsub.pb import rpc_pb2  # noqa: E402
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX  # noqa: E402
from libp2p.security.noise.messages import NoiseHandshakePayload  # noqa: E402
from libp2p.security.noise.patterns import PatternXX  # noqa: E402
from multiaddr import Multiaddr  # noqa: E402

MULTISTREAM = "/multistream/1.0.0"
NOISE = "/noise"
YAMUX = "/yamux/1.0.0"
MESHSUB = "/meshsub/1.1.0"
IDENTIFY = "/ipfs/id/1.0.0"
PUSH = "/ipfs/id/push/1.0.0"
PING = "/ipfs/ping/1.0.0"
SYNC = "/crabnet/sync/1"
DIRECT = "/crabnet/direct/1"

DATA, WINDOW, PINGED, GO_AWAY = 0, 1, 2, 3
SYN, ACK, FIN, RST = 1, 2, 4, 8
_HEADER = struct.Struct("!BBHII")
_hosts = count(2)
PATIENCE_S = 20
"""How long a hostile peer waits for a node; only a failure takes so long."""


def line(text: str | bytes) -> bytes:
    """A message of multistream-select."""
    return prefixed((text.encode() if isinstance(text, str) else text) + b"\n")


def header(kind: int, flags: int, number: int, length: int, version: int = 0) -> bytes:
    """The header of a frame of yamux."""
    return _HEADER.pack(version, kind, flags, number, length)


class Link(Protocol):
    """Something to read from and to write to."""

    async def write(self, data: bytes, /) -> None:
        """Send bytes."""

    async def read(self, n: int | None = None, /) -> bytes:
        """Exactly ``n`` bytes, or less at the end; without ``n`` some."""


class Wire(IRawConnection):
    """A TCP connection from a loopback address that nobody else has."""

    is_initiator = True

    def __init__(self, stream: trio.SocketStream, name: str) -> None:
        self.stream = stream
        self.name = name
        self._buffer = bytearray()

    async def write(self, data: bytes) -> None:
        """Send bytes."""
        await self.stream.send_all(data)

    async def read(self, n: int | None = None) -> bytes:
        """Exactly ``n`` bytes, or less at the end."""
        with trio.fail_after(PATIENCE_S):
            while not self._buffer or (n is not None and len(self._buffer) < n):
                more = await self.stream.receive_some(65_536)
                if not more:
                    break
                self._buffer += more
        wanted = len(self._buffer) if n is None else n
        data = bytes(self._buffer[:wanted])
        del self._buffer[:wanted]
        return data

    async def ended(self) -> None:
        """Wait until the node ends this connection."""
        with trio.fail_after(PATIENCE_S), suppress(trio.BrokenResourceError):
            while await self.stream.receive_some(65_536):
                pass

    async def close(self) -> None:
        """See ``IRawConnection``."""
        await self.stream.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        """See ``IRawConnection``."""
        return None

    def get_transport_addresses(self) -> list[Multiaddr]:
        """See ``IRawConnection``."""
        return []

    def get_connection_type(self) -> ConnectionType:
        """See ``IRawConnection``."""
        return ConnectionType.DIRECT

    async def agree(self, *protocols: str) -> str:
        """Agree on one of these protocols by multistream-select."""
        return await agree(self, protocols)


def host_of(number: int) -> str:
    """A loopback address by its number."""
    return f"127.{20 + number // 65_536}.{number // 256 % 256}.{number % 256}"


@asynccontextmanager
async def wire(address: str, host: str | None = None) -> AsyncIterator[Wire]:
    """Connect to ``/ip4/…/tcp/…``, from a new loopback address if ``host`` is None."""
    target = Multiaddr(address)
    own = host or host_of(next(_hosts))
    sock = trio.socket.socket()
    try:
        await sock.bind((own, 0))
        await sock.connect((str(target.value_for_protocol("ip4")), int(str(target.value_for_protocol("tcp")))))
    except BaseException:
        sock.close()
        raise
    stream = trio.SocketStream(sock)
    try:
        yield Wire(stream, own)
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


async def agree(link: Link, protocols: Sequence[str]) -> str:
    """Propose protocols until one is taken."""
    await link.write(line(MULTISTREAM))
    if await read_line(link) != MULTISTREAM:
        raise AssertionError("no multistream-select")
    for each in protocols:
        await link.write(line(each))
        if await read_line(link) == each:
            return each
    raise AssertionError(f"none of {protocols}")


async def read_line(link: Link) -> str:
    """One message of multistream-select."""
    return (await read_prefixed(link)).decode().rstrip("\n")


async def read_prefixed(link: Link) -> bytes:
    """One message with its length before it."""
    length = shift = 0
    while True:
        (byte,) = await link.read(1)
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return await link.read(length)


class Pattern(PatternXX):
    """noise as the library speaks it, with another payload if one is given."""

    payload: Callable[[NoiseHandshakePayload], bytes] | None = None

    def make_handshake_payload(self, extensions: object = None) -> NoiseHandshakePayload:
        """See ``PatternXX``."""
        made = super().make_handshake_payload()
        return made if self.payload is None else _Forged(made, self.payload)


class _Forged(NoiseHandshakePayload):
    def __init__(self, sound: NoiseHandshakePayload, make: Callable[[NoiseHandshakePayload], bytes]) -> None:
        super().__init__(sound.id_pubkey, sound.id_sig)
        self._make = make

    def serialize(self) -> bytes:
        return self._make(NoiseHandshakePayload(self.id_pubkey, self.id_sig))


class Identity:
    """A key, and what is made with it."""

    def __init__(self, name: str) -> None:
        self.seed = hashlib.sha256(f"hostile {name}".encode()).digest()
        self.signer = Signer(self.seed)
        self.keys = create_new_key_pair(self.seed)
        self.id = ID.from_pubkey(self.keys.public_key)
        self._numbers = count(1)

    @property
    def source(self) -> str:
        """What nodes call this peer."""
        return f"p2p:{self.id}"

    def pattern(self) -> Pattern:
        """The handshake of this peer."""
        return Pattern(self.id, self.keys.private_key, create_noise_key_pair().private_key)

    def message(self, topic: str, data: bytes, **changes: object) -> rpc_pb2.Message:
        """A message of gossipsub, signed as it should be, but for ``changes`` made afterwards."""
        seqno = next(self._numbers).to_bytes(8, "big")
        made = rpc_pb2.Message(data=data, topicIDs=[topic], from_id=self.id.to_bytes(), seqno=seqno)
        made.signature = self.keys.private_key.sign(PUBSUB_SIGNING_PREFIX.encode() + made.SerializeToString())
        made.key = self.keys.public_key.serialize()
        for name, value in changes.items():
            if isinstance(value, list):
                del getattr(made, name)[:]
                getattr(made, name).extend(value)
            else:
                setattr(made, name, value)
        return made

    def identify(self, **changes: object) -> bytes:
        """What this peer says of itself."""
        made = Identify(
            protocol_version="ipfs/0.1.0",
            agent_version="hostile",
            public_key=self.keys.public_key.serialize(),
            protocols=[MESHSUB, IDENTIFY, SYNC, DIRECT],
        )
        for name, value in changes.items():
            if isinstance(value, list):
                getattr(made, name).extend(value)
            else:
                setattr(made, name, value)
        return bytes(made.SerializeToString())


Serve = Callable[["Stream"], Awaitable[None]]


class Stream:
    """A stream of a hostile peer. It respects no window."""

    def __init__(self, peer: Peer, number: int) -> None:
        self._peer = peer
        self.number = number
        self._buffer = bytearray()
        self._event = trio.Event()
        self.is_over = False

    def took(self, data: bytes, *, over: bool) -> None:
        """Data came from the node, or the end of the stream."""
        self._buffer += data
        self.is_over |= over
        self._event.set()
        self._event = trio.Event()

    async def write(self, data: bytes) -> None:
        """Send bytes in frames of at most 64 KiB."""
        for at in range(0, len(data), 65_000):
            part = data[at : at + 65_000]
            await self._peer.send(header(DATA, 0, self.number, len(part)) + part)

    async def frame(self, kind: int, flags: int, length: int = 0) -> None:
        """Send a frame without data."""
        await self._peer.send(header(kind, flags, self.number, length))

    async def read(self, n: int | None = None) -> bytes:
        """Exactly ``n`` bytes, or less at the end."""
        with trio.fail_after(PATIENCE_S):
            while (not self._buffer or (n is not None and len(self._buffer) < n)) and not self.is_over:
                await self._event.wait()
        wanted = len(self._buffer) if n is None else n
        data = bytes(self._buffer[:wanted])
        del self._buffer[:wanted]
        return data

    async def ended(self) -> None:
        """Wait until the node ends this stream or its connection."""
        with trio.fail_after(PATIENCE_S):
            while not self.is_over:
                await self._event.wait()


class Peer:
    """A connection on which the handshake is over. What the node sends is read, and answered as far as it must be."""

    def __init__(self, link: Wire, session: Link, who: Identity) -> None:
        self.link = link
        self.who = who
        self._session = session
        self._sending = trio.Lock()
        self._numbers = count(1, 2)
        self.streams: dict[int, Stream] = {}
        self.offered: dict[str, Serve] = {}
        self.is_over = trio.Event()
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.may_read = trio.Event()
        self.may_read.set()
        self.received = 0
        """Bytes of data on streams."""

    async def send(self, data: bytes) -> None:
        """Send bytes over noise."""
        async with self._sending:
            await self._session.write(data)

    async def attempt(self, data: bytes) -> bool:
        """Send bytes, unless the node has had enough."""
        try:
            await self.send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            return False
        return not self.is_over.is_set()

    async def open(self, protocol: str = "") -> Stream:
        """Open a stream, and agree on a protocol if one is given."""
        number = next(self._numbers)
        stream = self.streams[number] = Stream(self, number)
        await stream.frame(WINDOW, SYN)
        if protocol:
            await agree(stream, [protocol])
        return stream

    async def ended(self) -> None:
        """Wait until the node ends this connection."""
        with trio.fail_after(PATIENCE_S):
            await self.is_over.wait()

    async def run(self, nursery: trio.Nursery) -> None:
        """Read what the node sends until the connection ends."""
        with suppress(Exception):
            while True:
                await self._take(nursery)
        self.is_over.set()
        for stream in self.streams.values():
            stream.took(b"", over=True)

    async def _take(self, nursery: trio.Nursery) -> None:
        await self.may_read.wait()
        head = await self._session.read(12)
        _, kind, flags, number, length = _HEADER.unpack(head)
        body = await self._session.read(length) if kind == DATA and length else b""
        self.counts[f"{kind}"] += 1
        if kind == GO_AWAY:
            self.is_over.set()
        elif kind == PINGED and flags & SYN:
            nursery.start_soon(self.attempt, header(PINGED, ACK, 0, length))
        elif flags & SYN:
            stream = self.streams[number] = Stream(self, number)
            nursery.start_soon(self._serve, stream)
        self.received += len(body)
        if body:
            nursery.start_soon(self.attempt, header(WINDOW, 0, number, length))
        if number in self.streams:
            self.streams[number].took(body, over=bool(flags & (FIN | RST)))

    async def _serve(self, stream: Stream) -> None:
        """Answer a stream of the node with what is offered."""
        with suppress(Exception):
            await stream.frame(WINDOW, ACK)
            await stream.write(line(MULTISTREAM))
            await read_line(stream)
            while True:
                wanted = await read_line(stream)
                if wanted in self.offered:
                    await stream.write(line(wanted))
                    await self.offered[wanted](stream)
                    return
                await stream.write(line("na"))

    async def gossip(self, *topics: str) -> Stream:
        """Open a stream of gossipsub, and subscribe."""
        stream = await self.open(MESHSUB)
        await stream.write(rpc(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=each) for each in topics]))
        return stream


def rpc(**fields: object) -> bytes:
    """An RPC of gossipsub with its length before it."""
    return prefixed(bytes(rpc_pb2.RPC(**fields).SerializeToString()))  # type: ignore[arg-type]


async def absorb(stream: Stream) -> None:
    """Read a stream to its end."""
    while await stream.read():
        pass


@asynccontextmanager
async def secured(address: str, who: Identity, host: str | None = None) -> AsyncIterator[tuple[Wire, Link]]:
    """A connection after the handshake of noise."""
    async with wire(address, host) as link:
        await link.agree(NOISE)
        yield link, await who.pattern().handshake_outbound(link, None)


@asynccontextmanager
async def peer(
    address: str, who: Identity, host: str | None = None, offered: dict[str, Serve] | None = None
) -> AsyncIterator[Peer]:
    """A connection on which streams can be opened.

    It answers identify and takes gossip and sync, as an honest one, unless ``offered`` has something else.
    """
    async with secured(address, who, host) as (link, session):
        await agree(session, [YAMUX])
        hostile = Peer(link, session, who)

        async def identify(stream: Stream) -> None:
            await stream.write(prefixed(who.identify()))
            await stream.frame(DATA, FIN)

        hostile.offered = {IDENTIFY: identify, MESHSUB: absorb, SYNC: absorb, DIRECT: absorb, **(offered or {})}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hostile.run, nursery)
            yield hostile
            nursery.cancel_scope.cancel()
