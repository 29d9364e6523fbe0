"""Connections of a private network: only nodes with its key can talk to each other.

This is the protocol "Pre-shared Key Based Private Networks" of libp2p, as in js-libp2p and go-libp2p: each side sends a
nonce of 24 bytes and encrypts what follows with XSalsa20. py-libp2p 0.8.1 has Salsa20 and nonces of 8 bytes instead, so
it understands only itself. Noise, inside, keeps what is said secret and unaltered, and proves who the peer is. The key
of the network only decides who can begin.

A transport with an encryption of its own, such as QUIC, does not pass here: a private network must not offer it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Final

import trio
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import TSecurityOptions
from libp2p.io.exceptions import IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID
from libp2p.security.security_multistream import SecurityMultistream
from libp2p.transport.exceptions import SecurityUpgradeFailure
from multiaddr import Multiaddr

from crabnet import limits
from crabnet.errors import NetworkError, Reason
from crabnet.p2p.xsalsa20 import NONCE_BYTES, XSalsa20

FIRST: Final = b"\x13/multistream/1.0.0\n"
"""What both sides say first. Nobody can say it without the key, but by repeating what a member has said."""
_READ_BYTES: Final = 64 * 1024


class Stranger(StrEnum):
    """What is known of somebody who does not have the key."""

    SILENT = "it has said nothing: it is not in this private network, has another key, or hangs"
    CLOSED = "it has closed the connection: it is not in this private network, has another key, or is full"
    OPEN = "it speaks without a key, as in the open network"
    OTHER_KEY = "it is not in this private network, or has another key"


class NotAMemberError(IOException):
    """The other side has not shown that it has the key."""


class PrivateConnection(IRawConnection):
    """A connection below noise. ``stranger`` is None once the other side has shown that it has the key."""

    def __init__(self, below: IRawConnection, key: bytes, *, is_initiator: bool) -> None:
        """``key`` has 32 bytes. ``is_initiator``: this side has dialled."""
        self.is_initiator = is_initiator
        self.stranger: Stranger | None = Stranger.SILENT
        self._below = below
        self._key = key
        self._nonce = os.urandom(NONCE_BYTES)
        self._out = XSalsa20(key, self._nonce)
        self._in: XSalsa20 | None = None
        self._is_begun = False
        self._undecrypted = b""
        self._waiting = bytearray()
        """Decrypted bytes that nobody has read yet."""
        self.on_shown: Callable[[], None] = lambda: None
        """Called once the other side has shown the key."""

    async def admit(self) -> None:
        """Wait until the side that has connected shows that it has the key. Until then it gets 24 random bytes at most.

        Raises NotAMemberError, and what the connection below raises.
        """
        while self._in is None:
            await self._hear()
        await self._begin(b"")
        while self.stranger is not None:
            await self._hear()

    async def read(self, n: int | None = None) -> bytes:
        """Up to ``n`` bytes; none at the end. Raises NotAMemberError."""
        while self.stranger is not None or not self._waiting:
            if not await self._hear():
                return b""
        if n is None or n >= len(self._waiting):
            data = bytes(self._waiting)
            self._waiting.clear()
            return data
        data = bytes(self._waiting[:n])
        del self._waiting[:n]
        return data

    async def write(self, data: bytes) -> None:
        """Encrypt and write."""
        if self._is_begun:
            await self._below.write(self._out.apply(data))
        else:
            await self._begin(data)

    async def _begin(self, data: bytes) -> None:
        if not self._is_begun:
            self._is_begun = True
            await self._below.write(self._nonce + self._out.apply(data))

    async def _hear(self) -> bool:
        """Read some more. False at the end of a connection with a member. Raises NotAMemberError for anybody else."""
        try:
            data = await self._below.read(_READ_BYTES)
        except (IOException, RawConnError):
            if self.stranger is None:
                raise
            data = b""
        if not data:
            if self.stranger is not None:
                self._refuse(Stranger.SILENT if self._in is None else Stranger.CLOSED)
            return False
        if self._in is None:
            data = self._undecrypted = self._undecrypted + data
            if data.startswith(FIRST):
                self._refuse(Stranger.OPEN)
            if len(data) < NONCE_BYTES:
                return True
            nonce, data = data[:NONCE_BYTES], data[NONCE_BYTES:]
            if nonce == self._nonce:  # what this side says, sent back to it
                self._refuse(Stranger.OTHER_KEY)
            self._in = XSalsa20(self._key, nonce)
        self._waiting += self._in.apply(data)
        if self.stranger is not None:
            if not FIRST.startswith(bytes(self._waiting[: len(FIRST)])):
                self._refuse(Stranger.OTHER_KEY)
            if len(self._waiting) >= len(FIRST):
                self.stranger = None
                self.on_shown()
        return True

    def _refuse(self, stranger: Stranger) -> None:
        self.stranger = stranger
        raise NotAMemberError(stranger)

    async def close(self) -> None:
        """Close the connection below."""
        await self._below.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """The address of the other side."""
        return self._below.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        """The address of the other side, as it was dialled."""
        return self._below.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        """Whether there is a relay between."""
        return self._below.get_connection_type()


class Strangers:
    """Connections that were refused for want of the key, since the start, and since they were last reported."""

    def __init__(self) -> None:
        self.total = 0
        self._count = 0
        self._last = ("", "")

    def note(self, private: PrivateConnection) -> None:
        """Count one."""
        remote = private.get_remote_address()
        self.total += 1
        self._count += 1
        self._last = ("" if remote is None else remote[0], str(private.stranger))

    def take(self) -> dict[str, str | int | bool | None] | None:
        """The fields of an event about those that were not reported yet; None if there are none."""
        if not self._count:
            return None
        count, self._count = self._count, 0
        return {"address": self._last[0], "detail": self._last[1], "count": count}


class PrivateSecurity(SecurityMultistream):
    """The handshakes of a private network. All connections pass here: dialled, accepted, and those through relays."""

    def __init__(self, transports: TSecurityOptions, key: bytes, strangers: Strangers) -> None:
        super().__init__(transports)
        self._key = key
        self._strangers = strangers

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """Have somebody who has connected show the key, then make the handshake. Raises SecurityUpgradeFailure."""
        private = PrivateConnection(conn, self._key, is_initiator=False)
        try:
            await private.admit()
        except (IOException, RawConnError) as error:
            raise SecurityUpgradeFailure(str(error)) from error
        finally:
            if private.stranger is not None:
                self._strangers.note(private)
        return await super().secure_inbound(private)

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        """Show the key, have the other side show it, and make the handshake.

        Raises NetworkError (WRONG_NETWORK_KEY), and what the library raises.
        """
        private = PrivateConnection(conn, self._key, is_initiator=True)
        cause: Exception | None = None
        with trio.move_on_after(limits.P2P_KEY_MS / 1000) as patience:
            private.on_shown = partial(setattr, patience, "deadline", math.inf)
            try:
                return await super().secure_outbound(private, peer_id)
            except Exception as error:
                if private.stranger is None:
                    raise
                cause = error
        raise NetworkError(
            f"the peer does not show the key of this private network: {private.stranger}", Reason.WRONG_NETWORK_KEY
        ) from cause
