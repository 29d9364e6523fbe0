"""Replays: what was said once has no effect when it is said again, whoever says it, where, when and in which guise.

Every kind of envelope of a whole job, in every guise, to a core in every condition that it may be in: each is refused
with its Reason, nothing is journalled, and the state stays as it was.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Final

import pytest

from crabnet.core.commands import Received, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.core.replica.records import Via, decode_frame, frame_of
from crabnet.core.replica.snapshot import Snapshot, restore
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope, Kind, content_of, seal
from crabnet.protocol.sync import Head, Want
from tests.core.test_outcomes import STEPS, Scene
from tests.support.envelopes import NOW_S, Author, edit, signer
from tests.support.talking import Neighbour

SOURCE = "udp:192.0.2.1:9012"
KINDS: Final = (
    "SeedCreated",
    "BidSubmitted",
    "ClaimCreated",
    "TaskStarted",
    "TaskResult",
    "TaskSettle",
    "SettleAcknowledged",
)
NEXT_DAY_S: Final = 2 * 86_400


class Job:
    """A whole job: its envelopes by kind, and the journal of a node that heard it."""

    def __init__(self) -> None:
        scene = Scene()
        self.mallory = Author("mallory")
        made = [scene.make(step) for step in STEPS]
        self.by_kind = {envelope.meta.kind: envelope for envelope in made}
        self.core = new_core()
        self.records: list[bytes] = []
        for envelope in made:
            effects = Effects()
            self.core.handle(Received(SOURCE, envelope.raw), NOW_S * 1000, effects)
            self.records += effects.records
        assert self.core.record(scene.seed_id).progress.status == "Accepted"


def new_core(capacity: int = 10_000) -> Core:
    return Core(CoreConfig(seen_capacity=capacity), signer("observer"), iter(range(1, 10**6)).__next__)


JOB: Final = Job()
STATE_HASH: Final = JOB.core.replica.state_hash()


# --- conditions of the core that hears the replay -----------------------------------------------------------------


def running() -> Core:
    return from_journal()


def from_journal(capacity: int = 10_000) -> Core:
    """After a restart: the journal is replayed, and with it the window of seen ids."""
    core = new_core(capacity)
    for record in decode_frame(frame_of(JOB.records)):
        core.replica.replay(record)
    return core


def from_checkpoint() -> Core:
    core = new_core()
    restore(core.replica, list(Snapshot(JOB.core.replica).rows()))
    return core


def with_a_full_window() -> Core:
    """So many other envelopes came that the window holds none of these any more."""
    core = from_journal(capacity=1)
    author = Author("busy")
    core.handle(Received(SOURCE, author.say(Kind.SEED_CREATED, {"seed": author.seed()}).raw), NOW_S * 1000, Effects())
    assert not any(envelope.meta.id in core.replica.seen for envelope in JOB.by_kind.values())
    return core


def after_the_window() -> Core:
    """Two days later, when nothing is remembered by id."""
    core = from_journal()
    core.handle(Tick(), (NOW_S + NEXT_DAY_S) * 1000, Effects())
    assert not any(envelope.meta.id in core.replica.seen for envelope in JOB.by_kind.values())
    return core


CONDITIONS: dict[str, Callable[[], Core]] = {
    "running": running,
    "restarted from the journal": from_journal,
    "restarted from a checkpoint": from_checkpoint,
    "with a full window": with_a_full_window,
    "after the window": after_the_window,
}


# --- guises of the replayed envelope ------------------------------------------------------------------------------


def rehashed(raw: bytes, **meta: object) -> bytes:
    """The envelope with other fields in its head and the id that goes with them; the signature is the old one."""
    for name, value in meta.items():
        raw = edit(raw, f"meta.{name}", value)
    return edit(raw, "meta.id", hashlib.sha256(content_of(json.loads(raw))).hexdigest())


def stolen(envelope: Envelope) -> bytes:
    """Another author says the same in its own name, as the next of its own feed."""
    mallory = copy.copy(JOB.mallory)
    return mallory.say(Kind(envelope.meta.kind), envelope.payload, envelope.meta.ts).raw


def elsewhere(envelope: Envelope) -> bytes:
    """The same author says the same in another namespace."""
    value: JsonObject = json.loads(envelope.raw)
    assert isinstance(value["payload"], dict)
    who = next(name for name in ("creator", "worker") if signer(name).node_id == envelope.meta.from_)
    return seal(
        signer(who),
        kind=Kind(envelope.meta.kind),
        namespace="market",
        ts=envelope.meta.ts,
        nonce=envelope.meta.nonce + 1,
        payload=value["payload"],
        seq=envelope.meta.seq,
        prev=envelope.meta.prev,
    ).raw


GUISES: dict[str, tuple[Callable[[Envelope], bytes], str]] = {
    "as it was": (lambda e: e.raw, "duplicate"),
    "with other white space": (lambda e: json.dumps(json.loads(e.raw), indent=1).encode(), "duplicate"),
    "with its keys in another order": (
        lambda e: json.dumps(dict(reversed(list(json.loads(e.raw).items()))), ensure_ascii=False).encode(),
        "duplicate",
    ),
    "under another id": (lambda e: edit(e.raw, "meta.id", "0" * 64), "wrong_id"),
    "with another nonce": (lambda e: rehashed(e.raw, nonce=7), "bad_signature"),
    "as if made now": (lambda e: rehashed(e.raw, ts=NOW_S + 1), "bad_signature"),
    "at the end of its feed": (lambda e: rehashed(e.raw, seq=99, prev="f" * 64), "bad_signature"),
    "from another namespace": (elsewhere, "wrong_namespace"),
    "carried over from another namespace": (
        lambda e: edit(elsewhere(e), "meta.ns", "default"),
        "wrong_id",
    ),
    "carried over with a new id": (lambda e: rehashed(elsewhere(e), ns="default"), "bad_signature"),
}

LATE: Final = {"duplicate": "expired", "bad_signature": "expired", "wrong_id": "expired"}
"""What is older than half a day is refused for its age first."""


def reason_of(effects: Effects) -> str:
    (notice,) = (notice for notice in effects.notices if notice.kind.startswith("envelope_"))
    assert notice.kind in {"envelope_ignored", "envelope_rejected"}
    return str(notice.fields["reason"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guise", GUISES)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_replay_is_without_effect(condition: str, guise: str, kind: str) -> None:
    core = CONDITIONS[condition]()
    before = core.replica.state_hash()
    make, expected = GUISES[guise]
    now_s = NOW_S + (NEXT_DAY_S if condition == "after the window" else 0)
    if now_s > NOW_S:
        expected = LATE.get(expected, expected)
    for _ in range(2):
        effects = Effects()
        core.handle(Received(SOURCE, make(JOB.by_kind[kind])), now_s * 1000, effects)
        assert reason_of(effects) == expected
        assert not effects.records
        assert not any(send.relayed for send in effects.sends)
        assert core.replica.state_hash() == before


@pytest.mark.parametrize("kind", KINDS)
def test_what_another_says_in_its_own_name_takes_its_own_place_and_no_effect(kind: str) -> None:
    """It is no replay any more but an envelope of its author, who may not say this."""
    core = from_journal()
    seeds = core.replica.state.digest()
    effects = Effects()
    core.handle(Received(SOURCE, stolen(JOB.by_kind[kind])), NOW_S * 1000, effects)
    assert reason_of(effects) in {"wrong_id", "unauthorised"}
    assert len(core.replica.state.records) == 1
    assert core.replica.state.digest() == seeds
    (record,) = core.replica.state.records.values()
    assert record.progress.status == "Accepted"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_by_sync_a_replay_is_a_duplicate_of_any_age(condition: str, kind: str) -> None:
    """The node has asked for later envelopes of these feeds; a neighbour answers with what is held already."""
    core = CONDITIONS[condition]()
    before = core.replica.state_hash()
    now_s = NOW_S + (NEXT_DAY_S if condition == "after the window" else 0)
    peer = Neighbour(core, "peer", "udp:192.0.2.7:9012")
    peer.confirm(now_s * 1000)
    envelope = JOB.by_kind[kind]
    author = envelope.meta.from_
    peer.heads(Head(author, envelope.meta.seq + 90, "e" * 64), now_ms=now_s * 1000)
    core.handle(Tick(), now_s * 1000, Effects())
    effects = peer.pass_on(envelope, now_s * 1000)
    assert reason_of(effects) in {"duplicate", "expired"}
    assert not effects.records
    assert core.replica.state_hash() == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_by_import_a_replay_is_a_duplicate(condition: str, kind: str) -> None:
    core = CONDITIONS[condition]()
    before = core.replica.state_hash()
    effects = Effects()
    core.handle(Received(SOURCE, JOB.by_kind[kind].raw, Via.IMPORT), (NOW_S + NEXT_DAY_S) * 1000, effects)
    assert reason_of(effects) == "duplicate"
    assert not effects.records
    assert core.replica.state_hash() == before


@pytest.mark.parametrize("later_s", [0, 86_400 + 301])
def test_talk_of_neighbours_cannot_be_replayed(later_s: int) -> None:
    """A request that was heard once is answered once: later it is seen before, and later still too old."""
    core = from_journal()
    peer = Neighbour(core, "peer", "udp:192.0.2.7:9012")
    peer.confirm()
    author = JOB.by_kind["SeedCreated"].meta.from_
    first = peer.ask(Want(author, 1, 3))
    assert first.serves
    again = Neighbour(core, "peer", "udp:192.0.2.7:9012")
    now_s = NOW_S + later_s
    core.handle(Tick(), now_s * 1000, Effects())
    effects = Effects()
    request = seal(
        again.signer,
        kind=Kind.FEED_REQUEST,
        namespace="default",
        ts=NOW_S,
        nonce=3,
        payload={"wants": [[author, 1, 3]]},
    )
    core.handle(Received("udp:192.0.2.7:9012", request.raw), now_s * 1000, Effects())
    core.handle(Received("udp:192.0.2.7:9012", request.raw), now_s * 1000, effects)
    assert reason_of(effects) == ("expired" if later_s else "duplicate")
    assert not effects.serves


def test_an_envelope_of_another_namespace_has_its_effect_there() -> None:
    """The guise above is refused for its namespace, not for being broken."""
    core = Core(CoreConfig(policy=AdmissionPolicy("market")), signer("observer"), lambda: 1)
    effects = Effects()
    raw = elsewhere(JOB.by_kind["SeedCreated"])
    core.handle(Received(SOURCE, raw), NOW_S * 1000, effects)
    assert [notice.fields.get("reason") for notice in effects.notices if notice.kind.startswith("envelope_")] == [
        "wrong_id"
    ], "object ids hold the namespace: even a signed copy names another's object"
