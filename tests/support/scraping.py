"""The metrics of real nodes, as their operation answers and as a scraper sees them."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from crabnet.monitor.metrics import MetricType
from crabnet.operations.metrics import Family, Metrics
from tests.support.nodes import NodeProcess

Key = tuple[str, ...]
"""Name of a metric and the values of its labels."""
RESTLESS: Final = frozenset(
    {"crabnet_process_cpu_seconds_total", "crabnet_events_written_total", "crabnet_loop_delay_seconds"}
)
"""Metrics that grow without any input, or a while after it."""


def scraped(node: NodeProcess) -> tuple[Family, ...]:
    """All metrics of a node."""
    return msgspec.convert(node.ask("metrics"), Metrics).families


def values(node: NodeProcess) -> dict[Key, float]:
    """The values by metric and labels. That of a histogram is the number of its values."""
    return {
        (family.name, *sample.labels.values()): sample.value
        if sample.histogram is None
        else float(sample.histogram.counts[-1])
        for family in scraped(node)
        for sample in family.samples
    }


def totals(node: NodeProcess) -> Counter[Key]:
    """All counters, and the numbers of values of histograms, but for the restless ones."""
    kinds = {MetricType.COUNTER, MetricType.HISTOGRAM}
    names = {family.name for family in scraped(node) if family.type in kinds} - RESTLESS
    found: Counter[Key] = Counter()
    for key, value in values(node).items():
        if key[0] in names:
            found[key] = int(value)
    return found


def moved(before: Counter[Key], after: Counter[Key]) -> dict[Key, int]:
    """What has grown, and by how much."""
    return {key: after[key] - before[key] for key in after if after[key] != before[key]}
