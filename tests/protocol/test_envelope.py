"""Sealing and admitting: round trips, tampering, object ids."""

from __future__ import annotations

import json
import uuid
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.errors import Reason
from crabnet.protocol.admission import Admitted, Refusal
from crabnet.protocol.canonical import JsonObject, canonical_bytes
from crabnet.protocol.envelope import (
    FEED_KINDS,
    Kind,
    content_of,
    envelope_id,
    object_id,
    seal,
    shape,
    signature_bytes,
)
from tests.protocol.test_canonical import OBJECTS
from tests.support.envelopes import NOW_S, Author, admission, admitted, signer

ALICE = signer("alice")
TALK_KINDS = frozenset({Kind.NODE_HELLO, Kind.FEED_HEADS, Kind.FEED_REQUEST})


@given(
    st.sampled_from(sorted(FEED_KINDS | TALK_KINDS)),
    OBJECTS,
    st.integers(0, 2**53 - 1),
    st.integers(1, 2**53 - 1),
    st.booleans(),
)
def test_what_is_sealed_is_admitted(kind: Kind, payload: JsonObject, nonce: int, seq: int, respelled: bool) -> None:
    in_feed = kind in FEED_KINDS
    sealed = seal(
        ALICE,
        kind=kind,
        namespace="default",
        ts=NOW_S,
        nonce=nonce,
        payload=payload,
        seq=seq if in_feed else 0,
        prev="ab" * 32 if in_feed and seq > 1 else "",
    )
    raw = json.dumps(json.loads(sealed.raw), indent=1).encode() if respelled else sealed.raw
    outcome = admission().admit(raw, NOW_S)
    if isinstance(outcome, Refusal):
        assert "deep" in outcome.detail
        return
    assert outcome == Admitted(sealed, kind)
    assert outcome.envelope.meta.id == envelope_id(sealed.content)
    assert outcome.envelope.meta.from_ == ALICE.node_id


_TEXTS = st.one_of(
    st.text('ab"\\,:é\n', max_size=6),
    st.sampled_from(['a","id":"b', '"id":"a",', "id", "signature", '"signature":"a",', "a", "a\\", '"id":"', "\x7f"]),
)
_METAS = st.fixed_dictionaries(
    {name: _TEXTS.filter(bool) for name in ("id", "from")}
    | dict.fromkeys(("kind", "ns", "alg", "key_id", "prev"), _TEXTS)
    | {name: st.integers(0, 9) for name in ("ts", "nonce", "seq")}
    | {"v": st.just(2), "signature": _TEXTS | st.none()},
    optional={"more": _TEXTS | st.dictionaries(st.sampled_from(["id", "signature"]), _TEXTS)},
)
_PAYLOADS = st.dictionaries(st.sampled_from(["id", "signature", "x"]), _TEXTS | st.dictionaries(_TEXTS, _TEXTS))


@given(_METAS, _PAYLOADS, st.dictionaries(st.sampled_from(["a", "other"]), _TEXTS, max_size=1))
def test_content_leaves_out_nothing_but_id_and_signature(
    meta: JsonObject, payload: JsonObject, more: JsonObject
) -> None:
    value: JsonObject = {**more, "meta": meta, "payload": payload}
    assert shape(value, canonical_bytes(value)).content == content_of(value)


def test_content_is_the_envelope_without_id_and_signature() -> None:
    value: JsonObject = {"meta": {"id": "x", "signature": "y", "b": 1}, "payload": {"id": "stays"}, "more": [2]}
    assert content_of(value) == b'{"meta":{"b":1},"more":[2],"payload":{"id":"stays"}}'
    assert value["meta"] == {"id": "x", "signature": "y", "b": 1}


ENVELOPE = Author("alice").say(Kind.SEED_CREATED, {"seed": Author("alice").seed(title="Grüße 🦀")})


