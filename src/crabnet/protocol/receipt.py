"""Receipts: one file with the signed steps of a task that has ended. It proves itself (docs/PROTOCOL.md, section 18).

``compose_receipt`` makes the file from the facts that count and their envelopes. ``verify_receipt`` needs nothing but
its bytes: an author's id contains its key, every step names the step before it by hash, and the rules of the lifecycle
are functions of the steps.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from crabnet import limits
from crabnet.domain.decision import decide
from crabnet.domain.model import Fact, FactKind, SeedStatus
from crabnet.domain.record import Record
from crabnet.domain.standing import STEPS
from crabnet.domain.state import Observe, State, apply
from crabnet.errors import Reason
from crabnet.protocol.admission import Admission, AdmissionPolicy, Refusal
from crabnet.protocol.canonical import JsonValue, canonical_bytes
from crabnet.protocol.envelope import FEED_KINDS, Envelope
from crabnet.protocol.identity import public_key_of
from crabnet.protocol.payloads import PayloadRefusedError, fact_of
from crabnet.protocol.replay import SeenWindow

RECEIPT_FORMAT: Final = "crabnet-receipt"
RECEIPT_VERSION: Final = 1
_K = FactKind
ENDED: Final = frozenset({SeedStatus.ACCEPTED, SeedStatus.REJECTED, SeedStatus.FORFEITED, SeedStatus.EXPIRED})
"""The statuses of which there are receipts. The creator's signature is what brings a task there."""
RawOf = Callable[[Fact], bytes | None]
"""Returns the canonical bytes of the envelope that states a fact, or None if it is not stored."""


class ReceiptRefusedError(Exception):
    """The bytes are no receipt, or there is none of this task. ``detail`` names the first thing that is wrong."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class Receipt(Struct, frozen=True):
    """What a verified receipt proves. ``facts`` are its steps in order. ``record`` is what they amount to."""

    namespace: str
    facts: tuple[Fact, ...]
    record: Record

    @property
    def claim(self) -> Fact | None:
        """The last claim."""
        return next((fact for fact in reversed(self.facts) if fact.kind is _K.CLAIM), None)

    @property
    def acknowledgement(self) -> Fact | None:
        """The worker's word that it has seen the settlement."""
        return next((fact for fact in self.facts if fact.kind is _K.ACKNOWLEDGED), None)

    def parent(self, fact: Fact) -> Fact | None:
        """The step that a step rests on. None for the definition."""
        return next((each for each in self.facts if each.envelope == fact.rests_on), None)


class _Document(Struct, frozen=True):
    """The members of a receipt, in the order of its canonical form."""

    format: str
    keys: dict[str, str]
    namespace: Annotated[str, Meta(min_length=1, max_length=limits.NAMESPACE_CHARS_MAX)]
    signed: Annotated[list[Raw], Meta(min_length=1, max_length=limits.RECEIPT_STEPS_MAX)]
    steps: list[str]
    version: int

    def document(self) -> bytes:
        """The canonical bytes."""
        values: Mapping[str, JsonValue] = {"keys": {**self.keys}, "steps": [*self.steps]}
        head = b'{"format":%s,"keys":%s,"namespace":%s,"signed":[' % (
            canonical_bytes(self.format),
            canonical_bytes(values["keys"]),
            canonical_bytes(self.namespace),
        )
        tail = b'],"steps":%s,"version":%d}\n' % (canonical_bytes(values["steps"]), self.version)
        return head + b",".join(map(bytes, self.signed)) + tail


_documents: Final = msgspec.json.Decoder(_Document)


def compose_receipt(namespace: str, record: Record, raw_of: RawOf) -> bytes:
    """The receipt of a task that has ended.

    It holds the steps that count and whatever they rest on: for each attempt seed, bid, claim and what ended it, and
    for a result or a settlement the work as well. Other bids, renewals, and work that no later step rests on are left
    out. Raises ``ReceiptRefusedError``.
    """
    progress = record.progress
    if progress.status is SeedStatus.DISPUTED:
        raise ReceiptRefusedError(Reason.FORK, f"the task is disputed: {progress.note}")
    if progress.status not in ENDED:
        raise ReceiptRefusedError(
            Reason.WRONG_STATE,
            f"the task is {progress.status.value}; there is a receipt once its publisher has settled, withdrawn or"
            " forfeited it",
        )
    known = {fact.ref: fact for fact in (*record.fallen, *record.facts())}
    chain = _in_order((fact for fact in record.others if fact.kind in STEPS or fact.kind is _K.ACKNOWLEDGED), known)
    unsigned = next((fact for fact in chain if not (fact.signed and (fact.kind is _K.SEED or fact.rests_on))), None)
    if unsigned is not None:
        raise ReceiptRefusedError(
            Reason.MISSING_SIGNATURE,
            f"{_name(unsigned)} is not signed, or rests on a step that is not: programs of the old protocol sign"
            " nothing, so nothing proves what they said",
        )
    raws = [raw_of(fact) for fact in chain]
    lost = next((fact for fact, raw in zip(chain, raws, strict=True) if raw is None), None)
    if lost is not None:
        raise ReceiptRefusedError(Reason.UNAVAILABLE, f"the envelope of {_name(lost)} is not stored here")
    data = _Document(
        RECEIPT_FORMAT,
        _keys(chain),
        namespace,
        [Raw(raw) for raw in raws if raw is not None],
        [fact.kind.value for fact in chain],
        RECEIPT_VERSION,
    ).document()
    proved = verify_receipt(data).record.progress
    if (proved.status, proved.claim_id, proved.result_id) != (progress.status, progress.claim_id, progress.result_id):
        raise ReceiptRefusedError(
            Reason.FORK, f"its steps alone make it {proved.status.value}, because somebody in it has forked a feed"
        )
    return data


