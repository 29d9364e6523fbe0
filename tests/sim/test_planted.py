"""Mistakes planted on purpose: the simulation finds each of them within a few seeds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import pytest

from crabnet.core.commands import Operation
from crabnet.core.effects import Reply, Serve
from crabnet.core.replica.applied import Applied
from crabnet.core.replica.judge import Judge
from crabnet.core.replica.records import ForkRecord
from crabnet.core.replica.replica import Replica
from crabnet.core.replica.settling import Settling
from crabnet.core.replica.waiting import Arrival, Waiting
from crabnet.core.sync import announcer, neighbours
from crabnet.domain import decision, fold, standing
from crabnet.domain.decision import decide
from crabnet.domain.lifecycle import RULES, TRANSITIONS
from crabnet.domain.local_rules import LOCAL_RULES
from crabnet.domain.model import FINAL, Fact, FactKind, SeedStatus
from crabnet.domain.standing import Standing, misfit
from crabnet.domain.state import Command, Decision, Outcome, State
from crabnet.errors import Reason
from crabnet.protocol import digests, sync
from crabnet.protocol.envelope import EnvelopeMeta
from crabnet.protocol.feed import Feeds, Place
from crabnet.protocol.fork_proof import ForkEvidence
from crabnet.protocol.replay import SeenWindow
from tests.sim.__main__ import Task, run
from tests.sim.disk import MemoryFiles
from tests.sim.node import SimNode

SEEDS = range(8)
"""Seeds within which a mistake must be found."""
OPERATIONS = 600

Plant = Callable[[pytest.MonkeyPatch], None]


def rule_checked_only_locally(patch: pytest.MonkeyPatch) -> None:
    """Only the worker's own node sees to it that a result is the worker's."""
    patch.setitem(LOCAL_RULES, FactKind.RESULT, (*RULES[FactKind.RESULT], *LOCAL_RULES[FactKind.RESULT]))
    patch.setitem(RULES, FactKind.RESULT, ())
    for module in (decision, standing):
        patch.setattr(module, "misfit", _any_worker)


def _any_worker(fact: Fact, parent: Fact) -> Reason | None:
    reason = misfit(fact, parent)
    return None if reason is Reason.UNAUTHORISED else reason


def bid_cap_by_arrival(patch: pytest.MonkeyPatch) -> None:
    """Bids beyond ``max_bids`` are dropped when they come, whichever come first."""

    def capped(state: State, command: Command, now_s: int) -> Decision:
        decided = decide(state, command, now_s)
        fact = getattr(command, "fact", None)
        if not isinstance(fact, Fact) or fact.kind is not FactKind.BID:
            return decided
        record = state.records.get(fact.seed_id)
        seed = None if record is None else record.definition
        if record is None or seed is None or not seed.max_bids or len(record.bids) < seed.max_bids:
            return decided
        return Decision(Outcome.IGNORED, Reason.TOO_MANY_BIDS)

    patch.setattr("crabnet.core.replica.judge.decide", capped)


def settled_reopens(patch: pytest.MonkeyPatch) -> None:
    """A claim is possible after the end."""
    for status in (SeedStatus.ACCEPTED, SeedStatus.REJECTED, SeedStatus.EXPIRED):
        patch.setitem(TRANSITIONS, (status, FactKind.CLAIM), frozenset({SeedStatus.CLAIMED}))


def sync_skips_the_last(patch: pytest.MonkeyPatch) -> None:
    """An answer ends one envelope too early."""

    def short(author: str, from_seq: int, to_seq: int, to: str) -> Serve:
        return Serve(author, from_seq, to_seq - 1, to)

    patch.setattr(neighbours, "Serve", short)


def seen_window_forgets(patch: pytest.MonkeyPatch) -> None:
    """What was seen is not remembered."""
    patch.setattr(SeenWindow, "__contains__", lambda _self, _message_id: False)


def acknowledged_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    """The operator is answered, and others are told, before the disk has it."""
    operate = SimNode.operate

    def eager(self: SimNode, wish: Operation) -> Reply:
        reply = operate(self, wish)
        waiting = self._pending or self._in_flight
        effects = waiting[-1].effects
        for place in effects.places:
            for observer in self.world.observers:
                observer.acknowledged(self, place)
        return reply

    patch.setattr(SimNode, "operate", eager)


def sync_of_the_disk_does_nothing(patch: pytest.MonkeyPatch) -> None:
    """The journal is written, and not synced."""
    patch.setattr(MemoryFiles, "fdatasync", lambda _self, _fd: None)


def rule_by_the_clock(patch: pytest.MonkeyPatch) -> None:
    """A bid counts if it comes in time by the clock of whoever gets it."""

    def punctual(state: State, command: Command, now_s: int) -> Decision:
        fact = getattr(command, "fact", None)
        if isinstance(fact, Fact) and fact.kind is FactKind.BID:
            record = state.records.get(fact.seed_id)
            seed = None if record is None else record.definition
            if seed is not None and now_s > seed.bid_deadline_ts:
                return Decision(Outcome.REJECTED, Reason.DEADLINE_PASSED)
        return decide(state, command, now_s)

    patch.setattr("crabnet.core.replica.judge.decide", punctual)


def replay_forgets_a_feed(patch: pytest.MonkeyPatch) -> None:
    """A restart forgets the last of what was journalled."""
    from crabnet.core.replica.records import EnvelopeRecord

    replay = Replica.replay

    def forgetful(self: Replica, record: object) -> object:
        if isinstance(record, EnvelopeRecord) and record.via == "local" and record.at_s % 5 == 0:
            record = msgspec.structs.replace(record, events=())
        return replay(self, record)  # type: ignore[arg-type]

    patch.setattr(Replica, "replay", forgetful)


# --- ends of feeds --------------------------------------------------------------------------------------------


def first_of_two_stands(patch: pytest.MonkeyPatch) -> None:
    """Of two envelopes for one place that stands which came first, and the feed goes on."""
    place = Feeds.place

    def first(self: Feeds, author: str, seq: int, envelope_id: str, prev: str) -> Place:
        found = place(self, author, seq, envelope_id, prev)
        return Place.DUPLICATE if found is Place.FORK else found

    patch.setattr(Feeds, "place", first)


def lower_id_stands(patch: pytest.MonkeyPatch) -> None:
    """Who holds that with the lower id of two envelopes for one place keeps it, and goes on."""
    forked = Replica._forked

    def lower(self: Replica, evidence: list[Arrival], waiting: deque[Arrival]) -> list[Applied]:
        meta = evidence[0].admitted.envelope.meta
        held = self.feeds.id_at(meta.from_, meta.seq)
        if held is not None and held < meta.id:
            return [Applied(Outcome.REJECTED, Reason.FORK, "", meta)]
        return forked(self, evidence, waiting)

    patch.setattr(Replica, "_forked", lower)


def end_stays_where_it_is(patch: pytest.MonkeyPatch) -> None:
    """The first fork that is known ends the feed, and no lower one moves that down."""
    end_at = Feeds.end_at

    def first(self: Feeds, author: str, seq: int, head_id: str) -> None:
        if not self.get(author).end:
            end_at(self, author, seq, head_id)

    patch.setattr(Feeds, "end_at", first)


def end_moves_up(patch: pytest.MonkeyPatch) -> None:
    """The fork heard of last ends the feed, even if another was lower."""

    def place(self: Feeds, author: str, seq: int, envelope_id: str, prev: str) -> Place:
        feed = self.get(author)
        if feed.end and seq > feed.end and self.id_at(author, seq) not in {None, envelope_id}:
            feed.end = 0
            return Place.FORK
        return _place(self, author, seq, envelope_id, prev)

    _place = Feeds.place
    patch.setattr(Feeds, "place", place)
    patch.setattr(Replica, "learn_fork", _learn_whatever)


def _learn_whatever(self: Replica, evidence: ForkEvidence, now_s: int, source: str) -> list[Applied]:
    """``learn_fork`` that forgets the end that is known."""
    feed = self.feeds.get(evidence.meta.from_)
    if feed.end:
        feed.end = 0
    return _learn_fork(self, evidence, now_s, source)


_learn_fork = Replica.learn_fork


def end_is_forgotten_at_a_restart(patch: pytest.MonkeyPatch) -> None:
    """The journal's proofs of forks are passed over when it is replayed."""
    replay = Replica.replay
    patch.setattr(
        Replica, "replay", lambda self, record: None if isinstance(record, ForkRecord) else replay(self, record)
    )


