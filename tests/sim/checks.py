"""What must hold after every step of a simulation, whatever network, disks and liars do.

The checks look at what a step has changed only, and say again in their own words what the rules are: they do not ask
the code under test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

from crabnet import limits
from crabnet.core.commands import Received
from crabnet.core.effects import Effects, FeedPlace, Send
from crabnet.domain.lifecycle import Entry, Record
from crabnet.domain.model import FINAL, Bid, Claim, Fact, FactKind, Run, SeedStatus, Settlement, TaskResult
from crabnet.protocol.envelope import FEED_KINDS
from tests.domain.reference import standing
from tests.sim.node import SimNode

_MEMORY_EVERY_STEPS = 50
_REFERENCE_EVERY_CHANGES = 16
_REMEMBERED_MAX = 200_000


class ViolationError(AssertionError):
    """Something happened that must not happen."""


class _Fact(NamedTuple):
    """What a node shows of a seed after a step: counts for the checks across nodes and lives once it is durable."""

    seed_id: str
    status: SeedStatus
    claims: dict[int, str]
    settlements: dict[int, str]
    tainted: bool


class Safety:
    """Watches all nodes. ``liars`` are authors who fork their feeds: what they are part of may be taken back."""

    def __init__(self, honest: frozenset[str], liars: set[str]) -> None:
        self._honest = honest
        self._liars = liars
        self._final: dict[tuple[str, str], SeedStatus] = {}
        self._claims: dict[tuple[str, int], str] = {}
        self._settlements: dict[tuple[str, int], str] = {}
        self._places: dict[str, dict[int, str]] = {}
        self._effective: dict[str, set[bytes]] = {}
        self._seen_before_durable: dict[str, dict[int, list[_Fact]]] = {}
        self._known: dict[str, set[str]] = {}
        self._steps = 0
        self.changes = 0

    # --- steps -----------------------------------------------------------------------------------------

    def stepped(self, node: SimNode, effects: Effects) -> None:
        shown: list[_Fact] = []
        for notice in effects.notices:
            self._knows(node, notice.fields.get("seed_id"))
            if notice.kind == "seed_changed":
                shown += self._changed(node, str(notice.fields["seed_id"]))
            elif notice.kind == "fork_detected" and notice.fields["author"] in self._honest:
                raise ViolationError(f"{node.name} found that the honest {notice.fields['author']} forked its feed")
        if shown:
            self._seen_before_durable.setdefault(node.name, {})[id(effects)] = shown
        self._steps += 1
        if self._steps % _MEMORY_EVERY_STEPS == 0:
            self.bounded(node)

    def durable(self, node: SimNode, effects: Effects) -> None:
        for fact in self._seen_before_durable.get(node.name, {}).pop(id(effects), []):
            if fact.status in FINAL:
                self._final[node.name, fact.seed_id] = fact.status
            if fact.tainted:
                continue
            for found, known in ((fact.claims, self._claims), (fact.settlements, self._settlements)):
                for attempt, key in found.items():
                    if known.setdefault((fact.seed_id, attempt), key) != key:
                        raise ViolationError(
                            f"{node.name}: {key} stands for {fact.seed_id} #{attempt},"
                            f" elsewhere {known[fact.seed_id, attempt]}"
                        )

    def received(self, node: SimNode, given: Received, effects: Effects) -> None:
        """A message has no effect twice in the life of a node."""
        talk = b'"seq":0' in given.data
        if not effects.records and not (talk and (effects.serves or effects.sends)):
            return
        known = self._effective.setdefault(f"{node.name} {node.lives}", set())
        digest = sha256(given.data).digest()[:12]
        if digest in known:
            raise ViolationError(f"{node.name}: a replay had an effect: {given.data[:200]!r} from {given.source}")
        if len(known) < _REMEMBERED_MAX:
            known.add(digest)

    def acknowledged(self, node: SimNode, place: FeedPlace) -> None:
        self._keep(node, place.author, place.seq, place.envelope_id)

    def sent(self, node: SimNode, send: Send) -> None:
        if send.kind in FEED_KINDS and send.to is None:
            self._held(node, send)

    def _held(self, node: SimNode, send: Send) -> None:
        """Sent is held, and stays so: what a node has sent of its own feed is there after any crash."""
        feed = node.running.replica.feeds.get(node.id)
        for seq in range(feed.head_seq, max(feed.window_start, feed.head_seq - 64) - 1, -1):
            entry = feed.entry(seq)
            if entry is not None and entry.id == send.envelope_id:
                self._keep(node, node.id, seq, send.envelope_id)
                return

    def _keep(self, node: SimNode, author: str, seq: int, envelope_id: str) -> None:
        if author != node.id:
            raise ViolationError(f"{node.name} acknowledged an envelope of {author}")
        kept = self._places.setdefault(node.name, {})
        if kept.setdefault(seq, envelope_id) != envelope_id:
            raise ViolationError(f"{node.name} has said two things at {seq}: {kept[seq]} and {envelope_id}")

    def started(self, node: SimNode) -> None:
        """What was acknowledged or sent before is there again."""
        self._seen_before_durable.pop(node.name, None)
        feed = node.running.replica.feeds.get(node.id)
        for seq, envelope_id in self._places.get(node.name, {}).items():
            held = feed.entry(seq)
            if seq > feed.head_seq or (held is not None and held.id != envelope_id):
                raise ViolationError(f"{node.name} lost {envelope_id} at {seq}, which it had acknowledged or sent")
        for seed_id, record in node.running.replica.state.records.items():
            self._reopened(node, seed_id, record)
            self._knows(node, seed_id)

    # --- one seed --------------------------------------------------------------------------------------

    def _changed(self, node: SimNode, seed_id: str) -> list[_Fact]:
        record = node.running.replica.state.records.get(seed_id)
        if record is None or record.definition is None:
            return []
        self.changes += 1
        claims = _once(node, seed_id, record, FactKind.CLAIM)
        settlements = _once(node, seed_id, record, FactKind.SETTLE, FactKind.FORFEIT)
        self._authorised(node, seed_id, record)
        self._reopened(node, seed_id, record)
        if self.changes % _REFERENCE_EVERY_CHANGES == 0:
            compare_with_reference(node, seed_id, record)
        return [_Fact(seed_id, record.progress.status, claims, settlements, self._tainted(record))]

    def _tainted(self, record: Record) -> bool:
        """True if a liar took part, also one whose bid is gone since it forked its feed: the claim still names it."""
        return any(
            fact.author in self._liars or (isinstance(fact.body, Claim) and fact.body.worker in self._liars)
            for fact in record.facts()
        )

    def _reopened(self, node: SimNode, seed_id: str, record: Record) -> None:
        """Nothing settled re-opens, but where a liar took part."""
        status = record.progress.status
        before = self._final.get((node.name, seed_id))
        if before is not None and status is not before and not self._tainted(record):
            raise ViolationError(f"{node.name}: seed {seed_id} was {before.value}, is {status.value}")

    def _authorised(self, node: SimNode, seed_id: str, record: Record) -> None:
        """Whatever counts was said by somebody who may say it."""
        seed = record.definition
        if seed is None:
            return
        claims = {fact.key: fact.body for fact in _standing(record) if isinstance(fact.body, Claim)}
        for fact in _standing(record):
            if not _may_say(fact, seed.created_by, claims, record.bids):
                raise ViolationError(f"{node.name}: {fact.kind.value} {fact.key} of {fact.author} counts for {seed_id}")

    def _knows(self, node: SimNode, seed_id: object) -> None:
        """Remember that a node has had a seed, whether or not a fork takes it back."""
        if isinstance(seed_id, str) and node.running.replica.definition(seed_id) is not None:
            self._known.setdefault(node.name, set()).add(seed_id)

    # --- memory ----------------------------------------------------------------------------------------

    def bounded(self, node: SimNode) -> None:
        """All tables that others can fill are within their bounds."""
        if node.core is None:
            return
        for name, held, most in (*tables(node), *_orphans(node, self._known.get(node.name, set()))):
            if held > most:
                raise ViolationError(f"{node.name}: {name} holds {held}, at most {most}")


def tables(node: SimNode) -> Iterator[tuple[str, int, int]]:
    """(name, what it holds, its bound) of what strangers can make a node remember."""
    core = node.running
    replica = core.replica
    yield "seen", len(replica.seen), node.config.seen_capacity
    yield "parking", len(replica.parking), limits.PARKED_ENVELOPES_MAX
    yield "missing feeds", len(core.neighbours.planner), limits.SYNC_MISSING_FEEDS_MAX
    yield "confirmed peers", len(core.neighbours.peers.confirmed()), limits.PEERS_MAX
    yield "reassembly", node.reassembler.bytes_held, limits.REASSEMBLY_BYTES_MAX
    yield "sent fragments", node.sent_cache.bytes_held, limits.SENT_FRAGMENTS_CACHE_BYTES_MAX
    for feed in replica.feeds.all():
        yield "proofs of a fork", len(feed.forks), limits.FORK_PROOFS_PER_FEED_MAX


def _orphans(node: SimNode, known: set[str]) -> Iterator[tuple[str, int, int]]:
    """The same for facts about seeds that are in no feed. Those of a seed that its author's fork took back stay."""
    held = Counter(
        fact.author
        for seed_id, record in node.running.replica.state.records.items()
        if record.seed is None and seed_id not in known
        for fact in record.facts()
    )
    yield "orphans", held.total(), limits.ORPHAN_FACTS_MAX
    yield "orphans of an author", max(held.values(), default=0), limits.ORPHAN_FACTS_PER_AUTHOR_MAX


