"""Makes a realistic stream of signed envelopes: interleaved whole lifecycles of many seeds, from several authors."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from crabnet.domain.fold import refold
from crabnet.domain.model import (
    Acknowledgement,
    Bid,
    Body,
    Claim,
    Fact,
    FactKind,
    Progress,
    Run,
    Seed,
    SeedStatus,
    Settlement,
    TaskResult,
    Termination,
    TerminationCause,
)
from crabnet.domain.record import Record
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope, Kind, object_id, seal
from crabnet.protocol.feed import Feed
from crabnet.protocol.identity import Signer
from crabnet.protocol.payloads import payload_of

NAMESPACE: Final = "default"
PUBLISHERS: Final = 8
WORKERS: Final = 8
BIDS_PER_SEED: Final = 3
_AT_ONCE: Final = 64
"""The number of lifecycles that go on at the same time."""
_OUTPUT: Final = "line of output from a command that somebody ran\n" * 6


class Message(Struct, frozen=True):
    """An envelope in transit: its bytes, its source address, and the parsed envelope for the bare verification."""

    raw: bytes
    source: str
    envelope: Envelope


class Author:
    """One node that signs envelopes."""

    def __init__(self, name: str, number: int) -> None:
        self.signer = Signer(hashlib.sha256(name.encode()).digest())
        self.source = f"udp:10.0.0.{number}:9012"
        self.seq = 0
        self.head_id = ""

    @property
    def id(self) -> str:
        """The node id."""
        return self.signer.node_id

    def next_id(self) -> str:
        """The id of the object that the next envelope creates."""
        return object_id(NAMESPACE, self.id, self.seq + 1)

    def skip(self) -> int:
        """Take the next place in the feed without an envelope; returns its seq."""
        self.seq += 1
        self.head_id = hashlib.sha256(f"{self.id}/{self.seq}".encode()).hexdigest()
        return self.seq

    def say(self, kind: Kind, payload: JsonObject, now_s: int, nonce: int) -> Message:
        """Sign the next envelope of the feed."""
        envelope = seal(
            self.signer,
            kind=kind,
            namespace=NAMESPACE,
            ts=now_s,
            nonce=nonce,
            payload=payload,
            seq=self.seq + 1,
            prev=self.head_id,
        )
        self.seq += 1
        self.head_id = envelope.meta.id
        return Message(envelope.raw, self.source, envelope)


class Population:
    """Publishers and workers, the seeds that a node holds already, and the next envelopes."""

    def __init__(self, now_s: int, seed: int = 1) -> None:
        self.now_s = now_s
        self.publishers = [Author(f"publisher {number}", number) for number in range(PUBLISHERS)]
        self.workers = [Author(f"worker {number}", 100 + number) for number in range(WORKERS)]
        self._random = random.Random(seed)
        self._open: list[tuple[Author, Seed, str]] = []
        self._under_way: deque[Iterator[Message]] = deque()

    @property
    def authors(self) -> list[Author]:
        """All publishers and workers."""
        return [*self.publishers, *self.workers]

    def hold(self, seeds: int) -> dict[str, Record]:
        """Unsigned records of ``seeds`` seeds that a node holds. Most are settled, the others are at every stage."""
        records: dict[str, Record] = {}
        for number in range(seeds):
            facts = self._facts(number % 10)
            records[facts[0].seed_id] = refold(facts, lambda _: True)
        self._random.shuffle(self._open)
        return records

    def feeds(self) -> list[Feed]:
        """The feeds that belong to the held seeds."""
        return [Feed(author.id, author.seq, author.head_id) for author in self.authors if author.seq]

    def messages(self, count: int) -> list[Message]:
        """The next ``count`` envelopes. Half of the lifecycles continue seeds that are held already."""
        messages: list[Message] = []
        while len(messages) < count:
            while len(self._under_way) < _AT_ONCE:
                self._under_way.append(self._lifecycle())
            lifecycle = self._under_way.popleft()
            message = next(lifecycle, None)
            if message is not None:
                messages.append(message)
                self._under_way.append(lifecycle)
        return messages

    def _fact(self, author: Author, kind: FactKind, body: Body) -> Fact:
        seq = author.skip()
        return Fact(kind=kind, author=author.id, seq=seq, ts=self.now_s, body=body, envelope=author.head_id)

    def _facts(self, stage: int) -> list[Fact]:
        """The facts of a seed. Stages 0 and 1 are open, 2 is claimed, 3 is running, higher ones are accepted."""
        publisher = self._random.choice(self.publishers)
        seed = self._seed(publisher)
        facts = [self._fact(publisher, FactKind.SEED, seed)]
        if stage < 2:
            self._open.append((publisher, seed, facts[0].envelope))
            return facts
        bidders = self._random.sample(self.workers, BIDS_PER_SEED)
        bids = [self._bid(bidder, seed, facts[0].envelope) for bidder in bidders]
        facts += [self._fact(bidder, FactKind.BID, bid) for bidder, bid in zip(bidders, bids, strict=True)]
        claim = self._claim(publisher, bids[0], facts[1].envelope)
        facts.append(self._fact(publisher, FactKind.CLAIM, claim))
        if stage == 2:
            return facts
        run = self._run(bidders[0], claim, facts[-1].envelope)
        facts.append(self._fact(bidders[0], FactKind.STARTED, run))
        if stage == 3:
            return facts
        result = self._result(bidders[0], claim, facts[-1].envelope)
        facts.append(self._fact(bidders[0], FactKind.RESULT, result))
        settlement = self._settlement(publisher, claim, result, facts[-1].envelope)
        facts.append(self._fact(publisher, FactKind.SETTLE, settlement))
        acknowledgement = self._acknowledgement(bidders[0], seed, facts[-1].envelope)
        facts.append(self._fact(bidders[0], FactKind.ACKNOWLEDGED, acknowledgement))
        return facts

    def _lifecycle(self) -> Iterator[Message]:
        if self._open and self._random.random() < 0.5:
            publisher, seed, offered = self._open.pop()
        else:
            publisher = self._random.choice(self.publishers)
            seed = self._seed(publisher)
            said = self._say(publisher, seed)
            yield said
            offered = said.envelope.meta.id
        bidders = self._random.sample(self.workers, BIDS_PER_SEED)
        bids = []
        named = []
        for bidder in bidders:
            bid = self._bid(bidder, seed, offered)
            bids.append(bid)
            said = self._say(bidder, bid)
            named.append(said.envelope.meta.id)
            yield said
        claim = self._claim(publisher, bids[0], named[0])
        said = self._say(publisher, claim)
        yield said
        said = self._say(bidders[0], self._run(bidders[0], claim, said.envelope.meta.id))
        yield said
        result = self._result(bidders[0], claim, said.envelope.meta.id)
        said = self._say(bidders[0], result)
        yield said
        progress = Progress(
            status=SeedStatus.DONE,
            claim_id=claim.id,
            claimed_by=claim.worker,
            claimed_at=claim.created_at,
            result_id=result.id,
        )
        settlement = self._settlement(publisher, claim, result, said.envelope.meta.id)
        said = self._say(publisher, settlement, seed, progress)
        yield said
        yield self._say(bidders[0], self._acknowledgement(bidders[0], seed, said.envelope.meta.id))

    def _say(
        self, author: Author, body: Body, definition: Seed | None = None, progress: Progress | None = None
    ) -> Message:
        kind, payload = payload_of(body, definition, Progress() if progress is None else progress)
        return author.say(kind, payload, self.now_s, self._random.getrandbits(53))

    def _seed(self, publisher: Author) -> Seed:
        return Seed(
            id=publisher.next_id(),
            title=f"Count the lines of part {publisher.seq}",
            description="Fetch the part, count its lines, print one number. Parts are numbered from 1.",
            command=f"printf %s part-{publisher.seq}",
            timeout_ms=60_000,
            bid_deadline_ts=self.now_s + 3_600,
            exec_deadline_ms=660_000,
            min_price=5,
            reward=20,
            created_by=publisher.id,
            created_at=self.now_s,
            claim_deadline_ts=self.now_s + 7_200,
        )

    def _bid(self, worker: Author, seed: Seed, rests_on: str) -> Bid:
        return Bid(
            id=worker.next_id(),
            seed_id=seed.id,
            bidder=worker.id,
            price=self._random.randint(5, 20),
            created_at=self.now_s,
            rests_on=rests_on,
        )

    def _claim(self, publisher: Author, bid: Bid, rests_on: str) -> Claim:
        return Claim(
            id=publisher.next_id(),
            seed_id=bid.seed_id,
            bid_id=bid.id,
            worker=bid.bidder,
            created_at=self.now_s,
            rests_on=rests_on,
        )

    def _run(self, worker: Author, claim: Claim, rests_on: str) -> Run:
        return Run(
            id=worker.next_id(),
            seed_id=claim.seed_id,
            claim_id=claim.id,
            worker=worker.id,
            created_at=self.now_s,
            rests_on=rests_on,
        )

    def _result(self, worker: Author, claim: Claim, rests_on: str) -> TaskResult:
        return TaskResult(
            id=worker.next_id(),
            seed_id=claim.seed_id,
            worker=worker.id,
            exit_code=0,
            timed_out=False,
            stdout=_OUTPUT,
            output_hash=hashlib.sha256(_OUTPUT.encode()).hexdigest(),
            duration_ms=12,
            claim_id=claim.id,
            created_at=self.now_s,
            termination=Termination(cause=TerminationCause.EXITED, wall_ms=12, cpu_ms=3),
            rests_on=rests_on,
        )

    def _settlement(self, publisher: Author, claim: Claim, result: TaskResult, rests_on: str) -> Settlement:
        return Settlement(
            id=publisher.next_id(),
            seed_id=claim.seed_id,
            outcome=SeedStatus.ACCEPTED,
            claim_id=claim.id,
            result_id=result.id,
            created_at=self.now_s,
            rests_on=rests_on,
        )

    def _acknowledgement(self, worker: Author, seed: Seed, rests_on: str) -> Acknowledgement:
        return Acknowledgement(
            id=worker.next_id(), seed_id=seed.id, worker=worker.id, created_at=self.now_s, rests_on=rests_on
        )
