"""Crabnet, a decentralised task network: publish, bid, claim, run, settle. No server.

A Python program takes part in the network with ``async with crabnet.Node(crabnet.Settings(data_dir=...)) as node``;
see docs/PYTHON.md. Everything but the version is imported when it is first used.
"""

from __future__ import annotations

from crabnet._version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from crabnet.core.commands import Publish
    from crabnet.core.mending import ReplicaFailedError
    from crabnet.domain.model import Bid, Claim, Seed, SeedStatus, TaskResult
    from crabnet.errors import CrabnetError, Reason
    from crabnet.market.policies import Accepting, AwardRule, Terms
    from crabnet.node.node import Node
    from crabnet.node.operations.doors import perform, stream
    from crabnet.node.seeds import SeedState
    from crabnet.settings import Settings

_HOMES = {
    "Accepting": "crabnet.market.policies",
    "AwardRule": "crabnet.market.policies",
    "Terms": "crabnet.market.policies",
    "Node": "crabnet.node.node",
    "Settings": "crabnet.settings",
    "Publish": "crabnet.core.commands",
    "Seed": "crabnet.domain.model",
    "SeedState": "crabnet.node.seeds",
    "SeedStatus": "crabnet.domain.model",
    "Bid": "crabnet.domain.model",
    "Claim": "crabnet.domain.model",
    "TaskResult": "crabnet.domain.model",
    "CrabnetError": "crabnet.errors",
    "ReplicaFailedError": "crabnet.core.mending",
    "Reason": "crabnet.errors",
    "perform": "crabnet.node.operations.doors",
    "stream": "crabnet.node.operations.doors",
}

__all__ = [
    "Accepting",
    "AwardRule",
    "Bid",
    "Claim",
    "CrabnetError",
    "Node",
    "Publish",
    "Reason",
    "ReplicaFailedError",
    "Seed",
    "SeedState",
    "SeedStatus",
    "Settings",
    "TaskResult",
    "Terms",
    "__version__",
    "perform",
    "stream",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'crabnet' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
