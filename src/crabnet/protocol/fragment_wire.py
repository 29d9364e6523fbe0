"""The bytes of UDP datagrams: whole messages, fragments of larger messages, requests for missing fragments.

See docs/PROTOCOL.md, section 11. A message is one JSON object. A datagram whose first byte is ``{`` is a whole message.
All others begin with ``CRB2`` and a type byte. Integers are big endian:

```
fragment (type 1)   "CRB2" 01  digest[32]  index u16  count u16  total_bytes u32  chunk
request  (type 2)   "CRB2" 02  digest[32]  number u16  number × index u16, strictly ascending
```

``digest`` is SHA-256 of the whole message. Every chunk but the last has exactly ``CHUNK_BYTES`` bytes, so
``total_bytes`` determines the count and the size of each chunk. A node can therefore refuse an inconsistent fragment
without seeing the others.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from enum import Enum
from itertools import pairwise
from typing import Final

import msgspec

from crabnet import limits
from crabnet.errors import Reason, RefusedError

DIGEST_BYTES: Final = 32
_MAGIC: Final = b"CRB2"
_FRAGMENT_TYPE: Final = 1
_REQUEST_TYPE: Final = 2
_FRAGMENT: Final = struct.Struct(">4sB32sHHI")
_REQUEST: Final = struct.Struct(">4sB32sH")
CHUNK_BYTES: Final = limits.DATAGRAM_BYTES_MAX - _FRAGMENT.size
"""Message bytes in every fragment but the last: 1155."""
_OPEN_BRACE: Final = 0x7B


class Shape(Enum):
    """The kind of a datagram, as it claims itself."""

    WHOLE = "whole"
    FRAGMENT = "fragment"
    REQUEST = "request"


class Fragment(msgspec.Struct, frozen=True, gc=False):
    """One fragment that is consistent in itself. Its digest can be checked only when all fragments are there."""

    digest: bytes
    index: int
    count: int
    total_bytes: int
    chunk: bytes


class FragmentRequest(msgspec.Struct, frozen=True):
    """A request for missing fragments: ``indexes`` are strictly ascending, 1 to FRAGMENT_REQUEST_INDEXES_MAX."""

    digest: bytes
    indexes: tuple[int, ...]


def fragment_count(total_bytes: int) -> int:
    """How many fragments a message of ``total_bytes`` has."""
    return -(-total_bytes // CHUNK_BYTES)


def is_whole(message: bytes) -> bool:
    """True if the message is sent as one datagram."""
    return len(message) <= limits.DATAGRAM_BYTES_MAX


def split(message: bytes) -> list[bytes]:
    """The datagrams that carry a message: the message itself if it fits in DATAGRAM_BYTES_MAX, else its fragments.

    Raises RefusedError: EMPTY, TOO_LARGE beyond FRAGMENTED_MESSAGE_BYTES_MAX, MALFORMED if it does not begin with "{".
    """
    check_message(message)
    if is_whole(message):
        return [message]
    digest = hashlib.sha256(message).digest()
    return [fragment_datagram(message, digest, index) for index in range(fragment_count(len(message)))]


def check_message(message: bytes) -> None:
    """Raise the RefusedError of ``split`` for a message that cannot be sent."""
    if not message:
        raise RefusedError("an empty message cannot be sent", Reason.EMPTY)
    if len(message) > limits.FRAGMENTED_MESSAGE_BYTES_MAX:
        raise RefusedError(
            f"a message of {len(message)} bytes cannot be sent: the limit is {limits.FRAGMENTED_MESSAGE_BYTES_MAX}",
            Reason.TOO_LARGE,
        )
    if message[0] != _OPEN_BRACE:
        raise RefusedError("a message that does not begin with '{' cannot be sent", Reason.MALFORMED)


def fragment_datagram(message: bytes, digest: bytes, index: int) -> bytes:
    """The datagram of fragment ``index`` (0 up to ``fragment_count`` - 1) of a message with this SHA-256."""
    start = index * CHUNK_BYTES
    count = fragment_count(len(message))
    header = _FRAGMENT.pack(_MAGIC, _FRAGMENT_TYPE, digest, index, count, len(message))
    return header + message[start : start + CHUNK_BYTES]


def request_datagram(digest: bytes, indexes: Sequence[int]) -> bytes:
    """The datagram that asks for fragments. ``indexes`` are as in FragmentRequest."""
    return _REQUEST.pack(_MAGIC, _REQUEST_TYPE, digest, len(indexes)) + struct.pack(f">{len(indexes)}H", *indexes)


def classify(datagram: bytes) -> Shape | Reason:
    """Return the kind that a datagram claims, or why it is refused. Reads only its size and first bytes.

    Whole messages may have up to DATAGRAM_RECEIVE_BYTES_MAX bytes, because baseline peers never use fragments. Reasons:
    EMPTY, TOO_LARGE, MALFORMED (not one of the shapes), MALFORMED_FRAGMENT (``CRB2`` with a bad type or size).
    """
    size = len(datagram)
    if size == 0:
        return Reason.EMPTY
    if size > limits.DATAGRAM_RECEIVE_BYTES_MAX:
        return Reason.TOO_LARGE
    if datagram[0] == _OPEN_BRACE:
        return Shape.WHOLE
    if not datagram.startswith(_MAGIC):
        return Reason.MALFORMED
    if size <= limits.DATAGRAM_BYTES_MAX and size > len(_MAGIC):
        kind = datagram[len(_MAGIC)]
        if kind == _FRAGMENT_TYPE and size > _FRAGMENT.size:
            return Shape.FRAGMENT
        if kind == _REQUEST_TYPE and size > _REQUEST.size:
            return Shape.REQUEST
    return Reason.MALFORMED_FRAGMENT


def parse_fragment(datagram: bytes) -> Fragment | None:
    """Read a fragment. Returns None if anything about it is wrong (MALFORMED_FRAGMENT)."""
    if classify(datagram) is not Shape.FRAGMENT:
        return None
    _, _, digest, index, count, total_bytes = _FRAGMENT.unpack_from(datagram)
    if not CHUNK_BYTES < total_bytes <= limits.FRAGMENTED_MESSAGE_BYTES_MAX:
        return None
    if count != fragment_count(total_bytes) or index >= count:
        return None
    chunk = datagram[_FRAGMENT.size :]
    if len(chunk) != min(CHUNK_BYTES, total_bytes - index * CHUNK_BYTES):
        return None
    if index == 0 and chunk[0] != _OPEN_BRACE:
        return None
    return Fragment(digest, index, count, total_bytes, chunk)


def parse_request(datagram: bytes) -> FragmentRequest | None:
    """Read a request for missing fragments. Returns None if anything about it is wrong (MALFORMED_FRAGMENT)."""
    if classify(datagram) is not Shape.REQUEST:
        return None
    _, _, digest, number = _REQUEST.unpack_from(datagram)
    if not 1 <= number <= limits.FRAGMENT_REQUEST_INDEXES_MAX or len(datagram) != _REQUEST.size + 2 * number:
        return None
    indexes: tuple[int, ...] = struct.unpack_from(f">{number}H", datagram, _REQUEST.size)
    if any(later <= earlier for earlier, later in pairwise(indexes)):
        return None
    return FragmentRequest(digest, indexes)
