"""Whatever comes in, in whatever order: nothing is raised but the declared errors, and the journal tells it all."""

from __future__ import annotations

import copy
import json
from itertools import count
from random import Random
from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crabnet import limits
from crabnet.core.commands import CreateClaim, Input, Publish, Received, Settle, StartRun, SubmitBid, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.core.replica.records import decode_frame, frame_of
from crabnet.core.replica.snapshot import Snapshot, restore
from crabnet.domain.model import SeedStatus
from crabnet.errors import CrabnetError
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.protocol.canonical import JsonObject, JsonValue
from crabnet.protocol.envelope import Envelope, Kind, seal
from tests.sim.market import result
from tests.support.envelopes import NOW_S, Author, signer
from tests.support.histories import Story

NOW_MS = NOW_S * 1000
fewer = settings(max_examples=settings().max_examples // 2)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.sampled_from(["", "default", "Open", "Accepted", "x" * 600, "\ue000", "\U0001f980", "\x00"])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def new_core(*, require_signatures: bool = True) -> Core:
    numbers = count(1)
    config = CoreConfig(policy=AdmissionPolicy(require_signatures=require_signatures), parked_ttl_s=5)
    return Core(config, signer("observer"), lambda: next(numbers))


def give(core: Core, given: Input, now_ms: int = NOW_MS) -> list[bytes]:
    """One input; the journal's records of it. A declared error is an answer, too."""
    effects = Effects()
    try:
        core.handle(given, now_ms, effects)
    except CrabnetError as error:
        if isinstance(given, Received | Tick):
            raise
        assert error.message  # noqa: PT017
    return effects.records


def check_journal(core: Core, frames: list[list[bytes]]) -> None:
    """The journal alone gives the same state, and so does a checkpoint."""
    replayed = new_core().replica
    for records in frames:
        if records:
            for record in decode_frame(frame_of(records)):
                replayed.replay(record)
    assert replayed.state_hash() == core.replica.state_hash()
    assert replayed.state.records == core.replica.state.records
    restored = new_core().replica
    restore(restored, Snapshot(core.replica).rows())
    assert restored.state_hash() == core.replica.state_hash()


@given(data=st.binary(max_size=300))
@example(data=b"{" * 100_000)
@example(data=b'{"meta":' * 20 + b"1" + b"}" * 20)
@example(data=b'{"meta":{},"payload":{}}')
@example(data=b'{"meta":{"id":"x","from":"x","kind":"x","ts":1e400,"nonce":0},"payload":{}}')
@example(data=b'{"meta":{"id":"x","from":"x","kind":"x","ts":' + b"9" * 5_000 + b',"nonce":0},"payload":{}}')
@example(data=b'{"a":"\\ud800"}')
@pytest.mark.parametrize("require_signatures", [True, False])
def test_any_bytes(data: bytes, require_signatures: bool) -> None:
    core = new_core(require_signatures=require_signatures)
    before = core.replica.state_hash()
    assert give(core, Received("udp:192.0.2.1:1", data)) == []
    assert core.replica.state_hash() == before


def mutate(value: JsonObject, path: list[int], put: JsonValue, *, remove: bool) -> JsonObject:
    """A copy with something in it replaced or taken out; ``path`` chooses where."""
    changed = copy.deepcopy(value)
    place: JsonValue = changed
    for step in path:
        if not isinstance(place, dict) or not place:
            break
        key = sorted(place)[step % len(place)]
        inner = place[key]
        if isinstance(inner, dict) and inner and step % 3:
            place = inner
            continue
        if remove:
            del place[key]
        else:
            place[key] = put
        break
    return changed


def objects(author: Author, rng: Random) -> tuple[Kind, JsonObject]:
    """The payload of a good envelope of some kind."""
    envelope = Story(rng, authors=1).tell(6)[-1]
    kind = Kind(envelope.meta.kind)
    talk: dict[Kind, JsonObject] = {
        Kind.NODE_HELLO: {"identity": {"node_id": author.id, "alias": "a"}, "challenge": "c", "echo": ""},
        Kind.FEED_HEADS: {"heads": [[author.id, 5, "0" * 64], [author.id, 5, "0" * 64, 6]]},
        Kind.FEED_REQUEST: {"wants": [[author.id, 1, 5]], "names": [["s", "0" * 64]]},
        Kind.FORK_REQUEST: {"wants": [[author.id, 5]]},
    }
    chosen = rng.choice([kind, *talk])
    return chosen, talk.get(chosen, envelope.payload)


@given(
    seed=st.integers(0, 2**32),
    changes=st.lists(st.tuples(st.lists(st.integers(0, 50), min_size=1, max_size=3), JSON, st.booleans()), max_size=4),
)
def test_signed_envelopes_with_hostile_payloads(seed: int, changes: list[tuple[list[int], JsonValue, bool]]) -> None:
    """What a valid key signs reaches the payload, the roles and the rules."""
    rng = Random(seed)
    core = new_core()
    author = Author("author0")
    frames = []
    for path, put, remove in changes:
        kind, payload = objects(author, rng)
        changed = mutate(payload, path, put, remove=remove)
        if kind in {Kind.NODE_HELLO, Kind.FEED_HEADS, Kind.FEED_REQUEST, Kind.FORK_REQUEST}:
            envelope = seal(
                author.signer, kind=kind, namespace="default", ts=NOW_S, nonce=rng.getrandbits(53), payload=changed
            )
        else:
            envelope = author.say(kind, changed)
        frames.append(give(core, Received("udp:192.0.2.1:1", envelope.raw)))
    check_journal(core, frames)


BASELINE_OBJECTS: dict[str, tuple[str, JsonObject]] = {
    "SeedCreated": ("seed", {"id": "s", "title": "t", "command": "c", "timeout_ms": 1, "bid_deadline_ts": NOW_S + 60}),
    "BidSubmitted": ("bid", {"id": "b", "seed_id": "s", "bidder": "node-1", "price": 1}),
    "ClaimCreated": ("claim", {"id": "c", "seed_id": "s", "bid_id": "b", "worker": "node-1"}),
    "TaskResult": ("result", {"id": "r", "seed_id": "", "worker": "", "exit_code": 0, "timed_out": False}),
    "TaskSettle": ("seed", {"id": "s", "status": "Accepted"}),
}


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(sorted(BASELINE_OBJECTS)),
            st.lists(st.integers(0, 50), min_size=1, max_size=2),
            JSON | st.sampled_from([2**64 - 1, 2**64, 2**200]),
            st.integers(0, 3),
        ),
        max_size=12,
    )
)
def test_baseline_envelopes_with_hostile_payloads(steps: list[tuple[str, list[int], JsonValue, int]]) -> None:
    """Most are good, so that the broken ones meet seeds in every status."""
    core = new_core(require_signatures=False)
    frames = []
    for number, (kind, path, put, choice) in enumerate(steps):
        key, good = BASELINE_OBJECTS[kind]
        full: JsonObject = {"created_by": "node-1", "created_at": NOW_S, "exec_deadline_ms": 1, "duration_ms": 1}
        full |= {"output_hash": "0", "stdout": "", "stderr": "", **good}
        meta: JsonObject = {
            "id": f"m{number}",
            "from": "node-1",
            "kind": kind,
            "ts": NOW_S,
            "nonce": NOW_S,
            "signature": "",
        }
        value: JsonObject = {"meta": meta, "payload": {key: full}}
        hostile = mutate(value, path, put, remove=choice == 1) if choice < 2 else value
        frames.append(give(core, Received("udp:192.0.2.1:1", json.dumps(hostile).encode())))
    check_journal(core, frames)


