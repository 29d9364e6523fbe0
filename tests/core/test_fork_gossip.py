"""Proofs of forks from neighbours: asked for only of proven addresses, taken only when asked for, verified whole."""

from __future__ import annotations

import pytest

from crabnet import limits
from crabnet.core.commands import Received, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects, Notice, ServeProof
from crabnet.core.records import ProofRecord, decode_frame, frame_of
from crabnet.core.snapshot import Snapshot, restore
from crabnet.operator.envelopes import EnvelopeChecker
from crabnet.protocol.envelope import Envelope
from crabnet.protocol.fork_proof import document_of
from crabnet.protocol.sync import ForkHeads, ForkMark, ForkRequest
from tests.sim.test_proofs import common, forked
from tests.support.envelopes import NOW_S, Author, edit, signer
from tests.support.talking import Neighbour

NOW_MS = NOW_S * 1000
PEER = "192.0.2.7:9012"


def new_core() -> Core:
    return Core(CoreConfig(), signer("observer"), iter(range(1, 10**6)).__next__)


def give(core: Core, data: bytes, source: str = PEER) -> list[Notice]:
    effects = Effects()
    core.handle(Received(source, data), NOW_MS, effects)
    return effects.notices


def tick(core: Core, now_ms: int = NOW_MS) -> Effects:
    effects = Effects()
    core.handle(Tick(), now_ms, effects)
    return effects


def proven(core: Core) -> Neighbour:
    peer = Neighbour(core, "peer", PEER)
    peer.confirm()
    return peer


def pair(common_envelopes: int = 0) -> tuple[Author, list[Envelope], bytes]:
    """An author, its shared envelopes and the one that stands, and the proof against it."""
    author = Author("forger")
    shared = common(author, common_envelopes)
    stands, loser = forked(author)
    return author, [*shared, stands], document_of(stands.raw, loser.raw)


def requests(peer: Neighbour, effects: Effects) -> list[ForkRequest]:
    return [talk for talk in peer.heard(effects) if isinstance(talk, ForkRequest)]


def reasons(notices: list[Notice]) -> list[object]:
    return [notice.fields.get("reason") for notice in notices if notice.kind.startswith("envelope_")]


def test_a_proof_nobody_asked_for_is_ignored_unverified() -> None:
    core = new_core()
    _, _, document = pair()
    (notice,) = give(core, document)
    assert (notice.kind, notice.fields["reason"]) == ("envelope_ignored", "unsolicited")
    proven(core).say(ForkHeads([ForkMark(signer("else").node_id, 1)]))
    (notice,) = give(core, document)
    assert (notice.kind, notice.fields["reason"]) == ("envelope_ignored", "unsolicited")
    assert not core.replica.feeds.equivocators()


def test_a_stranger_cannot_have_proofs_asked_for() -> None:
    core = new_core()
    author, _, _ = pair()
    stranger = Neighbour(core, "stranger", "192.0.2.9:9012")
    stranger.say(ForkHeads([ForkMark(author.id, 1)]))
    assert not len(core.neighbours.forks)
    assert stranger.say(ForkRequest([ForkMark(author.id, 1)])).proofs == []


@pytest.mark.parametrize("held", [True, False])
def test_a_proof_is_asked_for_taken_and_told(held: bool) -> None:
    core = new_core()
    peer = proven(core)
    author, standing, document = pair()
    if held:
        give(core, standing[0].raw, "192.0.2.8:9012")
    peer.say(ForkHeads([ForkMark(author.id, 1)]))
    assert requests(peer, tick(core)) == [ForkRequest([ForkMark(author.id, 1)])]
    notices = give(core, document)
    assert "fork_detected" in {notice.kind for notice in notices}
    assert core.replica.feeds.get(author.id).head_id == standing[0].meta.id
    told = [talk for talk in peer.heard(tick(core)) if isinstance(talk, ForkHeads)]
    assert told == [ForkHeads([ForkMark(author.id, 1)])]
    assert give(core, document)[0].fields["reason"] == "unsolicited"
    assert peer.say(ForkRequest([ForkMark(author.id, 1)])).proofs == [ServeProof(author.id, 1, PEER)]
    assert peer.say(ForkRequest([ForkMark(author.id, 2)])).proofs == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: raw.replace(b'"title":"a"', b'"title":"x"'), "wrong_id"),
        (lambda raw: raw.replace(b'"version":1}', b'"version":9}'), "unsupported_version"),
        (lambda raw: raw[:-1], "malformed"),
    ],
)
def test_a_proof_that_does_not_verify_counts_against_its_source(change: object, reason: str) -> None:
    assert callable(change)
    core = new_core()
    peer = proven(core)
    author, _, document = pair()
    peer.say(ForkHeads([ForkMark(author.id, 1)]))
    notices = give(core, change(document))
    assert reasons(notices) == [reason]
    assert not core.replica.feeds.equivocators()


