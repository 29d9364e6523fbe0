"""Authors who seal feed envelopes, for tests of protocol and core."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from crabnet.protocol.admission import Admission, AdmissionPolicy, Admitted
from crabnet.protocol.canonical import JsonObject, JsonValue
from crabnet.protocol.envelope import Envelope, Kind, object_id, seal
from crabnet.protocol.identity import Signer
from crabnet.protocol.replay import SeenWindow

NOW_S = 1_767_225_600
"""2026-01-01T00:00:00Z."""


def signer(name: str) -> Signer:
    """A key that is the same in every run."""
    return Signer(hashlib.sha256(name.encode()).digest())


def admission(policy: AdmissionPolicy | None = None) -> Admission:
    """Verification steps with an empty window of seen messages."""
    return Admission(policy or AdmissionPolicy(), SeenWindow(ttl_s=86_400, capacity=10_000))


def admitted(raw: bytes, now_s: int = NOW_S, policy: AdmissionPolicy | None = None) -> Admitted:
    """The envelope, which must be admitted."""
    outcome = admission(policy).admit(raw, now_s)
    if not isinstance(outcome, Admitted):
        raise AssertionError(f"refused with {outcome.reason}: {outcome.detail}")  # noqa: TRY004
    return outcome


class Author:
    """One node that says things: counts ``seq``, chains ``prev``."""

    def __init__(self, name: str, namespace: str = "default") -> None:
        self.signer = signer(name)
        self.namespace = namespace
        self.seq = 0
        self.head = ""
        self.nonce = 0

    @property
    def id(self) -> str:
        """The node id."""
        return self.signer.node_id

    def next_object_id(self) -> str:
        """The id of what the next envelope creates."""
        return object_id(self.namespace, self.id, self.seq + 1)

    def say(self, kind: Kind, payload: JsonObject, ts: int = NOW_S) -> Envelope:
        """The next envelope of the feed."""
        self.seq += 1
        self.nonce += 1
        envelope = seal(
            self.signer,
            kind=kind,
            namespace=self.namespace,
            ts=ts,
            nonce=self.nonce,
            payload=payload,
            seq=self.seq,
            prev=self.head,
        )
        self.head = envelope.meta.id
        return envelope

    def seed(self, ts: int = NOW_S, **changes: JsonValue) -> JsonObject:
        """The payload object of a seed that the next envelope can create."""
        seed: JsonObject = {
            "id": self.next_object_id(),
            "title": "t",
            "description": "",
            "command": "echo hello",
            "timeout_ms": 5_000,
            "bid_deadline_ts": ts + 60,
            "exec_deadline_ms": 10_000,
            "min_price": 1,
            "max_bids": 0,
            "reward": 10,
            "rules": "",
            "created_by": self.id,
            "created_at": ts,
        }
        seed.update(changes)
        return seed

    def rewind(self, to: Envelope) -> Author:
        """Forget this envelope and all after it: what is said next stands in its place."""
        self.seq, self.head = to.meta.seq - 1, to.meta.prev
        return self

    def twin(self) -> Author:
        """The same author with the same head, to go another way. What both say alike differs by its nonce."""
        twin = copy.copy(self)
        twin.nonce += 1_000_000
        return twin

    # --- steps of a job, each of which names what it rests on; ``changes`` make them wrong ---------------

    def publish(self, ts: int = NOW_S, **changes: JsonValue) -> Envelope:
        """A seed."""
        return self.say(Kind.SEED_CREATED, {"seed": self.seed(ts, **changes)}, ts)

    def _state(self, kind: Kind, key: str, about: Envelope, ts: int, body: JsonObject) -> Envelope:
        full: JsonObject = {"id": self.next_object_id(), "seed_id": seed_id_of(about), "created_at": ts}
        return self.say(kind, {key: {**full, "rests_on": about.meta.id, **body}}, ts)

    def bid(self, seed: Envelope, ts: int = NOW_S, **changes: JsonValue) -> Envelope:
        """A bid on a seed."""
        return self._state(Kind.BID_SUBMITTED, "bid", seed, ts, {"bidder": self.id, "price": 10, **changes})

    def claim(self, bid: Envelope, ts: int = NOW_S, **changes: JsonValue) -> Envelope:
        """A claim of a bid."""
        body = body_of(bid)
        claim: JsonObject = {"bid_id": body["id"], "worker": body["bidder"], **changes}
        return self._state(Kind.CLAIM_CREATED, "claim", bid, ts, claim)

    def start(self, claim: Envelope, ts: int = NOW_S, **changes: JsonValue) -> Envelope:
        """The start of the run of a claim; with ``renews`` its renewal."""
        run: JsonObject = {"claim_id": body_of(claim)["id"], "worker": self.id, **changes}
        return self._state(Kind.TASK_STARTED, "run", claim, ts, run)

    def finish(self, start: Envelope, ts: int = NOW_S, **changes: JsonValue) -> Envelope:
        """The result of a run, or of a claim of which nothing was started."""
        result: JsonObject = {"claim_id": claim_id_of(start), "worker": self.id, "exit_code": 0, "timed_out": False}
        result |= {"output_hash": "0", "duration_ms": 1, **changes}
        return self._state(Kind.TASK_RESULT, "result", start, ts, result)

    def settle(self, about: Envelope, status: str = "Accepted", ts: int = NOW_S, **changes: JsonValue) -> Envelope:
        """A settlement that rests on a result, or, a forfeit or a close, on a claim or a seed."""
        settled: JsonObject = {"id": seed_id_of(about), "status": status, "rests_on": about.meta.id}
        if about.meta.kind == Kind.TASK_RESULT:
            settled["result_id"] = body_of(about)["id"]
        if about.meta.kind != Kind.SEED_CREATED:
            settled["claim_id"] = claim_id_of(about)
        return self.say(Kind.TASK_SETTLE, {"seed": {**settled, **changes}}, ts)

    def acknowledge(self, settlement: Envelope, ts: int = NOW_S, **changes: JsonValue) -> Envelope:
        """The worker's word that it knows of a settlement."""
        body: JsonObject = {"worker": self.id, **changes}
        return self._state(Kind.SETTLE_ACKNOWLEDGED, "acknowledgement", settlement, ts, body)


