"""The ways into a node for other programs. Importing this module registers all operations."""

from __future__ import annotations

from crabnet.node.operations import access as _access
from crabnet.node.operations import accounts as _accounts
from crabnet.node.operations import checkup as _checkup
from crabnet.node.operations import events as _events
from crabnet.node.operations import explaining as _explaining
from crabnet.node.operations import histories as _histories
from crabnet.node.operations import infos as _infos
from crabnet.node.operations import judging as _judging
from crabnet.node.operations import metering as _metering
from crabnet.node.operations import networks as _networks
from crabnet.node.operations import overview as _overview
from crabnet.node.operations import purchases as _purchases
from crabnet.node.operations import receipts as _receipts
from crabnet.node.operations import reports as _reports
from crabnet.node.operations import steering as _steering
from crabnet.node.operations import tasks as _tasks
from crabnet.node.operations import work as _work
from crabnet.node.operations.performing import as_json, dispatch, dispatch_stream, perform, stream

REGISTERED = (
    _access,
    _accounts,
    _checkup,
    _events,
    _explaining,
    _histories,
    _infos,
    _judging,
    _metering,
    _networks,
    _overview,
    _purchases,
    _receipts,
    _reports,
    _steering,
    _tasks,
    _work,
)
"""The modules whose functions perform the operations."""

__all__ = ["as_json", "dispatch", "dispatch_stream", "perform", "stream"]
