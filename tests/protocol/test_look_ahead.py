"""Looking ahead changes what verification costs, never what it says."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.protocol.admission import Admission, AdmissionPolicy, Admitted, Refusal
from crabnet.protocol.envelope import Envelope, Kind
from crabnet.protocol.identity import SignedBytes, verify_each
from crabnet.protocol.replay import SeenWindow
from tests.protocol.test_admission import DEFECTS, legacy, resealed
from tests.support.envelopes import NOW_S, Author, edit


def sound() -> list[Envelope]:
    """Valid envelopes of two authors."""
    alice, bob = Author("alice"), Author("bob")
    return [author.say(Kind.SEED_CREATED, {"seed": author.seed()}) for author in (alice, bob) for _ in range(3)]


SOUND = [envelope.raw for envelope in sound()]
FORGED = [edit(raw, "meta.signature", "A" * 86) for raw in SOUND[:3]]
RAWS = [
    *SOUND,
    *FORGED,
    *(defect.raw for defect in DEFECTS.values()),
    legacy(),
    resealed(SOUND[0], kind="Later", seq=9, prev="a" * 64),
    resealed(SOUND[0], ts=0),
]


def steps(asked: list[SignedBytes] | None = None) -> Admission:
    """Verification that notes which signatures are checked together."""

    def verify_all(signed: Sequence[SignedBytes]) -> list[bool]:
        if asked is not None:
            asked.extend(signed)
        return verify_each(signed)

    return Admission(AdmissionPolicy(), SeenWindow(ttl_s=10, capacity=100), verify_all=verify_all)


def take(admission: Admission, raw: bytes) -> Admitted | Refusal:
    """Admit a message and remember it, as the replica does."""
    outcome = admission.admit(raw, NOW_S)
    if isinstance(outcome, Admitted):
        admission.seen.add(outcome.envelope.meta.id, NOW_S)
    return outcome


@given(st.lists(st.sampled_from(RAWS), max_size=20), st.lists(st.sampled_from(RAWS), max_size=20))
def test_the_outcomes_are_the_same(announced: list[bytes], given_raws: list[bytes]) -> None:
    plain, looking = steps(), steps()
    looking.look_ahead([*announced, *given_raws[::2]], NOW_S)
    for raw in given_raws:
        assert take(looking, raw) == take(plain, raw)


def test_each_signature_is_checked_once_and_together() -> None:
    asked: list[SignedBytes] = []
    admission = steps(asked)
    admission.look_ahead([*SOUND, *SOUND], NOW_S)
    assert len(asked) == len(SOUND)
    assert all(isinstance(take(admission, raw), Admitted) for raw in SOUND)
    again = take(admission, SOUND[0])
    assert isinstance(again, Refusal)
    assert (again.outcome, again.reason) == (Outcome.IGNORED, Reason.DUPLICATE)


def test_what_other_steps_refuse_costs_no_signature() -> None:
    asked: list[SignedBytes] = []
    admission = steps(asked)
    admission.seen.add(sound()[0].meta.id, NOW_S)
    unsigned_steps = [defect.raw for defect in DEFECTS.values() if defect.reason is not Reason.BAD_SIGNATURE]
    admission.look_ahead([SOUND[0], *unsigned_steps], NOW_S)
    assert asked == []


def test_a_forgery_in_front_does_not_spoil_the_genuine_one() -> None:
    admission = steps()
    admission.look_ahead([FORGED[0], SOUND[0]], NOW_S)
    forged = take(admission, FORGED[0])
    assert isinstance(forged, Refusal)
    assert forged.reason is Reason.BAD_SIGNATURE
    assert isinstance(take(admission, SOUND[0]), Admitted)
