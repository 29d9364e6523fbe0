"""Talk of neighbours and proofs of forks, changed in every way: only declared outcomes, nothing for the unproven."""

from __future__ import annotations

import copy
import json
import tracemalloc
from collections import Counter
from itertools import count
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.core.commands import Received, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.errors import Reason
from crabnet.protocol.canonical import JsonObject, JsonValue
from crabnet.protocol.envelope import FEED_KINDS, Kind, seal
from crabnet.protocol.fork_proof import ProofRefusedError, document_of, verify_proof
from tests.fuzz.budget import Spent, fuzz, long_and_short
from tests.fuzz.mutation import mutate_bytes, mutate_tree, parts, spell
from tests.fuzz.test_fuzz_envelopes import DECLARED as VERIFICATION
from tests.fuzz.test_fuzz_envelopes import VALID
from tests.support.branches import Branches, Odds
from tests.support.envelopes import NOW_S, Author, seed_id_of, signer
from tests.support.talking import Neighbour

NOW_MS = NOW_S * 1000
STORY = Branches(Random(2), odds=Odds(fork=0.2)).tell(60)
NAMES = [*sorted({envelope.meta.from_ for envelope in STORY}), signer("observer").node_id, "a", "12D3KooWnobody"]
PLACES = [(envelope.meta.from_, envelope.meta.seq, envelope.meta.id) for envelope in STORY]
NAMED: list[JsonValue] = [
    [seed_id_of(envelope), envelope.meta.id] for envelope in STORY if envelope.meta.kind in FEED_KINDS
]
SEED_IDS: list[str] = [seed_id_of(envelope) for envelope in STORY if envelope.meta.kind in FEED_KINDS]
PROVEN, UNPROVEN, OTHER = "udp:192.0.2.1:1", "udp:192.0.2.2:1", "udp:198.51.100.3:7"
SEQS = [1, 2, 3, 64, 65, 4_096, 2**32, 2**53 - 1]
DECLARED = {
    *VERIFICATION,
    *(Reason.DUPLICATE, Reason.GAP, Reason.BROKEN_CHAIN, Reason.PARKING_FULL, Reason.FORK, Reason.UNSOLICITED),
    *(Reason.UNAUTHORISED, Reason.WRONG_STATE, Reason.NOT_DUE, Reason.TOO_MANY_BIDS, Reason.PRICE_TOO_LOW),
    *(Reason.DEADLINE_PASSED, Reason.UNKNOWN_SEED, Reason.UNKNOWN_BID, Reason.UNKNOWN_CLAIM, Reason.UNKNOWN_RESULT),
    *(Reason.UNKNOWN_PARENT, Reason.WRONG_PARENT, Reason.FEED_ENDED, Reason.UNKNOWN_KIND, Reason.TOO_MANY_OWN_STEPS),
}
"""What one envelope or document may be refused with."""
SENDS_PER_INPUT_MAX = 64


def talk_payloads(rng: Random, author: str) -> dict[Kind, JsonObject]:
    """A valid payload of every kind of talk."""
    name, seq, envelope_id = rng.choice(PLACES)
    if rng.randrange(3) == 0:
        name, seq = rng.choice(NAMES), rng.choice(SEQS)
    many = rng.choice([1, 1, 3, 16])
    prefix = rng.choice(["", "0", "f", "a0", "0" * 16])
    digests: list[JsonValue] = [rng.choice(["", "1" * 32])] * rng.choice([0, 16])
    return {
        Kind.NODE_HELLO: {
            "identity": {"node_id": author, "alias": "a"},
            "challenge": rng.choice(["", "c"]),
            "echo": "",
        },
        Kind.FEED_HEADS: {
            "heads": [
                [name, seq + at, envelope_id, *rng.choice([[], [0], [seq + at + 1], [seq + at]])] for at in range(many)
            ],
            "root": rng.choice(["", "0" * 32]),
            "buckets": [[prefix, digests]] * rng.choice([0, 1, 3]),
            "served": [[name, seq, seq - 1 + rng.choice([0, 64])]] * rng.choice([0, 1, 3]),
        },
        Kind.FEED_REQUEST: {
            "wants": [[name, seq, seq + rng.choice([0, 1, 64, 2**40])]] * many,
            "buckets": [prefix] * rng.choice([0, 1, 3]),
            "names": [rng.choice(NAMED)] * rng.choice([0, 1, 3]),
        },
        Kind.FORK_REQUEST: {"wants": [[name, seq]] * many},
        Kind.RELAY_PRUNE: {"authors": [name] * many},
        Kind.BID_DECLINED: {
            "seed_id": rng.choice(SEED_IDS),
            "reason": rng.choice(["not_allowed", "price", "busy", "a_later_word"]),
            **rng.choice([{}, {"price": seq}]),
        },
    }


def test_every_kind_of_talk_is_fuzzed() -> None:
    assert set(talk_payloads(Random(1), "a")) == set(Kind) - FEED_KINDS - {Kind.UNKNOWN}


def hostile_talk(rng: Random, nonce: int) -> bytes:
    """Soundly signed talk, mostly with a change in its payload, seldom one elsewhere."""
    author = signer(f"talker {rng.randrange(3)}")
    payloads = talk_payloads(rng, author.node_id)
    kind = rng.choice(sorted(payloads))
    payload = payloads[kind]
    for _ in range(rng.choice([0, 0, 1, 2])):
        payload = mutate_tree(payload, rng, parts(copy.deepcopy(payload)))
    raw = seal(author, kind=kind, namespace="default", ts=NOW_S, nonce=nonce, payload=payload).raw
    return mutate_bytes(raw, rng) if rng.randrange(10) == 0 else raw


