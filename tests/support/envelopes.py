"""Authors who seal feed envelopes, for tests of protocol and core."""

from __future__ import annotations

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
