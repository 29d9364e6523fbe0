"""The text that a command prints about the envelope that it has announced: to how many peers it was sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from crabnet.cli.output import as_object
from crabnet.control.client import JsonValue
from crabnet.errors import NetworkError, Reason
from crabnet.plain import plain

_LATER: Final = "It will be sent when a node runs here (crabnet listen) and a peer is reachable."


def told_delivery(answer: Mapping[str, JsonValue]) -> str:
    """A sentence for people; "" if the answer contains no announcement.

    Raises NetworkError (SEND_FAILED) if the envelope could not be sent to any address. It is stored in any case.
    """
    if "announced" not in answer:
        return ""
    if answer["announced"] is None:
        return f"It waits to be sent. {_LATER}"
    announced = as_object(answer["announced"])
    peers, unheard, failed = (_number(announced, name) for name in ("peers", "unheard", "failed"))
    everybody, detail = bool(announced.get("broadcast")), plain(str(announced.get("detail")))
    if not (peers or unheard or everybody):
        if failed:
            raise NetworkError(
                f"the envelope is stored, but cannot be sent now: {detail}. {_LATER}", Reason.SEND_FAILED
            )
        return f"It was not sent, because {detail or 'no peer is known'}. {_LATER}"
    places = [_counted(peers, "peer", "peers")] if peers else []
    places += [f"{_counted(unheard, 'address', 'addresses')} from which nothing was received yet"] if unheard else []
    places += ["everybody on the local network"] if everybody else []
    told = f"Sent to {' and '.join(places)}"
    if failed:
        told += f", but not to {_counted(failed, 'other', 'others')}: {detail}"
    return f"{told}." if peers else f"{told}. {_LATER}"


def _number(members: Mapping[str, JsonValue], name: str) -> int:
    value = members.get(name)
    return value if isinstance(value, int) else 0


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
