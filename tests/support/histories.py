"""Histories of signed envelopes by several authors: plausible ones, with mistakes, strangers and forks."""

from __future__ import annotations

import copy
from collections import defaultdict
from random import Random

from crabnet.protocol.canonical import JsonObject, JsonValue
from crabnet.protocol.envelope import Envelope, Kind
from tests.support.envelopes import NOW_S, Author, body_of, seed_id_of

_SAID = (
    Kind.SEED_CREATED,
    Kind.BID_SUBMITTED,
    Kind.CLAIM_CREATED,
    Kind.TASK_STARTED,
    Kind.TASK_RESULT,
    Kind.TASK_SETTLE,
    Kind.SETTLE_ACKNOWLEDGED,
    Kind.UNKNOWN,
)
_HOW_OFTEN = (2, 5, 4, 4, 4, 5, 3, 1)
_RESTS_ON = {
    Kind.BID_SUBMITTED: Kind.SEED_CREATED,
    Kind.CLAIM_CREATED: Kind.BID_SUBMITTED,
    Kind.TASK_STARTED: Kind.CLAIM_CREATED,
    Kind.TASK_RESULT: Kind.TASK_STARTED,
    Kind.TASK_SETTLE: Kind.TASK_RESULT,
    Kind.SETTLE_ACKNOWLEDGED: Kind.TASK_SETTLE,
}


