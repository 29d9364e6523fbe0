"""The table of metrics: names follow the conventions, labels have the sets of the code, the page is up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crabnet.monitor import metrics
from crabnet.monitor.meters import Histogram
from crabnet.monitor.metrics import BY_EVENT, METRICS, NONE, OTHER, Label, Metric, MetricType
from crabnet.operations.gathering import Gathering
from crabnet.operations.model import Scope
from crabnet.operations.table import BY_NAME
from crabnet.runner.outcome import Cause
from crabnet.runner.sandbox.model import Mode
from crabnet.web.metrics_document import metrics_markdown
from crabnet.web.request_meter import WEB_METRICS

DOCS = Path(__file__).parents[2] / "docs"
ALL = (*METRICS, *WEB_METRICS)
EACH = pytest.mark.parametrize("metric", ALL, ids=lambda each: each.name)
FORBIDDEN = {"id", "seed", "seed_id", "author", "address", "peer", "node_id", "title", "alias", "namespace", "le"}
NOT_BASE_UNITS = re.compile(
    r"_(ms|us|ns|milliseconds|minutes|hours|kb|kib|mb|mib|kilobytes|percent|ratio_percent)(_|$)"
)


@EACH
def test_names_follow_the_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"crabnet(_[a-z][a-z0-9]*)+", metric.name)
    assert not NOT_BASE_UNITS.search(metric.name)
    assert metric.name.endswith("_total") == (metric.type is MetricType.COUNTER)
    assert metric.name.endswith("_info") == (metric.type is MetricType.INFO)
    assert not metric.name.endswith(("_count", "_sum", "_bucket", "_created"))
    assert metric.help.endswith(".")
    assert "\n" not in metric.help
    assert bool(metric.bounds) == (metric.type is MetricType.HISTOGRAM)


def test_names_are_unique_also_without_their_suffix() -> None:
    stems = [metric.name.removesuffix("_total").removesuffix("_info") for metric in ALL]
    assert len(set(stems)) == len(stems)
    assert len(METRICS) > 70


@EACH
def test_labels_name_nobody_and_nothing_of_others(metric: Metric) -> None:
    assert not {label.name for label in metric.labels} & FORBIDDEN
    opens = [label.name for label in metric.labels if label.values is None]
    assert not opens or metric is metrics.BUILD


def test_sets_of_labels_are_those_of_the_code() -> None:
    assert {cause.value for cause in Cause} == metrics.RUN_CAUSES
    modes = frozenset({*(mode.value for mode in Mode), "unavailable", "unknown"})
    assert metrics.SANDBOX.labels[0].values == modes
    assert sum(metric.series_max for metric in METRICS) < 5_000


def test_a_value_outside_of_the_set_of_a_label_becomes_other() -> None:
    gathering = Gathering()
    for name in ("gap", "12D3KooWStranger", "<b>", NONE, ""):
        gathering.put(metrics.ENVELOPES_IGNORED, 1, name)
    samples = next(each for each in gathering.families(METRICS) if each.name == metrics.ENVELOPES_IGNORED.name).samples
    assert {sample.labels["reason"]: sample.value for sample in samples} == {"gap": 1, NONE: 1, OTHER: 3}


def test_a_sample_has_all_labels_of_its_metric() -> None:
    gathering = Gathering()
    with pytest.raises(ValueError, match="shorter"):
        gathering.put(metrics.SEEDS, 1)
    with pytest.raises(ValueError, match="longer"):
        gathering.histogram(metrics.FSYNC, Histogram((1.0,)), "x")


def test_each_counter_of_events_is_by_reason() -> None:
    assert all([label.name for label in metric.labels] == ["reason"] for metric in BY_EVENT.values())
    assert len(set(BY_EVENT.values())) == len(BY_EVENT)


def test_a_scraper_may_read_metrics_and_nothing_else() -> None:
    open_to_scrapers = {name for name, operation in BY_NAME.items() if Scope.METRICS.includes(operation.scope)}
    assert open_to_scrapers == {"metrics"}
    assert all(scope.includes(Scope.METRICS) for scope in Scope)


def test_the_set_of_a_label_admits_its_values() -> None:
    assert Label("x", None).admits("anything")
    assert Label("x", frozenset({"a"})).admits("a")
    assert not Label("x", frozenset({"a"})).admits("b")


def test_the_page_is_up_to_date() -> None:
    assert (DOCS / "METRICS.md").read_text(encoding="utf-8") == metrics_markdown(), "run scripts/write_reference.py"
