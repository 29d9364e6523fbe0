"""The steps of verification: each has its Reason, and the earlier one speaks first."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from itertools import combinations
from typing import Any, NamedTuple

import pytest

from crabnet import limits
from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.protocol.admission import IGNORED, Admission, AdmissionPolicy, Admitted, Refusal, refusal, seen_key
from crabnet.protocol.canonical import JsonObject, canonical_bytes
from crabnet.protocol.envelope import Envelope, EnvelopeMeta, Kind, content_of, envelope_id
from crabnet.protocol.replay import SeenWindow
from tests.support.envelopes import NOW_S, Author, admission, edit, signer

TTL_S = 43_200
SKEW_S = 300


def resealed(raw: bytes, name: str = "alice", *, _beside: JsonObject | None = None, **meta: Any) -> bytes:
    """The envelope with other ``meta`` fields, and others beside it, with the right id and signature for them."""
    value = {**json.loads(raw), **(_beside or {})}
    for field, item in meta.items():
        field = field.rstrip("_")
        if item is ...:
            value["meta"].pop(field, None)
        else:
            value["meta"][field] = item
    content = content_of(value)
    value["meta"]["id"] = envelope_id(content)
    value["meta"]["signature"] = urlsafe_b64encode(signer(name).sign(content)).decode().rstrip("=")
    return canonical_bytes(value)


def plain() -> Envelope:
    """A valid envelope."""
    author = Author("alice")
    return author.say(Kind.SEED_CREATED, {"seed": author.seed()})


RAW = plain().raw
BOB = signer("bob")


class Defect(NamedTuple):
    """A way to break a valid envelope, the step that notices it, and what it says."""

    step: int
    reason: Reason
    outcome: Outcome
    raw: bytes


_REJECT = Outcome.REJECTED
_IGNORE = Outcome.IGNORED
DEFECTS = {
    "no bytes": Defect(2, Reason.EMPTY, _REJECT, b""),
    "too large with its white space": Defect(2, Reason.TOO_LARGE, _REJECT, RAW + b" " * limits.ENVELOPE_BYTES_MAX),
    "white space in front": Defect(3, Reason.MALFORMED, _REJECT, b" " + RAW),
    "line break in front": Defect(3, Reason.MALFORMED, _REJECT, b"\n" + RAW),
    "no json": Defect(3, Reason.MALFORMED, _REJECT, RAW[:-1]),
    "key twice": Defect(3, Reason.MALFORMED, _REJECT, RAW.replace(b'"seq":1,', b'"seq":1,"seq":1,')),
    "no meta": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta", ...)),
    "meta no object": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta", [])),
    "no payload": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "payload", ...)),
    "payload null": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "payload", None)),
    "payload a string": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "payload", "{}")),
    "no id": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.id", ...)),
    "empty id": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.id", "")),
    "id of 129 characters": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.id", "a" * 129)),
    "signature of 8193 characters": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.signature", "A" * 8193)),
    "signature a number": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.signature", 1)),
    "namespace null": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.ns", None)),
    "seq null": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.seq", None)),
    "seq a boolean": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.seq", True)),
    "version a boolean": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.v", True)),
    "begins like a fork proof": Defect(4, Reason.MALFORMED, _REJECT, resealed(RAW, _beside={"envelopes": []})),
    "no from": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.from", ...)),
    "no kind": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.kind", ...)),
    "no ts": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.ts", ...)),
    "no nonce": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.nonce", ...)),
    "ts negative": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.ts", -1)),
    "ts a string": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.ts", str(NOW_S))),
    "ts a boolean": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.ts", True)),
    "seq negative": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.seq", -1)),
    "v a string": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.v", "2")),
    "from too long": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.from", "x" * 129)),
    "kind too long": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.kind", "x" * 65)),
    "prev too long": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.prev", "a" * 65)),
    "integer too large": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "meta.nonce", 2**53)),
    "integer too large, deep": Defect(4, Reason.MALFORMED, _REJECT, edit(RAW, "payload.seed.x", [{"y": -(2**53)}])),
    "no version": Defect(5, Reason.MISSING_SIGNATURE, _REJECT, edit(RAW, "meta.v", ...)),
    "version null": Defect(5, Reason.MISSING_SIGNATURE, _REJECT, edit(RAW, "meta.v", None)),
    "version 1": Defect(5, Reason.UNSUPPORTED_VERSION, _IGNORE, resealed(RAW, v=1)),
    "version 3": Defect(5, Reason.UNSUPPORTED_VERSION, _IGNORE, resealed(RAW, v=3)),
    "version 3 with other forms": Defect(
        5, Reason.UNSUPPORTED_VERSION, _IGNORE, edit(edit(RAW, "meta.v", 3), "meta.signature", "A" * 8192)
    ),
    "version 3 without a place": Defect(5, Reason.UNSUPPORTED_VERSION, _IGNORE, resealed(RAW, v=3, seq=..., alg=...)),
    "empty signature": Defect(5, Reason.MISSING_SIGNATURE, _REJECT, edit(RAW, "meta.signature", "")),
    "null signature": Defect(5, Reason.MISSING_SIGNATURE, _REJECT, edit(RAW, "meta.signature", None)),
    "no signature": Defect(5, Reason.MISSING_SIGNATURE, _REJECT, edit(RAW, "meta.signature", ...)),
    "other namespace": Defect(6, Reason.WRONG_NAMESPACE, _IGNORE, resealed(RAW, ns="other")),
    "empty namespace": Defect(6, Reason.WRONG_NAMESPACE, _IGNORE, resealed(RAW, ns="")),
    "unknown kind, no feed": Defect(7, Reason.UNKNOWN_KIND, _IGNORE, resealed(RAW, kind="SeedPraised", seq=0)),
    "unknown kind, not signed": Defect(7, Reason.UNKNOWN_KIND, _IGNORE, edit(RAW, "meta.kind", "SeedPraised")),
    "expired": Defect(8, Reason.EXPIRED, _IGNORE, resealed(RAW, ts=NOW_S - TTL_S - 1)),
    "expired long ago": Defect(8, Reason.EXPIRED, _IGNORE, resealed(RAW, ts=0)),
    "from the future": Defect(8, Reason.FROM_THE_FUTURE, _IGNORE, resealed(RAW, ts=NOW_S + SKEW_S + 1)),
    "far future": Defect(8, Reason.FROM_THE_FUTURE, _IGNORE, resealed(RAW, ts=2**53 - 1)),
    "feed kind, seq 0": Defect(10, Reason.MALFORMED, _REJECT, resealed(RAW, seq=0)),
    "seq 1 with prev": Defect(10, Reason.MALFORMED, _REJECT, resealed(RAW, prev="a" * 64)),
    "seq 2 without prev": Defect(10, Reason.MALFORMED, _REJECT, resealed(RAW, seq=2)),
    "short prev": Defect(10, Reason.MALFORMED, _REJECT, resealed(RAW, seq=2, prev="a" * 63)),
    "upper-case prev": Defect(10, Reason.MALFORMED, _REJECT, resealed(RAW, seq=2, prev="A" * 64)),
    "talk with seq": Defect(10, Reason.MALFORMED, _REJECT, resealed(RAW, kind="NodeHello")),
    "talk with prev": Defect(10, Reason.MALFORMED, _REJECT, resealed(RAW, kind="FeedHeads", seq=0, prev="a" * 64)),
    "wrong id": Defect(10, Reason.WRONG_ID, _REJECT, edit(RAW, "meta.id", "a" * 64)),
    "id of 63 digits": Defect(10, Reason.WRONG_ID, _REJECT, edit(RAW, "meta.id", plain().meta.id[:-1])),
    "id of 128 characters": Defect(10, Reason.WRONG_ID, _REJECT, edit(RAW, "meta.id", "a" * 128)),
    "upper-case id": Defect(10, Reason.WRONG_ID, _REJECT, edit(RAW, "meta.id", plain().meta.id.upper())),
    "payload changed": Defect(10, Reason.WRONG_ID, _REJECT, edit(RAW, "payload.seed.reward", 11)),
    "unknown algorithm": Defect(11, Reason.UNKNOWN_ALGORITHM, _REJECT, resealed(RAW, alg="ml-dsa-65")),
    "no algorithm": Defect(4, Reason.MALFORMED, _REJECT, resealed(RAW, alg=...)),
    "no seq": Defect(4, Reason.MALFORMED, _REJECT, resealed(RAW, seq=...)),
    "no prev": Defect(4, Reason.MALFORMED, _REJECT, resealed(RAW, prev=...)),
    "author without a key": Defect(11, Reason.UNKNOWN_KEY, _REJECT, resealed(RAW, from_="node-1")),
    "author misspelled": Defect(11, Reason.UNKNOWN_KEY, _REJECT, resealed(RAW, from_="12D3KooW" + "0" * 44)),
    "other key id": Defect(11, Reason.UNKNOWN_KEY, _REJECT, resealed(RAW, key_id=BOB.key_id)),
    "no key id": Defect(4, Reason.MALFORMED, _REJECT, resealed(RAW, key_id=...)),
    "signed by another": Defect(12, Reason.BAD_SIGNATURE, _REJECT, resealed(RAW, "bob")),
    "in another's name": Defect(12, Reason.BAD_SIGNATURE, _REJECT, resealed(RAW, from_=BOB.node_id, key_id=BOB.key_id)),
    "signature of 8192 characters": Defect(12, Reason.BAD_SIGNATURE, _REJECT, edit(RAW, "meta.signature", "A" * 8192)),
    "short signature": Defect(12, Reason.BAD_SIGNATURE, _REJECT, edit(RAW, "meta.signature", "AAAA")),
}


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS.keys())
def test_each_defect_has_its_reason(defect: Defect) -> None:
    outcome = admission().admit(defect.raw, NOW_S)
    assert isinstance(outcome, Refusal)
    assert (outcome.reason, outcome.outcome) == (defect.reason, defect.outcome)
    assert (outcome.meta is None) == (defect.step < 4 or (defect.step == 4 and "beyond" not in outcome.detail))


BREAKS: dict[int, tuple[Reason, dict[str, Any]]] = {
    4: (Reason.MALFORMED, {"nonce": -1}),
    5: (Reason.UNSUPPORTED_VERSION, {"v": 3}),
    6: (Reason.WRONG_NAMESPACE, {"ns": "other"}),
    7: (Reason.UNKNOWN_KIND, {"kind": "SeedPraised"}),
    8: (Reason.EXPIRED, {"ts": 0}),
    10: (Reason.WRONG_ID, {"id": "a" * 64}),
    11: (Reason.UNKNOWN_ALGORITHM, {"alg": "rot13"}),
    12: (Reason.BAD_SIGNATURE, {"signature": "A" * 86}),
}


@pytest.mark.parametrize(("first", "second"), list(combinations(BREAKS, 2)))
def test_of_two_defects_the_earlier_step_speaks(first: int, second: int) -> None:
    value = json.loads(RAW)
    fields = {**BREAKS[first][1], **BREAKS[second][1]}
    value["meta"].update(fields)
    if "id" not in fields:
        value["meta"]["id"] = envelope_id(content_of(value))
    outcome = admission().admit(canonical_bytes(value), NOW_S)
    assert isinstance(outcome, Refusal)
    assert outcome.reason is BREAKS[first][0]


def test_all_defects_at_once_are_reported_from_the_first_on() -> None:
    value = json.loads(RAW)
    steps = sorted(BREAKS)
    for at, step in enumerate(steps):
        broken = json.loads(canonical_bytes(value))
        for later in steps[at:]:
            broken["meta"].update(BREAKS[later][1])
        if step > 10:
            broken["meta"]["id"] = envelope_id(content_of(broken))
        outcome = admission().admit(canonical_bytes(broken), NOW_S)
        assert isinstance(outcome, Refusal)
        assert outcome.reason is BREAKS[step][0], f"step {step}"


def test_what_was_seen_is_dropped_before_its_signature_is_looked_at() -> None:
    steps = admission()
    steps.seen.add(plain().meta.id, NOW_S)
    for raw in (RAW, edit(RAW, "meta.signature", "x"), edit(RAW, "meta.alg", "x")):
        outcome = steps.admit(raw, NOW_S)
        assert isinstance(outcome, Refusal)
        assert (outcome.reason, outcome.outcome) == (Reason.DUPLICATE, Outcome.IGNORED)
    late = steps.admit(resealed(RAW, ts=0), NOW_S)
    assert isinstance(late, Refusal)
    assert late.reason is Reason.EXPIRED


def test_refusing_and_admitting_remember_nothing() -> None:
    steps = admission()
    for raw in (edit(RAW, "meta.signature", "A" * 86), RAW, RAW):
        steps.admit(raw, NOW_S)
    assert len(steps.seen) == 0


@pytest.mark.parametrize(
    ("ts", "reason"),
    [
        (NOW_S - TTL_S - 1, Reason.EXPIRED),
        (NOW_S - TTL_S, None),
        (NOW_S, None),
        (NOW_S + SKEW_S, None),
        (NOW_S + SKEW_S + 1, Reason.FROM_THE_FUTURE),
    ],
)
def test_the_time_window(ts: int, reason: Reason | None) -> None:
    outcome = admission().admit(resealed(RAW, ts=ts), NOW_S)
    assert (outcome.reason if isinstance(outcome, Refusal) else None) is reason


def test_the_time_window_is_configurable() -> None:
    policy = AdmissionPolicy(message_ttl_s=10, future_skew_s=0)
    reasons = []
    for ts in (NOW_S - 11, NOW_S - 10, NOW_S, NOW_S + 1):
        outcome = admission(policy).admit(resealed(RAW, ts=ts), NOW_S)
        reasons.append(outcome.reason if isinstance(outcome, Refusal) else None)
    assert reasons == [Reason.EXPIRED, None, None, Reason.FROM_THE_FUTURE]


def test_what_was_asked_for_may_be_old_but_not_from_the_future() -> None:
    def wanted(meta: EnvelopeMeta) -> bool:
        return meta.seq == 1

    assert isinstance(admission().admit(resealed(RAW, ts=0), NOW_S, wanted), Admitted)
    ahead = admission().admit(resealed(RAW, ts=NOW_S + SKEW_S + 1), NOW_S, wanted)
    assert isinstance(ahead, Refusal)
    assert ahead.reason is Reason.FROM_THE_FUTURE
    unwanted = admission().admit(resealed(RAW, ts=0, seq=2, prev="a" * 64), NOW_S, wanted)
    assert isinstance(unwanted, Refusal)
    assert unwanted.reason is Reason.EXPIRED


def test_a_kind_of_a_later_version_keeps_its_place_in_the_feed() -> None:
    for kind in ("SeedPraised", ""):
        outcome = admission().admit(resealed(RAW, kind=kind), NOW_S)
        assert isinstance(outcome, Admitted)
        assert outcome.kind is Kind.UNKNOWN
        assert outcome.envelope.meta.kind == kind
        expired = admission().admit(resealed(RAW, kind=kind, ts=0), NOW_S)
        assert isinstance(expired, Refusal)
        assert expired.reason is Reason.EXPIRED


def test_the_largest_envelope_is_taken() -> None:
    padded = RAW + b" " * (limits.ENVELOPE_BYTES_MAX - len(RAW))
    assert isinstance(admission().admit(padded, NOW_S), Admitted)
    outcome = admission().admit(padded + b" ", NOW_S)
    assert isinstance(outcome, Refusal)
    assert outcome.reason is Reason.TOO_LARGE


def legacy(**meta: Any) -> bytes:
    """A baseline envelope."""
    head: JsonObject = {
        "id": "1",
        "from": "node-1",
        "kind": "SeedCreated",
        "ts": NOW_S,
        "nonce": NOW_S,
        "signature": "",
    }
    return canonical_bytes({"meta": {**head, **meta}, "payload": {"seed": {}}})


OPEN = AdmissionPolicy(require_signatures=False)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (legacy(), None),
        (legacy(signature=None), None),
        (legacy(ts=NOW_S - TTL_S - 1), Reason.EXPIRED),
        (legacy(ts=NOW_S + SKEW_S + 1), Reason.FROM_THE_FUTURE),
        (legacy(ts=2**64 - 1), Reason.FROM_THE_FUTURE),
        (legacy(nonce=2**64 - 1), None),
        (legacy(nonce=2**64), Reason.MALFORMED),
        (legacy(extra=2**64), Reason.MALFORMED),
        (legacy(kind="TaskStarted"), Reason.UNKNOWN_KIND),
        (legacy(kind="NodeHello"), Reason.UNKNOWN_KIND),
        (legacy(kind="SeedPraised"), Reason.UNKNOWN_KIND),
        (legacy(kind=""), Reason.UNKNOWN_KIND),
        (legacy(signature="x"), Reason.UNSUPPORTED_VERSION),
        (legacy(ns="other"), Reason.WRONG_NAMESPACE),
        (legacy(id="x" * 129), Reason.MALFORMED),
        (edit(RAW, "meta.signature", ""), Reason.MISSING_SIGNATURE),
        (edit(RAW, "meta.v", ...), Reason.UNSUPPORTED_VERSION),
    ],
)
def test_unsigned_envelopes_where_they_are_allowed(raw: bytes, reason: Reason | None) -> None:
    outcome = admission(OPEN).admit(raw, NOW_S)
    assert (outcome.reason if isinstance(outcome, Refusal) else None) is reason
    closed = admission().admit(raw, NOW_S)
    assert isinstance(closed, Refusal)


def test_signed_envelopes_are_taken_beside_unsigned_ones() -> None:
    assert isinstance(admission(OPEN).admit(RAW, NOW_S), Admitted)


def test_an_unsigned_id_blocks_no_signed_envelope() -> None:
    steps = Admission(OPEN, SeenWindow(ttl_s=10, capacity=10))
    squatter = steps.admit(legacy(id=plain().meta.id), NOW_S)
    assert isinstance(squatter, Admitted)
    steps.seen.add(seen_key(squatter.envelope.meta), NOW_S)
    assert isinstance(steps.admit(RAW, NOW_S), Admitted)
    again = steps.admit(legacy(id=plain().meta.id), NOW_S)
    assert isinstance(again, Refusal)
    assert again.reason is Reason.DUPLICATE


@pytest.mark.parametrize("reason", list(Reason))
def test_a_refusal_has_the_outcome_of_its_reason(reason: Reason) -> None:
    expected = Outcome.IGNORED if reason in IGNORED else Outcome.REJECTED
    assert refusal(reason).outcome is expected


def test_hostile_reasons_are_never_ignored() -> None:
    hostile = {
        Reason.MALFORMED,
        Reason.WRONG_ID,
        Reason.UNKNOWN_KEY,
        Reason.MISSING_SIGNATURE,
        Reason.BAD_SIGNATURE,
        Reason.UNAUTHORISED,
        Reason.FORK,
        Reason.WRONG_STATE,
    }
    assert not hostile & IGNORED


def test_an_unknown_kind_of_a_stranger_never_shows_its_payload() -> None:
    payload: JsonObject = {"seed": {"id": "secret"}}
    author = Author("alice")
    raw = edit(author.say(Kind.SEED_CREATED, payload).raw, "meta.kind", "x")
    outcome = admission().admit(raw, NOW_S)
    assert isinstance(outcome, Refusal)
    assert "secret" not in outcome.detail