def test_an_envelope_altered_within_a_proof_is_found() -> None:
    core = new_core()
    peer = proven(core)
    author, standing, _ = pair()
    peer.say(ForkHeads([ForkMark(author.id, 1)]))
    forged = edit(standing[0].raw, "payload.seed.reward", 99)
    (notice,) = give(core, document_of(standing[0].raw, forged))
    assert (notice.kind, notice.fields["reason"]) == ("envelope_rejected", "wrong_id")


def test_a_proof_that_changes_nothing_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fork lies behind the window in which it could matter: the evidence is journalled, also for restarts."""
    monkeypatch.setattr("crabnet.protocol.feed.FEED_WINDOW_ENTRIES", 4)
    core = new_core()
    peer = proven(core)
    author, standing, document = pair(2)
    records = []
    for envelope in (*standing, *common(author, 8)):
        effects = Effects()
        core.handle(Received("192.0.2.8:9012", envelope.raw), NOW_MS, effects)
        records += effects.records
    before = core.replica.state_hash()
    peer.say(ForkHeads([ForkMark(author.id, 3)]))
    effects = Effects()
    core.handle(Received(PEER, document), NOW_MS, effects)
    (record,) = decode_frame(frame_of(effects.records))
    assert isinstance(record, ProofRecord)
    assert bytes(record.raw) == document
    assert core.replica.state_hash() == before
    assert core.replica.feeds.is_equivocator(author.id)

    checker = EnvelopeChecker("default")
    again = new_core()
    for each in decode_frame(frame_of([*records, *effects.records])):
        assert checker.check(each)[1] == ""  # type: ignore[arg-type]
        again.replica.replay(each)
    restored = new_core()
    restore(restored.replica, list(Snapshot(core.replica).rows()))
    for other in (again, restored):
        assert other.replica.feeds.get(author.id).forks == core.replica.feeds.get(author.id).forks
        assert other.replica.feeds.equivocators() == [author.id]


def test_a_proof_about_an_author_without_a_feed_waits_for_the_feed() -> None:
    """Its two envelopes wait like others ahead of their feed; nothing is kept of authors whom nobody knows."""
    core = new_core()
    peer = proven(core)
    author, standing, document = pair(2)
    peer.say(ForkHeads([ForkMark(author.id, 3)]))
    give(core, document)
    assert not core.replica.feeds.equivocators()
    assert len(core.replica.parking) == 2
    for envelope in standing[:2]:
        give(core, envelope.raw)
    assert core.replica.feeds.equivocators() == [author.id]
    assert core.replica.feeds.get(author.id).head_id == standing[2].meta.id


def test_what_is_asked_for_is_bounded_in_number_and_in_time() -> None:
    core = new_core()
    peer = proven(core)
    marks = [ForkMark(signer(f"a{number}").node_id, 1) for number in range(2 * limits.FORK_WANTS_MAX)]
    for at in range(0, len(marks), limits.FORKS_PER_MESSAGE_MAX):
        peer.say(ForkHeads(marks[at : at + limits.FORKS_PER_MESSAGE_MAX]))
    assert len(core.neighbours.forks) == limits.FORK_WANTS_MAX
    asked = 0
    for second in range(600):
        effects = tick(core, NOW_MS + second * 1000)
        asked += sum(len(request.wants) for request in requests(peer, effects))
    assert asked <= limits.FORK_WANTS_MAX * limits.FORK_WANT_ATTEMPTS_MAX
    assert not len(core.neighbours.forks)
