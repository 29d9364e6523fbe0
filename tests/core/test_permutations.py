"""The same envelopes in any order, with duplicates and forks, give the same state hash."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.core.records import decode_frame, frame_of
from crabnet.core.replica import Replica
from crabnet.core.sleepers import Sleepers
from crabnet.domain.model import Body, Fact, FactKind, Progress, Seed, Settlement
from crabnet.domain.state import Outcome
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Kind, object_id, seal
from crabnet.protocol.payloads import payload_of
from tests.support.envelopes import NOW_S, edit, signer
from tests.support.facts import CREATOR, RIVAL, START_S, STRANGER, WORKER, history

NAMESPACE = "default"
PEOPLE = (CREATOR, WORKER, RIVAL, STRANGER)
REFERENCES = ("id", "seed_id", "bid_id", "claim_id", "result_id", "renews", "worker", "bidder", "created_by")
TIMES = ("created_at", "bid_deadline_ts", "claim_deadline_ts")
LATER_S = NOW_S + 1_000


def real_id(made_up: str | None) -> str | None:
    """The real id of an object or person of a made-up history."""
    author, slash, seq = (made_up or "").partition("/")
    if author not in PEOPLE:
        return made_up
    node_id = signer(author).node_id
    return object_id(NAMESPACE, node_id, int(seq)) if slash else node_id


def real_body(fact: Fact) -> Body:
    """The body of a made-up fact with real ids and times."""
    fields: dict[str, Any] = {name: getattr(fact.body, name) for name in fact.body.__struct_fields__}
    for name, value in fields.items():
        if name in REFERENCES:
            fields[name] = real_id(value)
        elif name in TIMES and value is not None:
            fields[name] = value - START_S + NOW_S
    return type(fact.body)(**fields)


class Writer:
    """Seals made-up facts as envelopes of their authors' feeds."""

    def __init__(self, nonce: int, heads: dict[str, tuple[int, str]] | None = None) -> None:
        self.nonce = nonce
        self.heads = heads or {}
        self.seeds: dict[str, Seed] = {}

    def seal(self, author: str, kind: Kind, payload: JsonObject, ts: int = NOW_S) -> bytes:
        seq, prev = self.heads.get(author, (0, ""))
        sealed = seal(
            signer(author),
            kind=kind,
            namespace=NAMESPACE,
            ts=ts,
            nonce=self.nonce,
            payload=payload,
            seq=seq + 1,
            prev=prev,
        )
        self.heads[author] = (seq + 1, sealed.meta.id)
        return sealed.raw

    def write(self, fact: Fact) -> bytes:
        body = real_body(fact)
        ts = fact.ts - START_S + NOW_S
        if isinstance(body, Seed):
            self.seeds.setdefault(body.id, body)
        elif isinstance(body, Settlement) and body.seed_id not in self.seeds:
            return self.seal(fact.author, Kind.TASK_SETTLE, {"seed": {"id": body.seed_id, "status": "Accepted"}}, ts)
        definition = None if isinstance(body, Seed) else self.seeds.get(body.seed_id)
        kind, payload = payload_of(body, definition, Progress())
        return self.seal(fact.author, kind, payload, ts)


def envelopes(number: int) -> list[bytes]:
    """A history as envelopes: one author forks its feed, one speaks of what a later version knows, some are broken."""
    random = Random(number)
    writer = Writer(nonce=0)
    liar, fork = random.choice(PEOPLE), random.randint(0, 4)
    branch: Writer | None = None
    made: list[bytes] = []
    for fact in history(number, random.randint(4, 24), 2):
        if fact.author == liar and fact.seq == fork + 1:
            branch = Writer(1, {liar: writer.heads.get(liar, (0, ""))})
        made.append(writer.write(fact))
        if random.random() < 0.1:
            made.append(edit(made[-1], "meta.nonce", 7))
    if branch is not None:
        other = [fact for fact in history(number + 1, 24, 2) if fact.author == liar and fact.seq > fork]
        made += [branch.write(fact) for fact in other[: random.randint(1, 4)]]
        made.append(branch.seal(liar, Kind.TASK_STARTED, {"run": None}))
    made.append(writer.seal(WORKER, Kind.UNKNOWN, {"later": 1}))
    made.append(writer.seal(WORKER, Kind.BID_SUBMITTED, {"bid": {"id": "squatted"}}))
    return made


def fresh() -> Replica:
    """An empty replica."""
    return Replica(AdmissionPolicy(), seen_ttl_s=86_400, seen_capacity=10_000, parked_ttl_s=60)


class Node:
    """A replica that hears of envelopes again and again, as by sync, journals what it does, and wakes what sleeps."""

    def __init__(self) -> None:
        self.replica = fresh()
        self.journal: list[bytes] = []
        self.sleepers = Sleepers(self.replica)
        self.slept = 0

    def settle(self, raws: list[bytes]) -> str:
        while True:
            before = self.replica.state_hash()
            for raw in raws:
                for applied in self.replica.receive(raw, LATER_S):
                    assert applied.outcome in Outcome
                    self.slept += bool(applied.asleep)
                    self.sleepers.keep(applied, applied.raw)
                    if applied.record is not None:
                        self.journal.append(applied.record)
                self.sleepers.wake(LATER_S)
            if self.replica.state_hash() == before:
                return before


@contextmanager
def room(facts: int) -> Iterator[None]:
    """No more than so many facts may wait in memory for one seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "WAITING_FACTS_PER_SEED_MAX", facts)
        yield


def counting(replica: Replica) -> dict[str, object]:
    """Where all seeds stand, and by what."""
    return {
        seed_id: (record.seed, record.bids, [entry for entry in record.others if entry.effective], record.progress)
        for seed_id, record in replica.state.records.items()
        if record.seed is not None
    }


def check(number: int) -> None:
    """One set of envelopes in several orders, and the journals of those who heard them."""
    made = envelopes(number)
    random = Random(number)
    expected = Node()
    expected_hash = expected.settle(made)
    for _ in range(3):
        order = made + random.sample(made, len(made) // 2)
        random.shuffle(order)
        node = Node()
        assert node.settle(order) == expected_hash
        assert node.replica.state.records == expected.replica.state.records
        assert node.replica.feeds.heads() == expected.replica.feeds.heads()
        tight = Node()
        with room(random.randint(0, 2)):
            assert tight.settle(order) == expected_hash
        assert counting(tight.replica) == counting(expected.replica)
        replayed = fresh()
        for record in decode_frame(frame_of(node.journal)):
            replayed.replay(record)
        assert replayed.state_hash() == expected_hash


@given(st.integers(0, 2**32 - 1))
def test_any_order_gives_the_same_hash(number: int) -> None:
    check(number)


@pytest.mark.deep
def test_any_order_gives_the_same_hash_at_length() -> None:
    for number in range(1_000):
        check(number)


def test_the_sets_hold_what_they_should() -> None:
    """Guards the property: forks are resolved, seeds are claimed and settled, all kinds occur."""
    forks = claimed = settled = slept = 0
    kinds: set[FactKind] = set()
    for number in range(80):
        node = Node()
        node.settle(envelopes(number))
        forks += any(feed.forks for feed in node.replica.feeds.all())
        for record in node.replica.state.records.values():
            claimed += record.progress.claim_id is not None
            settled += record.progress.settled_at is not None
            kinds |= {fact.kind for fact in record.facts()}
        tight = Node()
        with room(0):
            tight.settle(envelopes(number))
        slept += tight.slept
    assert kinds == set(FactKind)
    assert min(forks, claimed, settled, slept) > 10
