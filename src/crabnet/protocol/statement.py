"""Signed statements that are not envelopes. DSSE binds the content to a type of its own.

So a statement cannot pass for an envelope, nor an envelope for a statement.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import CryptoError

from crabnet.protocol.envelope import signature_bytes
from crabnet.protocol.identity import SIGNATURE_BYTES, public_key_of


def _encoded(payload_type: str, content: bytes) -> bytes:
    """DSSE v1 pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(content), content)


def sign_statement(seed: bytes, payload_type: str, content: bytes) -> str:
    """The Ed25519 signature by the key with this 32-byte seed, in base64url without padding."""
    _, secret = crypto_sign_seed_keypair(seed)
    signature = crypto_sign(_encoded(payload_type, content), secret)[:SIGNATURE_BYTES]
    return urlsafe_b64encode(signature).decode().rstrip("=")


def statement_holds(node_id: str, payload_type: str, content: bytes, signature: str) -> bool:
    """True if ``signature`` is that of the key in ``node_id`` over this content and type."""
    public_key, raw = public_key_of(node_id), signature_bytes(signature)
    if public_key is None or raw is None:
        return False
    try:
        crypto_sign_open(raw + _encoded(payload_type, content), public_key)
    except (CryptoError, ValueError):
        return False
    return True