def consequences_are_not_drawn(patch: pytest.MonkeyPatch) -> None:
    """What an author said behind its end goes on counting."""
    patch.setattr(Settling, "_resettle", lambda *_: [])


def heads_without_ends(patch: pytest.MonkeyPatch) -> None:
    """Nobody is told where a feed ends."""

    def silent(author: str, seq: int, envelope_id: str, _end: int = 0) -> sync.Head:
        return sync.Head(author, seq, envelope_id)

    for module in (announcer, digests):
        patch.setattr(module, "Head", silent)


# --- what stands ----------------------------------------------------------------------------------------------


def pins_are_ignored(patch: pytest.MonkeyPatch) -> None:
    """Only what lies before the end of its feed stands."""
    patch.setattr(Standing, "stands", Standing.in_front)


def anybody_pins(patch: pytest.MonkeyPatch) -> None:
    """Whoever names something lets it stand."""
    patch.setattr(Standing, "_pins", lambda *_: True)


def two_chains_are_followed(patch: pytest.MonkeyPatch) -> None:
    """Of two claims, or two settlements, that both sides signed, the first counts: nothing is disputed."""
    patch.setattr(fold, "_exclusive", lambda *_: "")


# --- causal order ---------------------------------------------------------------------------------------------


def parent_is_not_demanded(patch: pytest.MonkeyPatch) -> None:
    """What an envelope rests on need not be held."""
    find = Judge.find

    def found(self: Judge, seed_id: str, envelope_id: str) -> Fact | None:
        record = self._state.records.get(seed_id)
        return find(self, seed_id, envelope_id) or (None if record is None else record.seed)

    patch.setattr(Judge, "find", found)


