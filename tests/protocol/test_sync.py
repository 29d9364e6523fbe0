"""Talk between neighbours."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.errors import Reason
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope, Kind, seal
from crabnet.protocol.payloads import PayloadRefusedError
from crabnet.protocol.sync import (
    BidDeclined,
    ForkMark,
    ForkRequest,
    Head,
    Heads,
    Hello,
    Named,
    NodeIdentity,
    Request,
    Served,
    Talk,
    Want,
    payload_of,
    talk_of,
)
from tests.protocol.test_canonical import VALUES
from tests.support.envelopes import NOW_S, admitted, signer

ALICE = signer("alice")
ID = "ab" * 32


def said(kind: Kind, payload: JsonObject) -> Envelope:
    """What alice says to a neighbour."""
    sealed = seal(ALICE, kind=kind, namespace="default", ts=NOW_S, nonce=1, payload=payload)
    outcome = admitted(sealed.raw)
    assert outcome.kind is kind
    return outcome.envelope


@pytest.mark.parametrize(
    "talk",
    [
        Hello(NodeIdentity(ALICE.node_id)),
        Hello(NodeIdentity(ALICE.node_id, "alias", "crabnet/1"), "challenge", "echo"),
        Heads([]),
        Heads([Head("a", 1, ID), Head("b", 2**53 - 1, ID)]),
        Heads([Head("a", 0, "", 1), Head("b", 7, ID, 8)]),
        Heads([], served=[Served("a", 9, 8), Served("b", 9, 9)]),
        Request([Want("a", 1, 1), Want("b", 3, 99)]),
        Request([], [], [Named("seed", ID)]),
        ForkRequest([ForkMark("a", 3)]),
        BidDeclined("seed", "price", 7),
        BidDeclined("seed", "a_word_of_tomorrow", 7),
        BidDeclined("seed", "busy"),
    ],
    ids=lambda talk: type(talk).__name__,
)
def test_what_is_said_is_understood(talk: Talk) -> None:
    kind, payload = payload_of(talk)
    assert talk_of(said(kind, payload), kind) == talk


def test_the_wire_form_is_that_of_the_document() -> None:
    ended = [Head("a", 1, ID, 2), Head("b", 0, "", 1)]
    assert payload_of(Heads([Head("a", 1, ID)])) == (Kind.FEED_HEADS, {"heads": [["a", 1, ID, 0]]})
    assert payload_of(Heads(ended)) == (Kind.FEED_HEADS, {"heads": [["a", 1, ID, 2], ["b", 0, "", 1]]})
    named = Request([], [], [Named("seed", ID)])
    assert payload_of(named) == (Kind.FEED_REQUEST, {"wants": [], "names": [["seed", ID]]})
    assert payload_of(ForkRequest([ForkMark("a", 3)])) == (Kind.FORK_REQUEST, {"wants": [["a", 3]]})
    assert payload_of(BidDeclined("s", "busy")) == (Kind.BID_DECLINED, {"seed_id": "s", "reason": "busy"})
    assert payload_of(Request([Want("a", 1, 2)])) == (Kind.FEED_REQUEST, {"wants": [["a", 1, 2]]})
    assert payload_of(Hello(NodeIdentity("n", "x", "y"), "c", "e")) == (
        Kind.NODE_HELLO,
        {"identity": {"node_id": "n", "alias": "x", "agent": "y"}, "challenge": "c", "echo": "e"},
    )


ME = {"node_id": ALICE.node_id}
REFUSED: list[tuple[Kind, Any, Reason]] = [
    (Kind.NODE_HELLO, {}, Reason.MALFORMED),
    (Kind.NODE_HELLO, {"identity": {}}, Reason.MALFORMED),
    (Kind.NODE_HELLO, {"identity": {"node_id": signer("bob").node_id}}, Reason.UNAUTHORISED),
    (Kind.NODE_HELLO, {"identity": ME, "challenge": "x" * 65}, Reason.MALFORMED),
    (Kind.NODE_HELLO, {"identity": ME, "echo": 1}, Reason.MALFORMED),
    (Kind.NODE_HELLO, {"identity": {**ME, "alias": "x" * 129}}, Reason.MALFORMED),
    (Kind.FEED_HEADS, {}, Reason.MALFORMED),
    (Kind.FEED_HEADS, {"heads": {}}, Reason.MALFORMED),
    (Kind.FEED_HEADS, {"heads": [["a", 1]]}, Reason.MALFORMED),
    (Kind.FEED_HEADS, {"heads": [["a", -1, ID]]}, Reason.MALFORMED),
    (Kind.FEED_HEADS, {"heads": [["a", 1, ID, -1]]}, Reason.MALFORMED),
    (Kind.FEED_HEADS, {"heads": [["a", 1, ID, "2"]]}, Reason.MALFORMED),
    (Kind.FEED_HEADS, {"heads": [["a", 1, ID.upper()]]}, Reason.MALFORMED),
    (Kind.FEED_HEADS, {"heads": [["a", 1, ID + "\n"]]}, Reason.MALFORMED),
    (Kind.FEED_HEADS, {"heads": [["", 1, ID]]}, Reason.MALFORMED),
    (Kind.FEED_HEADS, {"heads": [["a", 1, ID]] * (limits.SYNC_HEADS_PER_MESSAGE_MAX + 1)}, Reason.MALFORMED),
    (Kind.FEED_REQUEST, {"wants": [["a", 0, 1]]}, Reason.MALFORMED),
    (Kind.FEED_REQUEST, {"wants": [["a", 1, True]]}, Reason.MALFORMED),
    (Kind.FEED_REQUEST, {"wants": [], "names": [["seed"]]}, Reason.MALFORMED),
    (Kind.FEED_REQUEST, {"wants": [], "names": [["", ID]]}, Reason.MALFORMED),
    (Kind.FEED_REQUEST, {"wants": [], "names": [["seed", ID[1:]]]}, Reason.MALFORMED),
    (
        Kind.FEED_REQUEST,
        {"wants": [], "names": [["seed", ID]] * (limits.SYNC_NAMES_PER_MESSAGE_MAX + 1)},
        Reason.MALFORMED,
    ),
    (Kind.BID_DECLINED, {}, Reason.MALFORMED),
    (Kind.BID_DECLINED, {"seed_id": "", "reason": "busy"}, Reason.MALFORMED),
    (Kind.BID_DECLINED, {"seed_id": "s", "reason": ""}, Reason.MALFORMED),
    (Kind.BID_DECLINED, {"seed_id": "s", "reason": "Busy"}, Reason.MALFORMED),
    (Kind.BID_DECLINED, {"seed_id": "s", "reason": "b" * 33}, Reason.MALFORMED),
    (Kind.BID_DECLINED, {"seed_id": "s", "reason": "busy", "price": 3}, Reason.MALFORMED),
    (Kind.BID_DECLINED, {"seed_id": "s", "reason": "price", "price": -3}, Reason.MALFORMED),
    (Kind.FORK_REQUEST, {}, Reason.MALFORMED),
    (Kind.FORK_REQUEST, {"wants": [["a", 0]]}, Reason.MALFORMED),
    (Kind.FEED_REQUEST, {"wants": [["a", 1, 1], ["a", 9, 8]]}, Reason.MALFORMED),
    (Kind.FEED_HEADS, {"heads": [], "served": [["a", 9, 7]]}, Reason.MALFORMED),
    (Kind.FEED_REQUEST, {"wants": [["a", 1, 1]] * (limits.SYNC_WANTS_PER_MESSAGE_MAX + 1)}, Reason.MALFORMED),
]


@pytest.mark.parametrize(("kind", "payload", "reason"), REFUSED)
def test_refused(kind: Kind, payload: JsonObject, reason: Reason) -> None:
    with pytest.raises(PayloadRefusedError) as caught:
        talk_of(said(kind, payload), kind)
    assert caught.value.reason is reason


TALK = st.sampled_from([Kind.NODE_HELLO, Kind.FEED_HEADS, Kind.FEED_REQUEST, Kind.FORK_REQUEST])


@given(TALK, st.dictionaries(st.sampled_from(["identity", "echo", "heads", "wants", "names"]), VALUES, max_size=4))
def test_any_payload_is_understood_or_refused(kind: Kind, payload: JsonObject) -> None:
    envelope = said(kind, payload)
    try:
        talk = talk_of(envelope, kind)
    except PayloadRefusedError:
        return
    assert payload_of(talk)[0] is kind
