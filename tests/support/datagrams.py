"""Messages and headers for tests of fragments."""

from __future__ import annotations

import struct


def message_of(size: int, salt: int = 0) -> bytes:
    """A message of exactly ``size`` bytes; different ``salt``, different bytes."""
    head = b"{" + salt.to_bytes(4, "big")
    return (head + bytes((index * 31 + salt) % 256 for index in range(size)))[:size]


def header(digest: bytes, index: int, count: int, total_bytes: int) -> bytes:
    """The header of a fragment, right or wrong."""
    return b"CRB2\x01" + digest + struct.pack(">HHI", index, count, total_bytes)
