"""Self-certifying identities: Ed25519 keys, libp2p peer ids, key ids, DSSE signatures.

A node id is the libp2p peer id of the public key (identity multihash of the protobuf-encoded key, base58btc). The key
can be read from the id, so nobody can take the id of another node. See docs/PROTOCOL.md, section 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import base58
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import CryptoError

from crabnet.bounded import BoundedTable

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
PAYLOAD_TYPE: Final = b"application/vnd.crabnet.envelope.v2+json"
ALGORITHM: Final = "ed25519"
_PEER_ID_PREFIX: Final = bytes.fromhex("002408011220")
_PEER_ID_CHARS: Final = 52
_DSSE_PREFIX: Final = b"DSSEv1 %d %s " % (len(PAYLOAD_TYPE), PAYLOAD_TYPE)
_KEYS_CACHED_MAX: Final = 8_192


class Signer:
    """A private Ed25519 key with its public key, node id and key id. Its ``repr`` does not show the private key."""

    def __init__(self, seed: bytes) -> None:
        self.public_key, self._secret = crypto_sign_seed_keypair(seed)
        self.node_id = node_id_of(self.public_key)
        self.key_id = key_id_of(self.public_key)

    def __repr__(self) -> str:
        return f"Signer({self.node_id})"

    def seed(self) -> bytes:
        """The private key, 32 bytes: for the libp2p process of this node, which has the same identity."""
        return self._secret[:PUBLIC_KEY_BYTES]

    def sign(self, content: bytes) -> bytes:
        """The 64-byte Ed25519 signature over the DSSE pre-authentication encoding of ``content``."""
        return crypto_sign(pre_authentication_encoding(content), self._secret)[:SIGNATURE_BYTES]


def pre_authentication_encoding(content: bytes) -> bytes:
    """The DSSE v1 PAE of the content. It binds the content to its type."""
    return b"%s%d %s" % (_DSSE_PREFIX, len(content), content)


class SignedBytes(NamedTuple):
    """A signature to check: it should be that of the key over the DSSE encoding of the content."""

    public_key: bytes
    content: bytes
    signature: bytes


VerifyAll = Callable[[Sequence[SignedBytes]], list[bool]]
"""Checks many signatures. The answers are in the order of the arguments."""


def verify_each(signed: Sequence[SignedBytes]) -> list[bool]:
    """Run ``verify`` for one signature after another."""
    return [verify(*each) for each in signed]


def verify(public_key: bytes, content: bytes, signature: bytes) -> bool:
    """True if ``signature`` is that of the key over the DSSE encoding of ``content``. Takes about 50 µs."""
    try:
        crypto_sign_open(signature + pre_authentication_encoding(content), public_key)
    except (CryptoError, ValueError):
        return False
    return True


def node_id_of(public_key: bytes) -> str:
    """The libp2p peer id of an Ed25519 public key: ``12D3KooW…``."""
    return base58.b58encode(_PEER_ID_PREFIX + public_key).decode()


def key_id_of(public_key: bytes) -> str:
    """``ed25519:`` and the first 16 bytes of the key's SHA-256 in hex."""
    return f"{ALGORITHM}:{hashlib.sha256(public_key).digest()[:16].hex()}"


def looks_self_certifying(node_id: str) -> bool:
    """True for an id of the form of a node id. Only a signed envelope may have such an author."""
    return node_id.startswith("12D3KooW")


def public_key_of(node_id: str) -> bytes | None:
    """The Ed25519 key inside a node id. None unless the text is the one valid spelling of a node id."""
    if len(node_id) != _PEER_ID_CHARS or not looks_self_certifying(node_id):
        return None
    try:
        decoded = base58.b58decode(node_id)
    except ValueError:
        return None
    if len(decoded) != len(_PEER_ID_PREFIX) + PUBLIC_KEY_BYTES or not decoded.startswith(_PEER_ID_PREFIX):
        return None
    public_key = decoded[len(_PEER_ID_PREFIX) :]
    return public_key if node_id_of(public_key) == node_id else None


class KeyRing:
    """A bounded cache of the public keys of node ids."""

    def __init__(self, keys_max: int = _KEYS_CACHED_MAX) -> None:
        self._keys: BoundedTable[str, tuple[bytes, str]] = BoundedTable(keys_max)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, node_id: str) -> tuple[bytes, str] | None:
        """(public key, key id) of a node id, or None if it is not an Ed25519 peer id."""
        known = self._keys.get(node_id)
        if known is not None:
            self._keys.touch(node_id)
            return known
        public_key = public_key_of(node_id)
        if public_key is None:
            return None
        known = (public_key, key_id_of(public_key))
        self._keys.put(node_id, known)
        return known
