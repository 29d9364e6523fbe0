"""The results of measurements, and their output."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec import Struct


class Bound(StrEnum):
    """Whether a value must be at least or at most the target."""

    AT_LEAST = ">="
    AT_MOST = "<="


class Target(Struct, frozen=True):
    """A bound that a value should keep."""

    bound: Bound
    value: float

    def is_met(self, value: float) -> bool:
        """True if ``value`` keeps the bound."""
        return value >= self.value if self.bound is Bound.AT_LEAST else value <= self.value

    def __str__(self) -> str:
        return f"{self.bound.value} {self.value:g}"


class Measure(Struct, frozen=True):
    """One row of the table. A row without a target is only for information."""

    group: str
    name: str
    value: float
    unit: str
    target: Target | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """``OK`` or ``MISSED``; "" without a target."""
        if self.target is None:
            return ""
        return "OK" if self.target.is_met(self.value) else "MISSED"


class Report(Struct, frozen=True):
    """All measures of one run."""

    mode: str
    python: str
    processors: int
    measures: list[Measure]


def at_least(value: float) -> Target:
    """The target to reach ``value``."""
    return Target(Bound.AT_LEAST, value)


def at_most(value: float) -> Target:
    """The target not to exceed ``value``."""
    return Target(Bound.AT_MOST, value)


def percentile(samples: Iterable[float], percent: float) -> float:
    """The sample that ``percent`` of all samples do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def spread(samples: list[float]) -> str:
    """Median and quartiles for the note column."""
    if len(samples) < 4:
        return ""
    low, _, high = statistics.quantiles(samples, n=4)
    return f"quartiles {low:.3g} – {high:.3g}"


def render(measures: list[Measure]) -> str:
    """A table of all measures as text, group by group."""
    lines = []
    width = max(len(measure.name) for measure in measures)
    group = ""
    for measure in measures:
        if measure.group != group:
            group = measure.group
            lines += ["", group]
        target = "" if measure.target is None else str(measure.target)
        line = f"  {measure.name:{width}} {_number(measure.value):>10} {measure.unit:6} {target:8} {measure.verdict:6}"
        lines.append(f"{line} {measure.note}".rstrip())
    return "\n".join(lines)


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def save(report: Report, path: Path) -> None:
    """Write a report as JSON, each measure with its verdict."""
    value = msgspec.to_builtins(report)
    for row, measure in zip(value["measures"], report.measures, strict=True):
        row["verdict"] = measure.verdict
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value)) + b"\n")
