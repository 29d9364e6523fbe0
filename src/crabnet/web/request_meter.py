"""Times the requests of the web process, as a metric beside those of the node."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from crabnet.monitor.meters import Histogram
from crabnet.monitor.metrics import OTHER, Label, Metric, MetricType
from crabnet.operations.gathering import Gathering
from crabnet.operations.metrics import Family
from crabnet.operations.table import BY_NAME

API_REQUESTS: Final = Metric(
    "crabnet_api_request_seconds",
    MetricType.HISTOGRAM,
    "Time to answer each HTTP request, by operation and status code. Everything that is no operation is `other`."
    " A stream counts when it ends.",
    (
        Label("operation", frozenset(BY_NAME)),
        Label("code", frozenset(str(status.value) for status in HTTPStatus)),
    ),
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
WEB_METRICS: Final = (API_REQUESTS,)


class RequestMeter:
    """The requests of one web process."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str], Histogram] = {}

    def observe(self, operation: str, status: int, seconds: float) -> None:
        """Count one request. ``operation`` is the name of one, or anything else for other requests."""
        known = operation if operation in BY_NAME else OTHER
        histogram = self._seconds.setdefault((known, str(int(status))), Histogram(API_REQUESTS.bounds))
        histogram.observe(seconds)

    def families(self) -> tuple[Family, ...]:
        """The metrics of this process, to be shown behind those of the node."""
        gathering = Gathering()
        for (operation, code), histogram in self._seconds.items():
            gathering.histogram(API_REQUESTS, histogram, operation, code)
        return gathering.families(WEB_METRICS)
