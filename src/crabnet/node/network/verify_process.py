"""The process that checks signatures for a node, and the byte format between the two.

A batch is the number of its signatures (4 bytes, little endian), then the size of each content (4 bytes), then for each
signature the public key, the signature and the content. The answer is one byte for each signature: 1 if it is genuine,
else 0.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Final

from crabnet.child import Lifeline
from crabnet.protocol.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, SignedBytes, verify

_HEAD_BYTES: Final = PUBLIC_KEY_BYTES + SIGNATURE_BYTES
_GENUINE: Final = 1


def encode_batch(signed: Sequence[SignedBytes]) -> bytes:
    """The bytes of a batch."""
    count = len(signed)
    sizes = [len(content) for _, content, _ in signed]
    parts = [struct.pack(f"<{count + 1}I", count, *sizes)]
    for public_key, content, signature in signed:
        parts += (public_key, signature, content)
    return b"".join(parts)


def decode_answer(answer: bytes, count: int) -> list[bool] | None:
    """The results in an answer about ``count`` signatures; None if it is not a valid answer."""
    return None if len(answer) != count or answer.strip(b"\0\1") else [byte == _GENUINE for byte in answer]


def serve(connection: socket.socket) -> None:
    """Answer batches until the other side closes the connection."""
    with connection, connection.makefile("rb") as batches:
        while len(count_bytes := batches.read(4)) == 4:
            (count,) = struct.unpack("<I", count_bytes)
            sizes_bytes = batches.read(4 * count)
            if len(sizes_bytes) < 4 * count:
                return
            sizes = struct.unpack(f"<{count}I", sizes_bytes)
            total = sum(sizes) + count * _HEAD_BYTES
            batch = batches.read(total)
            if len(batch) < total:
                return
            connection.sendall(_checked(batch, sizes))


def _checked(batch: bytes, sizes: Sequence[int]) -> bytes:
    answers = bytearray(len(sizes))
    at = 0
    for number, size in enumerate(sizes):
        head = at + PUBLIC_KEY_BYTES
        content = at + _HEAD_BYTES
        answers[number] = verify(batch[at:head], batch[content : content + size], batch[head:content])
        at = content + size
    return bytes(answers)


def main(lifeline: Lifeline) -> None:
    """Answer the batches of the node that has started this process."""
    lifeline.ready()
    serve(lifeline.socket)
