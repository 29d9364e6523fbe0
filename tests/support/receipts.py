"""Receipts of histories, and a second writer of the format, made from docs/PROTOCOL.md section 18 alone."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from random import Random
from typing import Any

import rfc8785
from base58 import b58decode

from crabnet.core.replica.records import Via
from crabnet.core.replica.replica import Replica
from crabnet.domain.record import Record
from crabnet.operator.envelopes import any_age_policy
from crabnet.protocol.envelope import Envelope
from crabnet.protocol.receipt import ENDED, ReceiptRefusedError, compose_receipt, verify_receipt
from tests.support.envelopes import NOW_S, Author, body_of

_STEPS = {
    "SeedCreated": "seed",
    "BidSubmitted": "bid",
    "ClaimCreated": "claim",
    "TaskStarted": "started",
    "TaskResult": "result",
    "SettleAcknowledged": "acknowledged",
}
_ENDS = {"Accepted": "settle", "Rejected": "settle", "Forfeited": "forfeit", "Expired": "close"}


def written(envelopes: Iterable[Envelope | bytes], **changes: Any) -> bytes:
    """The receipt with these envelopes in this order; ``changes`` replace its members, ``...`` removes one."""
    raws = [each if isinstance(each, bytes) else each.raw for each in envelopes]
    signed = [json.loads(raw) for raw in raws]
    members: dict[str, Any] = {
        "format": "crabnet-receipt",
        "keys": {each["meta"]["from"]: _key(each["meta"]["from"]) for each in signed},
        "namespace": "default",
        "signed": signed,
        "steps": [_step(each) for each in signed],
        "version": 1,
    } | changes
    return rfc8785.dumps({name: value for name, value in members.items() if value is not ...}) + b"\n"


def _key(node_id: str) -> str:
    return urlsafe_b64encode(b58decode(node_id)[-32:]).decode().rstrip("=")


def _step(envelope: dict[str, Any]) -> str:
    kind = envelope["meta"]["kind"]
    return _ENDS[envelope["payload"]["seed"]["status"]] if kind == "TaskSettle" else _STEPS.get(kind, kind)


def refused(data: bytes) -> ReceiptRefusedError | None:
    """Why these bytes are no receipt; None if they are one."""
    try:
        verify_receipt(data)
    except ReceiptRefusedError as error:
        return error
    return None


def records_of(envelopes: Iterable[Envelope]) -> dict[str, Record]:
    """The tasks of a node that heard these envelopes, by id."""
    replica = Replica(any_age_policy("default"), seen_ttl_s=0, seen_capacity=1, parked_ttl_s=10**9)
    for envelope in envelopes:
        replica.receive(envelope.raw, NOW_S, via=Via.IMPORT)
        replica.settling.settle_all(NOW_S)
    return dict(replica.state.records)


def composed(record: Record, envelopes: Iterable[Envelope]) -> bytes:
    """The receipt that a node with these envelopes makes of a task. Raises ReceiptRefusedError."""
    raws = {envelope.meta.id: envelope.raw for envelope in envelopes}
    return compose_receipt("default", record, lambda fact: raws.get(fact.envelope))


def receipts_of(envelopes: list[Envelope]) -> list[tuple[Record, bytes]]:
    """The tasks that ended, with their receipts. Raises ReceiptRefusedError."""
    records = [record for record in records_of(envelopes).values() if record.progress.status in ENDED]
    return [(record, composed(record, envelopes)) for record in records]


class Tale:
    """A whole history of one task by honest nodes, with what a receipt leaves out: other bids, renewals, late work."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.now_s = NOW_S
        self.creator = Author(f"creator {rng.random()}")
        self.workers = [Author(f"worker {rng.random()}") for _ in range(3)]
        self.told: list[Envelope] = []
        self._attempts = 0
        self._tell()

    def _say(self, envelope: Envelope) -> Envelope:
        self.told.append(envelope)
        self.now_s += self.rng.randrange(3)
        return envelope

    def _tell(self) -> None:
        rng, creator = self.rng, self.creator
        command = rng.choice(["true", "echo \u00e9\u4e2d\U0001f980", 'printf "a\\tb"', "x" * rng.randrange(1, 400)])
        seed = self._say(
            creator.publish(
                self.now_s, command=command, bid_deadline_ts=NOW_S + 10_000, exec_deadline_ms=5_000, timeout_ms=1_000
            )
        )
        bids = [self._say(worker.bid(seed, self.now_s, price=rng.randrange(1, 99))) for worker in self.workers]
        if rng.random() < 0.1:
            self._say(creator.settle(seed, "Expired", self.now_s, note="not needed"))
            return
        for attempt in range(1, rng.randrange(1, 5)):
            self._attempt(self._claim(bids, attempt), attempt)
        if rng.random() < 0.8 or not self._attempts:
            self._end(self._claim(bids, attempt := self._attempts + 1), attempt)

    def _claim(self, bids: list[Envelope], attempt: int) -> Envelope:
        return self._say(self.creator.claim(self.rng.choice(bids), self.now_s, attempt=attempt))

    def _worker(self, claim: Envelope) -> Author:
        return next(worker for worker in self.workers if worker.id == body_of(claim)["worker"])

    def _run(self, claim: Envelope, **result: Any) -> Envelope:
        rng, worker = self.rng, self._worker(claim)
        under = claim
        if rng.random() < 0.8:
            under = self._say(worker.start(claim, self.now_s))
            for _ in range(rng.randrange(3)):
                self._say(worker.start(claim, self.now_s, renews=body_of(under)["id"]))
        return self._say(worker.finish(under, self.now_s, **result))

    def _attempt(self, claim: Envelope, attempt: int) -> None:
        self._attempts = attempt
        about = claim
        if self.rng.random() < 0.5:
            about = self._run(claim, failed="worker", exit_code=1)
        else:
            self.now_s += 10
        self._say(self.creator.settle(about, "Forfeited", self.now_s, attempt=attempt))
        if about is claim and self.rng.random() < 0.5:
            self._say(self._worker(claim).finish(claim, self.now_s))

    def _end(self, claim: Envelope, attempt: int) -> None:
        rng = self.rng
        if rng.random() < 0.1:
            self._say(self.creator.settle(claim, "Expired", self.now_s, attempt=attempt))
            return
        result = self._run(claim, stdout="out\n" * rng.randrange(9), exit_code=rng.choice([0, 0, 7]))
        status = rng.choice(["Accepted", "Accepted", "Rejected"])
        settled = self._say(
            self.creator.settle(result, status, self.now_s, attempt=attempt, note=rng.choice(["", "ok"]))
        )
        if rng.random() < 0.7:
            self._say(self._worker(claim).acknowledge(settled, self.now_s))
