"""Bounds on what waits in memory: what finds no room sleeps in the journal, and stops no feed."""

from __future__ import annotations

import pytest

from crabnet import limits
from crabnet.core.commands import Received, Roused
from crabnet.core.core import Core
from crabnet.core.effects import Awake, Effects, Sleep
from crabnet.core.records import SegmentRow, decode_frame, frame_of
from crabnet.core.rows import seed_row
from crabnet.core.snapshot import Snapshot, restore
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.protocol.envelope import Envelope
from tests.core.test_forks import lower, rewind
from tests.core.test_outcomes import ACCEPTED, SOURCE, Scene, rejected, waits
from tests.support.envelopes import NOW_S, edit


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may wait in memory."""
    monkeypatch.setattr(limits, "ORPHAN_FACTS_PER_AUTHOR_MAX", 0)
    monkeypatch.setattr(limits, "WAITING_FACTS_PER_SEED_MAX", 0)


class Journal:
    """A scene whose core's records are kept, and whose sleepers are woken as by the node."""

    def __init__(self) -> None:
        self.scene = Scene()
        self.records: list[bytes] = []
        self.sleepers: dict[tuple[str, int], Sleep] = {}
        self._raws: dict[str, bytes] = {}

    @property
    def core(self) -> Core:
        return self.scene.core

    def tell(self, envelope: Envelope) -> Effects:
        self._raws[envelope.meta.id] = envelope.raw
        effects = Effects()
        self.core.handle(Received(SOURCE, envelope.raw), NOW_S * 1000, effects)
        self._keep(effects)
        return effects

    def _keep(self, effects: Effects) -> None:
        self.records += effects.records
        for change in effects.dormancy:
            if isinstance(change, Sleep):
                self.sleepers[change.author, change.seq] = change
            else:
                for author, seq in list(self.sleepers):
                    if author == change.author and (seq == change.seq or (change.branch and seq > change.seq)):
                        del self.sleepers[author, seq]

    def wake(self) -> list[str]:
        """Do as the node does; what was roused."""
        roused = list(self.core.replica.dormancy.restless)
        for parent in roused:
            since = self.core.replica.dormancy.moves
            sleepers = [self.sleepers[place] for place in sorted(self.sleepers)]
            raws = [self._raws[each.envelope_id] for each in sleepers if each.parent == parent]
            effects = Effects()
            self.core.handle(Roused(parent, tuple(raws), last=True, since=since), NOW_S * 1000, effects)
            self._keep(effects)
        return roused

    def replayed(self) -> Core:
        """Another core that was told by the journal alone."""
        core = Scene().core
        for record in decode_frame(frame_of(self.records)):
            core.replica.replay(record)
        return core


def told(effects: Effects) -> list[tuple[str, object]]:
    return [
        (notice.kind, notice.fields.get("reason")) for notice in effects.notices if notice.kind.startswith("envelope_")
    ]


@pytest.mark.usefixtures("no_room")
def test_an_orphan_without_room_takes_its_place_and_counts_once_its_seed_comes() -> None:
    journal = Journal()
    scene = journal.scene
    seed, bid = scene.seed(), scene.bid(scene.worker)
    effects = journal.tell(bid)
    assert told(effects) == [("envelope_parked", "unknown_seed")]
    assert effects.dormancy == [Sleep(scene.seed_id, scene.worker.id, 1, bid.meta.id)]
    assert journal.core.replica.feeds.get(scene.worker.id).head_id == bid.meta.id
    assert not journal.core.replica.state.records
    assert journal.tell(seed).roused == [scene.seed_id]
    assert journal.wake() == [scene.seed_id]
    assert [entry.fact.key for entry in journal.core.record(scene.seed_id).bids] == [scene.bid_id]
    assert (journal.sleepers, journal.core.replica.dormancy.restless) == ({}, {})
    twin = journal.replayed()
    assert twin.replica.state_hash() == journal.core.replica.state_hash()
    assert scene.seed_id in twin.replica.dormancy.restless


