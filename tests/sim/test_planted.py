"""Mistakes planted on purpose: the simulation finds each of them within a few seeds."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from crabnet.core import neighbours
from crabnet.core.commands import Operation
from crabnet.core.effects import Reply, Serve
from crabnet.core.judge import Judge
from crabnet.core.replica import Replica
from crabnet.domain.decision import decide
from crabnet.domain.lifecycle import LOCAL_RULES, RULES, TRANSITIONS
from crabnet.domain.model import Fact, FactKind, SeedStatus
from crabnet.domain.standing import Standing
from crabnet.domain.state import Command, Decision, Outcome, State
from crabnet.errors import Reason
from crabnet.protocol.feed import Feeds, Place
from crabnet.protocol.replay import SeenWindow
from tests.sim.__main__ import Task, run
from tests.sim.disk import MemoryFiles
from tests.sim.node import SimNode

SEEDS = range(8)
"""Seeds within which a mistake must be found."""
OPERATIONS = 400

Plant = Callable[[pytest.MonkeyPatch], None]


def rule_checked_only_locally(patch: pytest.MonkeyPatch) -> None:
    """Only the worker's own node sees to it that a result is the worker's."""
    patch.setitem(LOCAL_RULES, FactKind.RESULT, (*RULES[FactKind.RESULT], *LOCAL_RULES[FactKind.RESULT]))
    patch.setitem(RULES, FactKind.RESULT, ())


def bid_cap_by_arrival(patch: pytest.MonkeyPatch) -> None:
    """Bids beyond ``max_bids`` are dropped when they come, whichever come first."""

    def capped(state: State, command: Command, now_s: int) -> Decision:
        decision = decide(state, command, now_s)
        fact = getattr(command, "fact", None)
        if not isinstance(fact, Fact) or fact.kind is not FactKind.BID:
            return decision
        record = state.records.get(fact.seed_id)
        seed = None if record is None else record.definition
        if record is None or seed is None or not seed.max_bids or len(record.bids) < seed.max_bids:
            return decision
        return Decision(Outcome.IGNORED, Reason.TOO_MANY_BIDS)

    patch.setattr("crabnet.core.judge.decide", capped)


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


def fork_by_arrival(patch: pytest.MonkeyPatch) -> None:
    """Of two envelopes for one place the first that came stands, and the feed goes on."""
    place = Feeds.place

    def first_wins(self: Feeds, author: str, seq: int, envelope_id: str, prev: str) -> Place:
        found = place(self, author, seq, envelope_id, prev)
        return Place.DUPLICATE if found is Place.FORK else found

    patch.setattr(Feeds, "place", first_wins)


def an_end_takes_all(patch: pytest.MonkeyPatch) -> None:
    """What others have built upon falls with the feed that it is in."""
    patch.setattr(Standing, "_pins", lambda _self, _child, _fact: False)


def bids_are_counted_by_arrival(patch: pytest.MonkeyPatch) -> None:
    """A bid is beyond the cap if so many of its author have come, wherever they are in its feed."""

    def come(judge: Judge, fact: Fact, _parent: Fact | None) -> int:
        return len(judge._rebuilder.held.about(fact.seed_id, bids=True))

    patch.setattr(Judge, "_bids_so_far", come)


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

    patch.setattr("crabnet.core.judge.decide", punctual)


def replay_forgets_a_feed(patch: pytest.MonkeyPatch) -> None:
    """A restart forgets the last of what was journalled."""
    from crabnet.core.records import EnvelopeRecord

    replay = Replica.replay

    def forgetful(self: Replica, record: object) -> object:
        if isinstance(record, EnvelopeRecord) and record.via == "local" and record.at_s % 5 == 0:
            record = msgspec.structs.replace(record, events=())
        return replay(self, record)  # type: ignore[arg-type]

    patch.setattr(Replica, "replay", forgetful)


def ends_are_noted_only(patch: pytest.MonkeyPatch) -> None:
    """What an end takes back of the seeds of others is never worked off."""
    patch.setattr(Replica, "settle_some", lambda *_: [])


PLANTS: list[Plant] = [
    rule_checked_only_locally,
    bid_cap_by_arrival,
    settled_reopens,
    sync_skips_the_last,
    seen_window_forgets,
    fork_by_arrival,
    an_end_takes_all,
    bids_are_counted_by_arrival,
    acknowledged_before_the_sync,
    sync_of_the_disk_does_nothing,
    rule_by_the_clock,
    replay_forgets_a_feed,
    ends_are_noted_only,
]


QUICK = [rule_checked_only_locally, seen_window_forgets]
"""Found within a second; the others are left to ``make deep``."""


@pytest.mark.parametrize(
    "plant",
    [plant if plant in QUICK else pytest.param(plant, marks=pytest.mark.deep) for plant in PLANTS],
    ids=[plant.__name__ for plant in PLANTS],
)
def test_a_planted_mistake_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds that are sound without the mistake: ``test_simulation`` runs them."""
    plant(monkeypatch)
    assert any(run(Task(seed, None, OPERATIONS)).outcome is None for seed in SEEDS)
