"""docs/PROTOCOL.md says what the code does: its worked envelope, tables and numbers are read from the page."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from base64 import urlsafe_b64encode
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crabnet import limits
from crabnet.domain.lifecycle import RULES, TRANSITIONS
from crabnet.domain.model import (
    RANK,
    Acknowledgement,
    Bid,
    Claim,
    Fact,
    FactKind,
    OutputFile,
    Run,
    Seed,
    SeedStatus,
    TaskResult,
    Termination,
    TerminationCause,
)
from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.protocol.admission import IGNORED, AdmissionPolicy
from crabnet.protocol.canonical import JsonValue
from crabnet.protocol.envelope import FEED_KINDS, EnvelopeMeta, Kind
from crabnet.protocol.fragment_wire import CHUNK_BYTES
from crabnet.protocol.identity import Signer
from crabnet.protocol.payloads import BODIES, SettledSeed, fact_of, settlement_fact
from crabnet.settings import Settings
from tests.protocol.test_admission import DEFECTS
from tests.support.envelopes import admitted
from tests.support.facts import CREATOR, Scribe, Witness

PAGE = (Path(__file__).parents[2] / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")


@cache
def vector() -> dict[str, str]:
    """The worked envelope: every ``name = value`` in a block marked ``vector``."""
    lines = "".join(re.findall(r"^```vector\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)).splitlines()
    return dict(line.split(" = ", 1) for line in lines)


def section(title: str) -> str:
    """The text under a heading that begins with ``title``."""
    level, rest = re.search(rf"^(#+) {re.escape(title)}[^\n]*\n(.*)", PAGE, re.DOTALL | re.MULTILINE).groups()  # type: ignore[union-attr]
    end = re.search(rf"^#{{1,{len(level)}}} ", rest, re.MULTILINE)
    return str(rest[: end.start()] if end else rest)


def table(text: str, *header: str) -> list[list[str]]:
    """The rows of the table that begins with these columns."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if line.startswith("| " + " | ".join(header)):
            rows = []
            for row in lines[at + 2 :]:
                if not row.startswith("|"):
                    break
                rows.append([cell.strip() for cell in row.strip("|").split("|")])
            return rows
    raise AssertionError(f"no table {header}")


def test_the_worked_envelope_step_by_step_without_our_code() -> None:
    v = vector()
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public_key = key.public_key().public_bytes_raw()
    assert v["private_key"] == bytes(range(32)).hex()
    assert v["public_key"] == public_key.hex()
    assert v["peer_id_bytes"] == "002408011220" + public_key.hex()
    number = int(v["peer_id_bytes"], 16)
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = alphabet[digit] + digits
    assert v["node_id"] == "1" + digits
    assert v["public_key_sha256"] == hashlib.sha256(public_key).hexdigest()
    assert v["key_id"] == f"ed25519:{v['public_key_sha256'][:32]}"
    assert v["object_namespace"] == str(uuid.uuid5(uuid.NAMESPACE_URL, "crabnet/v2/object"))
    assert v["object_name"] == f"default/{v['node_id']}/1"
    assert v["object_id"] == str(uuid.uuid5(uuid.UUID(v["object_namespace"]), v["object_name"]))
    content = v["content"].encode()
    assert rfc8785.dumps(json.loads(content)) == content
    assert v["content_bytes"] == str(len(content))
    assert v["id"] == hashlib.sha256(content).hexdigest()
    head = v["pae_head"].encode() + b" "
    assert v["pae_head_hex"] == head.hex()
    assert f"the {len(head)} bytes before the content" in PAGE
    assert v["pae_sha256"] == hashlib.sha256(head + content).hexdigest()
    signature = key.sign(head + content)
    assert v["signature_hex"] == signature.hex()
    assert v["signature"] == urlsafe_b64encode(signature).decode().rstrip("=")
    envelope = json.loads(v["envelope"])
    assert envelope["meta"].pop("id") == v["id"]
    assert envelope["meta"].pop("signature") == v["signature"]
    assert rfc8785.dumps(envelope) == content
    assert rfc8785.dumps(json.loads(v["envelope"])) == v["envelope"].encode()
    assert v["envelope_bytes"] == str(len(v["envelope"].encode()))
    assert v["envelope_sha256"] == hashlib.sha256(v["envelope"].encode()).hexdigest()
    assert f"`prev` =\n`{v['id']}`" in PAGE


def test_the_worked_envelope_is_admitted() -> None:
    v = vector()
    outcome = admitted(v["envelope"].encode(), json.loads(v["envelope"])["meta"]["ts"])
    fact = fact_of(outcome.envelope, outcome.kind)
    assert fact.key == v["object_id"]
    signer = Signer(bytes.fromhex(v["private_key"]))
    assert (signer.node_id, signer.key_id) == (v["node_id"], v["key_id"])


