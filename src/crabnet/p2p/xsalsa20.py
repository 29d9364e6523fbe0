"""XSalsa20 (D. J. Bernstein, "Extending the Salsa20 nonce", 2011): a key stream that goes on from call to call. Pure.

``pycryptodome``, which libp2p needs anyway, has Salsa20 with nonces of 8 bytes. XSalsa20 is Salsa20 with a key of its
own for each nonce of 24 bytes. HSalsa20 makes that key; it is computed here, once for each direction of a connection.
"""

from __future__ import annotations

from struct import pack, unpack
from typing import Final

from Crypto.Cipher import Salsa20

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
_HALF: Final = 16
"""Of the nonce, what goes into HSalsa20."""
_SIGMA: Final = unpack("<4I", b"expand 32-byte k")
_WORD: Final = 0xFFFFFFFF
_DOUBLE_ROUNDS: Final = 10
_COLUMNS: Final = ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11))
_ROWS: Final = ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14))
_OUTPUT: Final = (0, 5, 10, 15, 6, 7, 8, 9)


def hsalsa20(key: bytes, nonce: bytes) -> bytes:
    """32 bytes from a key of 32 bytes and 16 bytes of a nonce."""
    k, n = unpack("<8I", key), unpack("<4I", nonce)
    x = [_SIGMA[0], *k[:4], _SIGMA[1], *n, _SIGMA[2], *k[4:], _SIGMA[3]]
    for _ in range(_DOUBLE_ROUNDS):
        for quarters in (_COLUMNS, _ROWS):
            for a, b, c, d in quarters:
                x[b] ^= _turned(x[a] + x[d], 7)
                x[c] ^= _turned(x[b] + x[a], 9)
                x[d] ^= _turned(x[c] + x[b], 13)
                x[a] ^= _turned(x[d] + x[c], 18)
    return pack("<8I", *(x[at] for at in _OUTPUT))


def _turned(value: int, bits: int) -> int:
    value &= _WORD
    return (value << bits & _WORD) | value >> (32 - bits)


class XSalsa20:
    """One direction of a connection. Applying the key stream encrypts and decrypts."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        """``key`` has 32 bytes and ``nonce`` 24; a nonce must not be used twice with a key."""
        self._stream = Salsa20.new(key=hsalsa20(key, nonce[:_HALF]), nonce=nonce[_HALF:])

    def apply(self, data: bytes) -> bytes:
        """The data, with the next bytes of the key stream added to it (exclusive or)."""
        return bytes(self._stream.encrypt(data))
