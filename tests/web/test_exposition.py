"""What a scraper gets: both formats, chosen by its Accept header, read back by the parsers of prometheus-client."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from crabnet.monitor import metrics
from crabnet.monitor.meters import Histogram
from crabnet.monitor.metrics import METRICS
from crabnet.operations.gathering import Gathering
from crabnet.operations.metrics import Family
from crabnet.web.exposition import render
from crabnet.web.request_meter import RequestMeter

TEXT = "text/plain; version=0.0.4; charset=utf-8"
PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"


def families() -> tuple[Family, ...]:
    gathering = Gathering()
    gathering.put(metrics.BUILD, 1, '1.0"\\\n', "3.11")
    gathering.put(metrics.ENVELOPES_REJECTED, 3, "bad_signature")
    gathering.put(metrics.UPTIME, 1.5)
    histogram = Histogram(metrics.FSYNC.bounds)
    for value in (0.0001, 0.003, 70.0):
        histogram.observe(value)
    gathering.histogram(metrics.FSYNC, histogram)
    return gathering.families(METRICS)


@pytest.mark.parametrize(
    ("accept", "is_openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        (PROMETHEUS, True),
        ("application/openmetrics-text", True),
        ("APPLICATION/OPENMETRICS-TEXT; Version=99", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.9", False),
        ("application/openmetrics-text; version=x; q=high", False),
    ],
)
def test_the_accept_header_chooses_the_format(accept: str, is_openmetrics: bool) -> None:
    shown = render(families(), accept)
    assert shown.content_type.startswith("application/openmetrics-text") == is_openmetrics
    assert (shown.content_type == TEXT) != is_openmetrics
    assert shown.body.endswith(b"# EOF\n") == is_openmetrics


@given(st.text(max_size=80))
def test_no_accept_header_breaks_the_answer(accept: str) -> None:
    shown = render((), accept)
    assert "\n" not in shown.content_type
    assert shown.content_type.isascii()


@pytest.mark.parametrize("accept", ["", PROMETHEUS])
def test_what_is_rendered_is_read_back(accept: str) -> None:
    text = render(families(), accept).body.decode()
    parsed = list((parse_openmetrics if accept else parse_text)(text))
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value for each in parsed for sample in each.samples
    }
    assert samples["crabnet_build_info", ("python", "3.11"), ("version", '1.0"\\\n')] == 1
    assert samples["crabnet_envelopes_rejected_total", ("reason", "bad_signature")] == 3
    assert samples[("crabnet_uptime_seconds",)] == 1.5
    buckets = {
        float(dict(labels)["le"]): value
        for (name, *labels), value in samples.items()
        if name == "crabnet_journal_fsync_seconds_bucket"
    }
    assert (buckets[0.0001], buckets[0.0025], buckets[0.005], buckets[10.0], buckets[math.inf]) == (1, 1, 2, 2, 3)
    assert samples[("crabnet_journal_fsync_seconds_sum",)] == pytest.approx(70.0031)
    assert samples[("crabnet_journal_fsync_seconds_count",)] == 3
    assert len(parsed) == len(METRICS)


def test_requests_are_counted_by_operation_and_code() -> None:
    meter = RequestMeter()
    meter.observe("status", 200, 0.003)
    meter.observe("status", 200, 0.2)
    meter.observe("/etc/passwd", 404, 0.001)
    meter.observe("status", 799, 0.001)
    (family,) = meter.families()
    counts = {
        (sample.labels["operation"], sample.labels["code"]): sample.histogram.counts[-1]
        for sample in family.samples
        if sample.histogram is not None
    }
    assert counts == {("status", "200"): 2, ("other", "404"): 1, ("status", "other"): 1}
