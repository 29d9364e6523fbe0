"""Requests of the tools to a running node."""

from __future__ import annotations

from pathlib import Path

from crabnet.control.client import NodeNotRunningError, call
from crabnet.errors import CrabnetError
from crabnet.operator.findings import LivePoint


def live_point(data_dir: Path, timeout_ms: int) -> LivePoint | None:
    """State hash and lsn of the node that runs on the data dir; None without a node. Raises CrabnetError."""
    try:
        status = call(data_dir, "status", {}, timeout_ms)
    except NodeNotRunningError:
        return None
    if isinstance(status, dict):
        state_hash, lsn = status.get("state_hash"), status.get("state_lsn")
        if isinstance(state_hash, str) and isinstance(lsn, int):
            return LivePoint(state_hash, lsn)
    raise CrabnetError("the node's status has no state hash; check that the node runs the same version")


def durable_lsn(data_dir: Path, timeout_ms: int) -> int | None:
    """The last frame that a running node has made durable; None without a node. Raises CrabnetError."""
    point = live_point(data_dir, timeout_ms)
    return None if point is None else point.lsn