@pytest.mark.usefixtures("no_room")
def test_the_whole_story_told_backwards_ends_like_the_story() -> None:
    journal = Journal()
    scene = journal.scene
    story = [scene.seed(), scene.bid(scene.worker), scene.claim(), scene.run(), scene.result(), scene.settle()]
    workers = [each for each in story if each.meta.from_ == scene.worker.id]
    creators = [each for each in story if each.meta.from_ == scene.creator.id]
    for envelope in (*workers, *creators):
        journal.tell(envelope)
        while journal.core.replica.dormancy.restless:
            journal.wake()
    plain = Scene()
    for envelope in story:
        assert plain.tell(envelope) == ACCEPTED
    assert journal.core.record(scene.seed_id).progress == plain.core.record(scene.seed_id).progress
    assert (
        journal.core.replica.state_hash() == plain.core.replica.state_hash() == journal.replayed().replica.state_hash()
    )


def test_room_in_memory_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal()
    scene = journal.scene
    bid = scene.bid(scene.worker)
    journal.tell(bid)
    twin = Scene()
    monkeypatch.setattr(limits, "ORPHAN_FACTS_PER_AUTHOR_MAX", 0)
    twin.tell(bid)
    assert journal.core.replica.state.records
    assert not twin.core.replica.state.records
    assert journal.core.replica.state_hash() == twin.core.replica.state_hash()


@pytest.mark.usefixtures("no_room")
def test_a_fork_wakes_nothing_of_the_branch_that_lost() -> None:
    journal = Journal()
    scene = journal.scene
    seed, bid = scene.seed(), scene.bid(scene.worker)
    later = scene.bid(scene.worker)
    journal.tell(bid)
    journal.tell(later)
    rewind(scene.worker, bid)
    other = lower(scene.worker, lambda: scene.bid(scene.worker, price=1), bid)
    effects = journal.tell(other)
    assert effects.dormancy == [
        Awake(scene.worker.id, 1, branch=True),
        Sleep(scene.seed_id, scene.worker.id, 1, other.meta.id),
    ]
    journal.tell(seed)
    journal.wake()
    [entry] = journal.core.record(scene.seed_id).bids
    assert entry.fact.seq == 1
    assert journal.core.replica.feeds.get(scene.worker.id).head_id == other.meta.id


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.usefixtures("no_room")
def test_a_fork_takes_back_what_was_woken_however_the_node_knows_of_it(restarted: bool) -> None:
    journal = Journal()
    scene = journal.scene
    seed, bid = scene.seed(), scene.bid(scene.worker)
    journal.tell(bid)
    if restarted:
        scene.core = journal.replayed()
    journal.tell(seed)
    journal.wake()
    assert journal.core.record(scene.seed_id).bids
    rewind(scene.worker, bid)
    journal.tell(lower(scene.worker, lambda: scene.bid(scene.worker, seed_id="unknown"), bid))
    assert not journal.core.record(scene.seed_id).bids
    assert journal.replayed().replica.state_hash() == journal.core.replica.state_hash()


@pytest.mark.usefixtures("no_room")
def test_an_envelope_that_stands_no_more_is_not_woken() -> None:
    journal = Journal()
    scene = journal.scene
    seed, bid = scene.seed(), scene.bid(scene.worker)
    journal.tell(bid)
    rewind(scene.worker, bid)
    journal.tell(lower(scene.worker, lambda: scene.bid(scene.worker, seed_id="unknown"), bid))
    journal.tell(seed)
    effects = Effects()
    journal.core.handle(
        Roused(scene.seed_id, (bid.raw,), last=True, since=journal.core.replica.dormancy.moves), NOW_S * 1000, effects
    )
    assert (effects.records, effects.notices) == ([], [])
    assert not journal.core.record(scene.seed_id).bids


