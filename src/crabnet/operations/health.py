"""The operation that checks a running node, and the form of all checks."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from crabnet.operations.model import Alone, Empty, Kind, Operation, Route, Scope


class Verdict(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warn"
    """Something that the operator should know or change. The node works."""
    FAILED = "fail"
    """A node cannot start, or cannot do its work."""


class Check(Struct, frozen=True, kw_only=True):
    """One finding."""

    name: str
    """What was checked: a setting, or a part of the node."""
    verdict: Verdict
    detail: str
    """What was found."""
    remedy: str
    """What to do. Empty if nothing is to be done."""
    reason: str | None = None
    """The Reason that a start, or the affected operations, would give."""


class Examination(Struct, frozen=True, kw_only=True):
    """The findings about a running node."""

    ok: bool
    """No check failed."""
    checks: list[Check]


class Report(Struct, frozen=True, kw_only=True):
    """What helps somebody else to find a fault, without secrets, addresses, and the contents of tasks."""

    version: str
    at_ms: int
    """When it was made, in milliseconds since 1970."""
    parts: dict[str, object]
    """Answers of reading operations, by name. In place of an answer that could not be had there is its error."""
    events: list[object]
    """The last events, newest first."""


REPORTED: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    ("status", "status", {}),
    ("identity", "id", {}),
    ("topology", "topology", {}),
    ("peers", "peers", {}),
    ("sync", "sync", {}),
    ("feeds", "feed.list", {"limit": 1000}),
    ("forked-feeds", "feed.list", {"forked": True, "limit": 1000}),
    ("tasks", "seed.list", {"limit": 200}),
    ("runs", "run.list", {}),
)
"""What reports and debug bundles contain: part, operation and parameters."""

REPORT: Final = Operation(
    name="report",
    route=Route("GET", "/report"),
    request=Empty,
    response=Report,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.FAILS,
    summary="Make a redacted report of the running node, to send to somebody who helps.",
    description=(
        "Secrets, the home directory and the contents of tasks are left out. Addresses are replaced by words that are"
        " the same in the whole report, and in no other one. `crabnet debug bundle` contains more, and works without a"
        " node, too."
    ),
)
DOCTOR: Final = Operation(
    name="doctor",
    route=Route("GET", "/doctor"),
    request=Empty,
    response=Examination,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.FAILS,
    summary="Check the running node: settings, ledger, sync, sandbox, clock, disk, peers.",
    description="`crabnet doctor` adds the checks of `crabnet config verify`, and works without a node, too.",
)
