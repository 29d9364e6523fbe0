"""Makes journalled decisions again by the rules of this version."""

from __future__ import annotations

from crabnet.core.replica.held import Role
from crabnet.core.replica.records import EnvelopeRecord, Record, envelope_of, event_row, record_fact
from crabnet.core.replica.replica import Replica
from crabnet.domain.decision import decide
from crabnet.domain.model import FINAL
from crabnet.domain.record import EMPTY
from crabnet.domain.state import Observe


def otherwise_decided(replica: Replica, record: Record) -> str:
    """The fact about which this version would decide differently than the record does.

    The reason is that the rules or the journal were changed. "" if the decision is the same, or if more than the
    replica is needed to know. Raises DataDirDamagedError.
    """
    if not isinstance(record, EnvelopeRecord) or record.behind or record.pins or record.readmitted:
        return ""
    if record.role is Role.NOTHING:
        return ""
    fact = record_fact(record, envelope_of(record))
    before = EMPTY if fact is None else replica.state.records.get(fact.seed_id, EMPTY)
    if fact is None or before.progress.status in FINAL:
        return ""
    parent = before.find(fact.rests_on) if fact.rests_on else None
    own = sum(bid.author == fact.author for bid in before.bids)
    seeds = len(replica.feeds.get(fact.author).open_seeds)
    decision = decide(replica.state, Observe(fact, parent, seeds, own), record.at_s)
    same = tuple(map(event_row, decision.events)) == record.events
    return "" if same else f"{fact.kind.value} {fact.key}"