def job(steps: int = 7) -> list[Envelope]:
    """So many steps of a job between a creator and a worker."""
    creator, worker = Author("creator"), Author("worker")
    seed = creator.publish()
    bid = worker.bid(seed)
    claim = creator.claim(bid)
    start = worker.start(claim)
    result = worker.finish(start)
    settlement = creator.settle(result)
    return [seed, bid, claim, start, result, settlement, worker.acknowledge(settlement)][:steps]


def body_of(envelope: Envelope) -> JsonObject:
    """The object in an envelope's payload."""
    (body,) = envelope.payload.values()
    if not isinstance(body, dict):
        raise TypeError(f"{envelope.meta.kind} states no object")
    return body


def seed_id_of(envelope: Envelope) -> str:
    """The seed that an envelope is about."""
    about = "id" if envelope.meta.kind in {Kind.SEED_CREATED, Kind.TASK_SETTLE} else "seed_id"
    return str(body_of(envelope)[about])


def claim_id_of(envelope: Envelope) -> JsonValue:
    """The claim that an envelope makes, or is about."""
    return body_of(envelope).get("id" if envelope.meta.kind == Kind.CLAIM_CREATED else "claim_id")


def edit(raw: bytes, path: str, value: Any) -> bytes:
    """The envelope with one field set (``meta.seq``), or removed when ``value`` is Ellipsis; not signed anew."""
    envelope = json.loads(raw)
    *parents, last = path.split(".")
    place = envelope
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(envelope, ensure_ascii=False).encode()
