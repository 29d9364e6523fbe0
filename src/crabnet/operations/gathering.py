"""Puts the samples of metrics together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from crabnet.monitor.meters import Histogram
from crabnet.monitor.metrics import OTHER, Metric, MetricType
from crabnet.operations import metrics


class Gathering:
    """Collects samples. A label value outside of the closed set of its label becomes ``other``."""

    def __init__(self) -> None:
        self._values: defaultdict[Metric, Counter[tuple[str, ...]]] = defaultdict(Counter)
        self._histograms: defaultdict[Metric, dict[tuple[str, ...], Histogram]] = defaultdict(dict)

    def put(self, metric: Metric, value: float, *labels: str) -> None:
        """Set a value, or add it to that of the same labels. ``labels`` are in the order of the metric."""
        self._values[metric][self._admitted(metric, labels)] += value  # type: ignore[assignment]  # Counter holds floats

    def histogram(self, metric: Metric, histogram: Histogram, *labels: str) -> None:
        """Set a histogram."""
        self._histograms[metric][self._admitted(metric, labels)] = histogram

    @staticmethod
    def _admitted(metric: Metric, labels: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            value if label.admits(value) else OTHER for label, value in zip(metric.labels, labels, strict=True)
        )

    def families(self, table: Iterable[Metric]) -> tuple[metrics.Family, ...]:
        """All metrics of a table in its order, with the samples that were collected."""
        return tuple(
            metrics.Family(
                name=each.name, type=each.type, unit=each.unit, help=each.help, samples=tuple(self._samples(each))
            )
            for each in table
        )

    def _samples(self, metric: Metric) -> list[metrics.Sample]:
        names = [label.name for label in metric.labels]
        if metric.type is not MetricType.HISTOGRAM:
            return [
                metrics.Sample(labels=dict(zip(names, labels, strict=True)), value=value)
                for labels, value in sorted(self._values[metric].items())
            ]
        return [
            metrics.Sample(
                labels=dict(zip(names, labels, strict=True)),
                histogram=metrics.Buckets(
                    bounds=metric.bounds, counts=tuple(histogram.cumulative()), total=histogram.total
                ),
            )
            for labels, histogram in sorted(self._histograms[metric].items())
        ]
