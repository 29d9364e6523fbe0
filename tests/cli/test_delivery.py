"""What a command says of the envelope that it has announced (net-1)."""

from __future__ import annotations

import pytest

from crabnet.cli.delivery import told_delivery
from crabnet.control.client import JsonValue
from crabnet.errors import ExitCode, NetworkError, Reason

LATER = " It will be sent when a node runs here (crabnet listen) and a peer is reachable."


def announced(peers: int = 0, unheard: int = 0, broadcast: bool = False, failed: int = 0) -> dict[str, JsonValue]:
    detail = "no route" if failed else ""
    members: dict[str, JsonValue] = {"peers": peers, "unheard": unheard, "broadcast": broadcast, "failed": failed}
    return {"announced": {**members, "detail": detail}}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({}, ""),
        ({"announced": None}, "It waits to be sent." + LATER),
        (announced(), "It was not sent, because no peer is known." + LATER),
        (announced(peers=1), "Sent to 1 peer."),
        (announced(peers=2, unheard=1), "Sent to 2 peers and 1 address from which nothing was received yet."),
        (announced(unheard=2), "Sent to 2 addresses from which nothing was received yet." + LATER),
        (announced(broadcast=True), "Sent to everybody on the local network." + LATER),
        (announced(peers=1, broadcast=True, failed=1),
         "Sent to 1 peer and everybody on the local network, but not to 1 other: no route."),
        (announced(peers=1, failed=2), "Sent to 1 peer, but not to 2 others: no route."),
    ],
)  # fmt: skip
def test_to_whom_it_went(answer: dict[str, JsonValue], told: str) -> None:
    assert told_delivery(answer) == told


def test_what_could_not_be_sent_to_anybody_is_an_error_though_it_is_stored() -> None:
    with pytest.raises(NetworkError, match="the envelope is stored, but cannot be sent now: no route") as caught:
        told_delivery(announced(failed=1))
    assert (caught.value.reason, caught.value.exit_code) == (Reason.SEND_FAILED, ExitCode.NETWORK)
