"""The first line of a child, which says whether it works. Strangers talk to some children, so no child is trusted."""

from __future__ import annotations

from typing import Final

import trio
from msgspec import DecodeError, Struct
from msgspec.json import Decoder

from crabnet import limits
from crabnet.child import Retry
from crabnet.errors import Reason
from crabnet.node.children.spec import Failure

_READ_BYTES: Final = 4_096


class Ready(Struct, frozen=True):
    """What a child says that works."""

    detail: str = ""
    addresses: tuple[str, ...] = ()


class _Failed(Struct, frozen=True):
    message: str
    reason: str = Reason.INTERNAL
    retry: Retry = Retry.SOON


class _Handshake(Struct, frozen=True):
    ready: Ready | None = None
    failed: _Failed | None = None


_DECODER: Final = Decoder(_Handshake)
_NONSENSE: Final = Failure(Reason.MALFORMED, "its handshake cannot be understood")


def outcome_of(line: bytes) -> Ready | Failure:
    """What the first line of a child says."""
    try:
        said = _DECODER.decode(line)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return _NONSENSE
    if said.failed is not None and said.ready is None:
        try:
            reason = Reason(said.failed.reason)
        except ValueError:
            reason = Reason.INTERNAL
        return Failure(reason, _plain(said.failed.message), said.failed.retry)
    if said.ready is None or said.failed is not None:
        return _NONSENSE
    addresses = said.ready.addresses[: limits.CHILD_ADDRESSES_MAX]
    return Ready(_plain(said.ready.detail), tuple(map(_plain, addresses)))


def _plain(text: str) -> str:
    """One short line that is safe on a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text[: limits.EVENT_DETAIL_CHARS])


async def first_line(connection: trio.socket.SocketType) -> bytes | None:
    """The first line that comes over a socket; what follows it is left there. A line that is too long is cut. None if
    the socket ended before.
    """
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) <= limits.CHILD_HANDSHAKE_BYTES_MAX:
            ahead = await connection.recv(_READ_BYTES, trio.socket.MSG_PEEK)
            if not ahead:
                return None
            line += await connection.recv(ahead.find(b"\n") + 1 or len(ahead))
    except OSError:
        return None
    return line
