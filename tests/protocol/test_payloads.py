"""Payloads of feed envelopes: fields, bounds, and who may speak for whom."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from crabnet import limits
from crabnet.domain.model import (
    Acknowledgement,
    Bid,
    Body,
    Claim,
    Fact,
    FactKind,
    Progress,
    Run,
    Seed,
    SeedStatus,
    Settlement,
    TaskResult,
    Termination,
    TerminationCause,
)
from crabnet.errors import Reason
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Kind, object_id
from crabnet.protocol.payloads import PayloadRefusedError, fact_of, payload_of
from tests.protocol.test_canonical import VALUES
from tests.support.envelopes import NOW_S, Author, admitted

ALICE = Author("alice").id
BOB = Author("bob").id
ID = object_id("default", ALICE, 1)
PARENT = "ab" * 32
HASH = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

OBJECTS: dict[Kind, tuple[str, JsonObject]] = {
    Kind.SEED_CREATED: ("seed", Author("alice").seed()),
    Kind.BID_SUBMITTED: (
        "bid",
        {"id": ID, "seed_id": "s", "bidder": ALICE, "price": 5, "created_at": NOW_S, "rests_on": PARENT},
    ),
    Kind.CLAIM_CREATED: (
        "claim",
        {
            "id": ID,
            "seed_id": "s",
            "bid_id": "b",
            "worker": BOB,
            "created_at": NOW_S,
            "attempt": 2,
            "rests_on": PARENT,
        },
    ),
    Kind.TASK_STARTED: (
        "run",
        {"id": ID, "seed_id": "s", "claim_id": "c", "worker": ALICE, "created_at": NOW_S, "rests_on": PARENT},
    ),
    Kind.TASK_RESULT: (
        "result",
        {
            "id": ID,
            "seed_id": "s",
            "claim_id": "c",
            "worker": ALICE,
            "exit_code": 0,
            "timed_out": False,
            "output_hash": HASH,
            "duration_ms": 1,
            "created_at": NOW_S,
            "rests_on": PARENT,
        },
    ),
    Kind.TASK_SETTLE: (
        "seed",
        {"id": "s", "status": "Accepted", "claim_id": "c", "result_id": "r", "attempt": 3, "rests_on": PARENT},
    ),
    Kind.SETTLE_ACKNOWLEDGED: (
        "acknowledgement",
        {"id": ID, "seed_id": "s", "worker": ALICE, "created_at": NOW_S, "rests_on": PARENT},
    ),
}


def said(kind: Kind, payload: JsonObject) -> Fact:
    """The fact that alice's first envelope states."""
    return fact_of(admitted(Author("alice").say(kind, payload).raw).envelope, kind)


def refused(kind: Kind, payload: JsonObject) -> Reason:
    """Why alice's first envelope is refused."""
    with pytest.raises(PayloadRefusedError) as caught:
        said(kind, payload)
    return caught.value.reason


def changed(kind: Kind, **fields: Any) -> JsonObject:
    """The payload of a kind with other fields; Ellipsis removes one."""
    key, value = OBJECTS[kind]
    merged = {**value, **fields}
    return {key: {name: item for name, item in merged.items() if item is not ...}}