@given(st.integers(0, len(ENVELOPE.raw) * 8 - 1))
def test_a_flipped_bit_never_changes_what_is_admitted(bit: int) -> None:
    flipped = bytearray(ENVELOPE.raw)
    flipped[bit // 8] ^= 1 << bit % 8
    outcome = admission().admit(bytes(flipped), NOW_S)
    assert isinstance(outcome, Refusal) or outcome.envelope.content == ENVELOPE.content


@pytest.mark.deep
def test_no_flipped_bit_at_all_changes_what_is_admitted() -> None:
    for bit in range(len(ENVELOPE.raw) * 8):
        flipped = bytearray(ENVELOPE.raw)
        flipped[bit // 8] ^= 1 << bit % 8
        outcome = admission().admit(bytes(flipped), NOW_S)
        assert isinstance(outcome, Refusal) or outcome.envelope.content == ENVELOPE.content, f"bit {bit}"


@given(st.data())
def test_a_changed_field_is_noticed(data: st.DataObject) -> None:
    value = json.loads(ENVELOPE.raw)
    place = data.draw(st.sampled_from([value, value["meta"], value["payload"], value["payload"]["seed"]]))
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(place)))
        del place[name]
    else:
        name = data.draw(st.sampled_from(sorted(place)) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3))
        place[name] = data.draw(OBJECTS | st.integers(0, 3) | st.none() | st.just("x"))
    raw = canonical_bytes(value)
    outcome = admission().admit(raw, NOW_S)
    assert isinstance(outcome, Refusal) or outcome.envelope.raw == ENVELOPE.raw == raw


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(raw: bytes) -> None:
    assert isinstance(admission().admit(raw, NOW_S), Refusal)


def respelled_signatures() -> dict[str, str]:
    """Other texts for the bytes of ENVELOPE's signature."""
    text = ENVELOPE.meta.signature or ""
    raw = urlsafe_b64decode(text + "==")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(text[-1])
    return {
        "padded": text + "==",
        "standard alphabet": b64encode(b"\xfb\xff" + raw[2:]).decode().rstrip("="),
        "unused bit set": text[:-1] + alphabet[last | 1],
        "all unused bits set": text[:-1] + alphabet[last | 15],
        "newline behind": text + "\n",
        "newline for a letter": text[:40] + "\n" + text[41:],
        "space in front": " " + text,
        "hex": raw.hex(),
        "half": text[:43],
        "twice": text * 2,
        "not ascii": text[:-1] + "é",
        "zero": urlsafe_b64encode(bytes(64)).decode().rstrip("="),
    }


@pytest.mark.parametrize("text", respelled_signatures().values(), ids=respelled_signatures().keys())
def test_a_signature_has_one_spelling(text: str) -> None:
    value = json.loads(ENVELOPE.raw)
    assert value["meta"]["signature"] != text
    value["meta"]["signature"] = text
    outcome = admission().admit(canonical_bytes(value), NOW_S)
    assert isinstance(outcome, Refusal)
    assert outcome.reason is Reason.BAD_SIGNATURE


@given(st.binary(min_size=64, max_size=64))
def test_signature_bytes_inverts_the_one_spelling(raw: bytes) -> None:
    assert signature_bytes(urlsafe_b64encode(raw).decode().rstrip("=")) == raw


@given(st.text("abcXYZ019-_AQgw+/=é", min_size=85, max_size=87))
def test_signature_bytes_takes_one_spelling_only(text: str) -> None:
    raw = signature_bytes(text)
    assert raw is None or urlsafe_b64encode(raw).decode().rstrip("=") == text


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=64),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.integers(0, 2**53 - 1),
)
def test_object_ids_are_uuids_of_version_5(namespace: str, author: str, seq: int) -> None:
    base = uuid.uuid5(uuid.NAMESPACE_URL, "crabnet/v2/object")
    made = object_id(namespace, author, seq)
    assert made == str(uuid.uuid5(base, f"{namespace}/{author}/{seq}"))
    assert uuid.UUID(made).version == 5


def test_another_kind_key_or_namespace_has_another_id() -> None:
    ids = set()
    for who in (ALICE, signer("bob")):
        for kind in (Kind.SEED_CREATED, Kind.BID_SUBMITTED):
            for namespace in ("default", "other"):
                for nonce in (0, 1):
                    sealed = seal(who, kind=kind, namespace=namespace, ts=0, nonce=nonce, payload={}, seq=1)
                    ids.add(sealed.meta.id)
    assert len(ids) == 16


def test_unknown_fields_are_kept_signed_and_ignored() -> None:
    author = Author("alice")
    payload: JsonObject = {"seed": author.seed(colour="red"), "later": {"x": [1, None]}}
    sealed = author.say(Kind.SEED_CREATED, payload)
    assert admitted(sealed.raw).envelope.payload == payload
    tampered = sealed.raw.replace(b'"colour":"red"', b'"colour":"tan"')
    outcome = admission().admit(tampered, NOW_S)
    assert isinstance(outcome, Refusal)
    assert outcome.reason is Reason.WRONG_ID