def behind_is_taken_unasked(patch: pytest.MonkeyPatch) -> None:
    """What lies behind an end is taken from anybody, whether or not anything rests on it."""
    patch.setattr(Waiting, "is_named", lambda *_: True)
    patch.setattr(Waiting, "is_lacking", lambda *_: True)


def nothing_is_asked_for_by_name(patch: pytest.MonkeyPatch) -> None:
    """What an envelope rests on is waited for, and never asked for."""
    patch.setattr(neighbours.Neighbours, "lacks", lambda *_: None)
    patch.setattr(neighbours.Neighbours, "_may_have_named", lambda *_: None)


# --- what counts ----------------------------------------------------------------------------------------------


def work_counts_after_a_forfeit(patch: pytest.MonkeyPatch) -> None:
    """A result that comes after the forfeit of its claim counts all the same."""
    patch.setitem(TRANSITIONS, (SeedStatus.FORFEITED, FactKind.RESULT), frozenset({SeedStatus.DONE}))
    patch.setitem(RULES, FactKind.RESULT, RULES[FactKind.RESULT][:1])


def work_outlives_a_forfeit(patch: pytest.MonkeyPatch) -> None:
    """What came before the forfeit of its claim goes on counting."""
    patch.setattr(fold, "_ENDS_WORK", frozenset())


def cap_counts_what_was_refused(patch: pytest.MonkeyPatch) -> None:
    """A seed beyond the cap counts towards it."""
    enter = Replica.enter
    patch.setattr(Replica, "enter", lambda self, meta, fact, _outcome: enter(self, meta, fact, Outcome.ACCEPTED))