class Story:
    """Makes a history, envelope by envelope. ``forks`` is the chance that an author begins a second branch."""

    def __init__(self, rng: Random, *, authors: int = 3, forks: float = 0.0) -> None:
        self.rng = rng
        self.forks = forks
        self.branches = [Author(f"author{number}") for number in range(authors)]
        self.past: dict[str, list[Author]] = defaultdict(list)
        self.said: dict[Kind, list[Envelope]] = defaultdict(list)
        self.envelopes: list[Envelope] = []
        self._creators: dict[str, str] = {}
        self._workers: dict[JsonValue, str] = {}
        self._nonce = 0

    def tell(self, steps: int) -> list[Envelope]:
        """So many envelopes more; returns all."""
        for _ in range(steps):
            if self.rng.random() < self.forks and self.past:
                self.branches.append(copy.copy(self.rng.choice(self.past[self.rng.choice(sorted(self.past))])))
            kind = self.rng.choices(_SAID, _HOW_OFTEN)[0]
            while kind in _RESTS_ON and not self.said[_RESTS_ON[kind]]:
                kind = _RESTS_ON[kind]
            self._nonce += 1
            envelope = self._say(kind, NOW_S + self._nonce)
            self.envelopes.append(envelope)
        return self.envelopes

    def _rarely(self, chance: float = 0.04) -> bool:
        return self.rng.random() < chance

    def _who(self, node_id: str | None) -> Author:
        """The author with that id, in one of its branches; sometimes a stranger. Its state before is remembered."""
        fitting = [branch for branch in self.branches if branch.id == node_id] or self.branches
        author = self.rng.choice(self.branches if self._rarely() else fitting)
        self.past[author.id].append(copy.copy(author))
        author.nonce = self._nonce - 1
        return author

    def _one(self, *kinds: Kind) -> Envelope:
        """Something that was said, rather a late one."""
        said = [
            envelope for envelope in self.envelopes if envelope.meta.kind in kinds and "broken" not in envelope.payload
        ]
        return self.rng.choice(said[-3:])

    def _say(self, kind: Kind, ts: int) -> Envelope:
        if self._rarely(0.03):
            return self._who(None).say(kind, {"broken": 1}, ts)
        if kind is Kind.UNKNOWN:
            return self._who(None).say(kind, {"what": self._nonce}, ts)
        envelope = self._publish(ts) if kind is Kind.SEED_CREATED else self._step(kind, ts)
        self.said[kind].append(envelope)
        return envelope

    def _publish(self, ts: int) -> Envelope:
        author = self._who(None)
        limits: JsonObject = {"max_bids": self.rng.choice([0, 1, 2]), "bid_deadline_ts": ts + 30}
        envelope = author.publish(ts, exec_deadline_ms=3_000, timeout_ms=1_000, **limits)
        self._creators[seed_id_of(envelope)] = author.id
        return envelope

    def _step(self, kind: Kind, ts: int) -> Envelope:
        wrong: JsonObject = {}
        if self._rarely(0.03):
            wrong["rests_on"] = self.rng.choice(self.envelopes[-6:]).meta.id if not self._rarely(0.2) else "f" * 64
        match kind:
            case Kind.BID_SUBMITTED:
                return self._who(None).bid(self._one(Kind.SEED_CREATED), ts, price=self.rng.randrange(12), **wrong)
            case Kind.CLAIM_CREATED:
                return self._claim(ts, wrong)
            case Kind.TASK_STARTED:
                return self._start(ts, wrong)
            case Kind.TASK_RESULT:
                started = self._one(Kind.TASK_STARTED, Kind.TASK_STARTED, Kind.CLAIM_CREATED)
                worker = self._workers.get(body_of(started).get("claim_id", body_of(started)["id"]))
                failed = self.rng.choice([None] * 8 + ["task", "worker"])
                whose: JsonObject = {} if failed is None else {"failed": failed}
                return self._who(worker).finish(started, ts, **whose, **wrong)
            case Kind.SETTLE_ACKNOWLEDGED:
                settled = self._one(Kind.TASK_SETTLE)
                return self._who(self._workers.get(body_of(settled).get("claim_id"))).acknowledge(settled, ts, **wrong)
        return self._settle(ts, wrong)

    def _claim(self, ts: int, wrong: JsonObject) -> Envelope:
        bid = self._one(Kind.BID_SUBMITTED)
        author = self._who(self._creators.get(seed_id_of(bid)))
        envelope = author.claim(bid, ts, attempt=self.rng.choice([1] * 6 + [2]), **wrong)
        self._workers[body_of(envelope)["id"]] = bid.meta.from_
        return envelope

    def _start(self, ts: int, wrong: JsonObject) -> Envelope:
        claim = self._one(Kind.CLAIM_CREATED)
        claim_id = body_of(claim)["id"]
        started = [run for run in self.said[Kind.TASK_STARTED] if body_of(run)["claim_id"] == claim_id]
        if started and self.rng.random() < 0.8:
            wrong = {"renews": body_of(started[0])["id"], **wrong}
        return self._who(self._workers.get(claim_id)).start(claim, ts, **wrong)

    def _settle(self, ts: int, wrong: JsonObject) -> Envelope:
        status = self.rng.choice(["Accepted", "Rejected", "Accepted", "Rejected", "Forfeited", "Expired"])
        if status == "Forfeited" and self.said[Kind.CLAIM_CREATED]:
            failures = [Kind.TASK_RESULT] if self._rarely(0.3) and self.said[Kind.TASK_RESULT] else []
            about = self._one(Kind.CLAIM_CREATED, *failures)
        elif status == "Expired":
            about = self._one(Kind.CLAIM_CREATED, Kind.SEED_CREATED)
        else:
            about = self._one(Kind.TASK_RESULT)
        attempt = body_of(about).get("attempt", self.rng.choice([1] * 6 + [2]))
        return self._who(self._creators.get(seed_id_of(about))).settle(about, status, ts, attempt=attempt, **wrong)


def ends(envelopes: list[Envelope]) -> dict[str, int]:
    """The lowest place of each author for which there are two, 0 if there is none."""
    lowest: dict[str, int] = {envelope.meta.from_: 0 for envelope in envelopes}
    places: dict[tuple[str, int], str] = {}
    for envelope in envelopes:
        meta = envelope.meta
        if places.setdefault((meta.from_, meta.seq), meta.id) != meta.id:
            lowest[meta.from_] = min(lowest[meta.from_] or meta.seq, meta.seq)
    return lowest
