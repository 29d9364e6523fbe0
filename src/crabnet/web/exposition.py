"""Renders metrics for Prometheus: the text format 0.0.4, or OpenMetrics if the scraper prefers it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Final, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from crabnet.monitor.metrics import MetricType
from crabnet.operations.metrics import Family

_OPENMETRICS: Final = "application/openmetrics-text"
_ACCEPT_OPENMETRICS: Final = f"{_OPENMETRICS}; version=1.0.0"
_TEXT_TYPES: Final = frozenset({"text/plain", "text/*", "*/*"})


class Exposition(NamedTuple):
    """The body of an answer and its content type."""

    body: bytes
    content_type: str


def render(families: Iterable[Family], accept: str = "") -> Exposition:
    """Render metrics in the format that an ``Accept`` header prefers. Any header will do: the default is text 0.0.4."""
    encode, content_type = choose_encoder(_ACCEPT_OPENMETRICS if _prefers_openmetrics(accept) else "")
    return Exposition(encode(_Collected(families)), content_type)


def _prefers_openmetrics(accept: str) -> bool:
    wishes = dict(map(_wish, accept.split(",")))
    openmetrics = wishes.get(_OPENMETRICS, 0.0)
    return openmetrics > 0 and all(openmetrics >= wishes.get(other, 0.0) for other in _TEXT_TYPES)


def _wish(part: str) -> tuple[str, float]:
    """A media type of an ``Accept`` header and its weight (RFC 9110, 12.5.1). A weight that is none counts as 0."""
    media_type, *parameters = (word.strip().lower() for word in part.split(";"))
    weight = next((word.removeprefix("q=") for word in parameters if word.startswith("q=")), "1")
    try:
        return media_type, float(weight)
    except ValueError:
        return media_type, 0.0


class _Collected(Collector):
    """Metrics that are already collected."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = tuple(families)

    def collect(self) -> Iterator[Metric]:
        return map(_converted, self._families)


def _converted(family: Family) -> Metric:
    names = list(family.samples[0].labels) if family.samples else []
    if family.type is MetricType.INFO:
        info = InfoMetricFamily(family.name.removesuffix("_info"), family.help)
        for sample in family.samples:
            info.add_metric([], sample.labels)
        return info
    if family.type is MetricType.HISTOGRAM:
        return _histogram(family, names)
    kind = CounterMetricFamily if family.type is MetricType.COUNTER else GaugeMetricFamily
    converted = kind(family.name, family.help, labels=names)
    for sample in family.samples:
        converted.add_metric([sample.labels[name] for name in names], sample.value)
    return converted


def _histogram(family: Family, names: list[str]) -> HistogramMetricFamily:
    converted = HistogramMetricFamily(family.name, family.help, labels=names)
    for sample in family.samples:
        given = sample.histogram
        if given is not None:
            bounds = zip_longest(map(repr, given.bounds), given.counts, fillvalue="+Inf")
            converted.add_metric(
                [sample.labels[name] for name in names],
                [(str(bound), float(count)) for bound, count in bounds],
                given.total,
            )
    return converted
