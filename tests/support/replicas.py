"""The replica of ``crabnet.core`` as the tests of any order see it: restarted, checkpointed and archived meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from msgspec import Struct

from crabnet.core.replica.applied import Applied
from crabnet.core.replica.records import SegmentRow, decode_frame, frame_of
from crabnet.core.replica.replica import Replica
from crabnet.core.replica.rows import seed_row
from crabnet.core.replica.snapshot import Snapshot, restore
from crabnet.domain.model import FINAL, FactKind, SeedStatus
from crabnet.domain.record import Record, claimed_bids
from crabnet.domain.state import Caps
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.protocol.fork_proof import choose_pair
from tests.support.naive_state import DISPUTED, NaiveSeed, NaiveState

_AGE_S = 10**9


class Habits(Struct, frozen=True):
    """What a replica does every so many envelopes; 0: never. ``settled`` facts of ended feeds are worked off each."""

    restarts: int = 0
    checkpoints: int = 0
    archives: int = 0
    settled: int = 1_000_000


class CoreReplica:
    """Takes envelopes as they come, however old."""

    def __init__(self, caps: Caps, habits: Habits) -> None:
        self._caps = caps
        self._habits = habits
        self._count = 0
        self._segments = 0
        self._archive: dict[str, bytes] = {}
        self._journal: list[bytes] = []
        self.replica = self._fresh()

    def _fresh(self) -> Replica:
        policy = AdmissionPolicy("default", message_ttl_s=_AGE_S)
        replica = Replica(policy, seen_ttl_s=0, seen_capacity=1, parked_ttl_s=_AGE_S, caps=self._caps)
        replica.archived.read_row = self._archive.get
        return replica

    def receive(self, raw: bytes, now_s: int) -> None:
        """Take an envelope, let it wait, or drop it."""
        self._note(self.replica.receive(raw, now_s))
        self._note(self.replica.settling.settle_some(self._habits.settled, now_s))
        self._count += 1
        if self._is_due(self._habits.archives):
            self._put_away(now_s)
        if self._is_due(self._habits.checkpoints):
            self._load_checkpoint(now_s)
        if self._is_due(self._habits.restarts):
            self._restart(now_s)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self._count % every == 0

    def _note(self, applied: Iterable[Applied]) -> None:
        self._journal += [item.record for item in applied if item.record is not None]

    def _restart(self, now_s: int) -> None:
        fresh = self._fresh()
        for record in decode_frame(frame_of(self._journal)):
            fresh.replay(record)
        self._replace(fresh, now_s)

    def _load_checkpoint(self, now_s: int) -> None:
        fresh = self._fresh()
        restore(fresh, list(Snapshot(self.replica).rows()))
        fresh.held = self.replica.held
        self._replace(fresh, now_s)

    def _replace(self, fresh: Replica, now_s: int) -> None:
        if fresh.state_hash() != self.replica.state_hash():
            raise AssertionError("a restart gives another state")
        waiting = self.replica.parking.expire(2**62)
        self.replica = fresh
        self._note(fresh.settling.resume(now_s))
        for parked in waiting:  # a neighbour sends them again
            self._note(fresh.receive(parked.admitted.envelope.raw, now_s))

    def _put_away(self, now_s: int) -> None:
        """Archive all that is settled or closed."""
        records = self.replica.state.records
        done = tuple(seed_id for seed_id, record in records.items() if record.progress.status in FINAL)
        if not done:
            return
        self._archive.update({seed_id: seed_row(seed_id, records[seed_id]) for seed_id in done})
        self._segments += 1
        name = hashlib.sha256(b"%d" % self._segments).hexdigest()
        self._journal.append(self.replica.archive(SegmentRow(self._segments, name, len(done)), done, now_s))

    def lacks(self) -> list[tuple[str, str]]:
        """(Seed id, envelope id) of what is named and not held."""
        return [(named.seed_id, named.envelope_id) for named, _ in self.replica.parking.lacking()]

    def learn_fork(self, raws: Iterable[bytes], now_s: int) -> bool:
        """Take the proof that two of these envelopes are; False if it is no news."""
        evidence = choose_pair(list(raws), self.replica.admission)
        learned = [] if evidence is None else self.replica.learn_fork(evidence, now_s, "neighbour")
        self._note(learned)
        return bool(learned)

    def state(self) -> NaiveState:
        """Heads and seeds, when all consequences of ends are drawn."""
        self._note(self.replica.settling.settle_all(0))
        heads = {
            feed.author: (feed.head_seq, feed.head_id, feed.end == feed.head_seq + 1)
            for feed in self.replica.feeds.all()
            if feed.head_seq or feed.end == 1
        }
        archived = [seed_id for seed_id in self._archive if self.replica.archived.holds(seed_id)]
        for seed_id in archived:
            if seed_id not in self.replica.state.erased:
                self.replica.archived.readmit((seed_id,))
        seeds = {
            seed_id: naive_seed(record)
            for seed_id, record in self.replica.state.records.items()
            if record.seed is not None
        }
        for seed_id in archived:
            self.replica.state.evict(seed_id)
        return NaiveState(heads, seeds)


def naive_seed(record: Record) -> NaiveSeed:
    """A record in the words of the naive rules."""
    progress = record.progress
    if progress.status is SeedStatus.DISPUTED:
        return DISPUTED
    counted = [fact for fact in record.others if fact.kind is not FactKind.ACKNOWLEDGED]
    return NaiveSeed(
        progress.status.value,
        progress.attempt,
        progress.claim_id,
        progress.claimed_by,
        progress.run_id,
        progress.result_id,
        progress.settled_at,
        progress.renewals,
        frozenset(fact.envelope for fact in (*counted, *claimed_bids(record))),
        "" if record.seed is None else record.seed.envelope,
    )