def hostile_proof(rng: Random) -> bytes:
    """A document of two envelopes, seldom of two that prove something, seldom unbroken."""
    author = Author(f"forker {rng.randrange(2)}")
    one = author.say(Kind.SEED_CREATED, {"seed": author.seed()})
    author.seq, author.head = 0, ""
    two = author.say(Kind.SEED_CREATED, {"seed": author.seed(title=rng.choice(["t", "u"]))})
    raws = sorted((one.raw, two.raw)) if rng.randrange(2) else [rng.choice(VALID), rng.choice(VALID)]
    document = document_of(*raws)
    if rng.randrange(4) == 0:
        document = spell(mutate_tree(json.loads(document), rng, [1, "", None, [], {}]), rng)
    return mutate_bytes(document, rng) if rng.randrange(4) == 0 else document


def check(effects: Effects, outcomes: Counter[str]) -> None:
    """Whatever came in: only declared answers, and nothing of worth for addresses that have not proved themselves."""
    for notice in effects.notices:
        reason = notice.fields.get("reason")
        if notice.kind in {"envelope_rejected", "envelope_ignored"}:
            outcomes[str(reason)] += 1
            assert Reason(str(reason)) in DECLARED
    assert len(effects.sends) <= SENDS_PER_INPUT_MAX
    for send in effects.sends:
        assert len(send.data) <= limits.ENVELOPE_BYTES_MAX
        if send.to not in {None, PROVEN}:
            assert send.kind in {Kind.NODE_HELLO, Kind.FEED_REQUEST, Kind.FEED_HEADS}
            assert len(send.data) <= limits.DATAGRAM_BYTES_MAX
    assert {serve.to for serve in effects.serves} <= {PROVEN}
    assert {proof.to for proof in effects.proofs} <= {PROVEN}
    assert {named.to for named in effects.serves_named} <= {PROVEN}
    assert all(serve.to_seq - serve.from_seq < limits.SYNC_WANT_ENTRIES_MAX for serve in effects.serves)


@long_and_short
def test_talk(seconds: float) -> None:
    spent = Spent()

    @given(st.randoms(use_true_random=False))
    def is_answered_within_bounds(rng: Random) -> None:
        numbers = count(1)
        core = Core(CoreConfig(), signer("observer"), lambda: next(numbers))
        now_ms = NOW_MS
        honest = Neighbour(core, "honest", PROVEN)
        honest.confirm(now_ms)
        told = rng.sample(STORY, rng.choice([0, 5, 20]))
        for number in range(rng.choice([2, 12])):
            effects = Effects()
            source = rng.choice([PROVEN, UNPROVEN, OTHER])
            choice = rng.randrange(10)
            if choice == 0 and told:
                raw = told.pop().raw
            elif choice == 1:
                raw = hostile_proof(rng)
            else:
                raw = hostile_talk(rng, number)
            with spent.on(len(raw)):
                core.handle(Received(source, raw), now_ms, effects)
                check(effects, spent.outcomes)
                ticked = Effects()
                now_ms += rng.choice([0, 100, 600, 10_000])
                core.handle(Tick(), now_ms, ticked)
            check(ticked, spent.outcomes)
        # After all that the honest neighbour is still understood.
        author = Author("honest author")
        first = author.say(Kind.SEED_CREATED, {"seed": author.seed()})
        honest.pass_on(first, now_ms)
        assert core.replica.feeds.get(author.id).head_id == first.meta.id

    fuzz(seconds, is_answered_within_bounds, spent, examples=100)
    assert {"malformed", "unsolicited"} <= set(spent.outcomes)


@long_and_short
def test_fork_proofs(seconds: float) -> None:
    spent = Spent()

    @given(st.randoms(use_true_random=False))
    def proves_or_is_refused(rng: Random) -> None:
        document = hostile_proof(rng)
        with spent.on(len(document)):
            try:
                evidence = verify_proof(document)
            except ProofRefusedError as error:
                spent.outcomes[error.reason] += 1
                return
        spent.outcomes["proved"] += 1
        lower, higher = evidence.lower.envelope.meta, evidence.higher.envelope.meta
        assert (lower.from_, lower.seq) == (higher.from_, higher.seq)
        assert lower.id < higher.id
        assert verify_proof(evidence.document()) == evidence

    fuzz(min(seconds, 10), proves_or_is_refused, spent)
    assert spent.outcomes["proved"]
    assert len(spent.outcomes) > 4


def test_talk_of_feeds_that_do_not_exist_takes_no_more_room_than_the_bounds_allow() -> None:
    numbers = count(1)
    core = Core(CoreConfig(), signer("observer"), lambda: next(numbers))
    liar = signer("liar")

    per_message = limits.SYNC_HEADS_PER_MESSAGE_MAX

    def lie(first: int) -> int:
        """Heads of many feeds, from many addresses; returns the bytes that the core keeps."""
        for number in range(first, first + 150):
            heads: list[JsonValue] = [
                [f"{number} {at}", 5, "0" * 64] for at in range(limits.SYNC_HEADS_PER_MESSAGE_MAX)
            ]
            said = seal(
                liar, kind=Kind.FEED_HEADS, namespace="default", ts=NOW_S, nonce=number, payload={"heads": heads}
            )
            core.handle(Received(f"udp:192.0.2.9:{1_000 + number}", said.raw), NOW_MS, Effects())
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        full, fuller = lie(0), lie(150)
    finally:
        tracemalloc.stop()
    assert 150 * per_message > 2 * limits.SYNC_MISSING_FEEDS_MAX
    assert fuller < full * 1.5
    assert len(core.replica.feeds) == 0