def test_the_transitions_are_those_of_the_code() -> None:
    rows = table(section("10 Lifecycle"), "status", "fact", "status then")
    page = {(SeedStatus(row[0]), FactKind(row[1])): {SeedStatus(name) for name in row[2].split(" or ")} for row in rows}
    assert page == TRANSITIONS


def test_the_rules_are_those_of_the_code() -> None:
    rows = table(section("10 Lifecycle"), "fact", "#", "rule", "Reason")
    code = [
        [kind.value, str(number), rule.text, f"`{rule.reason.value}`"]
        for kind, rules in RULES.items()
        for number, rule in enumerate(rules, 1)
    ]
    assert rows == code


def test_the_ranks_are_those_of_the_code() -> None:
    text = " ".join(section("10 Lifecycle").split())
    assert (
        "rank Open 0, Expired 1, Claimed 2, Running 3, Done 4, Accepted, Rejected and Forfeited 5, Disputed 6" in text
    )
    assert [RANK[status] for status in SeedStatus] == [0, 1, 2, 3, 4, 5, 5, 5, 6]


def described(rows: list[list[str]]) -> dict[str, tuple[bool, str]]:
    """field -> (required, bound) as the page has it."""
    return {row[0].strip("`"): (row[2] == "yes", row[3]) for row in rows}


def bound(schema: dict[str, Any]) -> str:
    """The bound of a field as the page writes it."""
    schema = schema.get("anyOf", [schema])[0]
    if schema.get("maxLength") == limits.OUTPUT_BASE64_CHARS_MAX:
        return f"≤ {limits.OUTPUT_BASE64_CHARS_MAX}, base64"
    if "pattern" in schema:
        return '64 hex digits or `""`'
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    if (low, high) == (1, limits.NODE_ID_CHARS_MAX):
        return ""
    if high is not None:
        return f"{low}–{high}" if low else f"≤ {high}"
    if "maxItems" in schema:
        return f"≤ {schema['maxItems']}"
    low, high = schema.get("minimum", 0), schema.get("maximum")
    if high is None or low == 0:
        return ""
    return "±2^31" if low == -(2**31) else f"{low}–{high}"


REQUIRED_ON_RECEIPT = {"claim_id", "created_at"}
"""What the baseline leaves out of results, and a signed result must have; ``rests_on`` is that for all."""


@pytest.mark.parametrize(
    "body", [Seed, Bid, Claim, Run, TaskResult, OutputFile, Termination, SettledSeed, Acknowledgement]
)
def test_the_fields_are_those_of_the_code(body: type[msgspec.Struct]) -> None:
    schema = msgspec.json.schema(body)["$defs"][body.__name__]
    rows = described(table(section(body.__name__), "field", "type", "required", "bound"))
    assert list(rows) == list(schema["properties"])
    for name, (required, stated) in rows.items():
        is_result = body is TaskResult and name in REQUIRED_ON_RECEIPT
        assert required is (name in schema["required"] or is_result or name == "rests_on"), name
        if not (body is TaskResult and name in {"seed_id", "worker"}):
            assert stated == bound(schema["properties"][name]), name


def test_the_head_of_an_envelope_has_the_fields_of_the_code() -> None:
    rows = table(section("4 Envelope"), "`meta` field", "type", "bound")
    names = {field.encode_name for field in msgspec.structs.fields(EnvelopeMeta)}
    assert {row[0].strip("`") for row in rows} == names


def test_what_step_4_demands_of_the_head_is_what_the_code_demands() -> None:
    rows = table(section("4 Envelope"), "`meta` field", "type", "bound at step 4")
    for name, schema in msgspec.json.schema(EnvelopeMeta)["$defs"]["EnvelopeMeta"]["properties"].items():
        (row,) = [row for row in rows if row[0] == f"`{name}`"]
        types = [choice["type"] for choice in schema.get("anyOf", [schema])]
        assert row[1] == " or ".join(types), name
        assert row[2] == ("1–128" if name in {"id", "from"} else "≥ 0" if "minimum" in schema else bound(schema)), name


