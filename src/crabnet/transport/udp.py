"""UDP over IPv4 and IPv6, with trio.

The transport reads datagrams from the sockets as fast as possible, because the kernel drops datagrams that do not fit
its buffer. The node decides which of them it can use. Answers come back to the socket that sent, so every socket is
read.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import msgspec
import trio

from crabnet import limits
from crabnet.errors import NetworkError, Reason
from crabnet.transport.base import Address
from crabnet.transport.resolver import Endpoint, Resolver, address_of
from crabnet.transport.sockets import Sockets, Way

_BUFFER_BYTES: Final = 65_536
"""More than the length field of UDP allows, so that no datagram is ever cut."""
_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("=9I")
_MEMINFO_DROPS: Final = 8
_PENDING_ICMP_ERRORS: Final = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH})


class UdpStats(msgspec.Struct):
    """The traffic of a transport since it was opened: counts of datagrams and errors, and bytes of payload."""

    datagrams_received: int = 0
    bytes_received: int = 0
    receive_errors: int = 0
    datagrams_sent: int = 0
    bytes_sent: int = 0
    send_errors: int = 0


class UdpTransport:
    """A Transport over UDP. Create it with ``open``. Close it with ``aclose`` or ``async with``.

    Datagrams of a family with a listening socket are sent from the listening sockets. For another family, the first
    send creates a further socket, on a port that the kernel chooses.
    """

    def __init__(self, resolver: Resolver, receive_buffer_bytes: int) -> None:
        self.stats = UdpStats()
        self.unserved = ""
        """A sentence about a family that is not served although the operator might expect it; "" if there is none."""
        self._resolver = resolver
        self._waiting = trio.CancelScope()
        self._sockets = Sockets(receive_buffer_bytes, self._changed_now)
        self._send_lock = trio.Lock()
        self._receiving = False
        self._closed = False

    @classmethod
    async def open(
        cls,
        *listen: Address,
        resolver: Resolver | None = None,
        receive_buffer_bytes: int = limits.UDP_RECEIVE_BUFFER_BYTES,
    ) -> UdpTransport:
        """Bind the ``listen`` addresses (port 0 takes a free port). Without any, the transport only sends.

        The address of all IPv6 interfaces, ``[::]``, also binds that of IPv4, unless that is in use.

        Raises NetworkError with ADDRESS_IN_USE, or with ADDRESS_INVALID for an address that does not belong to this
        machine, cannot be resolved, or may not be bound.
        """
        transport = cls(resolver if resolver is not None else Resolver(), receive_buffer_bytes)
        try:
            for address in listen:
                endpoint = await transport._resolver.resolve(address)
                try:
                    transport._sockets.listen(endpoint)
                except OSError as error:
                    raise _bind_error(address, error) from error
            transport._listen_on_ipv4_too()
        except BaseException:
            transport._close()
            raise
        return transport

    def _listen_on_ipv4_too(self) -> None:
        served = {address.port for address in self._sockets.addresses if ":" not in address.host}
        for address in self._sockets.addresses:
            if address.host == "::" and address.port not in served:
                try:
                    self._sockets.listen(Endpoint(socket.AF_INET, ("0.0.0.0", address.port)))  # noqa: S104 - as asked
                except OSError as error:
                    self.unserved = f"{address} serves IPv6 only, not IPv4: {error.strerror or error}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    @property
    def local_addresses(self) -> list[Address]:
        """The addresses of the listening sockets, with their real ports."""
        return self._sockets.addresses

    @property
    def local_address(self) -> Address | None:
        """The first of ``local_addresses``; None if there is none."""
        return self._sockets.addresses[0] if self._sockets.addresses else None

    @property
    def resolver(self) -> Resolver:
        """The resolver of host names."""
        return self._resolver

    @property
    def family(self) -> int | None:
        """The address family of the listening sockets; None if they have both families or there are none."""
        return self._sockets.family

    @property
    def receive_buffer_bytes(self) -> int:
        """The smallest receive buffer of the listening sockets, in bytes, as the kernel counts it."""
        return self._sockets.receive_buffer_bytes

    def dropped_by_kernel(self) -> int:
        """The number of datagrams that the kernel dropped because a receive buffer was full, since the sockets were
        created.
        """
        drops = 0
        for sock in self._sockets.all():
            try:
                raw = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
            except OSError:
                continue
            if len(raw) == _MEMINFO.size:
                drops += _MEMINFO.unpack(raw)[_MEMINFO_DROPS]
        return drops

    async def receive(self) -> list[tuple[bytes, Address]]:
        """Wait for datagrams. Returns those that have arrived, up to UDP_DRAIN_DATAGRAMS_MAX of each socket.

        An empty datagram is ``b""``. Errors that the kernel reports for earlier sends (ICMP) are counted and skipped.
        A cancellation loses no datagram. Raises trio.ClosedResourceError if the transport is closed,
        trio.BusyResourceError if another task is receiving.
        """
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this transport")
        self._receiving = True
        try:
            while True:
                await trio.lowlevel.checkpoint()
                self._check_open()
                errors_before = self.stats.receive_errors
                received = [item for sock in self._sockets.all() for item in self._drain(sock)]
                if received:
                    return received
                if self.stats.receive_errors > errors_before:
                    await trio.sleep(limits.UDP_ERROR_PAUSE_MS / 1000)
                else:
                    await self._wait_readable()
        finally:
            self._receiving = False

    async def send(self, data: bytes, to: Address) -> None:
        """Send one datagram, from a listening socket if there is one of that family.

        A datagram to everybody on a link (broadcast, or a multicast address without a zone) leaves by each interface
        that can send it. Raises NetworkError with ADDRESS_INVALID if a host name cannot be resolved. Raises it with
        SEND_FAILED and the kernel's message (too large, no route, not permitted ...), also if the send buffer stays
        full for UDP_SEND_WAIT_MS. Raises trio.ClosedResourceError if the transport is closed.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        endpoint = await self._resolver.resolve(to, self._sockets.family)
        self._check_open()
        failure: OSError | None = None
        sent = 0
        try:
            for way in self._sockets.ways(to, endpoint):
                try:
                    await self._send_by(way, data)
                    sent += 1
                except OSError as error:
                    failure = error
        except OSError as error:
            failure = error
        self.stats.datagrams_sent += sent
        self.stats.bytes_sent += sent * len(data)
        if failure is not None and not sent:
            self.stats.send_errors += 1
            self._resolver.failed(to)
            words = failure.strerror or str(failure)
            raise NetworkError(f"cannot send {len(data)} bytes to {to}: {words}", Reason.SEND_FAILED) from failure

    async def aclose(self) -> None:
        """Close all sockets. Waiting tasks get trio.ClosedResourceError. May be called again."""
        self._close()

    def _close(self) -> None:
        self._closed = True
        self._sockets.close()
        self._waiting.cancel()

    def _changed_now(self) -> None:
        self._waiting.cancel()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this UDP transport was closed")

    async def _send_by(self, way: Way, data: bytes) -> None:
        try:
            _send_now(way, data)
        except BlockingIOError:
            with trio.move_on_after(limits.UDP_SEND_WAIT_MS / 1000) as waiting:
                await self._send_when_writable(way, data)
            if waiting.cancelled_caught:
                raise TimeoutError(f"the send buffer stayed full for {limits.UDP_SEND_WAIT_MS} ms") from None

    async def _send_when_writable(self, way: Way, data: bytes) -> None:
        async with self._send_lock:
            while True:
                self._check_open()
                await trio.lowlevel.wait_writable(way.sock)
                try:
                    _send_now(way, data)
                    return
                except BlockingIOError:
                    continue

    def _drain(self, sock: socket.socket) -> list[tuple[bytes, Address]]:
        received: list[tuple[bytes, Address]] = []
        stats = self.stats
        for _ in range(limits.UDP_DRAIN_DATAGRAMS_MAX):
            try:
                data, sockaddr = sock.recvfrom(_BUFFER_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                stats.receive_errors += 1
                continue
            stats.datagrams_received += 1
            stats.bytes_received += len(data)
            source = address_of(sockaddr)
            self._sockets.heard(sock, source)
            received.append((data, source))
        return received

    async def _wait_readable(self) -> None:
        """Wait until a socket may have a datagram, a socket was added, or the transport was closed."""
        sockets = self._sockets.all()
        with trio.CancelScope() as self._waiting:
            if len(sockets) == 1:  # a nursery would cost as much as everything else here
                await self._readable(sockets[0])
                return
            async with trio.open_nursery() as nursery:
                for sock in sockets:
                    nursery.start_soon(self._end_wait_when_readable, sock)
                await trio.sleep_forever()

    async def _end_wait_when_readable(self, sock: socket.socket) -> None:
        await self._readable(sock)
        self._waiting.cancel()

    async def _readable(self, sock: socket.socket) -> None:
        if self._closed:
            return  # it was closed before this task began
        with suppress(trio.ClosedResourceError):  # the caller checks for this itself
            await trio.lowlevel.wait_readable(sock)


def _send_now(way: Way, data: bytes) -> None:
    """Send without waiting. The kernel may report an ICMP error of an earlier datagram instead; then send again."""
    try:
        _give_to_kernel(way, data)
    except OSError as error:
        if error.errno not in _PENDING_ICMP_ERRORS:
            raise
        _give_to_kernel(way, data)


def _give_to_kernel(way: Way, data: bytes) -> None:
    if way.control:
        way.sock.sendmsg([data], way.control, socket.MSG_DONTWAIT, way.to)
    else:
        way.sock.sendto(data, socket.MSG_DONTWAIT, way.to)


def _bind_error(listen: Address, error: OSError) -> NetworkError:
    if error.errno == errno.EADDRINUSE:
        message = f"UDP address {listen} is in use by another process; stop that process or listen on another address"
        return NetworkError(message, Reason.ADDRESS_IN_USE)
    words = os.strerror(error.errno) if error.errno else str(error)
    return NetworkError(f"cannot listen on UDP address {listen}: {words}", Reason.ADDRESS_INVALID)
