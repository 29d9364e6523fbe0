"""Errors that nobody expected: what is contained, what is refused, and what makes memory worthless."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import msgspec
import pytest

from crabnet import limits
from crabnet.core.commands import Publish, Received, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.core.mending import Part, ReplicaFailedError, hash_of
from crabnet.core.replica import applied
from crabnet.core.replica.rebuilding import Rebuilder
from crabnet.core.replica.records import RefoldRecord, SegmentRow, decode_frame, frame_of
from crabnet.core.replica.rows import seed_row
from crabnet.domain.decision import decide
from crabnet.domain.model import Fact, Seed
from crabnet.domain.state import Command, Decision, SeedEvent, State, apply
from crabnet.errors import DataDirDamagedError, Reason, RefusedError, StorageFailedError
from crabnet.protocol.envelope import Envelope, Kind
from crabnet.protocol.identity import verify_each
from tests.core.test_outcomes import Scene
from tests.support.envelopes import NOW_S, Author, seed_id_of, signer
from tests.support.facts import definitions
from tests.support.planted import plant

NOW_MS = NOW_S * 1000
SOURCE = "udp:192.0.2.1:9012"
POISON = "poison"

pytestmark = pytest.mark.expects_faults


@pytest.fixture
def core() -> Core:
    numbers = count(1)
    return Core(CoreConfig(), signer("observer"), lambda: next(numbers))


def is_poison(fact: Fact | None) -> bool:
    return fact is not None and isinstance(fact.body, Seed) and fact.body.title == POISON


def cannot_judge(patch: pytest.MonkeyPatch, error: Exception) -> None:
    """The rules cannot cope with a seed of a certain title."""

    def judge(state: State, command: Command, now_s: int) -> Decision:
        if is_poison(getattr(command, "fact", None)):
            raise error
        return decide(state, command, now_s)

    patch.setattr("crabnet.core.replica.judge.decide", judge)


def cannot_apply(patch: pytest.MonkeyPatch, error: Exception) -> None:
    """Half of what such a seed changes is done."""

    def half(state: State, event: SeedEvent) -> None:
        apply(state, event)
        if is_poison(event.fact):
            raise error

    patch.setattr(applied, "apply", half)


def seed(author: Author, title: str = "t") -> Envelope:
    return author.say(Kind.SEED_CREATED, {"seed": author.seed(title=title)})


def receive(core: Core, *envelopes: Envelope) -> Effects:
    effects = Effects()
    for envelope in envelopes:
        core.handle(Received(SOURCE, envelope.raw), NOW_MS, effects)
    return effects


def told(effects: Effects) -> list[tuple[str, object]]:
    return [
        (notice.kind, notice.fields.get("reason")) for notice in effects.notices if notice.kind.startswith("envelope_")
    ]


def height(core: Core, author: Author) -> int:
    return core.replica.feeds.get(author.id).head_seq


def test_what_cannot_be_judged_is_refused_and_the_others_are_not(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    cannot_judge(monkeypatch, KeyError("planted"))
    good, bad = Author("good"), Author("bad")
    first, poison, after = seed(bad), seed(bad, POISON), seed(bad)
    effects = receive(core, first, seed(good), poison, seed(good), after)
    assert told(effects) == [
        ("envelope_accepted", None),
        ("envelope_accepted", None),
        ("envelope_ignored", Reason.INTERNAL),
        ("envelope_accepted", None),
        ("envelope_parked", Reason.GAP),
    ]
    assert (height(core, good), height(core, bad)) == (2, 1)
    [fault], lost = core.mending.take_faults()
    assert (fault.part, fault.message, fault.source, lost) == ("judging", poison.raw, SOURCE, 0)
    assert isinstance(fault.error, KeyError)
    monkeypatch.undo()
    receive(core, poison)
    assert height(core, bad) == 3


def test_what_cannot_be_judged_behind_what_was_applied_takes_nothing_with_it(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parked envelope is judged with the one that it waited for, which is applied by then."""
    author = Author("a")
    first, poison = seed(author), seed(author, POISON)
    receive(core, poison)
    cannot_judge(monkeypatch, KeyError("planted"))
    effects = receive(core, first)
    assert told(effects) == [("envelope_accepted", None), ("envelope_ignored", Reason.INTERNAL)]
    assert len(effects.records) == height(core, author) == 1
    assert core.mending.broken is None
    assert [fault.message for fault in core.mending.take_faults()[0]] == [poison.raw]


def test_a_signature_check_that_fails_refuses_the_message_alone() -> None:
    numbers = count(1)

    def verify_all(signed: object) -> list[bool]:
        if next(numbers) == 1:
            raise OSError("planted")
        assert isinstance(signed, list)
        return verify_each(signed)

    core = Core(CoreConfig(), signer("observer"), lambda: next(numbers), verify_all)
    author = Author("a")
    envelope = seed(author)
    core.look_ahead([Received(SOURCE, envelope.raw)], NOW_MS)
    receive(core, envelope)
    assert height(core, author) == 1
    assert [fault.part for fault in core.mending.take_faults()[0]] == ["judging"]


