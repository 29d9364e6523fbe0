"""A hash of a set of byte strings. It can be updated element by element, in any order (ADR 2).

This is MuHash (Bellare and Micciancio 1997; ``MuHash3072`` in Bitcoin Core's ``crypto/muhash``). Every element is
hashed to a number modulo a 3072-bit prime. To add an element is to multiply by it, to remove one is to divide by it. So
the cost of a state hash depends on the number of changed seeds only, and it still covers seeds that have left memory.
"""

from __future__ import annotations

import hashlib
from typing import Final

_PRIME: Final = 2**3072 - 1103717
_ELEMENT_BYTES: Final = 384


def _element(data: bytes) -> int:
    return int.from_bytes(hashlib.shake_256(data).digest(_ELEMENT_BYTES), "big") % _PRIME or 1


class Accumulator:
    """A set of byte strings. Only its hash is kept."""

    def __init__(self, value: int = 1) -> None:
        self._added = value
        self._removed = 1

    def copy(self) -> Accumulator:
        """An independent copy of the set."""
        twin = Accumulator(self._added)
        twin._removed = self._removed
        return twin

    def add(self, data: bytes) -> None:
        """Add an element."""
        self._added = self._added * _element(data) % _PRIME

    def remove(self, data: bytes) -> None:
        """Remove an element. It must be in the set."""
        self._removed = self._removed * _element(data) % _PRIME

    def value(self) -> int:
        """The accumulated number. A checkpoint keeps it, and a new accumulator can start with it."""
        if self._removed != 1:
            self._added = self._added * pow(self._removed, -1, _PRIME) % _PRIME
            self._removed = 1
        return self._added

    def digest(self) -> bytes:
        """SHA-256 of the accumulated number: 32 bytes that depend only on the set."""
        return hashlib.sha256(self.value().to_bytes(_ELEMENT_BYTES, "big")).digest()