def cap_counts_what_stands(patch: pytest.MonkeyPatch) -> None:
    """What its author says of a seed ends its counting towards the cap only if it counts."""

    def enter(self: Replica, meta: EnvelopeMeta, fact: Fact | None, outcome: Outcome) -> None:
        as_before(self, meta, fact, outcome)
        feed, records = self.feeds.get(meta.from_), self.state.records
        for seed_id in list(feed.open_seeds):
            if seed_id in records and records[seed_id].progress.status in FINAL:
                del feed.open_seeds[seed_id]
        if fact is not None and fact.kind is FactKind.CLOSE and outcome is not Outcome.ACCEPTED:
            feed.open_seeds[fact.seed_id] = None

    as_before = Replica.enter
    patch.setattr(Replica, "enter", enter)


class Planted(NamedTuple):
    """A mistake, and the adversaries among whom it shows; those that the seeds draw if none are named."""

    plant: Plant
    liars: tuple[str, ...] | None = None


FORKS = ("creator", "worker", "descender")
PLANTS = [
    Planted(rule_checked_only_locally, ("void",)),
    Planted(bid_cap_by_arrival),
    Planted(settled_reopens),
    Planted(sync_skips_the_last),
    Planted(seen_window_forgets),
    Planted(acknowledged_before_the_sync),
    Planted(sync_of_the_disk_does_nothing),
    Planted(rule_by_the_clock),
    Planted(replay_forgets_a_feed),
    Planted(first_of_two_stands, FORKS),
    Planted(lower_id_stands, FORKS),
    Planted(end_stays_where_it_is, ("descender",)),
    Planted(end_moves_up, ("descender",)),
    Planted(end_is_forgotten_at_a_restart, FORKS),
    Planted(consequences_are_not_drawn, FORKS),
    Planted(heads_without_ends, FORKS),
    Planted(pins_are_ignored, FORKS),
    Planted(anybody_pins, ("creator", "creator")),
    Planted(two_chains_are_followed, ("creator", "creator", "creator")),
    Planted(parent_is_not_demanded, ("namer",)),
    Planted(behind_is_taken_unasked, ("equivocator",)),
    Planted(nothing_is_asked_for_by_name, ("creator",)),
    Planted(work_counts_after_a_forfeit, ("cheat",)),
    Planted(work_outlives_a_forfeit, ("cheat",)),
    Planted(cap_counts_what_was_refused, ("cycler",)),
    Planted(cap_counts_what_stands, ("cycler",)),
]
# Some mistakes hardly ever show in a whole network, and are found by others: consequences of an end that are dropped at
# a restart by tests/core/test_any_order.py, digests without ends by tests/protocol/test_digests.py, a cap on bids that
# counts what came by tests/core/test_caps.py.
QUICK = {rule_checked_only_locally, seen_window_forgets, end_is_forgotten_at_a_restart}
"""Found within a second or two; the others are left to ``make deep``."""


@pytest.mark.parametrize(
    "planted",
    [each if each.plant in QUICK else pytest.param(each, marks=pytest.mark.deep) for each in PLANTS],
    ids=[each.plant.__name__ for each in PLANTS],
)
def test_a_planted_mistake_is_found(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a check, within a few seeds that are sound without the mistake."""
    plant, liars = planted
    tasks = [Task(seed, None, OPERATIONS, liars=liars) for seed in SEEDS]
    plant(monkeypatch)
    found = next((verdict.problem for task in tasks if (verdict := run(task)).outcome is None), "")
    assert found
    assert "unexpected error" not in found


@pytest.mark.deep
@pytest.mark.parametrize("liars", sorted({each.liars or () for each in PLANTS}), ids=",".join)
def test_without_a_mistake_nothing_is_found(liars: tuple[str, ...]) -> None:
    """Else a mistake would be found by whatever else is wrong with its seeds."""
    tasks = [Task(seed, None, OPERATIONS, liars=liars or None) for seed in SEEDS]
    assert [verdict.problem for task in tasks if (verdict := run(task)).outcome is None] == []
