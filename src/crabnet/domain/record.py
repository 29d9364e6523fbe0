"""The facts about one seed that count. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from crabnet.domain.model import Claim, Fact, FactKind, Progress, Run, Seed, TaskResult


class Record(Struct, frozen=True, gc=False):
    """The facts about one seed that count. Facts that never counted are only in the journal.

    ``bids`` are sorted by (created_at, id), ``others`` by (author, seq, envelope).
    """

    seed: Fact | None = None
    bids: tuple[Fact, ...] = ()
    others: tuple[Fact, ...] = ()
    progress: Progress = Progress()
    fallen: tuple[Fact, ...] = ()
    """Facts that counted before and do not count now, in the order of ``others``. They may count again, and need not be
    journalled whole then. No rule looks at them.
    """

    @property
    def definition(self) -> Seed | None:
        """The seed's definition, once it is known."""
        return None if self.seed is None else as_seed(self.seed)

    def facts(self) -> Iterable[Fact]:
        """Every fact that counts."""
        if self.seed is not None:
            yield self.seed
        yield from self.bids
        yield from self.others

    @property
    def claim(self) -> Fact | None:
        """The current claim."""
        return self._stated(FactKind.CLAIM, self.progress.claim_id)

    @property
    def run(self) -> Fact | None:
        """The start of the run of the current claim."""
        return self._stated(FactKind.STARTED, self.progress.run_id)

    @property
    def result(self) -> Fact | None:
        """The result of the current claim."""
        return self._stated(FactKind.RESULT, self.progress.result_id)

    @property
    def worker_failed(self) -> bool:
        """True if the result of the current claim says that the worker, and not the task, has failed."""
        result = self.result
        return result is not None and isinstance(result.body, TaskResult) and result.body.worker_failed

    def began(self, claim_id: str) -> bool:
        """True if a worker started the command of a claim, current or past, as far as this node knows."""
        work = [fact.body for fact in (*self.others, *self.fallen)]
        started = any(isinstance(body, Run) and body.claim_id == claim_id for body in work)
        return started and all(
            body.began for body in work if isinstance(body, TaskResult) and body.claim_id == claim_id
        )

    def _stated(self, kind: FactKind, object_id: str | None) -> Fact | None:
        """Compares the kind as well: at one place of a forked feed an author may have started and finished a run."""
        if object_id is not None:
            for fact in self.others:
                if fact.kind is kind and fact.body.id == object_id:
                    return fact
        return None

    def find(self, envelope_id: str) -> Fact | None:
        """The fact of an envelope, if it counts."""
        if self.seed is not None and self.seed.envelope == envelope_id:
            return self.seed
        for facts in (self.others, self.bids):
            for fact in facts:
                if fact.envelope == envelope_id:
                    return fact
        return None


EMPTY: Final = Record()


def as_seed(fact: Fact) -> Seed:
    """The definition that a fact states. Raises TypeError for a fact of another kind."""
    if not isinstance(fact.body, Seed):
        raise TypeError(f"{fact.kind} is not a seed definition")
    return fact.body


def names(fact: Fact, other: Fact | None, object_id: str | None) -> bool:
    """True if ``fact`` rests on ``other``: it names its envelope's id, or its object's id if either is unsigned."""
    if other is None:
        return False
    if fact.rests_on:
        return fact.rests_on == other.envelope
    return other.key == object_id and not (fact.signed and other.signed)


def counting_bids(record: Record) -> list[Fact]:
    """The bids that count: the ``max_bids`` lowest eligible bids by (created_at, id), and every claimed bid."""
    seed = record.definition
    if seed is None:
        return []
    eligible = list(record.bids)
    if seed.max_bids == 0 or len(eligible) <= seed.max_bids:
        return eligible
    claimed = claimed_bids(record)
    return eligible[: seed.max_bids] + [fact for fact in eligible[seed.max_bids :] if fact in claimed]


def claimed_bids(record: Record) -> list[Fact]:
    """The bids that have a claim that counts."""
    claims = [fact for fact in record.others if isinstance(fact.body, Claim)]
    return [
        bid
        for bid in record.bids
        if any(names(claim, bid, claim.body.bid_id) for claim in claims if isinstance(claim.body, Claim))
    ]


def bid_order(fact: Fact) -> tuple[int, str, str]:
    """Order in which bids count."""
    return (fact.body.created_at or 0, fact.key, fact.envelope)


def other_order(fact: Fact) -> tuple[str, int, str, str]:
    """Order of the other facts, the same in every node."""
    return (fact.author, fact.seq, fact.envelope, fact.key)
