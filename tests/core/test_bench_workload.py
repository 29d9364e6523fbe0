"""What the bench feeds to nodes is what they take: else it would measure refusals."""

from __future__ import annotations

from bench.workload import Population
from crabnet.core.replica.replica import Replica
from crabnet.domain.model import SeedStatus
from crabnet.domain.state import Outcome
from crabnet.protocol.admission import AdmissionPolicy
from tests.support.envelopes import NOW_S


def test_every_envelope_of_the_workload_is_accepted() -> None:
    population = Population(NOW_S)
    replica = Replica(AdmissionPolicy(), seen_ttl_s=600, seen_capacity=10_000, parked_ttl_s=60)
    replica.state.load(population.hold(60), 1)
    replica.feeds.load(population.feeds(), 1)
    settled = replica.state.counts[SeedStatus.ACCEPTED]
    for message in population.messages(900):
        (applied,) = replica.receive(message.raw, NOW_S)
        assert (applied.outcome, applied.reason) == (Outcome.ACCEPTED, None), applied.detail
    assert replica.state.counts[SeedStatus.ACCEPTED] > settled + 50
