"""Ed25519 by hand: what strict verifiers must refuse and lax ones take (RFC 8032; libsodium's rules)."""

from __future__ import annotations

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
"""L, the order of the base point."""


def small_order_points() -> dict[str, bytes]:
    """Encodings of points whose order divides 8, by name; some are not canonical."""
    order_8 = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
    other_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
    return {
        "the neutral point": (1).to_bytes(32, "little"),
        "order 2": (PRIME - 1).to_bytes(32, "little"),
        "order 4": bytes(32),
        "order 4, sign set": bytes(31) + b"\x80",
        "order 8": bytes.fromhex(order_8),
        "another of order 8": bytes.fromhex(other_8),
        "neutral, not canonical": (PRIME + 1).to_bytes(32, "little"),
        "order 4, not canonical": PRIME.to_bytes(32, "little"),
        "y beyond the prime": (2**255 - 1).to_bytes(32, "little"),
    }


def lifted(signature: bytes, by: int) -> bytes:
    """The signature with S + ``by`` instead of S; lax verifiers take it if ``by`` is a multiple of L."""
    lifted_s = int.from_bytes(signature[32:], "little") + by
    return signature[:32] + lifted_s.to_bytes(32, "little")
