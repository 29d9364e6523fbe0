"""Performs the operation ``report``: what other operations answer, redacted, in one document."""

from __future__ import annotations

import os

from crabnet import __version__, limits
from crabnet.errors import CrabnetError
from crabnet.monitor.redaction import redaction_for
from crabnet.node.node import Node
from crabnet.node.operations.performing import as_json, dispatch, reads
from crabnet.operations.health import REPORT, REPORTED, Report
from crabnet.operations.model import Empty
from crabnet.protocol.canonical import JsonObject, JsonValue

_MORE: tuple[tuple[str, str, JsonObject], ...] = (("config", "config", {}), ("doctor", "doctor", {}))


@reads(REPORT)
async def report(node: Node, _: Empty) -> Report:
    """Ask this node itself, one part after the other."""
    redaction = redaction_for(node.settings, hash_key=os.urandom(32))
    parts: dict[str, object] = {
        name: redaction.value(await _answer(node, method, given)) for name, method, given in (*REPORTED, *_MORE)
    }
    events = await _answer(node, "events.list", {"limit": limits.REPORT_EVENTS_MAX})
    listed = redaction.value(events.get("events", events)) if isinstance(events, dict) else None
    return Report(
        version=__version__,
        at_ms=node.clock_ms(),
        parts=parts,
        events=[*listed] if isinstance(listed, list) else [listed],
    )


async def _answer(node: Node, method: str, given: JsonObject) -> JsonValue:
    try:
        return as_json(await dispatch(node, method, given))
    except CrabnetError as error:
        return {"error": {"reason": error.reason.value, "message": error.message}}
