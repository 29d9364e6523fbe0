"""Writes docs/METRICS.md from the tables of metrics."""

from __future__ import annotations

from typing import Final

from crabnet.monitor.metrics import BY_EVENT, METRICS, Label, Metric
from crabnet.web.request_meter import WEB_METRICS

_HEAD: Final = """# Metrics

<!-- Written by scripts/write_reference.py from src/crabnet/monitor/metrics.py. Change it there. -->

A node counts and times its work, and shows that in two ways ([ADR 39](adr/0039-metrics.md)):

- The operation `metrics` ([CONTROL.md](CONTROL.md#metrics)) answers with typed families, over the control socket and at
  `GET /api/v1/metrics`.
- The web process renders the same at `/metrics` for Prometheus: the text format 0.0.4, or OpenMetrics if the scraper prefers it.

Both need the scope `metrics`, which every other scope includes. [OPERATIONS.md](OPERATIONS.md#metrics) says how to scrape a node, and
where the dashboard and the alert rules are.

All values begin anew with the node. A counter without labels, a gauge and a histogram are there from the start. A counter by Reason has
a sample only for Reasons that occurred. `crabnet_events_total` has every kind of event from the start, so that `increase()` sees the
first one. A value that cannot be read is absent: sizes of a disk that does not answer, the age of a checkpoint before the first one.

No label holds an id, an address or a text of others. Each label has a closed set of values, and `other` stands for anything outside of
it. So the number of time series is bounded whatever others send.

| metric | type | labels | meaning |
|---|---|---|---|
"""


def metrics_markdown() -> str:
    """The page as Markdown."""
    everything = (*METRICS, *WEB_METRICS)
    rows = "".join(map(_row, everything))
    return f"{_HEAD}{rows}\n{_labels(everything)}\n{_events()}\n{_buckets(everything)}"


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label.name}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.type.value} | {labels} | {metric.help} |\n"


def _labels(table: tuple[Metric, ...]) -> str:
    lines = ["## Labels", "", "| label | of | values |", "|---|---|---|"]
    users: dict[Label, list[str]] = {}
    for metric in table:
        for label in metric.labels:
            users.setdefault(label, []).append(f"`{metric.name}`")
    for label, names in users.items():
        of = ", ".join(names) if len(names) < 5 else "counters by Reason"
        lines.append(f"| `{label.name}` | {of} | {_values(label)} |")
    return "\n".join(lines) + "\n"


def _values(label: Label) -> str:
    if label.values is None:
        return "one, of the running program"
    if label.name == "reason":
        return "the names of `crabnet.errors.Reason`, and `none`"
    if label.name == "code":
        return "HTTP status codes"
    if label.name == "operation":
        return "the operations of [CONTROL.md](CONTROL.md)"
    if label.name == "kind" and len(label.values) > 20:
        return "the kinds of [EVENTS.md](EVENTS.md)"
    return ", ".join(f"`{value}`" for value in sorted(label.values))


def _events() -> str:
    lines = ["## Counters of events", "", "These count by Reason what the [events](EVENTS.md) of a kind report.", ""]
    lines += ["| event | counter |", "|---|---|"]
    lines += [f"| `{kind.value}` | `{metric.name}` |" for kind, metric in BY_EVENT.items()]
    return "\n".join(lines) + "\n"


def _buckets(table: tuple[Metric, ...]) -> str:
    lines = ["## Buckets", "", "| histogram | upper bounds |", "|---|---|"]
    lines += [
        f"| `{metric.name}` | {', '.join(f'{bound:.10g}' for bound in metric.bounds)} |"
        for metric in table
        if metric.bounds
    ]
    return "\n".join(lines) + "\n"
