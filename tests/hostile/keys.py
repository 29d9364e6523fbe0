"""Whose key signed it: keys, ids of keys, algorithms, signatures and their spellings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from crabnet.errors import Reason
from crabnet.protocol.envelope import Kind, envelope_id, seal
from crabnet.protocol.identity import PAYLOAD_TYPE, node_id_of
from tests.hostile.case import Group, Recipe, Row, Stranger, base64url, edited, made, rehash, resign, resigned, without
from tests.hostile.curve import ORDER, lifted, small_order_points
from tests.support.envelopes import Author, edit

R = Reason
_IDENTITY = (1).to_bytes(32, "little")


def _edit(name: str, path: str, value: object, reason: Reason = R.MALFORMED) -> Row:
    return Row(name, edited(path, value), reason)


def _next(character: str) -> str:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return alphabet[(alphabet.index(character) + 1) % 64]


def _in_hex(stranger: Stranger) -> bytes:
    envelope = stranger.small_seed()
    return edit(envelope.raw, "meta.signature", stranger.signer.sign(envelope.content).hex())


def _pae(payload_type: bytes, content: bytes) -> bytes:
    return b"DSSEv1 %d %s %d %s" % (len(payload_type), payload_type, len(content), content)


def _sign_of_r(signature: bytes) -> bytes:
    return signature[:31] + bytes([signature[31] ^ 0x80]) + signature[32:]


def _key_id_upper(stranger: Stranger) -> bytes:
    raw = stranger.small_seed().raw
    return resign(stranger.signer, raw, key_id="ed25519:" + stranger.signer.key_id.removeprefix("ed25519:").upper())


def _renamed(stranger: Stranger, name: str) -> bytes:
    return resign(stranger.signer, stranger.small_seed().raw, **{"from": name})


def _another() -> Author:
    return Author("another author")


def _signature(how: str, change: Callable[[str], str]) -> Recipe:
    """The 86 characters of a sound signature changed."""

    def make(stranger: Stranger) -> bytes:
        envelope = stranger.small_seed()
        return edit(envelope.raw, "meta.signature", change(envelope.meta.signature or ""))

    return Recipe(f"the signature is {how}", make)


def _standard_alphabet(stranger: Stranger) -> bytes:
    """``-`` and ``_`` written as ``+`` and ``/``; nonces are tried until there is one."""
    while True:
        envelope = stranger.small_seed()
        signature = envelope.meta.signature or ""
        if "-" in signature or "_" in signature:
            return edit(envelope.raw, "meta.signature", signature.translate({ord("-"): "+", ord("_"): "/"}))
        stranger.seq, stranger.head = 0, ""


def _signing(how: str, signed_bytes: Callable[[bytes], bytes]) -> Recipe:
    """A signature of the right key over something else than the DSSE encoding of the content."""

    def make(stranger: Stranger) -> bytes:
        envelope = stranger.small_seed()
        signature = stranger.sign_raw(signed_bytes(envelope.content))
        return edit(envelope.raw, "meta.signature", base64url(signature))

    return Recipe(f"the right key signs {how}", make)


def _malleable(how: str, change: Callable[[bytes], bytes]) -> Recipe:
    """A sound signature changed so that lax verifiers still take it."""

    def make(stranger: Stranger) -> bytes:
        envelope = stranger.small_seed()
        return edit(envelope.raw, "meta.signature", base64url(change(stranger.signer.sign(envelope.content))))

    return Recipe(how, make)


@made("signed with another key than that of `from` and `key_id`")
def _signed_by_another(stranger: Stranger) -> bytes:
    envelope = stranger.small_seed()
    return edit(envelope.raw, "meta.signature", base64url(_another().signer.sign(envelope.content)))


@made("`from` is another author; `key_id` and signature are the stranger's")
def _key_kept(stranger: Stranger) -> bytes:
    return resign(stranger.signer, stranger.small_seed().raw, **{"from": _another().id})


@made("`from` and `key_id` are another author's; the signature is the stranger's")
def _key_swapped(stranger: Stranger) -> bytes:
    other = _another()
    raw = stranger.small_seed().raw
    return resign(stranger.signer, raw, **{"from": other.id, "key_id": other.signer.key_id})


@made("two sound envelopes of one author, each with the signature of the other")
def _swapped(stranger: Stranger) -> bytes:
    one, two = stranger.small_seed(), stranger.small_seed(title="two")
    return edit(one.raw, "meta.signature", two.meta.signature)


@made("the signature of the same seed in another namespace")
def _other_namespaces(stranger: Stranger) -> bytes:
    here = stranger.small_seed()
    there = seal(
        stranger.signer,
        kind=Kind.SEED_CREATED,
        namespace="elsewhere",
        ts=stranger.now_s,
        nonce=here.meta.nonce,
        payload=here.payload,
        seq=1,
    )
    return edit(here.raw, "meta.signature", there.meta.signature)


def _key_of_small_order(how: str, point: bytes) -> Recipe:
    """An author without a private key: lax verifiers take one fixed signature for every message."""

    def make(stranger: Stranger) -> bytes:
        key_id = f"ed25519:{hashlib.sha256(point).digest()[:16].hex()}"
        raw = stranger.small_seed(created_by=node_id_of(point)).raw
        raw = rehash(raw, **{"from": node_id_of(point), "key_id": key_id})
        return edit(raw, "meta.signature", base64url(_IDENTITY + bytes(32)))

    return Recipe(how, make)


def _forged(name: str, recipe: Recipe) -> Row:
    return Row(name, recipe, R.BAD_SIGNATURE)


SIGNATURES = Group(
    "Keys and signatures",
    "A sound SeedCreated with another key, algorithm or signature. An Ed25519 signature has one valid spelling.",
    [
        _edit("signature null", "meta.signature", None, R.MISSING_SIGNATURE),
        _edit("signature empty", "meta.signature", "", R.MISSING_SIGNATURE),
        _edit("signature missing", "meta.signature", ..., R.MISSING_SIGNATURE),
        _edit("signature a list", "meta.signature", []),
        _edit("signature of 8193 characters", "meta.signature", "A" * 8_193),
        _edit("signature of 8192 characters", "meta.signature", "A" * 8_192, R.BAD_SIGNATURE),
        _edit("v null", "meta.v", None, R.MISSING_SIGNATURE),
        _forged("signature of zeros", _signature("all `A`", lambda _: "A" * 86)),
        _forged("padded", _signature("with `==` behind it", lambda text: text + "==")),
        _forged("line break behind it", _signature("with a newline behind it", lambda text: text + "\n")),
        _forged("space in it", _signature("with a space in it", lambda text: f"{text[:40]} {text[40:]}")),
        _forged("a character less", _signature("one character short", lambda text: text[:-1])),
        _forged("a character more", _signature("one `A` too long", lambda text: text + "A")),
        _forged("unused bits set", _signature("with the unused bits set", lambda text: text[:-1] + _next(text[-1]))),
        _forged("in hex", Recipe("the signature is in hex", _in_hex)),
        _forged("first bit flipped", _signature("with a bit flipped", lambda text: _next(text[0]) + text[1:])),
        _forged("full-width letters", _signature("in full-width letters", lambda _: "\uff21" * 86)),
        _forged("standard alphabet", Recipe("`+` and `/` for `-` and `_`", _standard_alphabet)),
        _forged("content alone signed", _signing("the content without DSSE", lambda content: content)),
        _forged("id signed", _signing("the id", lambda content: envelope_id(content).encode())),
        _forged("other type signed", _signing("it as another type", lambda content: _pae(b"text/plain", content))),
        _forged("version 1 signed", _signing("it as v1", lambda c: _pae(PAYLOAD_TYPE.replace(b"v2", b"v1"), c))),
        _forged("S + L", _malleable("S of the signature is S + L (malleability)", lambda s: lifted(s, ORDER))),
        _forged("S + 2L", _malleable("S of the signature is S + 2L", lambda s: lifted(s, 2 * ORDER))),
        _forged("high bit of S", _malleable("the highest bit of S is set", lambda s: s[:63] + bytes([s[63] | 0x80]))),
        _forged("S is 0", _malleable("S is 0", lambda s: s[:32] + bytes(32))),
        _forged("R is the neutral point", _malleable("R is the neutral point", lambda s: _IDENTITY + s[32:])),
        _forged("R with its sign flipped", _malleable("the sign of R is flipped", _sign_of_r)),
        *(
            _forged(name, _key_of_small_order(f"`from` is a key without a secret: {name}", point))
            for name, point in small_order_points().items()
        ),
        _forged("signed by another", _signed_by_another),
        _forged("key swapped with its id", _key_swapped),
        _forged("signatures swapped", _swapped),
        _forged("signature for another namespace", _other_namespaces),
        Row("key kept, sender swapped", _key_kept, R.UNKNOWN_KEY),
        Row("key_id of another", resigned(key_id=_another().signer.key_id), R.UNKNOWN_KEY),
        Row("key_id in capitals", Recipe("`key_id` in upper case", _key_id_upper), R.UNKNOWN_KEY),
        Row("key_id empty", resigned(key_id=""), R.UNKNOWN_KEY),
        _edit("key_id of 129 characters", "meta.key_id", "k" * 129),
        Row("baseline sender", resigned(**{"from": "node-6b8db7e2-53ba-429c-9a70-042ae379933c"}), R.UNKNOWN_KEY),
        Row("RSA sender", resigned(**{"from": "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"}), R.UNKNOWN_KEY),
        Row("sender with a space", Recipe("a space behind `from`", lambda s: _renamed(s, s.id + " ")), R.UNKNOWN_KEY),
        Row(
            "sender with a 1", Recipe("a leading `1` more in `from`", lambda s: _renamed(s, "1" + s.id)), R.UNKNOWN_KEY
        ),
        Row("sender cut", Recipe("`from` is a character short", lambda s: _renamed(s, s.id[:-1])), R.UNKNOWN_KEY),
        Row("sender with an O", Recipe("`0` in `from`", lambda s: _renamed(s, s.id[:-1] + "0")), R.UNKNOWN_KEY),
        Row(
            "look-alike sender",
            Recipe("a Cyrillic letter in `from`", lambda s: _renamed(s, s.id[:-1] + "\u0430")),
            R.UNKNOWN_KEY,
        ),
        *(
            Row(f"alg {alg or 'empty'}", resigned(alg=alg), R.UNKNOWN_ALGORITHM)
            for alg in ("none", "ED25519", "ed25519ph", "ed25519ctx", "hmac-sha256", "rsa", "ml-dsa-65", "")
        ),
        _edit("alg missing", "meta.alg", ...),
        _edit("key_id missing", "meta.key_id", ...),
        Row("alg missing, signed", without("alg"), R.MALFORMED),
        Row("prev missing, signed", without("prev"), R.MALFORMED),
        _edit("alg null", "meta.alg", None),
        _edit("alg of 33 characters", "meta.alg", "a" * 33),
    ],
)
