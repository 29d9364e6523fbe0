"""Bounds on what waits: an envelope that finds no room is not taken, and comes again."""

from __future__ import annotations

import pytest

from crabnet import limits
from crabnet.core.records import SegmentRow
from crabnet.core.rows import seed_row
from tests.core.test_forks import lower, rewind
from tests.core.test_outcomes import ACCEPTED, Answer, Scene, waits
from tests.support.envelopes import NOW_S

FULL = Answer("envelope_ignored", "parking_full")


def test_an_orphan_without_room_does_not_move_its_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    seed, bid = scene.seed(), scene.bid(scene.worker)
    with monkeypatch.context() as patch:
        patch.setattr(limits, "ORPHAN_FACTS_PER_AUTHOR_MAX", 0)
        assert scene.tell(bid) == FULL
        assert scene.core.replica.feeds.get(scene.worker.id).head_seq == 0
    assert scene.tell(seed) == ACCEPTED
    assert scene.tell(bid) == ACCEPTED


def test_a_fork_without_room_cuts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene().until("seed")
    bid = scene.bid(scene.worker)
    assert scene.tell(bid) == ACCEPTED
    rewind(scene.worker, bid)
    orphan = lower(scene.worker, lambda: scene.bid(scene.worker, seed_id="unknown"), bid)
    before = scene.core.replica.state_hash()
    with monkeypatch.context() as patch:
        patch.setattr(limits, "ORPHAN_FACTS_PER_AUTHOR_MAX", 0)
        assert scene.tell(orphan) == FULL
        assert scene.core.replica.state_hash() == before
    assert scene.tell(orphan) == waits("unknown_seed")
    assert scene.core.replica.feeds.get(scene.worker.id).head_id == orphan.meta.id


def test_an_archived_seed_stays_where_it_is_for_an_envelope_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene().until("settle")
    replica = scene.core.replica
    rows = {scene.seed_id: seed_row(scene.seed_id, scene.core.record(scene.seed_id))}
    replica.thaw = rows.get
    replica.archive(SegmentRow(1, "0" * 64, 1), (scene.seed_id,), NOW_S)
    before = replica.state_hash()
    late = scene.result(scene.rival, claim_id="unknown")
    with monkeypatch.context() as patch:
        patch.setattr(limits, "WAITING_FACTS_PER_SEED_MAX", 0)
        assert scene.tell(late) == FULL
    assert scene.seed_id not in replica.state.records
    assert replica.state_hash() == before
    assert scene.tell(late) == waits("unknown_claim")
    assert scene.seed_id in replica.state.records