def verify_receipt(data: bytes) -> Receipt:
    """Check the bytes of a receipt completely. Raises ``ReceiptRefusedError``, which names the first fault.

    The order is: size, JSON, format, version, canonical form; each envelope by itself; that all are about one task
    and in their place; the rules of the lifecycle, step by step; the end; keys and names of the steps.
    """
    document = _read(data)
    admission = Admission(AdmissionPolicy(document.namespace), SeenWindow(ttl_s=0, capacity=0))
    count = len(document.signed)
    stated = [
        _stated(admission, bytes(raw), f"envelope {number} of {count}") for number, raw in enumerate(document.signed, 1)
    ]
    facts = tuple(fact for fact, _ in stated)
    _check_places(facts)
    _check_feeds(stated)
    _check_chain(facts)
    record = _folded(facts)
    _check_end(record, facts)
    kinds = [fact.kind.value for fact in facts]
    if document.steps != kinds:
        raise ReceiptRefusedError(
            Reason.MALFORMED,
            f"it names the steps {_listed(document.steps)}, but holds {_listed(kinds)}: a step was taken out or put in",
        )
    if document.keys != _keys(facts):
        raise ReceiptRefusedError(Reason.UNKNOWN_KEY, "its list of keys is not that of the authors of its steps")
    return Receipt(document.namespace, facts, record)


def _read(data: bytes) -> _Document:
    if len(data) > limits.RECEIPT_BYTES_MAX:
        raise ReceiptRefusedError(Reason.TOO_LARGE, f"it has more than {limits.RECEIPT_BYTES_MAX} bytes")
    try:
        document = _documents.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ReceiptRefusedError(Reason.MALFORMED, f"it is not a receipt: {str(error)[:200]}") from error
    if document.format != RECEIPT_FORMAT:
        raise ReceiptRefusedError(
            Reason.MALFORMED, f"its format is {document.format[:64]!r}, not {RECEIPT_FORMAT!r}: it is not a receipt"
        )
    if document.version != RECEIPT_VERSION:
        raise ReceiptRefusedError(
            Reason.UNSUPPORTED_VERSION,
            f"it is a receipt of version {document.version}, ours is {RECEIPT_VERSION}: upgrade crabnet",
        )
    if document.document() != data:
        raise ReceiptRefusedError(
            Reason.MALFORMED, "it is not in canonical form: a byte was changed, added or taken out between its steps"
        )
    return document


def _stated(admission: Admission, raw: bytes, where: str) -> tuple[Fact, str]:
    """What one envelope of the file states, and its ``prev``, once it is verified by itself."""
    vouched = admission.vouch(raw)
    if isinstance(vouched, Refusal):
        foreign = vouched.reason is Reason.WRONG_NAMESPACE and vouched.meta is not None
        detail = f"it is of namespace {vouched.meta.ns}, not of the receipt's" if foreign and vouched.meta else ""
        raise ReceiptRefusedError(vouched.reason, f"{where}: {detail or vouched.detail}")
    envelope: Envelope = vouched.envelope
    if envelope.raw != raw:
        raise ReceiptRefusedError(Reason.MALFORMED, f"{where}: it is not in canonical form")
    if vouched.kind not in FEED_KINDS:
        raise ReceiptRefusedError(Reason.UNKNOWN_KIND, f"{where}: kind {envelope.meta.kind} is no step of a task")
    try:
        return fact_of(envelope, vouched.kind), envelope.meta.prev
    except PayloadRefusedError as error:
        raise ReceiptRefusedError(error.reason, f"{where}: {error.detail}") from error


