"""What must hold after every step of a simulation, whatever network, disks and liars do.

The checks look at what a step has changed only, and say again in their own words what the rules are: they do not ask
the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import NamedTuple

from crabnet import limits
from crabnet.core.commands import Received
from crabnet.core.effects import Effects, FeedPlace, Send
from crabnet.core.replica.held import HeldRow, Role
from crabnet.core.replica.records import stated_by, stored_envelope
from crabnet.domain.fold import refold
from crabnet.domain.model import FINAL, Acknowledgement, Claim, Fact, FactKind, Run, SeedStatus, Settlement, TaskResult
from crabnet.domain.record import EMPTY, Record
from crabnet.domain.state import leaf
from crabnet.protocol.envelope import FEED_KINDS
from tests.sim.node import SimNode
from tests.support.naive import expected
from tests.support.naive_state import Caps
from tests.support.replicas import naive_seed

_MEMORY_EVERY_STEPS = 50
_REFOLD_EVERY_CHANGES = 16
_REMEMBERED_MAX = 200_000


class ViolationError(AssertionError):
    """Something happened that must not happen."""


class _Fact(NamedTuple):
    """What a node shows of a seed after a step: counts for the checks across nodes and lives once it is durable."""

    seed_id: str
    status: SeedStatus
    claims: dict[int, str]
    settlements: dict[int, str]
    acknowledged: bool
    tainted: bool


class Safety:
    """Watches all nodes. ``forks`` tells who may fork its feed: its seeds may be taken back, until the worker has
    acknowledged the settlement. Nodes that are given ``imports`` may hold what nobody asks for.
    """

    def __init__(self, honest: frozenset[str], forks: Callable[[str], bool], *, imports: bool = False) -> None:
        self._honest = honest
        self._imports = imports
        self._forks = forks
        self._final: dict[tuple[str, str], SeedStatus] = {}
        self._claims: dict[tuple[str, int], str] = {}
        self._settlements: dict[tuple[str, int], str] = {}
        self._places: dict[str, dict[int, str]] = {}
        self._effective: dict[str, set[bytes]] = {}
        self._seen_before_durable: dict[str, dict[int, list[_Fact]]] = {}
        self._acknowledged: dict[tuple[str, str], SeedStatus] = {}
        self._ends: dict[str, dict[str, int]] = {}
        self._durable_ends: dict[str, dict[str, int]] = {}
        self._states: dict[bytes, str] = {}
        self._steps = 0
        self.changes = 0

    # --- steps -----------------------------------------------------------------------------------------

    def stepped(self, node: SimNode, effects: Effects) -> None:
        shown: list[_Fact] = []
        for notice in effects.notices:
            if notice.kind == "seed_changed":
                shown += self._changed(node, str(notice.fields["seed_id"]))
            elif notice.kind == "feed_ended":
                raise ViolationError(f"{node.name} found that its own feed has ended")
            elif notice.kind == "fork_detected":
                self._ended(node, str(notice.fields["author"]))
        for place in effects.places:
            self._closed(node, place.row)
            if place.row.kind is not None and not self._imports:
                self._asked_for(node, place.row, effects)
            if place.row.kind is FactKind.ACKNOWLEDGED:
                shown += self._changed(node, place.row.seed_id)
        if shown:
            self._seen_before_durable.setdefault(node.name, {})[id(effects)] = shown
        self._steps += 1
        if self._steps % _MEMORY_EVERY_STEPS == 0:
            self.bounded(node)
            self.same_heads_same_state(node)

    def durable(self, node: SimNode, effects: Effects) -> None:
        for notice in effects.notices:
            if notice.kind == "fork_detected":
                author, seq = str(notice.fields["author"]), int(notice.fields["seq"] or 0)
                self._durable_ends.setdefault(node.name, {})[author] = seq
        for fact in self._seen_before_durable.get(node.name, {}).pop(id(effects), []):
            if fact.status in FINAL:
                self._final[node.name, fact.seed_id] = fact.status
            if fact.acknowledged:
                self._acknowledged[node.name, fact.seed_id] = fact.status
            if fact.tainted:
                continue
            for found, known in ((fact.claims, self._claims), (fact.settlements, self._settlements)):
                for attempt, key in found.items():
                    if known.setdefault((fact.seed_id, attempt), key) != key:
                        raise ViolationError(
                            f"{node.name}: {key} stands for {fact.seed_id} #{attempt},"
                            f" elsewhere {known[fact.seed_id, attempt]}"
                        )

    # --- feeds -----------------------------------------------------------------------------------------

    def _ended(self, node: SimNode, author: str) -> None:
        """The end of a feed never moves up, and nothing is in a feed that lies behind it."""
        if author in self._honest:
            raise ViolationError(f"{node.name} found that the honest {author} forked its feed")
        feed = node.running.replica.feeds.get(author)
        ends = self._ends.setdefault(node.name, {})
        before = ends.get(author, 0)
        if not feed.end or (before and feed.end > before):
            raise ViolationError(f"{node.name}: the feed of {author} ended before {before}, now before {feed.end}")
        if feed.head_seq >= feed.end:
            raise ViolationError(
                f"{node.name}: the feed of {author} ends before {feed.end}, its head is {feed.head_seq}"
            )
        ends[author] = feed.end

    def _closed(self, node: SimNode, row: HeldRow) -> None:
        """What an envelope rests on is held before it."""
        if row.parent and node.history.held.envelope(row.seed_id, row.parent) is None:
            raise ViolationError(f"{node.name} holds {row.envelope_id}, and not {row.parent}, on which it rests")

    def _asked_for(self, node: SimNode, row: HeldRow, effects: Effects) -> None:
        """What lies behind the end of its feed is taken only since something that waits rests on it."""
        replica = node.running.replica
        if replica.feeds.is_front(row.author, row.seq):
            return
        came = [node.history.held.envelope(place.row.seed_id, place.row.envelope_id) for place in effects.places]
        name = row.envelope_id.encode()
        if not any(found is not None and found[0] is not row and name in found[1] for found in came):
            raise ViolationError(f"{node.name} took {row.envelope_id}, which is behind an end and which nobody named")

    def same_heads_same_state(self, node: SimNode) -> None:
        """What stands follows from the fronts of all feeds alone, whichever way and in whichever order they came."""
        if node.core is None or node.core.replica.settling.pending:
            return
        replica = node.core.replica
        heads = sorted((feed.author, feed.head_seq, feed.head_id, feed.end) for feed in replica.feeds.all())
        state_hash = replica.state_hash()
        if self._states.setdefault(sha256(repr(heads).encode()).digest(), state_hash) != state_hash:
            raise ViolationError(f"{node.name} holds what another held, and its state is another: {state_hash}")

    def received(self, node: SimNode, given: Received, effects: Effects) -> None:
        """A message has no effect twice in the life of a node."""
        talk = b'"seq":0' in given.data
        served = effects.serves or effects.serves_named or effects.proofs
        if not effects.records and not (talk and (served or effects.sends)):
            return
        known = self._effective.setdefault(f"{node.name} {node.lives}", set())
        digest = sha256(given.data).digest()[:12]
        if effects.places and effects.places[0].row.kind is None:
            digest = b"evidence" + digest  # once that, and once behind the end, when others rest on it
        if digest in known:
            raise ViolationError(f"{node.name}: a replay had an effect: {given.data[:200]!r} from {given.source}")
        if len(known) < _REMEMBERED_MAX:
            known.add(digest)

    def acknowledged(self, node: SimNode, place: FeedPlace) -> None:
        self._keep(node, place.row.author, place.row.seq, place.row.envelope_id)

    def sent(self, node: SimNode, send: Send) -> None:
        if send.kind in FEED_KINDS and send.to is None:
            self._held(node, send)

    def _held(self, node: SimNode, send: Send) -> None:
        """Sent is held, and stays so: what a node has sent of its own feed is there after any crash."""
        feed = node.running.replica.feeds.get(node.id)
        for seq in range(feed.head_seq, max(0, feed.head_seq - 64), -1):
            if feed.in_window(seq) == send.envelope_id:
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
        feeds = node.running.replica.feeds
        for seq, envelope_id in self._places.get(node.name, {}).items():
            if feeds.id_at(node.id, seq) != envelope_id:
                raise ViolationError(f"{node.name} lost {envelope_id} at {seq}, which it had acknowledged or sent")
        ends = self._durable_ends.get(node.name, {})
        for author, end in ends.items():
            if not 0 < feeds.get(author).end <= end:
                raise ViolationError(f"{node.name} forgot that the feed of {author} ends before {end}")
        self._ends[node.name] = dict(ends)
        for row in node.history.rows():
            self._closed(node, row)
        for seed_id, record in node.running.replica.state.records.items():
            self._reopened(node, seed_id, record)

    # --- one seed --------------------------------------------------------------------------------------

    def _changed(self, node: SimNode, seed_id: str) -> list[_Fact]:
        record = node.running.replica.state.records.get(seed_id)
        if record is None or record.definition is None:
            return []
        self.changes += 1
        disputed = record.progress.status is SeedStatus.DISPUTED
        if disputed and not self._forks(record.definition.created_by):
            raise ViolationError(f"{node.name}: seed {seed_id} of an honest creator is disputed")
        claims = {} if disputed else _once(node, seed_id, record, FactKind.CLAIM)
        settlements = {} if disputed else _once(node, seed_id, record, FactKind.SETTLE, FactKind.FORFEIT)
        if not disputed:
            _authorised(node, seed_id, record)
        self._reopened(node, seed_id, record)
        if self.changes % _REFOLD_EVERY_CHANGES == 0:
            compare_with_refold(node, seed_id, record)
        own = any(fact.kind is FactKind.ACKNOWLEDGED and fact.author == node.id for fact in record.others)
        return [_Fact(seed_id, record.progress.status, claims, settlements, own, self._tainted(record))]

    def _tainted(self, record: Record) -> bool:
        """True if the creator forks: only its own steps can be taken back, whatever a worker does."""
        return record.definition is not None and self._forks(record.definition.created_by)

    def _reopened(self, node: SimNode, seed_id: str, record: Record) -> None:
        """Nothing settled re-opens; a creator who forks can dispute it once it was acknowledged, no more."""
        status = record.progress.status
        before = self._final.get((node.name, seed_id))
        known = record.definition is not None  # else its creator's fork took all of it back
        if known and before is not None and status is not before and not self._tainted(record):
            raise ViolationError(f"{node.name}: seed {seed_id} was {before.value}, is {status.value}")
        acknowledged = self._acknowledged.get((node.name, seed_id))
        if acknowledged is not None and status not in {acknowledged, SeedStatus.DISPUTED}:
            raise ViolationError(
                f"{node.name}: seed {seed_id}, acknowledged here as {acknowledged.value}, is {status.value}"
            )

    # --- memory ----------------------------------------------------------------------------------------

    def bounded(self, node: SimNode) -> None:
        """All tables that others can fill are within their bounds."""
        if node.core is None:
            return
        for name, held, most in tables(node):
            if held > most:
                raise ViolationError(f"{node.name}: {name} holds {held}, at most {most}")


def tables(node: SimNode) -> Iterator[tuple[str, int, int]]:
    """(name, what it holds, its bound) of what strangers can make a node remember."""
    core = node.running
    replica, neighbours = core.replica, core.neighbours
    yield "seen", len(replica.seen), node.config.seen_capacity
    yield "parking", len(replica.parking), limits.PARKED_ENVELOPES_MAX
    yield "parked bytes", replica.parking.bytes, limits.PARKED_BYTES_MAX
    yield "missing feeds", len(neighbours.planner), limits.SYNC_MISSING_FEEDS_MAX
    yield "wanted proofs", len(neighbours.proofs), limits.FORK_WANTS_MAX
    yield "wanted names", len(neighbours.named), limits.NAMED_WANTS_MAX
    yield "confirmed peers", len(neighbours.peers.confirmed()), limits.PEERS_MAX
    yield "reassembly", node.reassembler.bytes_held, limits.REASSEMBLY_BYTES_MAX
    yield "sent fragments", node.sent_cache.bytes_held, limits.SENT_FRAGMENTS_CACHE_BYTES_MAX
    for feed in replica.feeds.all():
        yield "open seeds of an author", len(feed.open_seeds), node.config.caps.open_seeds_max


def _once(node: SimNode, seed_id: str, record: Record, *kinds: FactKind) -> dict[int, str]:
    """What of these kinds stands, by attempt: one at most."""
    held: dict[int, str] = {}
    for fact in record.others:
        body = fact.body
        if fact.kind not in kinds or not isinstance(body, Claim | Settlement):
            continue
        if held.setdefault(body.attempt, fact.key) != fact.key:
            raise ViolationError(
                f"{node.name}: {held[body.attempt]} and {fact.key} stand for {seed_id} #{body.attempt}"
            )
    return held


def _authorised(node: SimNode, seed_id: str, record: Record) -> None:
    """Whatever counts was said by somebody who may say it, and rests on something that counts."""
    seed = record.definition
    if seed is None or record.seed is None:
        return
    facts = {fact.envelope: fact for fact in record.facts() if fact.envelope}
    claims = {fact.key: fact.body for fact in record.others if isinstance(fact.body, Claim)}
    failures = {
        fact.envelope for fact in record.fallen if isinstance(fact.body, TaskResult) and fact.body.worker_failed
    }  # a forfeit ends the work that it rests on (ADR 31)
    for fact in (*record.bids, *record.others):
        by_failure = fact.kind is FactKind.FORFEIT and fact.rests_on in failures
        if fact.signed and fact.rests_on not in facts and not by_failure:
            raise ViolationError(f"{node.name}: {fact.kind.value} {fact.key} counts, and what it rests on does not")
        if not _may_say(fact, seed.created_by, claims, facts.get(fact.rests_on)):
            raise ViolationError(f"{node.name}: {fact.kind.value} {fact.key} of {fact.author} counts for {seed_id}")


def _may_say(fact: Fact, creator: str, claims: dict[str, Claim], parent: Fact | None) -> bool:
    body = fact.body
    if fact.kind is FactKind.BID:
        return parent is None or parent.kind is FactKind.SEED
    if isinstance(body, Claim):
        chosen = parent is not None and parent.kind is FactKind.BID and parent.author == body.worker
        return fact.author == creator and chosen
    if isinstance(body, Run | TaskResult):
        claim = claims.get(body.claim_id or "")
        return claim is not None and claim.worker == fact.author
    if isinstance(body, Acknowledgement):
        settled = None if parent is None or not isinstance(parent.body, Settlement) else parent.body
        claim = None if settled is None else claims.get(settled.claim_id or "")
        return claim is not None and claim.worker == fact.author
    return fact.author == creator


def compare_with_refold(node: SimNode, seed_id: str, record: Record) -> None:
    """What was judged fact by fact, as the facts came, is what all that is held about the seed amounts to."""
    replica = node.running.replica
    if replica.settling.pending:
        return
    facts = []
    for row in node.history.held.all_about(seed_id):
        found = node.history.held.envelope(seed_id, row.envelope_id)
        fact = None if found is None else stated_by(stored_envelope(found[1]))
        if fact is not None and counts_if_stands(row, fact, replica.feeds.get(fact.author).end):
            facts.append(fact)
    expected = refold(facts, lambda fact: _in_front(fact, replica.feeds.get(fact.author).end))
    if expected == record == EMPTY:
        return
    if leaf(seed_id, expected) != leaf(seed_id, record):
        raise ViolationError(
            f"{node.name}: seed {seed_id} is {record.progress}, all that is held says {expected.progress}"
        )


def compare_with_naive_rules(node: SimNode) -> None:
    """All seeds and heads of a node are what a second implementation makes of all its envelopes at once."""
    replica = node.running.replica
    caps = node.config.caps
    bounds = Caps(
        caps.open_seeds_max,
        caps.bids_per_seed_max,
        limits.STEPS_PER_AUTHOR_PER_SEED_MAX,
        limits.STARTS_PER_AUTHOR_PER_STEP_MAX,
        limits.RESULTS_PER_AUTHOR_PER_STEP_MAX,
    )
    naive = expected(node.history.envelopes(), bounds)
    for feed in replica.feeds.all():
        head = (feed.head_seq, feed.head_id, feed.end == feed.head_seq + 1)
        if head != naive.heads.get(feed.author, (0, "", False)):
            should = naive.heads.get(feed.author)
            raise ViolationError(f"{node.name}: {feed.author} is at {head}, by the naive rules at {should}")
    for seed_id in replica.state.records.keys() | naive.seeds.keys():
        record = replica.state.records.get(seed_id)
        found = None if record is None or record.seed is None else naive_seed(record)
        if found != naive.seeds.get(seed_id):
            raise ViolationError(f"{node.name}: {seed_id} is {found}, by the naive rules {naive.seeds.get(seed_id)}")


def counts_if_stands(row: HeldRow, fact: Fact, end: int) -> bool:
    """False for what is void by itself or beyond a cap. Behind the end of its feed there are no caps."""
    return row.role is Role.MAY or not _in_front(fact, end)


def _in_front(fact: Fact, end: int) -> bool:
    return not end or fact.seq < end
