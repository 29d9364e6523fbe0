"""Authors who say steps that rest on what they should rest on, and who can continue from older copies of themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from crabnet.protocol.canonical import JsonObject, JsonValue
from crabnet.protocol.envelope import Envelope, Kind
from tests.support.envelopes import NOW_S, Author


class Pen(Author):
    """One copy of an author. It remembers its heads, so that a copy can be made of what it was before any entry."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
        self.heads = [""]

    def copy_before(self, place: int) -> Pen:
        """A second copy, which writes entry ``place`` anew."""
        other = Pen(self.name)
        other.seq, other.head = place - 1, self.heads[place - 1]
        other.heads = self.heads[:place]
        return other


@dataclass(frozen=True, eq=False)
class Said:
    """One step that was said, and the step that it rests on."""

    kind: str
    id: str
    author: str
    envelope: Envelope
    parent: Said | None = None
    attempt: int = 1
    worker: str = ""

    def back_to(self, *kinds: str) -> Said:
        """The nearest of these kinds that it rests on in the end, or itself."""
        found: Said | None = self
        while found is not None and found.kind not in kinds:
            found = found.parent
        if found is None:
            raise LookupError(f"a {self.kind} rests on none of {kinds}")
        return found

    @property
    def about(self) -> str:
        """The id of the seed."""
        return self.back_to("seed").id


Mistake = Callable[[JsonObject], None]


class Teller:
    """Says steps that rest on what they should rest on. All that was said is in ``envelopes``, by time."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.said: list[Said] = []
        self.mistake: Mistake | None = None
        """Changes the next payload's object before it is signed."""

    @property
    def now(self) -> int:
        """Seconds; one more for each envelope."""
        return NOW_S + len(self.envelopes)

    def _say(self, pen: Pen, kind: Kind, payload: JsonObject) -> Envelope:
        pen.nonce = len(self.envelopes)  # what two copies say for one place always differs
        envelope = pen.say(kind, payload, self.now)
        pen.heads.append(pen.head)
        self.envelopes.append(envelope)
        return envelope

    def _state(self, pen: Pen, kind: Kind, step: tuple[str, str], parent: Said | None, **fields: JsonValue) -> Said:
        key, name = step
        stated: JsonObject = {"id": pen.next_object_id(), **fields}
        if parent is not None:
            stated["rests_on"] = parent.envelope.meta.id
        if kind is not Kind.TASK_SETTLE:
            stated["created_at"] = self.now
        if self.mistake is not None:
            self.mistake(stated)
            self.mistake = None
        own_id = pen.next_object_id()
        envelope = self._say(pen, kind, {key: stated})
        attempt, worker = fields.get("attempt", 1), fields.get("worker", "")
        if not isinstance(attempt, int) or not isinstance(worker, str):
            raise TypeError("attempt and worker")
        said = Said(name, own_id, pen.id, envelope, parent, attempt, worker)
        self.said.append(said)
        return said

    def filler(self, pen: Pen, count: int = 1) -> None:
        """Entries of a later version, which mean nothing here."""
        for _ in range(count):
            self._say(pen, Kind.UNKNOWN, {})

    def seed(self, pen: Pen, **changes: JsonValue) -> Said:
        terms: JsonObject = {"exec_deadline_ms": 2_000, "timeout_ms": 1_000, "bid_deadline_ts": self.now + 10_000}
        stated = pen.seed(self.now, **(terms | changes))
        return self._state(pen, Kind.SEED_CREATED, ("seed", "seed"), None, **stated)

    def bid(self, pen: Pen, seed: Said, price: int = 5) -> Said:
        fields: JsonObject = {"seed_id": seed.about, "bidder": pen.id, "price": price}
        return self._state(pen, Kind.BID_SUBMITTED, ("bid", "bid"), seed, **fields)

    def claim(self, pen: Pen, bid: Said, attempt: int = 1) -> Said:
        fields: JsonObject = {"seed_id": bid.about, "bid_id": bid.id, "worker": bid.author, "attempt": attempt}
        return self._state(pen, Kind.CLAIM_CREATED, ("claim", "claim"), bid, **fields)

    def start(self, pen: Pen, claim: Said) -> Said:
        fields: JsonObject = {"seed_id": claim.about, "claim_id": claim.id, "worker": pen.id}
        return self._state(pen, Kind.TASK_STARTED, ("run", "start"), claim, **fields)

    def renew(self, pen: Pen, start: Said) -> Said:
        claim = start.back_to("claim")
        fields: JsonObject = {"seed_id": start.about, "claim_id": claim.id, "worker": pen.id, "renews": start.id}
        return self._state(pen, Kind.TASK_STARTED, ("run", "renewal"), claim, **fields)

    def result(self, pen: Pen, parent: Said, failed: str | None = None) -> Said:
        """``parent`` is the start, or the claim if nothing was started."""
        fields: JsonObject = {"seed_id": parent.about, "claim_id": parent.back_to("claim").id, "worker": pen.id}
        fields |= {"exit_code": 0, "timed_out": False, "output_hash": "0", "duration_ms": 1}
        if failed is not None:
            fields["failed"] = failed
        return self._state(pen, Kind.TASK_RESULT, ("result", "result"), parent, **fields)

    def settle(self, pen: Pen, parent: Said, status: str = "Accepted") -> Said:
        """``parent`` is a result, a claim or failed result for ``Forfeited``, a claim or seed for ``Expired``."""
        fields: JsonObject = {"id": parent.about, "status": status}
        if parent.kind != "seed":
            claim = parent.back_to("claim")
            fields |= {"claim_id": claim.id, "attempt": claim.attempt}
        if parent.kind == "result":
            fields["result_id"] = parent.id
        return self._state(pen, Kind.TASK_SETTLE, ("seed", "settle"), parent, **fields)

    def acknowledge(self, pen: Pen, settlement: Said) -> Said:
        fields: JsonObject = {"seed_id": settlement.about, "worker": pen.id}
        return self._state(pen, Kind.SETTLE_ACKNOWLEDGED, ("acknowledgement", "ack"), settlement, **fields)
