"""The portable proof that an author forked its feed: two envelopes for one place, both signed by the author.

A reader of the document needs no further knowledge to check it: it verifies two signatures of one key. Files and
messages between neighbours hold the same bytes (docs/PROTOCOL.md, section 12).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from crabnet.errors import Reason
from crabnet.limits import FORK_PROOF_BYTES_MAX
from crabnet.protocol.admission import Admission, AdmissionPolicy, Admitted, Refusal
from crabnet.protocol.envelope import EnvelopeMeta
from crabnet.protocol.replay import SeenWindow

PROOF_FORMAT: Final = "crabnet-fork-proof"
PROOF_VERSION: Final = 1
PROOF_START: Final = b'{"envelopes":['
"""How the canonical document begins. No envelope begins so."""


class ProofRefusedError(Exception):
    """A document does not prove a fork. ``detail`` says why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class ForkEvidence(Struct, frozen=True):
    """Two verified envelopes of one author with the same ``seq``. ``lower`` is the one with the lower id."""

    lower: Admitted
    higher: Admitted

    @property
    def meta(self) -> EnvelopeMeta:
        """The ``meta`` of the envelope with the lower id. It has the author, the namespace and the seq."""
        return self.lower.envelope.meta

    @property
    def same_parent(self) -> bool:
        """True if both follow the same envelope. Otherwise they lie behind the fork itself."""
        return self.meta.prev == self.higher.envelope.meta.prev

    def document(self) -> bytes:
        """The canonical document."""
        return document_of(self.lower.envelope.raw, self.higher.envelope.raw)


class _Document(Struct, frozen=True):
    envelopes: Annotated[list[Raw], Meta(min_length=2, max_length=2)]
    format: str
    version: int


_documents: Final = msgspec.json.Decoder(_Document)


def document_of(lower: bytes, higher: bytes) -> bytes:
    """The document of two envelopes in canonical form. ``lower`` is the one with the lower id and comes first."""
    return (
        PROOF_START
        + lower
        + b","
        + higher
        + b'],"format":"%s","version":%d}'
        % (
            PROOF_FORMAT.encode(),
            PROOF_VERSION,
        )
    )


def envelopes_of(data: bytes) -> tuple[bytes, bytes]:
    """The two envelopes of a document, unverified. Raises ``ProofRefusedError``."""
    if len(data) > FORK_PROOF_BYTES_MAX:
        raise ProofRefusedError(Reason.TOO_LARGE, f"{len(data)} bytes, at most {FORK_PROOF_BYTES_MAX}")
    try:
        document = _documents.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ProofRefusedError(Reason.MALFORMED, f"it is not a fork proof: {str(error)[:200]}") from error
    if document.format != PROOF_FORMAT:
        raise ProofRefusedError(Reason.MALFORMED, f"its format is {document.format[:64]!r}, not {PROOF_FORMAT!r}")
    if document.version != PROOF_VERSION:
        raise ProofRefusedError(
            Reason.UNSUPPORTED_VERSION, f"its version is {document.version}, ours is {PROOF_VERSION}: upgrade crabnet"
        )
    first, second = document.envelopes
    return bytes(first), bytes(second)


def place_of(data: bytes, admission: Admission) -> tuple[str, int]:
    """The author and seq of a document, without checking a signature. Raises ``ProofRefusedError``."""
    head = admission.head_of(envelopes_of(data)[0])
    if isinstance(head, Refusal):
        raise ProofRefusedError(head.reason, head.detail)
    return head.from_, head.seq


def verify_proof(data: bytes, admission: Admission | None = None) -> ForkEvidence:
    """Check a document completely and return its evidence. Raises ``ProofRefusedError``.

    Without ``admission`` any namespace is accepted: that of the first envelope counts. Only the canonical document is
    accepted, so two envelopes have exactly one proof.
    """
    raws = envelopes_of(data)
    found: list[Admitted] = []
    for number, raw in enumerate(raws, 1):
        if admission is None:
            head = _any_admission("").head_of(raw)
            admission = _any_admission("" if isinstance(head, Refusal) else head.ns)
        vouched = admission.vouch(raw)
        if isinstance(vouched, Refusal):
            raise ProofRefusedError(vouched.reason, f"envelope {number} of 2: {vouched.detail}")
        if vouched.envelope.meta.v is None or not vouched.envelope.meta.seq:
            raise ProofRefusedError(Reason.MALFORMED, f"envelope {number} of 2 belongs to no feed")
        found.append(vouched)
    evidence = _paired(*found)
    if evidence.lower is not found[0]:
        raise ProofRefusedError(Reason.MALFORMED, "the envelope with the lower id does not come first")
    if evidence.document() != data:
        raise ProofRefusedError(Reason.MALFORMED, "it is not in canonical form, without white space")
    return evidence


def _any_admission(namespace: str) -> Admission:
    return Admission(AdmissionPolicy(namespace), SeenWindow(ttl_s=0, capacity=0))


def _paired(one: Admitted, other: Admitted) -> ForkEvidence:
    first, second = one.envelope.meta, other.envelope.meta
    if first.from_ != second.from_:
        raise ProofRefusedError(
            Reason.UNAUTHORISED, f"the envelopes have different authors, {first.from_} and {second.from_}"
        )
    if first.seq != second.seq:
        raise ProofRefusedError(Reason.GAP, f"the envelopes have different places, seq {first.seq} and {second.seq}")
    if first.id == second.id:
        raise ProofRefusedError(Reason.DUPLICATE, f"both envelopes are the same, {first.id}")
    return ForkEvidence(one, other) if first.id < second.id else ForkEvidence(other, one)


def choose_pair(raws: Iterable[bytes], admission: Admission) -> ForkEvidence | None:
    """The evidence in stored envelopes of one place, or None if they prove no fork.

    It prefers the pair with the lowest ids that follow the same envelope. If there is none, any pair serves.
    """
    found: dict[str, Admitted] = {}
    for raw in raws:
        vouched = admission.vouch(raw)
        if isinstance(vouched, Admitted):
            found[vouched.envelope.meta.id] = vouched
    ordered = [found[envelope_id] for envelope_id in sorted(found)]
    pairs = [(one, other) for at, one in enumerate(ordered) for other in ordered[at + 1 :]]
    pairs.sort(key=lambda pair: pair[0].envelope.meta.prev != pair[1].envelope.meta.prev)
    for one, other in pairs:
        try:
            return _paired(one, other)
        except ProofRefusedError:
            continue
    return None
