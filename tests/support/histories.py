"""Histories of signed envelopes by several authors: plausible ones, with mistakes, strangers and forks."""

from __future__ import annotations

import copy
from collections import defaultdict
from random import Random
from typing import NamedTuple

from crabnet.domain.fold import rebuild
from crabnet.domain.lifecycle import Record
from crabnet.domain.model import Fact
from crabnet.protocol.admission import Admitted
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope, Kind
from crabnet.protocol.payloads import PayloadRefusedError, fact_of
from tests.support.envelopes import NOW_S, Author, admission


class _Object(NamedTuple):
    """Something that was said: its id, who said it, and what it is about."""

    id: str
    author: str
    about: str = ""


class Story:
    """Makes a history, envelope by envelope. ``forks`` is the chance that an author begins a second branch."""

    def __init__(self, rng: Random, *, authors: int = 3, forks: float = 0.0) -> None:
        self.rng = rng
        self.forks = forks
        self.branches = [Author(f"author{number}") for number in range(authors)]
        self.past: dict[str, list[Author]] = defaultdict(list)
        self.seeds: list[_Object] = []
        self.bids: list[_Object] = []
        self.claims: list[_Object] = []
        self.results: list[_Object] = []
        self.creators: dict[str, str] = {}
        self.attempts: dict[str, int] = {}
        self.envelopes: list[Envelope] = []
        self._nonce = 0

    def tell(self, steps: int) -> list[Envelope]:
        """So many envelopes more; returns all."""
        for _ in range(steps):
            if self.rng.random() < self.forks and self.past:
                self.branches.append(copy.copy(self.rng.choice(self.past[self.rng.choice(sorted(self.past))])))
            kind = self.rng.choices([*list(Kind)[:6], Kind.UNKNOWN], (2, 5, 4, 3, 4, 6, 1))[0]
            for needed, known in zip(list(Kind), (self.seeds, self.bids, self.claims), strict=False):
                if not known and self.rng.random() < 0.9:
                    kind = needed
                    break
            author, payload = self._payload(kind)
            self.past[author.id].append(copy.copy(author))
            self._nonce += 1
            author.nonce = self._nonce
            if kind is Kind.UNKNOWN:
                payload = {"what": self._nonce}
            elif self.rng.random() < 0.03:
                payload = {"broken": 1}
            self.envelopes.append(author.say(kind, payload, NOW_S + self._nonce))
        return self.envelopes

    def _who(self, node_id: str) -> Author:
        """The author with that id, in one of its branches; sometimes a stranger."""
        if self.rng.random() < 0.06:
            return self.rng.choice(self.branches)
        return self.rng.choice([branch for branch in self.branches if branch.id == node_id] or self.branches)

    def _one(self, objects: list[_Object], about: str = "") -> _Object:
        """One of the objects, rather a late one; something unknown if there is none."""
        fitting = [known for known in objects if known.about == about or not about] or objects
        if not objects or self.rng.random() < 0.03:
            return _Object("82838849-e0a4-5d87-9abc-91d53f4c4f70", self.rng.choice(self.branches).id, "nothing")
        return self.rng.choice(fitting[-2:])

    def _payload(self, kind: Kind) -> tuple[Author, JsonObject]:
        ts = NOW_S + self._nonce + 1
        if kind is Kind.SEED_CREATED:
            author = self.rng.choice(self.branches)
            seed = author.seed(ts, max_bids=self.rng.choice([0, 1, 2]), bid_deadline_ts=ts + 30, exec_deadline_ms=3_000)
            seed["timeout_ms"] = 1_000
            self.creators[author.next_object_id()] = author.id
            self.seeds.append(_Object(author.next_object_id(), author.id))
            return author, {"seed": seed}
        seed_of = self._one(self.seeds)
        if kind is Kind.BID_SUBMITTED:
            author = self.rng.choice(self.branches)
            bid: JsonObject = {
                "id": author.next_object_id(),
                "seed_id": seed_of.id,
                "bidder": author.id,
                "created_at": ts,
            }
            self.bids.append(_Object(author.next_object_id(), author.id, seed_of.id))
            return author, {"bid": {**bid, "price": self.rng.randrange(8)}}
        if kind is Kind.CLAIM_CREATED:
            chosen = self._one(self.bids)
            author = self._who(self.creators.get(chosen.about, ""))
            self.claims.append(_Object(author.next_object_id(), chosen.author, chosen.about))
            claim: JsonObject = {"id": author.next_object_id(), "seed_id": chosen.about, "bid_id": chosen.id}
            attempt = self.attempts[author.next_object_id()] = self.rng.choice([1, 1, 1, 2])
            return author, {"claim": {**claim, "worker": chosen.author, "created_at": ts, "attempt": attempt}}
        claimed = self._one(self.claims)
        if kind in {Kind.TASK_STARTED, Kind.TASK_RESULT}:
            author = self._who(claimed.author)
            work: JsonObject = {"id": author.next_object_id(), "seed_id": claimed.about, "claim_id": claimed.id}
            work |= {"worker": author.id, "created_at": ts}
            if kind is Kind.TASK_STARTED:
                return author, {"run": work}
            self.results.append(_Object(author.next_object_id(), author.id, claimed.id))
            return author, {
                "result": {**work, "exit_code": 0, "timed_out": False, "output_hash": "0", "duration_ms": 1}
            }
        author = self._who(self.creators.get(claimed.about, ""))
        status = self.rng.choice(["Accepted", "Rejected", "Accepted", "Rejected", "Forfeited", "Expired"])
        settled: JsonObject = {"id": claimed.about, "status": status, "claim_id": claimed.id}
        settled["attempt"] = self.attempts.get(claimed.id, 1)
        return author, {"seed": {**settled, "result_id": self._one(self.results, claimed.id).id}}


def standing(envelopes: list[Envelope]) -> list[Envelope]:
    """Of each author's envelopes those that stand: in each place the lowest id that links to the one before."""
    chains: list[Envelope] = []
    for author in {envelope.meta.from_ for envelope in envelopes}:
        prev, seq = "", 1
        while True:
            candidates = [
                envelope
                for envelope in envelopes
                if (envelope.meta.from_, envelope.meta.seq, envelope.meta.prev) == (author, seq, prev)
            ]
            if not candidates:
                break
            chains.append(min(candidates, key=lambda envelope: envelope.meta.id))
            prev, seq = chains[-1].meta.id, seq + 1
    return chains


def expected_records(envelopes: list[Envelope]) -> dict[str, Record]:
    """The records of all seeds, from scratch, of the facts that stand."""
    facts: dict[str, list[Fact]] = defaultdict(list)
    for envelope in standing(envelopes):
        outcome = admission().admit(envelope.raw, NOW_S)
        if isinstance(outcome, Admitted) and outcome.kind is not Kind.UNKNOWN:
            try:
                fact = fact_of(outcome.envelope, outcome.kind)
            except PayloadRefusedError:
                continue
            facts[fact.seed_id].append(fact)
    return {seed_id: rebuild(about) for seed_id, about in facts.items()}
