"""Facts of one seed name the same ids over and over: each id is one string in memory."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from crabnet.core.replica.records import decode_frame, frame_of
from crabnet.core.replica.replica import Replica
from crabnet.domain.model import is_envelope_id
from crabnet.domain.record import Record
from crabnet.protocol.admission import AdmissionPolicy
from tests.support.envelopes import NOW_S, job, seed_id_of


def fresh() -> Replica:
    return Replica(AdmissionPolicy(), seen_ttl_s=0, seen_capacity=1, parked_ttl_s=0)


def names(record: Record) -> Iterable[str]:
    """All that a fact says of others, and what others know it by."""
    for fact in record.facts():
        yield fact.author
        yield fact.envelope
        yield fact.seed_id
        for name in ("created_by", "bidder", "worker", "claim_id", "rests_on"):
            value = getattr(fact.body, name, None)
            if value is not None:
                yield value
    claim = record.claim
    if claim is not None:
        yield claim.key


@pytest.mark.parametrize("replayed", [False, True])
def test_each_id_is_one_string(replayed: bool) -> None:
    replica, envelopes = fresh(), job()
    journal = [item.record for each in envelopes for item in replica.receive(each.raw, NOW_S)]
    if replayed:
        replica = fresh()
        for each in decode_frame(frame_of([record for record in journal if record is not None])):
            replica.replay(each)
    record = replica.state.records[seed_id_of(envelopes[0])]
    assert len(list(record.facts())) == len(envelopes)
    said = list(names(record))
    assert len({id(each) for each in said}) == len(set(said))
    assert all(key is said[2] for key in replica.state.records)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("0123456789abcdef" * 4, True),
        ("", False),
        ("0" * 63, False),
        ("0" * 65, False),
        ("A" * 64, False),
        ("g" * 64, False),
        ("00 " * 21 + "0", False),
        (" " + "0" * 63, False),
        ("0" * 62 + "\n\n", False),
        ("\u0660" * 64, False),
        ("\ud800" * 64, False),
    ],
)
def test_an_envelopes_id_has_one_spelling(text: str, is_one: bool) -> None:
    assert is_envelope_id(text) is is_one
