"""What the libp2p process decides about a message from its bytes alone, and whom it does not listen to any more."""

from __future__ import annotations

import pytest

from crabnet import limits
from crabnet.errors import Reason
from crabnet.p2p.checking import Checked, Checker, Verdict, contained
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Kind, seal
from crabnet.protocol.fork_proof import PROOF_START
from tests.support.envelopes import NOW_S, Author, edit

NOW_MS = NOW_S * 1000


def checker(per_s: int = 0) -> Checker:
    """A checker with the usual policy."""
    return Checker(AdmissionPolicy(), per_s)


def test_a_sound_envelope_is_accepted_once() -> None:
    check, raw = checker(), Author("a").publish().raw
    assert check.gossip("peer", raw, NOW_MS).verdict is Verdict.ACCEPT
    again = check.gossip("other", raw, NOW_MS)
    assert (again.verdict, again.reason) == (Verdict.IGNORE, Reason.DUPLICATE)


@pytest.mark.parametrize(
    ("path", "value", "verdict", "reason"),
    [
        ("meta.id", "0" * 64, Verdict.REJECT, Reason.WRONG_ID),
        ("meta.signature", "A" * 86, Verdict.REJECT, Reason.BAD_SIGNATURE),
        ("meta", [], Verdict.REJECT, Reason.MALFORMED),
    ],
)
def test_what_is_wrong_is_named(path: str, value: object, verdict: Verdict, reason: Reason) -> None:
    checked = checker().gossip("peer", edit(Author("a").publish().raw, path, value), NOW_MS)
    assert (checked.verdict, checked.reason) == (verdict, reason)


def test_what_is_of_no_use_here_is_passed_over() -> None:
    elsewhere, old = Author("a", "elsewhere").publish(), Author("a").publish(NOW_S - 30 * 86_400)
    for envelope, reason in ((elsewhere, Reason.WRONG_NAMESPACE), (old, Reason.EXPIRED)):
        checked = checker().gossip("peer", envelope.raw, NOW_MS)
        assert (checked.verdict, checked.reason) == (Verdict.IGNORE, reason)


def test_streams_bring_old_envelopes_and_may_repeat_them() -> None:
    check, raw = checker(), Author("a").publish(NOW_S - 30 * 86_400).raw
    assert [check.stream("peer", raw, NOW_MS).verdict for _ in range(3)] == [Verdict.ACCEPT] * 3


def test_talk_comes_over_streams_from_those_who_say_it_and_over_gossip_from_anybody() -> None:
    author = Author("a")
    payload: JsonObject = {"identity": {"node_id": author.id}, "challenge": "", "echo": ""}
    hello = seal(author.signer, kind=Kind.NODE_HELLO, namespace="default", ts=NOW_S, nonce=1, payload=payload).raw
    check = checker()
    assert check.stream(author.id, hello, NOW_MS).verdict is Verdict.ACCEPT
    refused = check.stream("another", hello, NOW_MS)
    assert (refused.verdict, refused.reason) == (Verdict.REJECT, Reason.UNAUTHORISED)
    assert check.gossip("another", hello, NOW_MS).verdict is Verdict.ACCEPT


def test_a_decline_comes_over_streams_from_anybody_and_is_not_spread_by_gossip() -> None:
    author = Author("a")
    payload: JsonObject = {"seed_id": "4711", "reason": "busy"}
    said = seal(author.signer, kind=Kind.BID_DECLINED, namespace="default", ts=NOW_S, nonce=1, payload=payload).raw
    check = checker()
    assert check.stream(author.id, said, NOW_MS).verdict is Verdict.ACCEPT
    assert check.stream("another", said, NOW_MS).verdict is Verdict.ACCEPT
    assert check.gossip(author.id, said, NOW_MS).verdict is Verdict.IGNORE


def test_proofs_of_forks_pass_up_to_their_greatest_size() -> None:
    largest = PROOF_START + bytes(limits.FORK_PROOF_BYTES_MAX - len(PROOF_START))
    assert checker().stream("peer", largest, NOW_MS).verdict is Verdict.ACCEPT
    assert checker().stream("peer", largest + b"x", NOW_MS).reason is Reason.TOO_LARGE


@pytest.mark.parametrize("by_stream", [False, True])
def test_after_some_offences_a_peer_is_refused_without_a_look_until_time_has_passed(by_stream: bool) -> None:
    check, sound = checker(), Author("a").publish().raw
    for _ in range(limits.P2P_OFFENCES_MAX):
        assert check.admit("peer", NOW_MS) is None
        bad = check.stream("peer", b"{}", NOW_MS) if by_stream else check.gossip("peer", b"{}", NOW_MS)
        assert bad.reason is Reason.MALFORMED
    refused = check.admit("peer", NOW_MS)
    assert refused is not None
    assert (refused.verdict, refused.reason) == (Verdict.REJECT, Reason.MISUSE)
    assert check.stream("peer", sound, NOW_MS) == refused
    assert check.admit("honest", NOW_MS) is None
    assert check.stream("honest", sound, NOW_MS).verdict is Verdict.ACCEPT
    assert check.stream("peer", sound, NOW_MS + 1000).verdict is Verdict.ACCEPT


def test_messages_that_are_harmless_are_no_offence() -> None:
    check, old = checker(), Author("a").publish(NOW_S - 30 * 86_400).raw
    for _ in range(10 * limits.P2P_OFFENCES_MAX):
        assert check.gossip("peer", old, NOW_MS).verdict is Verdict.IGNORE
    assert check.admit("peer", NOW_MS) is None


def test_a_peer_over_its_rate_is_passed_over_and_not_blamed() -> None:
    check = checker(per_s=3)
    assert [check.admit("peer", NOW_MS) for _ in range(3)] == [None] * 3
    refused = check.admit("peer", NOW_MS)
    assert refused is not None
    assert (refused.verdict, refused.reason) == (Verdict.IGNORE, Reason.RATE_LIMITED)
    assert check.admit("other", NOW_MS) is None
    assert check.admit("peer", NOW_MS + 1000) is None


def test_an_error_in_a_check_passes_the_message_over() -> None:
    def fails() -> Checked:
        raise ZeroDivisionError

    assert contained(fails) == Checked(Verdict.IGNORE, Reason.INTERNAL, "ZeroDivisionError")
