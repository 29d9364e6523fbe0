"""Asking peers to dial this node back, and dialling peers back that ask (libp2p specification "AutoNAT v1").

The library's service reports every connected peer as reachable, because it asks the host to connect, which is done
already. This one makes a connection of its own up to the proof of the peer's id, and only to the IP address that the
request came from.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from typing import Final

import trio
from libp2p.abc import IHost, INetConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.autonat.pb.autonat_pb2 import Message
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket
from crabnet.p2p.circuit import connection_of, contained, is_relayed, read_message, write_message
from crabnet.p2p.network import Network, host_group
from crabnet.settings.kinds import Wrong
from crabnet.settings.multiaddr import parse_multiaddr

AUTONAT: Final = TProtocol("/libp2p/autonat/1.0.0")
_MS: Final = 1000


class AutoNat:
    """Both ends of the protocol."""

    def __init__(self, host: IHost, network: Network) -> None:
        self._host = host
        self._network = network
        self._own: ID = host.get_id()
        self._dialling = trio.CapacityLimiter(limits.P2P_DIAL_BACKS_AT_ONCE_MAX)
        self._rate = TokenBucket(limits.P2P_DIAL_BACKS_PER_S, limits.P2P_DIAL_BACKS_AT_ONCE_MAX)
        self._hosts: BoundedTable[str, TokenBucket] = BoundedTable(limits.SOURCES_MAX)
        self.counters: Counter[str] = Counter()

    def offer(self) -> None:
        """Dial peers back that ask for it, from now on."""
        self._host.set_stream_handler(AUTONAT, contained(self._asked))

    # --- asking ----------------------------------------------------------------------------------------

    async def ask(self, peer: ID, addresses: Iterable[Multiaddr]) -> str | None:
        """Ask a peer to dial this node at one of the addresses.

        Returns the address at which it did, "" if it could not, and None if it does not say. Raises whatever the
        library raises, and trio.TooSlowError.
        """
        wanted = list(addresses)
        about = Message.PeerInfo(id=self._own.to_bytes(), addrs=[each.to_bytes() for each in wanted])
        request = Message(type=Message.DIAL, dial=Message.Dial(peer=about))
        with trio.fail_after(limits.P2P_HANDSHAKE_MS / _MS):
            stream = await self._host.new_stream(peer, [AUTONAT])
        try:
            await write_message(stream, request)
            wait_ms = limits.P2P_DIAL_MS * limits.P2P_DIAL_BACK_ADDRESSES_MAX
            answer = (await read_message(stream, Message, wait_ms)).dialResponse
        finally:
            with trio.CancelScope(shield=True):
                await stream.reset()
        if answer.status == Message.OK:
            reached = str(Multiaddr(answer.addr)) if answer.addr else ""
            return reached if reached in map(str, wanted) else None
        return "" if answer.status == Message.E_DIAL_ERROR else None

    # --- being asked -----------------------------------------------------------------------------------

    async def _asked(self, stream: INetStream) -> None:
        request = await read_message(stream, Message)
        peer, connection = stream.muxed_conn.peer_id, connection_of(stream)
        answer = Message.DialResponse(status=Message.E_DIAL_REFUSED)
        if request.type != Message.DIAL or request.dial.peer.id not in (b"", peer.to_bytes()):
            answer.status = Message.E_BAD_REQUEST
        else:
            remote = stream.get_remote_address()
            addresses = _at(remote, request.dial.peer.addrs)
            if addresses and not is_relayed(connection) and self._may_dial(host_group(remote)):
                reached = await self._dial_back(peer, addresses)
                answer.status = Message.E_DIAL_ERROR if reached is None else Message.OK
                if reached is not None:
                    answer.addr = reached.to_bytes()
        await write_message(stream, Message(type=Message.DIAL_RESPONSE, dialResponse=answer))
        await stream.close()

    def _may_dial(self, host: str) -> bool:
        now_ms = int(trio.current_time() * _MS)
        of_host = self._hosts.get(host)
        if of_host is None:
            of_host = TokenBucket(_MS / limits.P2P_DIAL_BACK_HOST_MS, limits.P2P_DIAL_BACK_HOST_BURST)
        self._hosts.put(host, of_host)
        free = self._dialling.available_tokens > 0
        allowed = free and of_host.take(now_ms) and self._rate.take(now_ms)
        self.counters["dial_backs" if allowed else "dial_backs_refused"] += 1
        return allowed

    async def _dial_back(self, peer: ID, addresses: list[Multiaddr]) -> Multiaddr | None:
        async with self._dialling:
            for address in addresses:
                try:
                    await self._network.probe(address, peer)
                except Exception:  # noqa: BLE001, S112 - many kinds; each means that it was not reached
                    continue
                return address
        return None


def _at(remote: tuple[str, int] | None, told: Iterable[bytes]) -> list[Multiaddr]:
    """Of the addresses that a peer tells, the first few at the IP address that it has."""
    found: list[Multiaddr] = []
    own = None if remote is None else _ip(remote[0])
    for each in told:
        if own is None or len(found) >= limits.P2P_DIAL_BACK_ADDRESSES_MAX:
            break
        try:
            address = Multiaddr(each)
            parsed = parse_multiaddr(str(address))
        except (Wrong, ValueError, LookupError):
            continue
        usable = parsed.transport == "tcp" and not parsed.via and parsed.port
        if usable and _ip(parsed.host) == own and address not in found:
            found.append(address)
    return found


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip


def remote_of(connection: INetConn) -> tuple[str, int] | None:
    """The IP address and port at the other end of a direct connection."""
    try:
        found: tuple[str, int] | None = connection.muxed_conn.get_remote_address()  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - the socket may be gone
        return None
    return found