KINDS = list(OBJECTS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_payload_becomes_a_fact(kind: Kind) -> None:
    fact = said(kind, changed(kind))
    assert fact.key == ID
    assert fact.seed_id == (ID if kind is Kind.SEED_CREATED else "s")
    assert (fact.author, fact.seq, fact.ts, fact.signed) == (ALICE, 1, NOW_S, True)
    assert fact.body.created_at == NOW_S
    assert len(fact.envelope) == 64
    assert fact.ref == fact.envelope
    assert fact.rests_on == ("" if kind is Kind.SEED_CREATED else PARENT)


@pytest.mark.parametrize("kind", [kind for kind in OBJECTS if kind is not Kind.SEED_CREATED])
def test_what_a_step_rests_on_may_be_unsigned(kind: Kind) -> None:
    assert said(kind, changed(kind, rests_on="")).rests_on == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("payload", [{}, {"seed": None}, {"bid": []}, {"result": "x"}, {"run": 1}, {"claim": {}}])
def test_a_payload_without_its_object_is_malformed(kind: Kind, payload: JsonObject) -> None:
    assert refused(kind, payload) is Reason.MALFORMED


BAD_FIELDS: list[tuple[Kind, str, Any, Reason]] = [
    *((kind, "id", "x", Reason.WRONG_ID) for kind in KINDS if kind is not Kind.TASK_SETTLE),
    *((kind, "id", object_id("default", ALICE, 2), Reason.WRONG_ID) for kind in KINDS if kind is not Kind.TASK_SETTLE),
    *((kind, "id", object_id("default", BOB, 1), Reason.WRONG_ID) for kind in KINDS if kind is not Kind.TASK_SETTLE),
    *((kind, "id", ID.upper(), Reason.WRONG_ID) for kind in KINDS if kind is not Kind.TASK_SETTLE),
    *((kind, "created_at", NOW_S - 1, Reason.MALFORMED) for kind in KINDS if kind is not Kind.TASK_SETTLE),
    *((kind, "created_at", ..., Reason.MALFORMED) for kind in KINDS if kind is not Kind.TASK_SETTLE),
    *((kind, "id", ..., Reason.MALFORMED) for kind in KINDS),
    *((kind, "id", "", Reason.MALFORMED) for kind in KINDS),
    *(
        (kind, "rests_on", value, Reason.MALFORMED)
        for kind in KINDS
        if kind is not Kind.SEED_CREATED
        for value in (..., None, 7, PARENT[1:], PARENT + "0", PARENT.upper(), "x" * 64)
    ),
    (Kind.SEED_CREATED, "created_by", BOB, Reason.UNAUTHORISED),
    (Kind.BID_SUBMITTED, "bidder", BOB, Reason.UNAUTHORISED),
    (Kind.TASK_STARTED, "worker", BOB, Reason.UNAUTHORISED),
    (Kind.TASK_RESULT, "worker", BOB, Reason.UNAUTHORISED),
    (Kind.SETTLE_ACKNOWLEDGED, "worker", BOB, Reason.UNAUTHORISED),
    (Kind.SETTLE_ACKNOWLEDGED, "seed_id", "", Reason.MALFORMED),
    (Kind.SEED_CREATED, "title", "x" * (limits.TITLE_CHARS_MAX + 1), Reason.MALFORMED),
    (Kind.SEED_CREATED, "description", "x" * (limits.DESCRIPTION_CHARS_MAX + 1), Reason.MALFORMED),
    (Kind.SEED_CREATED, "command", "x" * (limits.COMMAND_CHARS_MAX + 1), Reason.MALFORMED),
    (Kind.SEED_CREATED, "command", "", Reason.MALFORMED),
    (Kind.SEED_CREATED, "timeout_ms", -1, Reason.MALFORMED),
    (Kind.SEED_CREATED, "timeout_ms", "5000", Reason.MALFORMED),
    (Kind.SEED_CREATED, "timeout_ms", True, Reason.MALFORMED),
    (Kind.SEED_CREATED, "min_price", -1, Reason.MALFORMED),
    (Kind.SEED_CREATED, "max_bids", [], Reason.MALFORMED),
    (Kind.SEED_CREATED, "claim_deadline_ts", "never", Reason.MALFORMED),
    (Kind.BID_SUBMITTED, "price", -1, Reason.MALFORMED),
    (Kind.BID_SUBMITTED, "price", None, Reason.MALFORMED),
    (Kind.BID_SUBMITTED, "seed_id", "", Reason.MALFORMED),
    (Kind.BID_SUBMITTED, "notes", "x" * (limits.NOTES_CHARS_MAX + 1), Reason.MALFORMED),
    (Kind.CLAIM_CREATED, "attempt", 0, Reason.MALFORMED),
    (Kind.CLAIM_CREATED, "attempt", limits.ATTEMPTS_MAX + 1, Reason.MALFORMED),
    (Kind.CLAIM_CREATED, "bid_id", ..., Reason.MALFORMED),
    (Kind.CLAIM_CREATED, "worker", "", Reason.MALFORMED),
    (Kind.TASK_STARTED, "claim_id", ..., Reason.MALFORMED),
    (Kind.TASK_RESULT, "claim_id", ..., Reason.MALFORMED),
    (Kind.TASK_RESULT, "claim_id", None, Reason.MALFORMED),
    (Kind.TASK_RESULT, "seed_id", "", Reason.MALFORMED),
    (Kind.TASK_RESULT, "worker", "", Reason.UNAUTHORISED),
    (Kind.TASK_RESULT, "exit_code", 2**31, Reason.MALFORMED),
    (Kind.TASK_RESULT, "timed_out", 0, Reason.MALFORMED),
    (Kind.TASK_RESULT, "stdout", "x" * (limits.OUTPUT_CHARS_MAX + 1), Reason.MALFORMED),
    (Kind.TASK_RESULT, "termination", {"cause": ""}, Reason.MALFORMED),
    (Kind.TASK_RESULT, "termination", {"cause": "c" * 33}, Reason.MALFORMED),
    (Kind.TASK_RESULT, "termination", {"cause": "memory", "limits_hit": ["memory"] * 9}, Reason.MALFORMED),
    (Kind.TASK_RESULT, "termination", {"cause": "memory", "memory_bytes": -1}, Reason.MALFORMED),
    (Kind.TASK_RESULT, "sandbox", "s" * 33, Reason.MALFORMED),
    (Kind.TASK_RESULT, "termination", {}, Reason.MALFORMED),
    (Kind.TASK_SETTLE, "status", "Open", Reason.MALFORMED),
    (Kind.TASK_SETTLE, "status", "Running", Reason.MALFORMED),
    (Kind.TASK_SETTLE, "status", "accepted", Reason.MALFORMED),
    (Kind.TASK_SETTLE, "status", ..., Reason.MALFORMED),
    (Kind.TASK_SETTLE, "attempt", 0, Reason.MALFORMED),
    (Kind.TASK_SETTLE, "note", 7, Reason.MALFORMED),
]


@pytest.mark.parametrize(("kind", "field", "value", "reason"), BAD_FIELDS)
def test_bad_fields_are_refused(kind: Kind, field: str, value: Any, reason: Reason) -> None:
    assert refused(kind, changed(kind, **{field: value})) is reason


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.SEED_CREATED, ["description", "min_price", "max_bids", "reward", "rules", "claim_deadline_ts"]),
        (Kind.BID_SUBMITTED, ["notes"]),
        (Kind.CLAIM_CREATED, ["attempt"]),
        (Kind.TASK_RESULT, ["stdout", "stderr", "stdout_truncated", "stderr_truncated", "termination", "refusal"]),
        (Kind.TASK_SETTLE, ["claim_id", "result_id", "attempt", "note", "rules"]),
    ],
)
def test_null_is_the_same_as_absent(kind: Kind, fields: list[str]) -> None:
    absent = said(kind, changed(kind, **dict.fromkeys(fields, ...)))
    null = said(kind, changed(kind, **dict.fromkeys(fields)))
    assert structs.replace(absent, envelope="") == structs.replace(null, envelope="")
    assert absent.envelope != null.envelope


