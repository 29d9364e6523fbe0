"""The operation that shows the metrics of a node. docs/METRICS.md lists them; the web process renders them."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from crabnet.monitor.metrics import MetricType
from crabnet.operations.model import Alone, Empty, Kind, Operation, Route, Scope


class Buckets(Struct, frozen=True, kw_only=True):
    """The values of a histogram since the start of the node."""

    bounds: tuple[float, ...]
    """The upper bounds of the buckets, which belong to their bucket. The last bucket has none."""
    counts: tuple[int, ...]
    """For each bound, and last for infinity: how many values were at most that."""
    total: float
    """The sum of all values."""


class Sample(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value of a metric for one combination of label values."""

    labels: dict[str, str] = {}
    value: int | float = 0
    histogram: Buckets | None = None
    """In place of ``value``, for a histogram."""


class Family(Struct, frozen=True, kw_only=True):
    """All samples of one metric. A counter by Reason has samples only for Reasons that occurred."""

    name: str
    type: MetricType
    unit: str
    """``seconds``, ``bytes``, or empty for a number of things."""
    help: str
    samples: tuple[Sample, ...]


class Metrics(Struct, frozen=True, kw_only=True):
    """The metrics of the node, in the order of METRICS.md."""

    families: tuple[Family, ...]


METRICS: Final = Operation(
    name="metrics",
    route=Route("GET", "/metrics"),
    request=Empty,
    response=Metrics,
    scope=Scope.METRICS,
    kind=Kind.READS,
    alone=Alone.FAILS,
    summary="Show the metrics: counters, gauges and histograms since the start of the node.",
    description=(
        "METRICS.md lists them. Counters are of durable changes. Gauges show memory as it is at the moment, so that the"
        " answer does not wait for the disk; if the disk does not answer at all, what would be read from it is absent."
    ),
)
