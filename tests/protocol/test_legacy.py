"""Envelopes captured from the baseline program, and what nobody may do with such envelopes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.domain.decision import decide
from crabnet.domain.model import Bid, Claim, Fact, FactKind, Seed, SeedStatus, Settlement, TaskResult
from crabnet.domain.state import Decision, Observe, Outcome, State, apply
from crabnet.errors import Reason
from crabnet.protocol.admission import AdmissionPolicy, Admitted, Refusal
from crabnet.protocol.envelope import Kind
from crabnet.protocol.legacy import legacy_fact
from crabnet.protocol.payloads import PayloadRefusedError
from tests.protocol.test_canonical import VALUES
from tests.support.envelopes import Author, admission, edit, signer

VECTORS = Path(__file__).parent.parent / "vectors" / "baseline"
NAMES = (
    "01_SeedCreated",
    "02_BidSubmitted",
    "03_ClaimCreated",
    "04_TaskResult",
    "05_TaskSettle_two_nodes",
    "09_SeedCreated_unicode_escapes",
    "10_TaskResult_timeout",
    "13_SeedCreated_5583_bytes",
)
OPEN = AdmissionPolicy(require_signatures=False)
NOW_S = 1_795_429_460
CREATOR = "node-6b8db7e2-53ba-429c-9a70-042ae379933c"
WORKER = "node-5cedc022-6d0c-4b30-9cf6-b7103fa0ad43"
SEED_ID = "f940b7cc-6e64-443a-8ec2-e7e35f570c73"
CLAIM_ID = "93b56f55-e2d6-4f34-b139-346f04887977"
RESULT_ID = "9625f6e6-828e-425a-a689-ed1dda257e8f"


def vector(name: str) -> bytes:
    """A captured datagram."""
    return (VECTORS / f"{name}.bin").read_bytes()


class Node:
    """What a node does with unsigned envelopes, without a ledger."""

    def __init__(self) -> None:
        self.state = State()
        self.arrivals = 0

    def fact(self, raw: bytes) -> Fact:
        """The fact that a datagram states here."""
        outcome = admission(OPEN).admit(raw, NOW_S)
        assert isinstance(outcome, Admitted), outcome
        return legacy_fact(outcome.envelope, outcome.kind, self.state.records, self.arrivals + 1)

    def take(self, raw: bytes) -> Decision:
        """Judge a datagram and do what follows."""
        try:
            fact = self.fact(raw)
        except PayloadRefusedError as error:
            return Decision(Outcome.REJECTED, error.reason, detail=error.detail)
        decision = decide(self.state, Observe(fact), NOW_S)
        for event in decision.events:
            apply(self.state, event)
        self.arrivals += bool(decision.events)
        return decision

    def status(self, seed_id: str = SEED_ID) -> SeedStatus:
        """Where the seed stands."""
        return self.state.records[seed_id].progress.status


def after(*names: str) -> Node:
    """A node that has taken these datagrams, each accepted."""
    node = Node()
    for name in names:
        decision = node.take(vector(name))
        assert decision.outcome is Outcome.ACCEPTED, (name, decision)
    return node


FLOW = NAMES[:5]


def test_all_captures_are_there() -> None:
    assert sorted(path.stem for path in VECTORS.glob("*.bin")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_refused_without_a_signature_by_default(name: str) -> None:
    outcome = admission().admit(vector(name), NOW_S)
    assert isinstance(outcome, Refusal)
    assert (outcome.reason, outcome.outcome) == (Reason.MISSING_SIGNATURE, Outcome.REJECTED)
    assert outcome.meta is not None
    assert outcome.meta.from_.startswith("node-")


@pytest.mark.parametrize("name", NAMES)
def test_admitted_where_the_operator_allows_it(name: str) -> None:
    outcome = admission(OPEN).admit(vector(name), NOW_S)
    assert isinstance(outcome, Admitted)
    assert outcome.kind.value in name
    assert not outcome.envelope.signed
    assert outcome.envelope.payload == json.loads(vector(name))["payload"]


def test_the_captured_flow_is_followed_to_its_end() -> None:
    node = Node()
    statuses = []
    for name in FLOW:
        assert node.take(vector(name)).outcome is Outcome.ACCEPTED
        statuses.append(node.status())
    assert statuses == [
        SeedStatus.OPEN,
        SeedStatus.OPEN,
        SeedStatus.CLAIMED,
        SeedStatus.DONE,
        SeedStatus.ACCEPTED,
    ]
    record = node.state.records[SEED_ID]
    assert record.progress.claimed_by == WORKER
    assert record.progress.claim_id == CLAIM_ID
    assert record.progress.result_id == RESULT_ID
    assert record.progress.note == "done"
    assert all(not fact.signed for fact in record.facts())


def test_the_fields_of_the_captures() -> None:
    node = Node()
    seed = node.fact(vector("01_SeedCreated")).body
    assert isinstance(seed, Seed)
    assert (seed.command, seed.max_bids, seed.min_price, seed.reward, seed.rules) == ("echo ok", 3, 1, 7, "be nice")
    titled = node.fact(vector("09_SeedCreated_unicode_escapes")).body
    assert isinstance(titled, Seed)
    assert titled.title == json.loads(vector("09_SeedCreated_unicode_escapes"))["payload"]["seed"]["title"]
    assert "🦀" in titled.title
    assert "\u0001" in titled.title
    large = node.fact(vector("13_SeedCreated_5583_bytes")).body
    assert isinstance(large, Seed)
    assert len(large.description) > 4_000
    node = after(*FLOW[:1])
    bid = node.fact(vector("02_BidSubmitted")).body
    assert isinstance(bid, Bid)
    assert (bid.bidder, bid.price, bid.notes) == (WORKER, 5, "I can")


def test_a_result_without_seed_is_linked_to_the_one_that_awaits_it() -> None:
    node = after(*FLOW[:3])
    body = node.fact(vector("04_TaskResult")).body
    assert isinstance(body, TaskResult)
    assert (body.seed_id, body.worker, body.claim_id) == (SEED_ID, WORKER, CLAIM_ID)


@pytest.mark.parametrize("held", [(), FLOW[:1], FLOW[:2], FLOW[:4], FLOW])
def test_a_result_without_seed_is_ambiguous_when_none_awaits_it(held: tuple[str, ...]) -> None:
    raw = edit(vector("04_TaskResult"), "payload.result.id", "another")
    decision = after(*held).take(raw)
    assert (decision.outcome, decision.reason) == (Outcome.REJECTED, Reason.AMBIGUOUS)


def second_claimed_seed(node: Node, worker: str) -> None:
    """Another seed of the same creator, claimed by ``worker``."""
    renamed = vector("01_SeedCreated").replace(SEED_ID.encode(), b"second")
    assert node.take(renamed).outcome is Outcome.ACCEPTED
    bid = vector("02_BidSubmitted").replace(SEED_ID.encode(), b"second").replace(WORKER.encode(), worker.encode())
    assert node.take(edit(bid, "payload.bid.id", "bid2")).outcome is Outcome.ACCEPTED
    claim = vector("03_ClaimCreated").replace(SEED_ID.encode(), b"second").replace(WORKER.encode(), worker.encode())
    claim = edit(edit(claim, "payload.claim.bid_id", "bid2"), "payload.claim.id", "claim2")
    assert node.take(claim).outcome is Outcome.ACCEPTED


def test_a_result_without_seed_is_ambiguous_when_two_await_it() -> None:
    node = after(*FLOW[:3])
    second_claimed_seed(node, WORKER)
    decision = node.take(vector("04_TaskResult"))
    assert (decision.outcome, decision.reason) == (Outcome.REJECTED, Reason.AMBIGUOUS)
    named = edit(vector("04_TaskResult"), "payload.result.seed_id", "second")
    assert node.take(named).outcome is Outcome.ACCEPTED
    assert node.status("second") is SeedStatus.DONE
    assert node.take(vector("04_TaskResult")).outcome is Outcome.ACCEPTED
    assert node.status() is SeedStatus.DONE


def test_seeds_claimed_by_others_do_not_make_it_ambiguous() -> None:
    node = after(*FLOW[:3])
    second_claimed_seed(node, "node-other")
    assert node.take(vector("04_TaskResult")).outcome is Outcome.ACCEPTED
    assert (node.status(), node.status("second")) == (SeedStatus.DONE, SeedStatus.CLAIMED)


def test_a_timed_out_result_of_a_worker_without_a_claim() -> None:
    decision = after(*FLOW[:3]).take(vector("10_TaskResult_timeout"))
    assert (decision.outcome, decision.reason) == (Outcome.REJECTED, Reason.AMBIGUOUS)


REPLAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "seed, new envelope id": ("01_SeedCreated", {"meta.id": "x"}),
    "seed, other definition": ("01_SeedCreated", {"meta.id": "x", "payload.seed.command": "echo evil"}),
    "seed, other author": (
        "01_SeedCreated",
        {"meta.id": "x", "meta.from": "node-evil", "payload.seed.created_by": "node-evil"},
    ),
    "claim, new envelope id": ("03_ClaimCreated", {"meta.id": "x"}),
    "claim, new ids": ("03_ClaimCreated", {"meta.id": "x", "payload.claim.id": "x"}),
    "claim of the next attempt": (
        "03_ClaimCreated",
        {"meta.id": "x", "payload.claim.id": "x", "payload.claim.attempt": 2},
    ),
    "bid, new envelope id": ("02_BidSubmitted", {"meta.id": "x"}),
    "result naming the seed": (
        "04_TaskResult",
        {"meta.id": "x", "payload.result.id": "x", "payload.result.seed_id": SEED_ID},
    ),
    "result, same id": ("04_TaskResult", {"meta.id": "x", "payload.result.seed_id": SEED_ID}),
    "settle as rejected": ("05_TaskSettle_two_nodes", {"meta.id": "x", "payload.seed.status": "Rejected"}),
    "settle as accepted again": ("05_TaskSettle_two_nodes", {"meta.id": "x"}),
    "settle as open": ("05_TaskSettle_two_nodes", {"meta.id": "x", "payload.seed.status": "Open"}),
    "settle as running": ("05_TaskSettle_two_nodes", {"meta.id": "x", "payload.seed.status": "Running"}),
    "settle as expired": ("05_TaskSettle_two_nodes", {"meta.id": "x", "payload.seed.status": "Expired"}),
    "settle as forfeited": ("05_TaskSettle_two_nodes", {"meta.id": "x", "payload.seed.status": "Forfeited"}),
}


@pytest.mark.parametrize(("name", "changes"), REPLAYS.values(), ids=REPLAYS.keys())
def test_nothing_settled_is_opened_again(name: str, changes: dict[str, Any]) -> None:
    node = after(*FLOW)
    before = node.state.records[SEED_ID].progress
    raw = vector(name)
    for path, value in changes.items():
        raw = edit(raw, path, value)
    decision = node.take(raw)
    assert decision.outcome is not Outcome.ACCEPTED
    assert node.state.records[SEED_ID].progress == before
    assert before.status is SeedStatus.ACCEPTED


STRANGERS: dict[str, tuple[str, int, dict[str, Any], Reason]] = {
    "seed in another's name": ("01_SeedCreated", 0, {"meta.from": "node-evil"}, Reason.UNAUTHORISED),
    "bid in another's name": ("02_BidSubmitted", 1, {"meta.from": "node-evil"}, Reason.UNAUTHORISED),
    "claim by a stranger": ("03_ClaimCreated", 2, {"meta.from": "node-evil"}, Reason.UNAUTHORISED),
    "result by a stranger": ("04_TaskResult", 3, {"meta.from": "node-evil"}, Reason.AMBIGUOUS),
    "result by a stranger, naming the seed": (
        "04_TaskResult",
        3,
        {"meta.from": "node-evil", "payload.result.seed_id": SEED_ID},
        Reason.UNAUTHORISED,
    ),
    "result in the worker's name": (
        "04_TaskResult",
        3,
        {"meta.from": "node-evil", "payload.result.seed_id": SEED_ID, "payload.result.worker": WORKER},
        Reason.UNAUTHORISED,
    ),
    "settle by a stranger": ("05_TaskSettle_two_nodes", 4, {"meta.from": "node-evil"}, Reason.UNAUTHORISED),
    "settle by the worker": ("05_TaskSettle_two_nodes", 4, {"meta.from": WORKER}, Reason.UNAUTHORISED),
    "settle before the result": ("05_TaskSettle_two_nodes", 3, {}, Reason.WRONG_STATE),
    "settle an open seed": ("05_TaskSettle_two_nodes", 2, {}, Reason.WRONG_STATE),
    "settle an unknown seed": ("05_TaskSettle_two_nodes", 0, {}, Reason.UNKNOWN_SEED),
    "claim without a bid": ("03_ClaimCreated", 1, {}, Reason.UNKNOWN_BID),
    "result of an unclaimed seed": (
        "04_TaskResult",
        2,
        {"payload.result.seed_id": SEED_ID},
        Reason.WRONG_STATE,
    ),
    "result of an unknown seed": ("04_TaskResult", 2, {"payload.result.seed_id": "unknown"}, Reason.UNKNOWN_SEED),
    "bid below the minimum": ("02_BidSubmitted", 1, {"payload.bid.price": 0}, Reason.PRICE_TOO_LOW),
    "bid after the deadline": ("02_BidSubmitted", 1, {"payload.bid.created_at": 1795429142}, Reason.DEADLINE_PASSED),
    "negative price": ("02_BidSubmitted", 1, {"payload.bid.price": -1}, Reason.MALFORMED),
    "no bid": ("02_BidSubmitted", 1, {"payload.bid": None}, Reason.MALFORMED),
    "seed id of a signed seed": (
        "01_SeedCreated",
        0,
        {"payload.seed.id": "82838849-e0a4-5d87-9abc-91d53f4c4f70"},
        Reason.WRONG_ID,
    ),
    "bid id of a signed envelope": ("02_BidSubmitted", 1, {"payload.bid.id": "0a" * 32}, Reason.WRONG_ID),
    "bid id of a signed bid": (
        "02_BidSubmitted",
        1,
        {"payload.bid.id": "82838849-E0A4-5D87-9abc-91d53f4c4f70"},
        Reason.WRONG_ID,
    ),
}


@pytest.mark.parametrize(("name", "held", "changes", "reason"), STRANGERS.values(), ids=STRANGERS.keys())
def test_refused_with_a_reason(name: str, held: int, changes: dict[str, Any], reason: Reason) -> None:
    node = after(*FLOW[:held])
    before = {seed_id: record.progress for seed_id, record in node.state.records.items()}
    raw = vector(name)
    for path, value in changes.items():
        raw = edit(raw, path, value)
    decision = node.take(raw)
    assert decision.outcome is not Outcome.ACCEPTED
    assert decision.reason is reason
    assert {seed_id: record.progress for seed_id, record in node.state.records.items() if seed_id in before} == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("author", [signer("alice").node_id, "12D3KooW", "12D3KooWnobody"])
def test_no_unsigned_envelope_speaks_for_a_self_certifying_id(name: str, author: str) -> None:
    decision = after(*FLOW[:4]).take(edit(vector(name), "meta.from", author))
    assert (decision.outcome, decision.reason) == (Outcome.REJECTED, Reason.UNAUTHORISED)


def test_an_unsigned_claim_cannot_touch_a_signed_seed() -> None:
    node = Node()
    author = Author("alice")
    seed = author.seed(NOW_S)
    definition = Seed(**{name: value for name, value in seed.items() if name != "status"})  # type: ignore[arg-type]
    fact = Fact(kind=FactKind.SEED, author=author.id, seq=1, ts=NOW_S, body=definition)
    for event in decide(node.state, Observe(fact), NOW_S).events:
        apply(node.state, event)
    claim = vector("03_ClaimCreated").replace(SEED_ID.encode(), definition.id.encode())
    decision = node.take(claim)
    assert (decision.outcome, decision.reason) == (Outcome.REJECTED, Reason.UNAUTHORISED)
    settle = vector("05_TaskSettle_two_nodes").replace(SEED_ID.encode(), definition.id.encode())
    assert node.take(settle).reason is Reason.UNAUTHORISED


def test_optional_fields_may_be_absent_or_null_and_integers_64_bits() -> None:
    raw = vector("01_SeedCreated")
    for value in (..., None):
        for name in ("description", "rules", "claimed_by", "claim_id", "status", "max_bids", "min_price"):
            raw = edit(json.dumps(json.loads(raw)).encode(), f"payload.seed.{name}", None)
            raw = edit(raw, f"payload.seed.{name}", value)
    raw = edit(raw, "payload.seed.reward", 2**64 - 1)
    node = Node()
    assert node.take(raw).outcome is Outcome.ACCEPTED
    definition = node.state.records[SEED_ID].definition
    assert definition is not None
    assert (definition.description, definition.max_bids, definition.reward) == ("", 0, 2**64 - 1)
    assert len(node.state.digest()) == 32


def test_facts_that_share_an_id_stay_apart() -> None:
    node = after(*FLOW[:1])
    assert node.take(edit(vector("02_BidSubmitted"), "payload.bid.id", "same")).outcome is Outcome.ACCEPTED
    claim = edit(edit(vector("03_ClaimCreated"), "payload.claim.id", "same"), "payload.claim.bid_id", "same")
    decision = node.take(claim)
    assert (decision.outcome, decision.reason) == (Outcome.IGNORED, Reason.DUPLICATE)
    assert node.status() is SeedStatus.OPEN
    bid = edit(vector("02_BidSubmitted"), "payload.bid.id", SEED_ID)
    assert node.take(bid).reason is Reason.DUPLICATE
    assert len(node.state.records[SEED_ID].bids) == 1


EARLY = [(0, "02_BidSubmitted"), (0, "03_ClaimCreated"), (1, "03_ClaimCreated"), (3, "05_TaskSettle_two_nodes")]


@pytest.mark.parametrize(("held", "name"), EARLY)
def test_what_overtakes_what_it_rests_on_is_no_fault_of_its_source_and_may_come_again(held: int, name: str) -> None:
    node = after(*FLOW[:held])
    assert node.take(vector(name)).outcome is Outcome.IGNORED
    for each in FLOW[held:]:
        assert node.take(vector(each)).outcome is Outcome.ACCEPTED
    assert node.status() is SeedStatus.ACCEPTED


PLACES = {
    "01_SeedCreated": "seed",
    "02_BidSubmitted": "bid",
    "03_ClaimCreated": "claim",
    "04_TaskResult": "result",
    "05_TaskSettle_two_nodes": "seed",
}


@given(st.sampled_from(sorted(PLACES)), st.integers(0, 5), st.data())
def test_any_baseline_payload_is_judged_or_refused(name: str, held: int, data: st.DataObject) -> None:
    node = after(*FLOW[:held])
    value = json.loads(vector(name))
    place = value["payload"][PLACES[name]]
    for field in data.draw(st.lists(st.sampled_from(sorted(place)), max_size=3)):
        place[field] = data.draw(VALUES | st.integers(0, 2**64 - 1) | st.sampled_from([SEED_ID, CLAIM_ID, WORKER, ""]))
    value["meta"]["from"] = data.draw(st.sampled_from([CREATOR, WORKER, "node-evil"]))
    decision = node.take(json.dumps(value).encode())
    assert decision.outcome in Outcome
    assert len(node.state.digest()) == 32


def test_kinds_of_facts() -> None:
    node = after(*FLOW[:4])
    settled = node.fact(vector("05_TaskSettle_two_nodes"))
    assert isinstance(settled.body, Settlement)
    assert settled.body.attempt == 1
    claim = after(*FLOW[:2]).fact(vector("03_ClaimCreated"))
    assert isinstance(claim.body, Claim)
    assert (claim.kind, claim.seq, claim.body.attempt) == (FactKind.CLAIM, 3, 1)
    assert Kind.TASK_STARTED.value not in {json.loads(vector(name))["meta"]["kind"] for name in NAMES}
