"""The report of traffic measures what it says."""

from __future__ import annotations

from tests.sim.report import HEADER, measure


def test_a_small_network_comes_near_the_lower_bound() -> None:
    """Full knowledge of each other and no loss: each envelope goes once to each, and nothing is sent twice."""
    found = measure(4, "mesh", 0.0, operations=40)
    messages, sent_bytes = found.per_arrival(with_talk=False)
    assert 1.0 <= messages < 1.6
    assert 0.9 <= sent_bytes < 1.6
    assert found.envelopes >= 40
    assert str(found).count("|") == HEADER.splitlines()[0].count("|")
