"""What the process decides about a message from its bytes alone: accept, ignore or reject. Pure."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket
from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.protocol.admission import Admission, AdmissionPolicy, Refusal, seen_key
from crabnet.protocol.envelope import Kind
from crabnet.protocol.fork_proof import PROOF_START
from crabnet.protocol.replay import SeenWindow
from crabnet.protocol.topics import Channel, channel_of


class Verdict(Enum):
    """The three outcomes of gossipsub 1.1 (its specification, "Extended validators")."""

    ACCEPT = "accept"
    IGNORE = "ignore"
    REJECT = "reject"


class Checked(Struct, frozen=True):
    """A verdict, and why it is not ``ACCEPT``."""

    verdict: Verdict
    reason: Reason | None = None
    detail: str = ""


_ACCEPTED = Checked(Verdict.ACCEPT)
_OFFENDER = Checked(Verdict.REJECT, Reason.MISUSE, "too many of its messages were rejected; this one was not checked")
_NOT_ITS_OWN = Checked(Verdict.REJECT, Reason.UNAUTHORISED, "what a neighbour says to this one is not passed on")
_FOR_ONE = Checked(Verdict.IGNORE, Reason.UNSOLICITED, "a decline is for one node, so it goes over streams")
_TOO_MANY = Checked(Verdict.IGNORE, Reason.RATE_LIMITED, "too many messages of this peer")


class Checker:
    """Checks messages like step 2 to 12 of the verification (docs/PROTOCOL.md, section 9), without any state of the
    node. The node checks them again.
    """

    def __init__(self, policy: AdmissionPolicy, messages_per_s: int) -> None:
        """``messages_per_s`` limits the messages of one peer over gossip. 0 means no limit."""
        self._admission = Admission(
            policy, SeenWindow(ttl_s=policy.message_ttl_s, capacity=limits.P2P_SEEN_MESSAGES_MAX)
        )
        self._messages_per_s = messages_per_s
        self._rates: BoundedTable[str, TokenBucket] = BoundedTable(limits.SOURCE_PEERS_MAX)
        self._offences: BoundedTable[str, TokenBucket] = BoundedTable(limits.SOURCE_PEERS_MAX)
        """How many messages of a peer may still be rejected. Peers without a row have not offended."""

    def admit(self, peer: str, now_ms: int) -> Checked | None:
        """Why a message of a peer over gossip is refused without a look at it; None if it may be checked."""
        if self._is_offender(peer, now_ms):
            return _OFFENDER
        rate = self._rates.get(peer) or TokenBucket(self._messages_per_s)
        self._rates.put(peer, rate)
        return None if rate.take(now_ms) else _TOO_MANY

    def gossip(self, peer: str, data: bytes, now_ms: int) -> Checked:
        """Check a message of a topic: it must be a valid envelope, recent, and not seen before."""
        now_s = now_ms // 1000
        admitted = self._admission.admit(data, now_s)
        if isinstance(admitted, Refusal):
            return self._counted(peer, _refused(admitted), now_ms)
        if admitted.kind is Kind.BID_DECLINED:
            return _FOR_ONE
        self._admission.seen.add(seen_key(admitted.envelope.meta), now_s)
        return _ACCEPTED

    def stream(self, peer: str, data: bytes, now_ms: int) -> Checked:
        """Check a message of a stream: it must be a valid envelope, of any age, or look like the proof of a fork."""
        if self._is_offender(peer, now_ms):
            return _OFFENDER
        if data.startswith(PROOF_START):
            if len(data) <= limits.FORK_PROOF_BYTES_MAX:
                return _ACCEPTED
            return self._counted(peer, Checked(Verdict.REJECT, Reason.TOO_LARGE, f"{len(data)} bytes"), now_ms)
        vouched = self._admission.vouch(data)
        if isinstance(vouched, Refusal):
            return self._counted(peer, _refused(vouched), now_ms)
        meta = vouched.envelope.meta
        is_passed_on = vouched.kind is Kind.BID_DECLINED
        if channel_of(meta.kind) is Channel.TALK and meta.from_ != peer and not is_passed_on:
            return self._counted(peer, _NOT_ITS_OWN, now_ms)
        return _ACCEPTED

    def _is_offender(self, peer: str, now_ms: int) -> bool:
        offences = self._offences.get(peer)
        return offences is not None and offences.room(now_ms) < 1

    def _counted(self, peer: str, checked: Checked, now_ms: int) -> Checked:
        if checked.verdict is Verdict.REJECT:
            offences = self._offences.get(peer)
            if offences is None:
                offences = TokenBucket(limits.P2P_OFFENCES_FORGIVEN_PER_S, limits.P2P_OFFENCES_MAX)
            self._offences.put(peer, offences)
            offences.take(now_ms)
        return checked


def _refused(refusal: Refusal) -> Checked:
    verdict = Verdict.IGNORE if refusal.outcome is Outcome.IGNORED else Verdict.REJECT
    return Checked(verdict, refusal.reason, refusal.detail[: limits.EVENT_DETAIL_CHARS])


def contained(check: Callable[[], Checked]) -> Checked:
    """A check that never raises: an error in it ignores the message, because a raising validator ends libp2p."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - a message of a stranger must not end the process
        return Checked(Verdict.IGNORE, Reason.INTERNAL, type(error).__name__)
