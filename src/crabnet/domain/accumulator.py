"""A hash of a set of byte strings that can be updated element by element, in any order.

MuHash (Bellare and Micciancio 1997; ``MuHash3072`` in Bitcoin Core's ``crypto/muhash``): every element is hashed to a
number modulo a 3072-bit prime, adding multiplies, removing divides. So a node with a million seeds updates its state
hash at the cost of what changed, and seeds that have left memory stay covered.
"""

from __future__ import annotations

import hashlib
from typing import Final

_PRIME: Final = 2**3072 - 1103717
_ELEMENT_BYTES: Final = 384


def _element(data: bytes) -> int:
    return int.from_bytes(hashlib.shake_256(data).digest(_ELEMENT_BYTES), "big") % _PRIME or 1


class Accumulator:
    """A set of byte strings, known by its hash only."""

    def __init__(self, value: int = 1) -> None:
        self._added = value
        self._removed = 1

    def copy(self) -> Accumulator:
        """The same set, to go its own way."""
        twin = Accumulator(self._added)
        twin._removed = self._removed
        return twin

    def add(self, data: bytes) -> None:
        """Put an element in."""
        self._added = self._added * _element(data) % _PRIME

    def remove(self, data: bytes) -> None:
        """Take an element out; it must be in."""
        self._removed = self._removed * _element(data) % _PRIME

    def value(self) -> int:
        """The accumulated number, to be kept in a checkpoint and given to a new accumulator."""
        if self._removed != 1:
            self._added = self._added * pow(self._removed, -1, _PRIME) % _PRIME
            self._removed = 1
        return self._added

    def digest(self) -> bytes:
        """SHA-256 of the accumulated number: 32 bytes that depend on the set only."""
        return hashlib.sha256(self.value().to_bytes(_ELEMENT_BYTES, "big")).digest()
