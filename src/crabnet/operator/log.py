"""``crabnet audit log``: claims, results and settlements with author and time, and the decisions about them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from crabnet.node.operations.trail import DECISIVE, REFOLD, LogFilter, read_log
from crabnet.operations.history import Decision

__all__ = ["DECISIVE", "REFOLD", "LogFilter", "describe_row", "newest", "read_log"]


def newest(rows: Iterable[Decision], limit: int) -> Iterator[Decision]:
    """The last ``limit`` rows."""
    return iter(deque(rows, maxlen=limit))


def describe_row(row: Decision) -> str:
    """One line for people."""
    verdict = row.decision if row.reason is None else f"{row.decision} ({row.reason})"
    parts = [row.at, f"lsn={row.lsn}", row.kind, verdict]
    parts += [f"status={row.status}"] if row.status is not None else []
    parts += [f"seed={row.seed_id}"] if row.seed_id is not None else []
    parts += [f"id={row.object_id}"] if row.object_id not in {None, row.seed_id} else []
    parts += [f"by={row.author}"] if row.author else []
    parts += [f"envelope={row.envelope_id}"] if row.envelope_id is not None else []
    parts += [f"via={row.via}"] if row.via is not None else []
    return " ".join(parts if row.signed else [*parts, "unsigned"])