def test_an_operation_that_cannot_be_judged_is_refused_as_internal(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    cannot_judge(monkeypatch, KeyError("planted"))
    with pytest.raises(RefusedError, match="unexpected KeyError") as caught:
        core.handle(Publish(title=POISON, command="true"), NOW_MS, Effects())
    assert caught.value.reason is Reason.INTERNAL
    core.handle(Publish(title="t", command="true"), NOW_MS, Effects())
    assert [fault.part for fault in core.mending.take_faults()[0]] == ["judging"]


def fails(core: Core, act: Callable[[], object]) -> ReplicaFailedError:
    with pytest.raises(ReplicaFailedError) as caught:
        act()
    assert core.mending.broken is caught.value
    return caught.value


def test_an_error_while_applying_makes_memory_worthless(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    cannot_apply(monkeypatch, KeyError("planted"))
    author = Author("a")
    poison = seed(author, POISON)
    failure = fails(core, lambda: receive(core, poison))
    assert (failure.stage, failure.messages) == ("applying", (poison.raw,))
    effects = Effects()
    for given in (Received(SOURCE, seed(Author("b")).raw), Tick(), Publish(title="t", command="true")):
        with pytest.raises(ReplicaFailedError):
            core.handle(given, NOW_MS, effects)
    assert not effects.records
    assert not effects.sends


def test_of_a_message_that_released_another_both_are_named(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    author = Author("a")
    first, poison = seed(author), seed(author, POISON)
    receive(core, poison)
    cannot_apply(monkeypatch, KeyError("planted"))
    assert fails(core, lambda: receive(core, first)).messages == (first.raw, poison.raw)


def test_an_operation_that_cannot_be_applied_names_its_envelope(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    cannot_apply(monkeypatch, KeyError("planted"))
    failure = fails(core, lambda: core.handle(Publish(title=POISON, command="true"), NOW_MS, Effects()))
    assert len(failure.messages) == 1


@pytest.mark.parametrize("error", [MemoryError(), DataDirDamagedError("planted")])
def test_what_is_not_a_messages_fault_condemns_none(
    core: Core, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    cannot_apply(monkeypatch, error)
    with pytest.raises((ReplicaFailedError, DataDirDamagedError)) as caught:
        receive(core, seed(Author("a"), POISON))
    assert isinstance(caught.value, DataDirDamagedError) is isinstance(error, DataDirDamagedError)
    assert core.mending.broken is not None
    assert core.mending.broken.messages == ()


def test_damaged_storage_is_never_contained(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    cannot_judge(monkeypatch, DataDirDamagedError("planted"))
    with pytest.raises(DataDirDamagedError):
        receive(core, seed(Author("a"), POISON))
    assert core.mending.take_faults() == ([], 0)


@pytest.mark.parametrize("way", ["as it came", "in other bytes", "parked"])
def test_a_node_refuses_by_its_hash_what_it_has_failed_on(core: Core, way: str) -> None:
    author = Author("a")
    first, poison = seed(author), seed(author, POISON)
    if way == "parked":
        receive(core, poison)
    core.mending.refused.add(hash_of(poison.raw))
    effects = receive(core, first)
    if way != "parked":
        raw = poison.raw.replace(b'{"meta"', b'{ "meta"', 1) if way == "in other bytes" else poison.raw
        core.handle(Received(SOURCE, raw), NOW_MS, effects)
    assert told(effects) == [("envelope_accepted", None), ("envelope_ignored", Reason.QUARANTINED)]
    assert height(core, author) == 1


def test_an_archived_seed_goes_back_when_what_concerns_it_cannot_be_judged(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene()
    core.handle(Received(SOURCE, scene.seed().raw), NOW_MS, Effects())
    state = core.replica.state
    rows = {scene.seed_id: seed_row(scene.seed_id, state.records[scene.seed_id])}
    core.replica.archived.read_row = rows.get
    written = [(scene.seed_id, state.records[scene.seed_id])]
    core.archived(SegmentRow(1, "", 1), written, NOW_MS, Effects())
    before = core.replica.state_hash()

    def judge(*_: object) -> Decision:
        assert scene.seed_id in state.records
        raise KeyError("planted")

    monkeypatch.setattr("crabnet.core.replica.judge.decide", judge)
    bid = scene.bid(scene.worker)
    assert told(receive(core, bid)) == [("envelope_ignored", Reason.INTERNAL)]
    assert scene.seed_id not in state.records
    assert core.replica.state_hash() == before
    assert core.mending.broken is None
    monkeypatch.undo()
    assert told(receive(core, bid)) == [("envelope_accepted", None)]


def ended(core: Core, author: Author) -> Envelope:
    """An author's seed behind the end of its feed, of which nothing follows yet."""
    first = seed(author)
    rival = author.twin().rewind(first).publish(title="fork")
    receive(core, first, seed(author), rival)
    assert core.hungry
    return first


def test_an_end_whose_consequences_cannot_be_drawn_is_told_once_a_tick_and_drawn_later(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ended(core, Author("a"))

    def fold(*_: object, **__: object) -> None:
        raise KeyError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(Rebuilder, "event", fold)
        effects = Effects()
        for _ in range(5):
            core.rest(NOW_MS, effects)
        assert not effects.records
        core.handle(Tick(), NOW_MS, effects)
        assert [fault.part for fault in core.mending.take_faults()[0]] == ["judging", "judging"]
    assert core.mending.broken is None
    assert seed_id_of(first) in core.replica.state.records
    core.handle(Tick(), NOW_MS, effects)
    assert not core.replica.settling.pending
    assert seed_id_of(first) not in definitions(core.replica.state)
    assert effects.records


@pytest.mark.parametrize("seeds", [0, 1])
def test_an_error_while_drawing_the_consequences_of_an_end_makes_memory_worthless(
    core: Core, monkeypatch: pytest.MonkeyPatch, seeds: int
) -> None:
    """Also when the consequences for some seeds have been drawn."""
    ended(core, Author("a"))
    calls = count()

    def half(state: State, event: SeedEvent) -> None:
        apply(state, event)
        if next(calls) == seeds:
            raise KeyError("planted")

    monkeypatch.setattr(applied, "apply", half)
    assert fails(core, lambda: core.rest(NOW_MS, Effects())).stage == "applying"


def test_a_feed_that_cannot_be_read_is_not_ended_in_part(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    author = Author("a")
    first = seed(author)
    rival = author.twin().rewind(first).publish(title="fork")
    receive(core, first, seed(author))
    before = core.replica.state_hash()

    def unreadable(*_: object) -> str:
        raise StorageFailedError("planted", Reason.STORAGE_FAILED)

    with monkeypatch.context() as patch:
        patch.setattr(core.replica.feeds, "last_before", unreadable)
        effects = receive(core, rival)
    assert told(effects) == [("envelope_ignored", Reason.UNAVAILABLE)]
    assert (effects.records, core.replica.state_hash()) == ([], before)
    assert told(receive(core, rival)) == [("envelope_rejected", Reason.FORK)]


def test_a_seed_that_cannot_be_folded_does_not_keep_the_node_from_starting(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(core, Author("a"))
    effects = Effects()
    core.rest(NOW_MS, effects)
    torn = [record for record in decode_frame(frame_of(effects.records)) if isinstance(record, RefoldRecord)]
    core.replica.replay(msgspec.structs.replace(torn[0], done=()))

    def fold(*_: object, **__: object) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(Rebuilder, "event", fold)
    core.begin(NOW_MS, Effects())
    assert [fault.part for fault in core.mending.take_faults()[0]] == ["judging"]
    receive(core, seed(Author("b")))
    assert height(core, Author("b")) == 1


def test_of_too_many_faults_the_number_is_kept(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    cannot_judge(monkeypatch, KeyError("planted"))
    number = limits.FAULTS_PENDING_MAX + 5
    receive(core, *(seed(Author(f"a{each}"), POISON) for each in range(number)))
    faults, lost = core.mending.take_faults()
    assert (len(faults), lost) == (limits.FAULTS_PENDING_MAX, 5)


def test_a_part_that_was_not_under_way_by_name_has_all_parts_made_anew(core: Core) -> None:
    before = dict(core.mending.parts())
    core.neighbours.peers = None  # type: ignore[assignment]
    receive(core, seed(Author("a")))
    after = core.mending.parts()
    assert [fault.part for fault in core.mending.take_faults()[0]] == ["soft_state"]
    assert [part for part in Part if after[part] is before[part]] == [Part.DEADLINES, Part.BUYER, Part.SELLER]
    assert height(core, Author("a")) == 1


def test_a_feed_at_risk_stays_so_when_its_guard_is_made_anew(core: Core) -> None:
    core.endanger_feed("the data dir was repaired")
    core.mending.renew(Part.FEED_GUARD)
    assert core.feed_risk


def test_deadlines_are_noted_anew_once(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    core.handle(Publish(title="t", command="true", bid_window_ms=1_000, claim_window_ms=1_000), NOW_MS, Effects())
    core.mending.renew(Part.DEADLINES)
    before = core.mending.parts()[Part.DEADLINES]
    effects = Effects()
    core.handle(Tick(), NOW_MS, Effects())
    assert core.mending.parts()[Part.DEADLINES] is not before
    core.handle(Tick(), NOW_MS + 60_000, effects)
    assert "seed_changed" in [notice.kind for notice in effects.notices]


@pytest.mark.parametrize("part", [Part.BUDGETS, Part.DIGESTS, Part.DEADLINES])
def test_a_soft_part_that_fails_at_the_start_does_not_keep_the_node_from_starting(core: Core, part: Part) -> None:
    receive(core, seed(Author("a")))
    plant(core, part, "changed" if part is Part.DIGESTS else "begin")
    core.begin(NOW_MS, Effects())
    assert [fault.part for fault in core.mending.take_faults()[0]] == [part.value]
    receive(core, seed(Author("b")))
    assert height(core, Author("b")) == 1