@pytest.mark.usefixtures("no_room")
def test_what_was_roused_before_a_checkpoint_is_woken_after_it() -> None:
    journal = Journal()
    scene = journal.scene
    seed, bid = scene.seed(), scene.bid(scene.worker)
    journal.tell(bid)
    journal.tell(seed)
    twin = Scene().core
    restore(twin.replica, list(Snapshot(journal.core.replica).rows()))
    assert list(twin.replica.dormancy.restless) == [scene.seed_id]
    twin.handle(
        Roused(scene.seed_id, (bid.raw,), last=True, since=twin.replica.dormancy.moves), NOW_S * 1000, Effects()
    )
    journal.wake()
    assert twin.replica.state_hash() == journal.core.replica.state_hash()
    assert len(twin.record(scene.seed_id).bids) == 1


def test_the_first_bids_of_an_author_are_kept_however_many_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    most = limits.BIDS_PER_AUTHOR_PER_SEED_MAX_DEFAULT
    journal, plain = Journal(), Scene()
    scene = journal.scene
    seed = scene.seed()
    bids = [scene.bid(scene.worker) for _ in range(most + 8)]
    with monkeypatch.context() as patch:
        patch.setattr(limits, "ORPHAN_FACTS_PER_AUTHOR_MAX", 4)
        for bid in bids[:-6]:
            journal.tell(bid)
    assert len(journal.sleepers) == most - 2
    journal.tell(seed)
    for bid in bids[-6:]:
        journal.tell(bid)
    assert len(journal.core.record(scene.seed_id).bids) == 4, "none is judged before those that sleep"
    journal.wake()
    plain.tell(seed)
    for bid in bids:
        plain.tell(bid)
    kept = [entry.fact.seq for entry in journal.core.record(scene.seed_id).bids]
    assert sorted(kept) == list(range(1, most + 1))
    assert journal.core.record(scene.seed_id) == plain.core.record(scene.seed_id)
    assert (
        journal.core.replica.state_hash() == plain.core.replica.state_hash() == journal.replayed().replica.state_hash()
    )


def test_claims_and_settlements_of_one_author_on_one_seed_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STEPS_PER_AUTHOR_PER_SEED_MAX", 3)
    scene = Scene().until("bid")
    for _ in range(3):
        assert scene.tell(scene.claim(scene.rival)) == rejected("unauthorised")
    assert scene.tell(scene.claim(scene.rival)) == rejected("too_many_own_steps")
    assert len(scene.core.record(scene.seed_id).others) == 3
    assert scene.tell(scene.claim()) == ACCEPTED


def test_an_archived_seed_stays_where_it_is_for_what_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene().until("settle")
    replica = scene.core.replica
    rows = {scene.seed_id: seed_row(scene.seed_id, scene.core.record(scene.seed_id))}
    replica.attic.thaw = rows.get
    replica.archive(SegmentRow(1, "0" * 64, 1), (scene.seed_id,), NOW_S)
    before = replica.state.digest()
    late = [scene.result(by, claim_id="unknown") for by in (scene.rival, scene.worker)]
    with monkeypatch.context() as patch:
        patch.setattr(limits, "WAITING_FACTS_PER_SEED_MAX", 0)
        assert scene.tell(late[0]) == waits("unknown_claim")
    assert scene.seed_id not in replica.state.records
    assert replica.state.digest() == before
    assert scene.tell(late[1]) == waits("unknown_claim")
    assert scene.seed_id in replica.state.records


def test_an_unsigned_orphan_without_room_must_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(AdmissionPolicy(require_signatures=False))
    bid = scene.bid(scene.worker, id="bid-1", bidder="node-1").raw
    bid = edit(edit(edit(bid, "meta.v", ...), "meta.signature", ""), "meta.from", "node-1")
    with monkeypatch.context() as patch:
        patch.setattr(limits, "ORPHAN_FACTS_MAX", 0)
        assert scene.tell(bid).reason == "parking_full"
    assert scene.tell(bid) == waits("unknown_seed")