def _once(node: SimNode, seed_id: str, record: Record, *kinds: FactKind) -> dict[int, str]:
    """What of these kinds stands, by attempt: one at most."""
    held: dict[int, str] = {}
    for fact in _standing(record):
        body = fact.body
        if fact.kind not in kinds or not isinstance(body, Claim | Settlement):
            continue
        if held.setdefault(body.attempt, fact.key) != fact.key:
            raise ViolationError(
                f"{node.name}: {held[body.attempt]} and {fact.key} stand for {seed_id} #{body.attempt}"
            )
    return held


def _standing(record: Record) -> Iterator[Fact]:
    return (entry.fact for entry in record.others if entry.effective)


def _may_say(fact: Fact, creator: str, claims: dict[str, Claim], bids: tuple[Entry, ...]) -> bool:
    body = fact.body
    if isinstance(body, Claim):
        chosen = next((entry.fact for entry in bids if entry.fact.key == body.bid_id), None)
        fits = chosen is not None and isinstance(chosen.body, Bid) and chosen.body.bidder == body.worker
        return fact.author == creator and fits and chosen is not None and chosen.author == body.worker
    if isinstance(body, Run | TaskResult):
        claim = claims.get(body.claim_id or "")
        return claim is not None and claim.worker == fact.author
    return fact.author == creator


def compare_with_reference(node: SimNode, seed_id: str, record: Record) -> None:
    """A seed stands where a second implementation of the rules says that its facts put it."""
    expected, _ = standing(list(record.facts()))
    progress = record.progress
    found = (progress.status.value, progress.attempt, progress.claim_id, progress.result_id)
    if found != (expected.status, expected.attempt, expected.claim_id, expected.result_id):
        raise ViolationError(f"{node.name}: seed {seed_id} is {found}, its facts say {expected}")
