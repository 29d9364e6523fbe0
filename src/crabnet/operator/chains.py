"""The chain of each task, as ``crabnet audit verify`` reports it: which envelope rests on which, and their authors.

For each attempt the chain is seed <- bid <- claim <- start <- result <- settlement <- acknowledgement, as far as it
goes. It contains the facts that count. Every link is checked independently of the journalled decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from msgspec import Struct

from crabnet.domain.model import Bid, Claim, Fact, FactKind, Run, Seed, SeedStatus, Settlement, TaskResult
from crabnet.domain.record import Record
from crabnet.domain.standing import may_rest_on, misfit
from crabnet.limits import AUDIT_CHAINS_MAX

_K = FactKind
_S = SeedStatus
_BEFORE_CLAIMS: Final = frozenset({_K.SEED, _K.BID})
_BY_CREATOR: Final = frozenset({_K.CLAIM, _K.SETTLE, _K.FORFEIT, _K.CLOSE})
_REACHED: Final = {_K.SEED: _S.OPEN, _K.CLAIM: _S.CLAIMED, _K.STARTED: _S.RUNNING, _K.RESULT: _S.DONE}
_SETTLED: Final = frozenset({_S.ACCEPTED, _S.REJECTED})
Journalled = Callable[[str, int, str], bool]
"""Returns whether the journal holds an envelope, given its author, its place in the feed and its id."""


class Link(Struct, frozen=True):
    """One step of a chain. ``envelope_id`` is "" for an unsigned step, which is identified only by its object."""

    kind: FactKind
    author: str
    seq: int
    envelope_id: str
    object_id: str


class Chain(Struct, frozen=True):
    """The steps from the seed to the last step that rests on it.

    ``wrong`` says what is wrong with a link, or is "". ``wrong_id`` is the id of that link's envelope.
    """

    links: tuple[Link, ...]
    wrong: str = ""
    wrong_id: str = ""


class TaskChains(Struct, frozen=True):
    """A task and the chain of each attempt at it. For a disputed task these are all contradicting chains.

    ``note`` is the note of the settlement, or the reason of the dispute. ``complete`` is True if the task is accepted
    or rejected and every link up to there is valid. ``acknowledged`` is True if the worker has acknowledged the
    settlement. ``wrong`` says what is wrong with the task besides its links.
    """

    seed_id: str
    status: SeedStatus
    creator: str
    note: str
    chains: tuple[Chain, ...]
    complete: bool
    acknowledged: bool
    wrong: str = ""

    def faults(self) -> Iterator[tuple[str, str]]:
        """(envelope id, what is wrong) for every fault."""
        for chain in self.chains:
            if chain.wrong:
                yield chain.wrong_id, chain.wrong
        if self.wrong:
            yield "", self.wrong


@dataclass
class ChainReport:
    """Numbers about the chains of all tasks, and the first ``AUDIT_CHAINS_MAX`` tasks, disputed ones first."""

    tasks: int = 0
    complete: int = 0
    acknowledged: int = 0
    broken: int = 0
    disputed: int = 0
    kept: list[TaskChains] = field(default_factory=list)
    quarrels: list[TaskChains] = field(default_factory=list)

    def add(self, task: TaskChains) -> None:
        """Count a task, and keep it while there is room."""
        self.tasks += 1
        self.complete += task.complete
        self.acknowledged += task.acknowledged
        self.broken += any(True for _ in task.faults())
        disputed = task.status is _S.DISPUTED
        self.disputed += disputed
        room = self.quarrels if disputed else self.kept
        if len(room) < AUDIT_CHAINS_MAX:
            room.append(task)

    def shown(self) -> list[TaskChains]:
        """The tasks that are reported one by one."""
        return [*self.quarrels, *self.kept][:AUDIT_CHAINS_MAX]


def follow(seed_id: str, record: Record, journalled: Journalled) -> TaskChains:
    """The chains of one task. Every link is checked."""
    walk = _Walk(record, journalled)
    progress = record.progress
    chains = tuple(walk.chain(leaf) for leaf in walk.leaves())
    sound = all(not chain.wrong for chain in chains)
    wrong = "" if progress.status is _S.DISPUTED else walk.contradiction()
    ends = [chain.links[-1].kind for chain in chains if chain.links]
    settled = progress.status in _SETTLED and (_K.SETTLE in ends or _K.ACKNOWLEDGED in ends)
    return TaskChains(
        seed_id,
        progress.status,
        "" if record.seed is None else record.seed.author,
        progress.note,
        chains,
        settled and sound and not wrong,
        _K.ACKNOWLEDGED in ends and sound,
        wrong,
    )


class _Walk:
    """The facts of one task that are part of a chain."""

    def __init__(self, record: Record, journalled: Journalled) -> None:
        self._record = record
        self._journalled = journalled
        seeds = [] if record.seed is None else [record.seed]
        steps = [fact for fact in record.others if not (isinstance(fact.body, Run) and fact.body.renews)]
        seeds += [fact for fact in steps if fact.kind is _K.SEED]
        self._all = [*seeds, *(fact for fact in steps if fact.kind is not _K.SEED), *record.bids]
        self._by_envelope = {fact.envelope: fact for fact in self._all if fact.envelope}
        self._failures = {fact.envelope: fact for fact in record.fallen if isinstance(fact.body, Run | TaskResult)}
        claims = [fact for fact in steps if fact.kind is _K.CLAIM]
        named = {found.ref for claim in claims if (found := self.parent(claim)) is not None}
        pinning = record.bids if len(seeds) > 1 else [bid for bid in record.bids if bid.ref in named]
        self._linked = [*seeds, *pinning, *(fact for fact in steps if fact.kind is not _K.SEED)]

    def parent(self, fact: Fact) -> Fact | None:
        """The fact on which a fact rests, found by envelope, or by object if that fact is unsigned."""
        if fact.kind is _K.SEED:
            return None
        if fact.rests_on:
            return self._by_envelope.get(fact.rests_on) or self._failure(fact)
        kind, object_id = _named(fact)
        return next((each for each in self._all if each.kind is kind and each.key == object_id), None)

    def _failure(self, fact: Fact) -> Fact | None:
        """The work that a forfeit ended because the worker failed (ADR 31), or the claim if that work is missing."""
        if fact.kind is not _K.FORFEIT and fact.ref not in self._failures:
            return None
        found = self._failures.get(fact.rests_on)
        if found is not None or fact.kind is not _K.FORFEIT:
            return found
        kind, object_id = _named(fact)
        return next((each for each in self._all if each.kind is kind and each.key == object_id), None)

    def leaves(self) -> list[Fact]:
        """The last step of each chain, by attempt."""
        followed: set[str] = set()
        for fact in self._linked:
            found = self.parent(fact)
            while found is not None:
                followed.add(found.ref)
                found = self.parent(found) if found.ref in self._failures else None
        return sorted((fact for fact in self._linked if fact.ref not in followed), key=self._order)

    def _order(self, fact: Fact) -> tuple[int, int, str]:
        claim = self._claim_of(fact)
        attempt = claim.body.attempt if claim is not None and isinstance(claim.body, Claim) else 0
        return (attempt, fact.ts, fact.ref)

    def _claim_of(self, fact: Fact) -> Fact | None:
        """The claim in the chain of a step."""
        found: Fact | None = fact
        while found is not None and found.kind not in _BEFORE_CLAIMS | {_K.CLAIM}:
            parent = self.parent(found)
            found = parent if parent is not None and may_rest_on(found, parent) else None
        return found if found is not None and found.kind is _K.CLAIM else None

    def chain(self, leaf: Fact) -> Chain:
        """The chain that ends with a step. If it is broken, it begins at the break."""
        facts = [leaf]
        wrong, at = "", leaf
        while not wrong and facts[-1].kind is not _K.SEED:
            at = facts[-1]
            parent = self.parent(at)
            if parent is None:
                wrong = f"{_name(at)} rests on {at.rests_on or _named(at)[1]}, which does not count"
            elif not may_rest_on(at, parent) or (not at.rests_on and at.signed and parent.signed):
                wrong = f"{_name(at)} rests on {_name(parent)}, which is not allowed"
            else:
                facts.append(parent)
        facts.reverse()
        for fact, parent in zip(facts, [None, *facts], strict=False):
            if not wrong:
                wrong, at = self._fault(fact, parent), fact
        links = (Link(fact.kind, fact.author, fact.seq, fact.envelope, fact.key) for fact in facts)
        return Chain(tuple(links), wrong, at.envelope if wrong else "")

    def _fault(self, fact: Fact, parent: Fact | None) -> str:
        """The fault of a step that is linked into the chain, or "" if it has none."""
        rightful = self._rightful(fact)
        if fact.author != rightful:
            return f"{_name(fact)} is by {fact.author}, but only {rightful} may sign it"
        reason = None if parent is None else misfit(fact, parent)
        if reason is not None:
            return f"{_name(fact)} does not match the step that it rests on: {reason.value}"
        if fact.envelope and not self._journalled(fact.author, fact.seq, fact.envelope):
            return f"the signed envelope of {_name(fact)} is not in the journal"
        return ""

    def _rightful(self, fact: Fact) -> str:
        """The node id that must be the author of a step."""
        if isinstance(fact.body, Seed):
            return fact.body.created_by
        if isinstance(fact.body, Bid):
            return fact.body.bidder
        if fact.kind in _BY_CREATOR:
            root = fact
            while root.kind is not _K.SEED and (found := self.parent(root)) is not None:
                root = found
            return root.author
        claim = self._claim_of(fact)
        return claim.body.worker if claim is not None and isinstance(claim.body, Claim) else ""

    def contradiction(self) -> str:
        """How the status contradicts the chains, or "" if it does not."""
        progress = self._record.progress
        reached = {_reached(fact, self.parent(fact)) for fact in self.leaves()}
        if progress.status not in reached:
            return f"its status is {progress.status.value}, but no chain ends with that"
        for what, kind, object_id in (
            ("claim", _K.CLAIM, progress.claim_id),
            ("run", _K.STARTED, progress.run_id),
            ("result", _K.RESULT, progress.result_id),
        ):
            if object_id is not None and not any(f.kind is kind and f.key == object_id for f in self._linked):
                return f"its status names the {what} {object_id}, which does not count"
        return ""


def _named(fact: Fact) -> tuple[FactKind, str]:
    """Kind and id of the object that a fact names as its subject."""
    body = fact.body
    if isinstance(body, Claim):
        return _K.BID, body.bid_id
    if isinstance(body, Run | TaskResult):
        return _K.CLAIM, body.claim_id or ""
    if isinstance(body, Settlement) and body.outcome in _SETTLED:
        return _K.RESULT, body.result_id or ""
    if isinstance(body, Settlement) and body.claim_id is not None:
        return _K.CLAIM, body.claim_id
    return _K.SEED, fact.seed_id


def _reached(leaf: Fact, parent: Fact | None) -> SeedStatus | None:
    """The status of a task whose last chain ends with ``leaf``."""
    if leaf.kind is _K.ACKNOWLEDGED and parent is not None:
        leaf = parent
    return leaf.body.outcome if isinstance(leaf.body, Settlement) else _REACHED.get(leaf.kind)


def _name(fact: Fact) -> str:
    return f"{fact.kind.value} {fact.envelope or fact.key}"


def all_chains(records: Iterable[tuple[str, Record]], journalled: Journalled) -> Iterator[TaskChains]:
    """The chains of every task whose definition counts."""
    return (follow(seed_id, record, journalled) for seed_id, record in records if record.seed is not None)


def describe(report: ChainReport) -> Iterator[str]:
    """Lines for people: numbers, and the disputed tasks with their contradicting chains."""
    yield (
        f"{report.tasks} tasks, {report.complete} with a complete chain from seed to settlement,"
        f" {report.acknowledged} of them acknowledged by the worker"
    )
    for task in report.quarrels:
        yield f"task {task.seed_id} is disputed: {task.note}; its creator is {task.creator}"
        for chain in task.chains:
            yield "  " + " <- ".join(f"{link.kind.value} {link.envelope_id or link.object_id}" for link in chain.links)
    if report.disputed > len(report.quarrels):
        yield f"{report.disputed - len(report.quarrels)} more tasks are disputed"