@given(
    seed=st.integers(0, 2**32),
    path=st.lists(st.integers(0, 50), min_size=1, max_size=3),
    put=JSON,
    remove=st.booleans(),
    require_signatures=st.booleans(),
)
def test_broken_copies_of_good_envelopes(
    seed: int, path: list[int], put: JsonValue, remove: bool, require_signatures: bool
) -> None:
    """A broken copy that comes first neither raises nor blocks the good one."""
    good = Story(Random(seed)).tell(1)[0]
    value = cast(JsonObject, json.loads(good.raw))
    broken = json.dumps(mutate(value, path, put, remove=remove)).encode()
    core = new_core(require_signatures=require_signatures)
    give(core, Received("udp:192.0.2.1:1", broken))
    give(core, Received("udp:192.0.2.1:1", good.raw))
    assert core.replica.feeds.get(good.meta.from_).head_id == good.meta.id


def wishes(rng: Random, core: Core) -> Input:
    """An operation, sensible or not."""
    ids = [*core.replica.state.records, "", "x" * 200]
    bids = [bid.key for record in core.replica.state.records.values() for bid in record.bids]
    seed_id = rng.choice(ids)
    number = rng.choice([-1, 0, 1, 5, 2**53 - 1, 2**53, 2**64, 2**100])
    text = rng.choice(["", "t", "\ud800", "\x00", "x" * (limits.COMMAND_CHARS_MAX + 1), "\U0001f980" * 70_000])
    chosen: list[Input] = [
        Publish(title=text, command=text, timeout_ms=number, reward=number, bid_window_ms=rng.choice([number, 9])),
        Publish(title="t", command="c", min_price=number, max_bids=rng.choice([0, number]), description=text),
        SubmitBid(seed_id=seed_id, price=number, notes=text),
        SubmitBid(seed_id=seed_id, price=5),
        CreateClaim(seed_id=seed_id, bid_id=rng.choice([*bids, ""])),
        StartRun(seed_id=seed_id),
        result(seed_id),
        Settle(seed_id=seed_id, outcome=rng.choice(list(SeedStatus)), note=text),
        Settle(seed_id=seed_id, outcome=rng.choice(list(SeedStatus))),
    ]
    return rng.choice(chosen)


@pytest.mark.parametrize("inputs", [60, pytest.param(200, marks=pytest.mark.deep)])
@fewer
@given(seed=st.integers(0, 2**32))
def test_any_sequence_of_inputs(inputs: int, seed: int) -> None:
    """Envelopes of a story in any order, broken ones, operations, ticks with leaps of the clock."""
    rng = Random(seed)
    core = new_core()
    story: list[Envelope] = Story(rng, forks=0.1).tell(inputs // 2)
    rng.shuffle(story)
    frames = []
    now_ms = NOW_MS
    for _ in range(inputs):
        chance = rng.random()
        if chance < 0.4 and story:
            raw = bytearray(story.pop().raw)
            if rng.random() < 0.2:
                raw[rng.randrange(len(raw))] = rng.randrange(256)
            given_input: Input = Received(f"udp:192.0.2.{rng.randrange(3)}:9", bytes(raw))
        elif chance < 0.6:
            now_ms += rng.choice([100, 1_000, 70_000, 4_000_000, -50_000])
            given_input = Tick()
        else:
            given_input = wishes(rng, core)
        frames.append(give(core, given_input, max(now_ms, 0)))
    check_journal(core, frames)
