"""Private keys as PEM PKCS#8 text."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


def seed_of_pem(pem: bytes) -> bytes:
    """The 32-byte seed of an Ed25519 key. Raises ValueError; its text holds no part of the key."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("not an unencrypted private key in PEM PKCS#8 form") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("not an Ed25519 key")  # noqa: TRY004 - the content of a file is wrong, not an argument
    return key.private_bytes_raw()


def pem_of_seed(seed: bytes) -> bytes:
    """The PEM PKCS#8 form of a seed."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