@pytest.mark.parametrize("row", table(section("SettledSeed"), "`status`", "while the seed is"), ids=" ".join)
@pytest.mark.parametrize("attempt", [1, 2])
def test_what_becomes_of_a_settlement_without_a_field_is_on_the_page(row: list[str], attempt: int) -> None:
    outcomes, statuses = (cell.replace("`", "").replace(",", " or").split(" or ") for cell in row[:2])
    for outcome, status in product(map(SeedStatus, outcomes), map(SeedStatus, statuses)):
        for field, cell in zip(("claim_id", "result_id", "attempt"), row[2:], strict=True):
            scribe, named = told_until(status, attempt)
            witness = Witness(scribe.facts)
            seed_id = scribe.facts[0].seed_id
            assert witness.state.records[seed_id].progress.status is status
            decision = witness.observe(settled_without(scribe, seed_id, outcome, {**named, field: None}))
            reasons = re.findall(r"`(\w+)`", cell)
            counts = cell == "counts" or (cell.startswith("counts in attempt 1") and attempt == 1)
            assert (decision.outcome is Outcome.ACCEPTED) == counts, (outcome, status, field)
            if not counts:
                assert reasons == [decision.reason], (outcome, status, field)


def told_until(status: SeedStatus, attempt: int) -> tuple[Scribe, dict[str, JsonValue]]:
    """The facts of a seed up to a status in its first or second attempt, and what a settlement should name then."""
    scribe = Scribe()
    seed_id = scribe.seed().key
    bid_id = scribe.bid(seed_id).key
    named: dict[str, JsonValue] = {"attempt": attempt}
    for number in range(1, 1 if status is SeedStatus.OPEN else attempt + 1):
        named = {"claim_id": scribe.claim(seed_id, bid_id, attempt=number).key, "attempt": number}
        scribe.now_s += 20
        if number < attempt or status is SeedStatus.FORFEITED:
            scribe.settle(seed_id, SeedStatus.FORFEITED, str(named["claim_id"]), attempt=number)
        elif status in {SeedStatus.RUNNING, SeedStatus.DONE}:
            scribe.started(seed_id, str(named["claim_id"]))
            if status is SeedStatus.DONE:
                named["result_id"] = scribe.result(seed_id, str(named["claim_id"])).key
    return scribe, named


def settled_without(scribe: Scribe, seed_id: str, outcome: SeedStatus, named: dict[str, JsonValue]) -> Fact:
    """The fact that a ``SettledSeed`` with these fields states, as it is read from the wire."""
    rests_on = rightful_parent(scribe, outcome)
    fields = {"id": seed_id, "status": outcome.value, "rests_on": rests_on, **without_nulls(named)}
    settled = msgspec.convert(fields, SettledSeed)
    seq = 1 + sum(fact.author == CREATOR for fact in scribe.facts)
    return settlement_fact(
        settled, scribe.next_id(CREATOR), author=CREATOR, seq=seq, ts=scribe.now_s, envelope_id="e" * 64
    )


def rightful_parent(scribe: Scribe, outcome: SeedStatus) -> str:
    """The envelope of what a settlement should rest on: the last fact of the kinds that fit."""
    last = scribe.facts[-1].kind
    if outcome in {SeedStatus.ACCEPTED, SeedStatus.REJECTED}:
        kind = FactKind.RESULT
    else:
        over = outcome is SeedStatus.EXPIRED and last in {FactKind.FORFEIT, FactKind.BID, FactKind.SEED}
        kind = FactKind.SEED if over else FactKind.CLAIM
    return next((fact.envelope for fact in reversed(scribe.facts) if fact.kind is kind), scribe.facts[0].envelope)


