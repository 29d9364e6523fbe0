"""Replacing a connection through a relay by a direct one between two routers ("DCUtR" of the libp2p specifications).

Both sides connect to each other at the same moment, from the port on which they listen. This works where both routers
keep the port of who sends, as measured (ADR 43). Where one takes a random port, the connection stays with the relay.
"""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import trio
from libp2p.abc import IHost, INetConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from multiaddr import Multiaddr

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.p2p.circuit import connection_of, contained, is_relayed, read_message, write_message
from crabnet.p2p.network import Network
from crabnet.p2p.reachability import is_global
from crabnet.settings.kinds import Wrong
from crabnet.settings.multiaddr import parse_multiaddr

DCUTR: Final = TProtocol("/libp2p/dcutr")
_MS: Final = 1000


class Puncher:
    """Tries it once for each new connection through a relay. Who was called begins."""

    def __init__(self, host: IHost, network: Network, outside: Callable[[], list[Multiaddr]]) -> None:
        """``outside`` are the addresses that this node probably has for others when it sends from where it listens."""
        self._host = host
        self._network = network
        self._outside = outside
        self._nursery: trio.Nursery | None = None
        self._trying = trio.CapacityLimiter(limits.P2P_PUNCHES_AT_ONCE_MAX)
        self._tried: BoundedTable[ID, int] = BoundedTable(limits.P2P_CONNECTIONS_MAX)
        """When (ms) a direct connection with a peer was last tried."""
        self.counters: Counter[str] = Counter()

    def offer(self) -> None:
        """Answer peers that try it."""
        self._host.set_stream_handler(DCUTR, contained(self._asked))

    async def run(self) -> None:
        """The job in which the attempts run."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    def found(self, connection: INetConn) -> None:
        """A peer is connected: try to do without the relay, if it has called through one."""
        inbound = getattr(connection, "direction", None) is Direction.INBOUND
        if self._nursery is not None and inbound and is_relayed(connection) and self._outside():
            self._nursery.start_soon(self._begin, connection.muxed_conn.peer_id)

    def _may_try(self, peer: ID) -> bool:
        now_ms = int(trio.current_time() * _MS)
        last_ms = self._tried.get(peer)
        direct = any(not is_relayed(each) for each in self._network.get_connections(peer))
        early = last_ms is not None and now_ms - last_ms < limits.P2P_PUNCH_AGAIN_MS
        if direct or early or not self._trying.available_tokens:
            return False
        self._tried.put(peer, now_ms)
        return True

    async def _begin(self, peer: ID) -> None:
        await trio.sleep(limits.P2P_PUNCH_DELAY_MS / _MS)  # the peers greet each other first
        if not self._may_try(peer):
            return
        stream: INetStream | None = None
        with suppress(Exception):
            async with self._trying:
                with trio.fail_after(limits.P2P_HANDSHAKE_MS / _MS):
                    stream = await self._host.new_stream(peer, [DCUTR])
                for _ in range(limits.P2P_PUNCH_TRIES):
                    begun = trio.current_time()
                    await write_message(stream, self._connect())
                    answer = await read_message(stream, HolePunch)
                    round_trip_s = trio.current_time() - begun
                    await write_message(stream, HolePunch(type=HolePunch.SYNC))
                    await trio.sleep(round_trip_s / 2)
                    if await self._punch(peer, answer, is_client=False):
                        break
        if stream is not None:
            with trio.move_on_after(limits.P2P_HANDSHAKE_MS / _MS), suppress(Exception):
                await stream.reset()

    async def _asked(self, stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id
        if not is_relayed(connection_of(stream)) or self._nursery is None or not self._may_try(peer):
            await stream.reset()
            return
        async with self._trying:
            for _ in range(limits.P2P_PUNCH_TRIES):
                told = await read_message(stream, HolePunch, limits.P2P_DIAL_MS * 2)
                await write_message(stream, self._connect())
                if (await read_message(stream, HolePunch)).type != HolePunch.SYNC:
                    break
                if await self._punch(peer, told, is_client=True):
                    return
        await stream.reset()

    def _connect(self) -> HolePunch:
        addresses = self._outside()[: limits.P2P_PUNCH_ADDRESSES_MAX]
        return HolePunch(type=HolePunch.CONNECT, ObsAddrs=[each.to_bytes() for each in addresses])

    async def _punch(self, peer: ID, told: HolePunch, *, is_client: bool) -> bool:
        """Connect to a peer at the addresses that it tells, from the port on which this node listens."""
        if told.type != HolePunch.CONNECT or self._nursery is None:
            return False
        self.counters["punches"] += 1
        opened: list[trio.SocketStream] = []
        async with trio.open_nursery() as nursery:
            for target in _targets(told.ObsAddrs):
                nursery.start_soon(self._open, target, opened, nursery.cancel_scope)
        for late in opened[1:]:
            late.socket.close()
        if not opened:
            return False
        raw = RawConnection(TrioTCPStream(opened[0]), is_client)
        self._nursery.start_soon(self._take, raw, peer, is_client)
        return True

    async def _open(self, target: tuple[str, int], opened: list[trio.SocketStream], others: trio.CancelScope) -> None:
        family = f"ip{ipaddress.ip_address(target[0]).version}"
        source = next((each for each in map(parse_multiaddr, map(str, self._outside())) if each.family == family), None)
        if source is None:
            return
        with trio.move_on_after(limits.P2P_PUNCH_MS / _MS), suppress(OSError):
            opened.append(await _connected(source.port, target))
            others.cancel()

    async def _take(self, raw: RawConnection, peer: ID, is_client: bool) -> None:
        try:
            await self._network.replace_relayed(raw, peer, is_client=is_client)
            self.counters["punched"] += 1
        except Exception:  # noqa: BLE001 - the library raises many things; the relay goes on
            with suppress(Exception):
                await raw.close()


async def _connected(port: int, target: tuple[str, int]) -> trio.SocketStream:
    """A connection to ``target`` from this port, on which somebody listens. Raises OSError."""
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        await sock.bind(("", port))
        await sock.connect(target)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


def _targets(told: Iterable[bytes]) -> list[tuple[str, int]]:
    """Of the addresses that a peer tells, the first few that are in the internet."""
    found: list[tuple[str, int]] = []
    for each in told:
        if len(found) >= limits.P2P_PUNCH_ADDRESSES_MAX:
            break
        try:
            parsed = parse_multiaddr(str(Multiaddr(each)))
        except (Wrong, ValueError, LookupError):
            continue
        if parsed.transport == "tcp" and not parsed.via and parsed.port and is_global(parsed.host):
            found.append((parsed.host, parsed.port))
    return list(dict.fromkeys(found))
