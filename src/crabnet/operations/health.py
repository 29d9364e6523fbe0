"""The operation that checks a running node, and the form of all checks."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

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