def test_a_cause_that_a_later_version_names_is_read_as_it_is() -> None:
    later = {"cause": "boredom", "limits_hit": ["patience"], "memory_bytes": 1}
    fact = said(Kind.TASK_RESULT, changed(Kind.TASK_RESULT, termination=later, sandbox="vm", profile="gpu"))

    assert isinstance(fact.body, TaskResult)
    assert fact.body.termination == Termination(cause="boredom", limits_hit=("patience",), memory_bytes=1)
    assert (fact.body.sandbox, fact.body.profile) == ("vm", "gpu")


def test_null_inside_a_termination_is_the_same_as_absent() -> None:
    fact = said(Kind.TASK_RESULT, changed(Kind.TASK_RESULT, termination={"cause": "exited", "cpu_ms": None}))
    assert isinstance(fact.body, TaskResult)
    assert fact.body.termination == Termination(cause=TerminationCause.EXITED)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("Accepted", FactKind.SETTLE),
        ("Rejected", FactKind.SETTLE),
        ("Forfeited", FactKind.FORFEIT),
        ("Expired", FactKind.CLOSE),
    ],
)
def test_settlements_are_of_three_kinds(status: str, kind: FactKind) -> None:
    fact = said(Kind.TASK_SETTLE, changed(Kind.TASK_SETTLE, status=status, note="why", created_at=1))
    assert fact.kind is kind
    assert fact.body == Settlement(
        id=ID,
        seed_id="s",
        outcome=SeedStatus(status),
        claim_id="c",
        result_id="r",
        attempt=3,
        note="why",
        created_at=NOW_S,
        rests_on=PARENT,
    )


