"""Messages on a stream, each with its length before it as an unsigned varint (multiformats unsigned-varint). Pure."""

from __future__ import annotations

from typing import Final

_MORE: Final = 0x80
_BITS: Final = 7
_VARINT_BYTES_MAX: Final = 5


class MalformedStreamError(Exception):
    """The bytes of a stream are no messages, or one of them is too long."""


def prefixed(message: bytes) -> bytes:
    """A message with its length before it."""
    length = len(message)
    prefix = bytearray()
    while length >= _MORE:
        prefix.append(length & (_MORE - 1) | _MORE)
        length >>= _BITS
    prefix.append(length)
    return bytes(prefix) + message


class Prefixed:
    """Cuts the bytes of one stream into messages of at most ``message_bytes_max`` bytes."""

    def __init__(self, message_bytes_max: int) -> None:
        self._message_bytes_max = message_bytes_max
        self._buffer = bytearray()

    def __len__(self) -> int:
        """The number of bytes that wait for the rest of their message."""
        return len(self._buffer)

    def add(self, data: bytes) -> list[bytes]:
        """The messages that are complete now. Raises MalformedStreamError."""
        buffer = self._buffer
        buffer += data
        found: list[bytes] = []
        at = 0
        while (head := self._length(at)) is not None:
            length, begin = head
            if len(buffer) < begin + length:
                break
            at = begin + length
            found.append(bytes(buffer[begin:at]))
        del buffer[:at]
        return found

    def _length(self, at: int) -> tuple[int, int] | None:
        """The length of the message at this place, and where it begins. None if that has not arrived yet."""
        length = 0
        for index, byte in enumerate(self._buffer[at : at + _VARINT_BYTES_MAX]):
            length |= (byte & (_MORE - 1)) << (_BITS * index)
            if byte < _MORE:
                if byte == 0 and index:
                    raise MalformedStreamError("a length is not in its shortest form")
                if length > self._message_bytes_max:
                    raise MalformedStreamError(f"a message of {length} bytes, at most {self._message_bytes_max}")
                return length, at + index + 1
            if index + 1 == _VARINT_BYTES_MAX:
                raise MalformedStreamError("a length is too long")
        return None
