"""The web process as a child of a node (ADR 33)."""

from __future__ import annotations

import msgspec

from crabnet.child import Lifeline, Retry
from crabnet.errors import CrabnetError, Reason
from crabnet.web.config import WebConfig
from crabnet.web.notes import note
from crabnet.web.running import run

_SLOWLY = frozenset({Reason.ADDRESS_IN_USE, Reason.ADDRESS_INVALID, Reason.INVALID_CONFIG})


def serve(lifeline: Lifeline) -> None:
    """Serve until the node ends. What the node gives is a ``WebConfig`` in JSON."""
    config = msgspec.json.decode(lifeline.given, type=WebConfig)
    try:
        run(
            config,
            lambda addresses: lifeline.ready(detail=f"it serves {', '.join(addresses)}", addresses=addresses),
            note,
        )
    except CrabnetError as error:
        lifeline.fail(error.reason, error.message, Retry.SLOWLY if error.reason in _SLOWLY else Retry.SOON)