SEED = Seed(
    id=ID,
    title="t",
    command="true",
    timeout_ms=1,
    bid_deadline_ts=2,
    exec_deadline_ms=3,
    created_by=ALICE,
    created_at=NOW_S,
    claim_deadline_ts=9,
)
BODIES: list[Body] = [
    SEED,
    Bid(id=ID, seed_id="s", bidder=ALICE, price=1, notes="n", created_at=NOW_S, rests_on=PARENT),
    Claim(id=ID, seed_id="s", bid_id="b", worker=BOB, created_at=NOW_S, attempt=2, rests_on=PARENT),
    Run(id=ID, seed_id="s", claim_id="c", worker=ALICE, created_at=NOW_S, rests_on=""),
    TaskResult(
        id=ID,
        seed_id="s",
        worker=ALICE,
        exit_code=-9,
        timed_out=True,
        stdout="o",
        stderr="e",
        output_hash=HASH,
        duration_ms=7,
        claim_id="c",
        created_at=NOW_S,
        stdout_truncated=True,
        stderr_truncated=True,
        termination=Termination(cause=TerminationCause.TIMEOUT, signal="SIGKILL", escalated=True, wall_ms=1, cpu_ms=2),
        refusal="x",
        rests_on=PARENT,
    ),
    Acknowledgement(id=ID, seed_id="s", worker=ALICE, created_at=NOW_S, rests_on=PARENT),
    Settlement(id=ID, seed_id=ID, outcome=SeedStatus.EXPIRED, note="n", created_at=NOW_S, rests_on=PARENT),
    Settlement(
        id=ID,
        seed_id=ID,
        outcome=SeedStatus.FORFEITED,
        claim_id="c",
        attempt=7,
        created_at=NOW_S,
        rests_on=PARENT,
    ),
    Settlement(
        id=ID,
        seed_id=ID,
        outcome=SeedStatus.REJECTED,
        claim_id="c",
        result_id="r",
        created_at=NOW_S,
        rests_on=PARENT,
    ),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: f"{type(body).__name__}")
def test_what_is_said_is_understood(body: Body) -> None:
    kind, payload = payload_of(body, SEED, Progress())
    assert said(kind, payload).body == body


def test_a_settlement_cannot_be_said_without_the_definition() -> None:
    with pytest.raises(ValueError, match="definition"):
        payload_of(BODIES[-1], None, Progress())


BASELINE_SEED = {
    *("id", "title", "description", "command", "timeout_ms", "bid_deadline_ts", "exec_deadline_ms", "min_price"),
    *("max_bids", "reward", "rules", "status", "created_by", "created_at", "claimed_by", "claimed_at", "claim_id"),
    "result_id",
}


@pytest.mark.parametrize("body", BODIES[:1] + BODIES[-3:], ids=lambda body: f"{type(body).__name__}")
def test_seeds_have_every_field_that_baseline_peers_read(body: Body) -> None:
    _, payload = payload_of(body, SEED, Progress())
    seed = payload["seed"]
    assert isinstance(seed, dict)
    assert set(seed) >= BASELINE_SEED
    assert all(isinstance(seed[name], str) for name in ("title", "description", "command", "rules", "status"))


@given(st.sampled_from(KINDS), st.data())
def test_any_payload_is_understood_or_refused(kind: Kind, data: st.DataObject) -> None:
    _, good = OBJECTS[kind]
    names = st.sampled_from(sorted(good))
    fields = data.draw(st.dictionaries(names, VALUES | st.just(...), max_size=3))
    payload = data.draw(st.just(changed(kind, **fields)) | st.dictionaries(st.sampled_from(["seed", "bid"]), VALUES))
    try:
        fact = said(kind, payload)
    except PayloadRefusedError:
        return
    assert fact.key == ID
    assert msgspec.json.decode(msgspec.json.encode(fact.body), type=type(fact.body)) == fact.body
