"""Self-certifying ids and signatures."""

from __future__ import annotations

import hashlib

import base58
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from crabnet.protocol.identity import (
    KeyRing,
    Signer,
    looks_self_certifying,
    node_id_of,
    pre_authentication_encoding,
    public_key_of,
    verify,
)

KEYS = st.binary(min_size=32, max_size=32)
L = 2**252 + 27742317777372353535851937790883648493


@given(KEYS)
def test_the_key_can_be_read_out_of_the_id(seed: bytes) -> None:
    signer = Signer(seed)
    assert signer.node_id.startswith("12D3KooW")
    assert len(signer.node_id) == 52
    assert public_key_of(signer.node_id) == signer.public_key
    assert signer.key_id == f"ed25519:{hashlib.sha256(signer.public_key).hexdigest()[:32]}"
    assert KeyRing().find(signer.node_id) == (signer.public_key, signer.key_id)


@given(KEYS, st.binary(max_size=100))
def test_signatures_are_those_of_another_library(seed: bytes, content: bytes) -> None:
    signer = Signer(seed)
    other = Ed25519PrivateKey.from_private_bytes(seed)
    assert other.public_key().public_bytes_raw() == signer.public_key
    signature = signer.sign(content)
    assert signature == other.sign(pre_authentication_encoding(content))
    assert verify(signer.public_key, content, signature)


@given(KEYS, st.binary(max_size=50), st.integers(0, 64 * 8 - 1))
def test_no_flipped_bit_of_a_signature_verifies(seed: bytes, content: bytes, bit: int) -> None:
    signer = Signer(seed)
    signature = int.from_bytes(signer.sign(content), "big") ^ (1 << bit)
    assert not verify(signer.public_key, content, signature.to_bytes(64, "big"))


def test_the_signature_binds_type_length_and_content() -> None:
    assert pre_authentication_encoding(b"{}") == b"DSSEv1 40 application/vnd.crabnet.envelope.v2+json 2 {}"
    signer = Signer(bytes(32))
    bare = Ed25519PrivateKey.from_private_bytes(bytes(32)).sign(b"{}")
    assert not verify(signer.public_key, b"{}", bare)


def test_a_scalar_that_is_not_reduced_is_refused() -> None:
    signer = Signer(bytes(32))
    signature = signer.sign(b"{}")
    scalar = int.from_bytes(signature[32:], "little") + L
    assert scalar < 2**256
    assert not verify(signer.public_key, b"{}", signature[:32] + scalar.to_bytes(32, "little"))


@pytest.mark.parametrize(
    "point",
    [
        bytes(32),
        bytes([1]) + bytes(31),
        b"\xec" + b"\xff" * 30 + b"\x7f",
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    ],
    ids=["order 4", "order 1", "order 2", "order 8", "order 8 negated"],
)
def test_keys_of_small_order_sign_nothing(point: bytes) -> None:
    assert not verify(point, b"{}", point + bytes(32))
    assert not verify(point, b"{}", bytes([1]) + bytes(63))


@pytest.mark.parametrize("length", [0, 1, 63, 65, 96])
def test_signatures_of_another_length_are_refused(length: int) -> None:
    signer = Signer(bytes(32))
    signature = (signer.sign(b"x") * 2)[:length]
    assert not verify(signer.public_key, b"x", signature)


GOOD = Signer(bytes(range(32))).node_id
KEY = Signer(bytes(range(32))).public_key
BAD_IDS = {
    "empty": "",
    "prefix only": "12D3KooW",
    "baseline": "node-6b8db7e2-53ba-429c-9a70-042ae379933c",
    "cut": GOOD[:-1],
    "longer": GOOD + "1",
    "leading one": "1" + GOOD,
    "lower case": GOOD.lower(),
    "letter outside the alphabet": GOOD[:-1] + "0",
    "not ascii": GOOD[:-1] + "é",
    "space behind": GOOD[:-1] + " ",
    "newline behind": GOOD + "\n",
    "rsa peer id": "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
    "secp256k1 key": base58.b58encode(bytes.fromhex("00250802122102") + KEY).decode(),
    "other key type": base58.b58encode(bytes.fromhex("002408021220") + KEY).decode(),
    "key too short": base58.b58encode(bytes.fromhex("002408011220") + KEY[:-1]).decode(),
    "key too long": base58.b58encode(bytes.fromhex("002408011220") + KEY + b"\0").decode(),
    "hashed": base58.b58encode(bytes.fromhex("1220") + hashlib.sha256(KEY).digest()).decode(),
    "as CID": "z" + base58.b58encode(b"\x01\x72\x00\x24\x08\x01\x12\x20" + KEY).decode(),
}


@pytest.mark.parametrize("node_id", BAD_IDS.values(), ids=BAD_IDS.keys())
def test_ids_that_hold_no_key(node_id: str) -> None:
    assert public_key_of(node_id) is None
    assert KeyRing().find(node_id) is None


@given(st.integers(8, 51), st.sampled_from("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz0OIl+/ é"))
def test_an_id_has_one_spelling(at: int, letter: str) -> None:
    other = GOOD[:at] + letter + GOOD[at + 1 :]
    key = public_key_of(other)
    assert key is None or node_id_of(key) == other


def test_the_form_that_only_signatures_speak_for() -> None:
    assert looks_self_certifying(GOOD)
    assert looks_self_certifying("12D3KooW-but-no-key")
    assert not looks_self_certifying("node-12D3KooW")


def test_keys_are_remembered_within_a_bound() -> None:
    ring = KeyRing(keys_max=2)
    ids = [Signer(bytes([n]) * 32).node_id for n in range(4)]
    for node_id in (*ids, *reversed(ids)):
        found = ring.find(node_id)
        assert found is not None
        assert node_id_of(found[0]) == node_id
        assert len(ring) <= 2


def test_a_signer_does_not_show_its_key() -> None:
    signer = Signer(bytes(range(32)))
    assert repr(signer) == f"Signer({signer.node_id})"
    assert bytes(range(32)).hex() not in repr(signer)
