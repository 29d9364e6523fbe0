"""Verification of an incoming envelope: steps 2 to 12 of docs/PROTOCOL.md, section 9.

Cheap steps come first. Each step has its own Reason. Step 1 (is the source allowed?) belongs to the node. Steps 13 to
15 (feed position, role, lifecycle) belong to the core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from crabnet import limits
from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.protocol.canonical import JsonRefusedError, integers_fit, parse_object
from crabnet.protocol.envelope import (
    BASELINE_KINDS,
    FEED_KINDS,
    VERSION,
    Envelope,
    EnvelopeMeta,
    Kind,
    envelope_id,
    missing_fields,
    shape,
    signature_bytes,
)
from crabnet.protocol.identity import ALGORITHM, KeyRing, SignedBytes, VerifyAll, verify, verify_each
from crabnet.protocol.replay import SeenWindow

IGNORED: Final = frozenset(
    {
        Reason.SOURCE_BLOCKED,
        Reason.RATE_LIMITED,
        Reason.UNSUPPORTED_VERSION,
        Reason.WRONG_NAMESPACE,
        Reason.UNKNOWN_KIND,
        Reason.EXPIRED,
        Reason.FROM_THE_FUTURE,
        Reason.DUPLICATE,
        Reason.GAP,
        Reason.BROKEN_CHAIN,
        Reason.FEED_ENDED,
        Reason.UNKNOWN_PARENT,
        Reason.PARKING_FULL,
        Reason.UNSOLICITED,
        Reason.AUTHOR_LIMITED,
        Reason.QUARANTINED,
        Reason.INTERNAL,
    }
)
"""Harmless refusals. Every other Reason counts against the source."""

NOT_UNDERSTOOD: Final = frozenset(
    {
        Reason.UNSUPPORTED_VERSION,
        Reason.WRONG_NAMESPACE,
        Reason.UNKNOWN_KIND,
        Reason.MISSING_SIGNATURE,
        Reason.MALFORMED,
        Reason.WRONG_ID,
        Reason.BAD_SIGNATURE,
        Reason.UNKNOWN_ALGORITHM,
        Reason.UNKNOWN_KEY,
    }
)
"""Refusals that show that two nodes are incompatible, whichever node made the envelope."""
OUT_OF_TIME: Final = frozenset({Reason.EXPIRED, Reason.FROM_THE_FUTURE})
"""Refusals that show that two clocks differ, if the neighbour itself made the envelope."""

_HEX: Final = "0123456789abcdef"
_KINDS: Final = {kind.value: kind for kind in Kind}
_RESERVED: Final = "envelopes"
"""A fork proof begins with this name. An envelope with a top-level member of this name is refused."""


class AdmissionPolicy(Struct, frozen=True):
    """The rules for admitting envelopes. Times are in seconds."""

    namespace: str = "default"
    require_signatures: bool = True
    message_ttl_s: int = 43_200
    future_skew_s: int = 300


class Refusal(Struct, frozen=True, gc=False):
    """Why an input was refused, and whether that counts against its source. ``meta`` is None if it was unreadable."""

    outcome: Outcome
    reason: Reason
    detail: str = ""
    meta: EnvelopeMeta | None = None


class Admitted(Struct, frozen=True, gc=False):
    """An envelope that passed steps 2 to 12."""

    envelope: Envelope
    kind: Kind


Wanted = Callable[[EnvelopeMeta], bool]
Followed = Callable[[EnvelopeMeta], bool]
"""Says whether a later envelope of the same feed, with an acceptable time, is held or waits."""
Useful = Callable[[Envelope, Kind], bool]
"""Says whether the node can do anything with a message of this kind, whoever has signed it."""
Muted = Callable[[EnvelopeMeta], bool]
"""Says whether the node refuses an envelope at the moment, even with a valid signature."""


def nothing_wanted(_: EnvelopeMeta) -> bool:
    """The node asked for nothing."""
    return False


def everything_useful(_: Envelope, __: Kind) -> bool:
    """The node has a use for every message."""
    return True


def nobody_muted(_: EnvelopeMeta) -> bool:
    """No author is over its budget."""
    return False


def refusal(reason: Reason, detail: str = "", meta: EnvelopeMeta | None = None) -> Refusal:
    """A refusal with the outcome that belongs to its reason."""
    return Refusal(Outcome.IGNORED if reason in IGNORED else Outcome.REJECTED, reason, detail, meta)


def seen_key(envelope: EnvelopeMeta) -> str:
    """The key of an envelope in the seen window.

    Unsigned ids have keys of their own. Otherwise anybody could block a signed envelope with an unsigned one.
    """
    return envelope.id if envelope.v is not None else f"unsigned:{envelope.id}"


class _Candidate(Struct):
    """A message, and what follows from its bytes alone: the envelope, its kind, and the verdict on its signature.

    ``identity_known`` is False until the signature has been checked.
    """

    envelope: Envelope | Refusal
    kind: Kind | Refusal
    identity: Refusal | None = None
    identity_known: bool = False


class Ahead(Struct):
    """Messages that are about to be admitted. ``signed`` holds those of their signatures that are worth checking."""

    signed: list[SignedBytes]
    asked: list[_Candidate]
    candidates: dict[bytes, _Candidate]


class Admission:
    """The verification steps and their state."""

    def __init__(
        self,
        policy: AdmissionPolicy,
        seen: SeenWindow,
        keys: KeyRing | None = None,
        verify_all: VerifyAll = verify_each,
    ) -> None:
        self.policy = policy
        self.seen = seen
        self._keys = KeyRing() if keys is None else keys
        self._verify_all = verify_all
        self.followed: Followed = nothing_wanted
        self.useful: Useful = everything_useful
        self._ahead: dict[bytes, _Candidate] = {}
        self._asked: set[str] = set()
        """Ids of envelopes whose signatures are under verification."""

    def admit(
        self,
        raw: bytes,
        now_s: int,
        wanted: Wanted = nothing_wanted,
        muted: Muted = nobody_muted,
    ) -> Admitted | Refusal:
        """Run steps 2 to 12.

        An envelope may be older than the TTL if ``wanted`` says that this node asked for it. Such an envelope may also
        have a time in the future if ``followed`` says that the node has a later envelope of its feed.
        """
        candidate = self._ahead.pop(raw, None) if self._ahead else None
        if candidate is None:
            candidate = self._candidate(raw)
        envelope, kind = candidate.envelope, candidate.kind
        if isinstance(envelope, Refusal):
            return envelope
        if isinstance(kind, Refusal):
            return kind
        meta = envelope.meta
        refused = self._check_time(envelope, now_s, wanted)
        if refused is not None:
            return refused
        if seen_key(meta) in self.seen:
            return refusal(Reason.DUPLICATE, "seen before", meta)
        if meta.seq and muted(meta):
            return refusal(Reason.AUTHOR_LIMITED, "the author is over its budget", meta)
        if not meta.seq and not self.useful(envelope, kind):
            return refusal(Reason.UNSOLICITED, "this node has no use for it", meta)
        if meta.v is not None and kind is not Kind.UNKNOWN:
            refused = candidate.identity if candidate.identity_known else self._check_identity(envelope, kind)
        return Admitted(envelope, kind) if refused is None else refused

    def head_of(self, raw: bytes) -> EnvelopeMeta | Refusal:
        """Run steps 2 to 4 only. The returned ``meta`` is not verified."""
        envelope = self._parse(raw)
        return envelope if isinstance(envelope, Refusal) else envelope.meta

    def vouch(self, raw: bytes) -> Admitted | Refusal:
        """Check that these bytes are a valid envelope of its author, without regard to its time and the seen window.

        This changes no state.
        """
        candidate = self._candidate(raw)
        envelope, kind = candidate.envelope, candidate.kind
        if isinstance(envelope, Refusal):
            return envelope
        if isinstance(kind, Refusal):
            return kind
        refused = None
        if envelope.meta.v is not None and kind is not Kind.UNKNOWN:
            refused = self._check_identity(envelope, kind)
        return Admitted(envelope, kind) if refused is None else refused

    def look_ahead(
        self, raws: Iterable[bytes], now_s: int, wanted: Wanted = nothing_wanted, muted: Muted = nobody_muted
    ) -> None:
        """Check the signatures of messages that are about to be admitted, all together.

        ``admit`` decides exactly as it would without this. Messages that other steps refuse are left out.
        """
        ahead = self.collect(raws, now_s, wanted, muted)
        self.answered(ahead, self._verify_all(ahead.signed))

    def collect(
        self, raws: Iterable[bytes], now_s: int, wanted: Wanted = nothing_wanted, muted: Muted = nobody_muted
    ) -> Ahead:
        """The first half of ``look_ahead``: find the signatures to check. Pass the answers to ``answered``."""
        ahead = Ahead([], [], {})
        for raw in raws:
            if raw in ahead.candidates:
                continue
            candidate = ahead.candidates[raw] = self._candidate(raw)
            envelope, kind = candidate.envelope, candidate.kind
            if isinstance(envelope, Refusal) or isinstance(kind, Refusal):
                continue
            meta = envelope.meta
            if meta.v is None or kind is Kind.UNKNOWN or meta.id in self._asked or meta.id in self.seen:
                continue
            if muted(meta) if meta.seq else not self.useful(envelope, kind):
                continue
            if self._check_time(envelope, now_s, wanted) is None:
                found = self._signed_bytes(envelope, kind)
                if isinstance(found, Refusal):
                    candidate.identity, candidate.identity_known = found, True
                else:
                    self._asked.add(meta.id)
                    ahead.asked.append(candidate)
                    ahead.signed.append(found)
        return ahead

    def answered(self, ahead: Ahead, genuine: Sequence[bool]) -> None:
        """The second half of ``look_ahead``. ``genuine`` holds one answer for each item of ``ahead.signed``.

        The messages of ``ahead`` must be the next ones to be admitted.
        """
        for candidate, sound in zip(ahead.asked, genuine, strict=True):
            if isinstance(candidate.envelope, Envelope):
                self._asked.discard(candidate.envelope.meta.id)
                if not sound:
                    candidate.identity = _forged(candidate.envelope.meta)
            candidate.identity_known = True
        self._ahead = ahead.candidates

    def forget_ahead(self) -> None:
        """Forget all answers and pending checks. Each message is then checked when it is admitted."""
        self._ahead = {}
        self._asked = set()

    def _candidate(self, raw: bytes) -> _Candidate:
        envelope = self._parse(raw)
        return _Candidate(envelope, envelope if isinstance(envelope, Refusal) else self._check_kind(envelope))

    def _check_kind(self, envelope: Envelope) -> Kind | Refusal:
        meta = envelope.meta
        refused = self._check_version(meta)
        if refused is not None:
            return refused
        if meta.ns != self.policy.namespace:
            return refusal(Reason.WRONG_NAMESPACE, f"namespace {meta.ns}, ours is {self.policy.namespace}", meta)
        kind = _KINDS.get(meta.kind)
        if kind is None or kind is Kind.UNKNOWN or (meta.v is None and kind not in BASELINE_KINDS):
            if meta.v is None or meta.seq == 0 or self._check_identity(envelope, Kind.UNKNOWN) is not None:
                return refusal(Reason.UNKNOWN_KIND, f"kind {meta.kind}", meta)
            return Kind.UNKNOWN
        return kind

    def _parse(self, raw: bytes) -> Envelope | Refusal:
        if not raw:
            return refusal(Reason.EMPTY, "no bytes")
        if len(raw) > limits.ENVELOPE_BYTES_MAX:
            return refusal(Reason.TOO_LARGE, f"{len(raw)} bytes, at most {limits.ENVELOPE_BYTES_MAX}")
        if not raw.startswith(b"{"):
            return refusal(Reason.MALFORMED, "it does not begin with '{'")
        try:
            value, canonical = parse_object(raw)
            envelope = shape(value, canonical)
        except JsonRefusedError as error:
            return refusal(Reason.MALFORMED, str(error))
        except msgspec.ValidationError as error:
            return refusal(Reason.MALFORMED, f"envelope: {error}")
        if _RESERVED in value:
            return refusal(Reason.MALFORMED, f"envelope: the name {_RESERVED!r} is reserved for fork proofs")
        missing = missing_fields(value, envelope.meta)
        if missing:
            return refusal(Reason.MALFORMED, f"envelope: meta lacks {', '.join(missing)}")
        integer_max = limits.LEGACY_INTEGER_MAX if envelope.meta.v is None else limits.INTEGER_MAX
        if not integers_fit(canonical, value, integer_max, envelope.meta.nonce):
            return refusal(Reason.MALFORMED, f"an integer is beyond {integer_max}", envelope.meta)
        return envelope

    def _check_version(self, meta: EnvelopeMeta) -> Refusal | None:
        if meta.v is None:
            if self.policy.require_signatures:
                return refusal(Reason.MISSING_SIGNATURE, "unsigned envelope of a baseline peer", meta)
            if meta.signature:
                return refusal(Reason.UNSUPPORTED_VERSION, "a signature without a version", meta)
            return None
        if meta.v != VERSION:
            return refusal(Reason.UNSUPPORTED_VERSION, f"version {meta.v}, ours is {VERSION}", meta)
        if not meta.signature:
            return refusal(Reason.MISSING_SIGNATURE, "version 2 envelope without a signature", meta)
        return None

    def _check_time(self, envelope: Envelope, now_s: int, wanted: Wanted) -> Refusal | None:
        meta = envelope.meta
        if meta.kind == Kind.NODE_HELLO and (envelope.payload.get("challenge") or envelope.payload.get("echo")):
            return None  # nodes use these messages to find out that their clocks differ
        if meta.ts < now_s - self.policy.message_ttl_s and not wanted(meta):
            return refusal(Reason.EXPIRED, f"{now_s - meta.ts} s old, at most {self.policy.message_ttl_s}", meta)
        if meta.ts > now_s + self.policy.future_skew_s and not (wanted(meta) and self.followed(meta)):
            return refusal(Reason.FROM_THE_FUTURE, f"{meta.ts - now_s} s ahead of our clock", meta)
        return None

    def _check_identity(self, envelope: Envelope, kind: Kind) -> Refusal | None:
        signed = self._signed_bytes(envelope, kind)
        if isinstance(signed, Refusal):
            return signed
        return None if verify(*signed) else _forged(envelope.meta)

    def _signed_bytes(self, envelope: Envelope, kind: Kind) -> SignedBytes | Refusal:
        meta = envelope.meta
        if not _feed_fields_fit(meta, kind):
            return refusal(Reason.MALFORMED, f"seq {meta.seq} and prev do not fit kind {kind}", meta)
        if meta.id != envelope_id(envelope.content):
            return refusal(Reason.WRONG_ID, "meta.id is not the SHA-256 of the content", meta)
        if meta.alg != ALGORITHM:
            return refusal(Reason.UNKNOWN_ALGORITHM, f"algorithm {meta.alg!r}", meta)
        known = self._keys.find(meta.from_)
        if known is None:
            return refusal(Reason.UNKNOWN_KEY, "meta.from is not the peer id of an Ed25519 key", meta)
        public_key, key_id = known
        if meta.key_id != key_id:
            return refusal(Reason.UNKNOWN_KEY, "meta.key_id is not the key of meta.from", meta)
        signature = signature_bytes(meta.signature or "")
        if signature is None:
            return _forged(meta)
        return SignedBytes(public_key, envelope.content, signature)


def _forged(meta: EnvelopeMeta) -> Refusal:
    return refusal(Reason.BAD_SIGNATURE, "the signature is not that of meta.from over this content", meta)


def _feed_fields_fit(meta: EnvelopeMeta, kind: Kind) -> bool:
    if kind not in FEED_KINDS and kind is not Kind.UNKNOWN:
        return meta.seq == 0 and meta.prev == ""
    if meta.seq == 0:
        return False
    if meta.seq == 1:
        return meta.prev == ""
    return len(meta.prev) == 64 and not meta.prev.strip(_HEX)
