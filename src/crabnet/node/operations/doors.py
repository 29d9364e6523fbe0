"""The ways into a node for other programs. Importing this module registers all operations."""

from __future__ import annotations

from crabnet.node.operations import access, events, infos, metering, overview, tasks
from crabnet.node.operations.performing import as_json, dispatch, dispatch_stream, perform, stream

__all__ = [
    "access",
    "as_json",
    "dispatch",
    "dispatch_stream",
    "events",
    "infos",
    "metering",
    "overview",
    "perform",
    "stream",
    "tasks",
]
