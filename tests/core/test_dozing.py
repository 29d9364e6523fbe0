"""What an author says about one thing is judged in the order of its feed, however much of it sleeps meanwhile."""

from __future__ import annotations

import pytest

from crabnet import limits
from crabnet.core.commands import Roused
from crabnet.core.effects import Effects, Sleep
from crabnet.core.snapshot import Snapshot, restore
from crabnet.protocol.envelope import Envelope
from tests.core.test_outcomes import Scene
from tests.core.test_room import Journal
from tests.support.envelopes import NOW_S


class Cheats(Journal):
    """A worker that gives two results, while there is room for none, and then room for all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        scene = self.scene
        self.seed, self.bid, self.claim = scene.seed(), scene.bid(scene.worker), scene.claim()
        self.results = [scene.result(stdout=text) for text in ("first", "second", "third")]
        self._patch = monkeypatch

    @property
    def result_id(self) -> str | None:
        """The result that counts by now."""
        return self.core.record(self.scene.seed_id).progress.result_id

    def tell_without_room(self, *envelopes: Envelope) -> None:
        """What has to wait must sleep."""
        with self._patch.context() as patch:
            patch.setattr(limits, "ORPHAN_FACTS_PER_AUTHOR_MAX", 0)
            patch.setattr(limits, "WAITING_FACTS_PER_SEED_MAX", 0)
            for envelope in envelopes:
                self.tell(envelope)

    def calm(self) -> list[str | None]:
        """Wake until all are awake; the result that counted after each pass."""
        seen = []
        while self.core.replica.dormancy.restless:
            self.wake()
            seen.append(self.result_id)
        return seen


@pytest.fixture
def cheats(monkeypatch: pytest.MonkeyPatch) -> Cheats:
    return Cheats(monkeypatch)


def first_result(cheats: Cheats) -> str:
    """The result that must count, as in a node that had all of it in order."""
    plain = Scene()
    for envelope in (cheats.seed, cheats.bid, cheats.claim, *cheats.results):
        plain.tell(envelope)
    result_id = plain.core.record(cheats.scene.seed_id).progress.result_id
    assert result_id is not None
    return result_id


def test_a_later_result_does_not_wait_in_memory_while_the_first_sleeps(cheats: Cheats) -> None:
    first = first_result(cheats)
    cheats.tell(cheats.seed)
    cheats.tell(cheats.bid)
    cheats.tell_without_room(cheats.results[0])
    cheats.tell(cheats.results[1])

    cheats.tell(cheats.claim)

    assert cheats.result_id is None, "what sleeps comes first"
    assert cheats.calm() == [first]
    assert not cheats.sleepers


def test_what_comes_while_others_are_being_woken_is_judged_after_them(cheats: Cheats) -> None:
    first = first_result(cheats)
    cheats.tell(cheats.seed)
    cheats.tell(cheats.bid)
    cheats.tell_without_room(cheats.results[0])
    cheats.tell(cheats.claim)

    cheats.tell(cheats.results[1])

    assert cheats.result_id is None
    assert cheats.calm() == [first]
    assert cheats.tell(cheats.results[2]).dormancy == [], "once all are awake there is nothing to wait for"


def test_orphans_of_who_sleeps_sleep_until_the_seed_and_the_claim_count(cheats: Cheats) -> None:
    first = first_result(cheats)
    cheats.tell_without_room(cheats.bid, cheats.results[0])
    cheats.tell(cheats.results[1])
    cheats.tell(cheats.seed)
    cheats.tell(cheats.claim)
    cheats.tell(cheats.results[2])

    seen = cheats.calm()

    assert set(seen) <= {None, first}
    assert seen[-1] == first
    assert cheats.replayed().replica.state_hash() == cheats.core.replica.state_hash()


def test_what_falls_asleep_during_a_pass_is_looked_for_in_the_next(cheats: Cheats) -> None:
    cheats.tell(cheats.seed)
    cheats.tell(cheats.bid)
    cheats.tell_without_room(cheats.results[0])
    cheats.tell(cheats.claim)
    claim_id = cheats.scene.claim_id
    since = cheats.core.replica.dormancy.moves
    cheats.tell(cheats.results[1])

    pass_over = Roused(claim_id, (cheats.results[0].raw,), last=True, since=since)
    cheats.core.handle(pass_over, NOW_S * 1000, Effects())

    assert claim_id in cheats.core.replica.dormancy.restless
    again = cheats.core.replica.dormancy.moves
    cheats.core.handle(Roused(claim_id, (), last=True, since=again), NOW_S * 1000, Effects())
    assert not cheats.core.replica.dormancy.restless


def test_a_checkpoint_knows_of_whom_something_sleeps(cheats: Cheats) -> None:
    cheats.tell(cheats.seed)
    cheats.tell(cheats.bid)
    cheats.tell_without_room(cheats.results[0])
    twin = Journal()
    restore(twin.core.replica, list(Snapshot(cheats.core.replica).rows()))

    effects = twin.tell(cheats.results[1])

    assert [change.parent for change in effects.dormancy if isinstance(change, Sleep)] == [cheats.scene.claim_id]


def test_the_order_of_one_author_is_not_kept_for_others(cheats: Cheats) -> None:
    """Else one sleeper would send to disk what everybody says."""
    scene = cheats.scene
    cheats.tell(cheats.seed)
    cheats.tell(cheats.bid)
    cheats.tell_without_room(cheats.results[0])

    assert cheats.tell(scene.run(scene.rival)).dormancy == []
    assert cheats.tell(scene.bid(scene.rival)).dormancy == []