def without_nulls(named: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {field: value for field, value in named.items() if value is not None}


def test_the_kinds_are_those_of_the_code() -> None:
    rows = table(section("8 Kinds and payloads"), "kind", "payload", "feed")
    assert {row[0].strip("`") for row in rows} == set(Kind) - {Kind.UNKNOWN}
    for row in rows:
        kind = Kind(row[0].strip("`"))
        assert (row[2] == "yes") == (kind in FEED_KINDS)
        if kind in BODIES:
            key, _, body = BODIES[kind]
            assert row[1] == f'`{{"{key}": {body.__name__}}}`'


def test_the_steps_of_verification_are_those_of_the_code() -> None:
    rows = table(section("9 Verification"), "step", "checks", "Reason", "outcome")
    page = {(int(row[0]), Reason(reason)): row[3] for row in rows for reason in re.findall(r"`(\w+)`", row[2])}
    for defect in DEFECTS.values():
        outcome = {"reject": Outcome.REJECTED, "ignore": Outcome.IGNORED}[page[defect.step, defect.reason]]
        assert outcome is defect.outcome
    covered = {(defect.step, defect.reason) for defect in DEFECTS.values()} | {(9, Reason.DUPLICATE)}
    assert {(step, reason) for step, reason in page if 2 <= step <= 12} == covered
    for (_, reason), word in page.items():
        assert (word == "ignore") == (reason in IGNORED)


DEFAULTS = Settings()
NUMBERS = {
    "11 UDP": [
        limits.DATAGRAM_BYTES_MAX,
        limits.DATAGRAM_RECEIVE_BYTES_MAX,
        CHUNK_BYTES,
        limits.FRAGMENTED_MESSAGE_BYTES_MAX,
        limits.FRAGMENT_REQUEST_INDEXES_MAX,
        limits.REASSEMBLY_REQUESTS_MAX,
        limits.REASSEMBLY_TTL_MS // 1000,
        limits.REASSEMBLY_LIFETIME_MS // 1000,
        limits.REASSEMBLY_QUIET_MS,
        limits.SENT_FRAGMENTS_TTL_MS // 1000,
        limits.SENT_FRAGMENTS_ANSWER_BYTES_MAX // 1024,
    ],
    "12 Neighbours": [
        limits.SYNC_WANT_ENTRIES_MAX,
        limits.SYNC_RESPONSE_BYTES_MAX // 1024,
        limits.SYNC_REQUEST_RETRY_MS,
        limits.SYNC_REQUEST_RETRY_MS_MAX // 1000,
        limits.PEER_SILENCE_MS_MAX // 60_000,
    ],
    "NodeHello": [limits.SYNC_HEADS_PER_MESSAGE_MAX, limits.SYNC_WANTS_PER_MESSAGE_MAX],
    "7 Feeds": [
        limits.PARKED_ENVELOPES_PER_FEED_MAX,
        limits.PARKED_ENVELOPES_MAX,
        limits.PARKED_BYTES_MAX // 2**20,
    ],
    "9 Verification": [limits.ENVELOPE_BYTES_MAX, AdmissionPolicy().message_ttl_s, AdmissionPolicy().future_skew_s],
    "Budgets": [
        DEFAULTS.udp_source_fast_fail_threshold_per_sec,
        DEFAULTS.udp_strangers_per_sec,
        DEFAULTS.udp_peer_datagrams_per_sec,
        DEFAULTS.udp_datagrams_per_sec,
        DEFAULTS.udp_source_rejects_per_sec,
        DEFAULTS.udp_source_block_ms // 1000,
        DEFAULTS.udp_source_block_ms_max // 1000,
        DEFAULTS.author_envelopes_per_sec,
        DEFAULTS.author_bytes_per_sec // 1024,
        DEFAULTS.newcomer_envelopes_per_sec,
        DEFAULTS.newcomer_bytes_per_sec // 1024,
        DEFAULTS.history_envelopes_per_sec,
        limits.SOURCE_SHARE_PER_S,
        limits.SOURCE_TRICKLE_PER_S,
        limits.SOURCE_GOOD_MIN,
        limits.AUTHOR_KNOWN_ENTRIES,
        limits.AUTHOR_PAUSE_MS // 1000,
        limits.AUTHOR_WATCH_MS // 1000,
        limits.AUTHOR_THRONG_MS // 1000,
        limits.AUTHOR_HISTORY_BURST,
    ],
    "10 Lifecycle": [
        limits.STEPS_PER_AUTHOR_PER_SEED_MAX,
        limits.STARTS_PER_AUTHOR_PER_STEP_MAX,
        limits.OPEN_SEEDS_PER_AUTHOR_MAX_DEFAULT,
        limits.BIDS_PER_AUTHOR_PER_SEED_MAX_DEFAULT,
    ],
    "3 JSON": [limits.JSON_DEPTH_MAX, limits.INTEGER_MAX],
    "Seed": [limits.CLAIM_WINDOW_S_DEFAULT],
    "13 Baseline": [limits.LEGACY_INTEGER_MAX, limits.DATAGRAM_RECEIVE_BYTES_MAX],
}


@pytest.mark.parametrize(("title", "numbers"), NUMBERS.items(), ids=NUMBERS.keys())
def test_the_numbers_are_those_of_the_code(title: str, numbers: list[int]) -> None:
    text = section(title)
    for number in numbers:
        assert re.search(rf"(?<!\d){number}(?!\d)", text), number


def test_every_reason_on_the_page_exists() -> None:
    known = {reason.value for reason in Reason}
    named = {
        word
        for row in table(section("9 Verification"), "step") + table(section("7 Feeds"), "`seq`", "and")
        for word in re.findall(r"`(\w+_\w+|fork|gap|empty|malformed|expired|duplicate)`", row[2] + row[3])
    }
    assert named
    assert named <= known


def test_the_causes_of_termination_are_listed() -> None:
    (row,) = [row for row in table(section("Termination"), "field") if row[0] == "`cause`"]
    assert set(re.findall(r"`(\w+)`", row[4])) == {cause.value for cause in TerminationCause}