def _check_places(facts: tuple[Fact, ...]) -> None:
    """Every envelope is there once, about one task, and alone at its place of its author's feed."""
    places: dict[tuple[str, int], Fact] = {}
    for fact in facts:
        if fact.seed_id != facts[0].seed_id:
            raise ReceiptRefusedError(
                Reason.UNKNOWN_SEED, f"{_name(fact)} is about task {fact.seed_id}, the receipt about {facts[0].seed_id}"
            )
        other = places.setdefault((fact.author, fact.seq), fact)
        if other is fact:
            continue
        if other.envelope == fact.envelope:
            raise ReceiptRefusedError(Reason.DUPLICATE, f"{_name(fact)} is there twice")
        raise ReceiptRefusedError(
            Reason.FORK, f"its author signed two envelopes for one place of its feed: {_name(other)} and {_name(fact)}"
        )


def _check_feeds(stated: list[tuple[Fact, str]]) -> None:
    """Of two envelopes that are neighbours in a feed, the second names the first. Otherwise their author forked it."""
    places = {(fact.author, fact.seq): fact for fact, _ in stated}
    for fact, prev in stated:
        before = places.get((fact.author, fact.seq - 1))
        if before is not None and before.envelope != prev:
            raise ReceiptRefusedError(
                Reason.BROKEN_CHAIN,
                f"{_name(fact)} does not follow {_name(before)} in its author's feed, though its place is the next",
            )


def _check_chain(facts: tuple[Fact, ...]) -> None:
    """Every step but the seed rests on another one of the file, something follows from each, and they are in order."""
    known = {fact.envelope: fact for fact in facts}
    for fact in facts:
        if fact.kind is _K.SEED:
            continue
        at = known.get(fact.rests_on)
        if at is None:
            raise ReceiptRefusedError(
                Reason.UNKNOWN_PARENT,
                f"a step is missing: {_name(fact)} rests on {fact.rests_on or 'an unsigned step'}, which is not there",
            )
        while at is not None:
            if at.author == fact.author and at.seq > fact.seq:
                raise ReceiptRefusedError(
                    Reason.BROKEN_CHAIN, f"{_name(fact)} rests on a later step of its own author's feed, {_name(at)}"
                )
            at = known.get(at.rests_on)
    ordered = _in_order((fact for fact in facts if fact.kind in STEPS or fact.kind is _K.ACKNOWLEDGED), known)
    placed = {fact.envelope for fact in ordered}
    idle = next((fact for fact in facts if fact.envelope not in placed), None)
    if idle is not None:
        raise ReceiptRefusedError(
            Reason.WRONG_STATE,
            f"nothing follows from {_name(idle)}: the step after it is missing, or it does not belong here",
        )
    for number, (fact, wanted) in enumerate(zip(facts, ordered, strict=True), 1):
        if fact is not wanted:
            raise ReceiptRefusedError(
                Reason.MALFORMED, f"the steps are not in order: {_name(fact)} is number {number}, not {_name(wanted)}"
            )


def _in_order(leaves: Iterable[Fact], known: Mapping[str, Fact]) -> list[Fact]:
    """The leaves and what they rest on: the creator's steps by seq, each behind its chain, then acknowledgements."""
    placed: dict[str, Fact] = {}
    for leaf in sorted(leaves, key=lambda fact: (fact.kind is _K.ACKNOWLEDGED, fact.seq, fact.envelope)):
        chain: list[Fact] = []
        at: Fact | None = leaf
        while at is not None and at.ref not in placed:
            chain.append(at)
            at = known.get(at.rests_on)
        placed.update((fact.ref, fact) for fact in reversed(chain))
    return list(placed.values())


def _folded(facts: tuple[Fact, ...]) -> Record:
    """What the steps amount to by the rules that every node applies."""
    state, known = State(), {fact.envelope: fact for fact in facts}
    for number, fact in enumerate(facts, 1):
        decision = decide(state, Observe(fact, known.get(fact.rests_on)), fact.ts)
        if not decision.events:
            why = decision.detail or "the rules do not allow it there"
            raise ReceiptRefusedError(
                decision.reason or Reason.WRONG_STATE, f"step {number} of {len(facts)}, {_name(fact)}: {why}"
            )
        for event in decision.events:
            apply(state, event)
    return state.records[facts[0].seed_id]


def _check_end(record: Record, facts: tuple[Fact, ...]) -> None:
    status = record.progress.status
    if status not in ENDED:
        raise ReceiptRefusedError(
            Reason.WRONG_STATE,
            f"a step is missing: after the last one, {_name(facts[-1])}, the task is {status.value}: nothing ends it",
        )


def _keys(facts: Iterable[Fact]) -> dict[str, str]:
    """The public keys of the authors in base64url without padding, by node id, sorted."""
    keys = {author: public_key_of(author) or b"" for author in sorted({fact.author for fact in facts})}
    return {author: urlsafe_b64encode(key).decode().rstrip("=") for author, key in keys.items()}


def _listed(steps: list[str]) -> str:
    return ", ".join(step[:20] for step in steps[:20]) + (", …" if len(steps) > 20 else "")


def _name(fact: Fact) -> str:
    return f"{fact.kind.value} {fact.ref} by {fact.author}"
