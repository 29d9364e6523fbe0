"""The envelope: what is signed, its id, and its shape on the wire (docs/PROTOCOL.md, section 4)."""

from __future__ import annotations

import hashlib
import uuid
from base64 import urlsafe_b64encode
from binascii import a2b_base64
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct, field

from crabnet import limits
from crabnet.protocol.canonical import JsonObject, canonical_bytes
from crabnet.protocol.identity import ALGORITHM, SIGNATURE_BYTES, Signer

VERSION: Final = 2
OBJECT_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "crabnet/v2/object")
_UUID_SEED: Final = hashlib.sha1(OBJECT_NAMESPACE.bytes, usedforsecurity=False)
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_SIGNATURE_CHARS: Final = 86
_LAST_CHARS: Final = "AQgw"
"""The last of 86 characters carries two bits. Its other four bits must be zero."""
_PARTS: Final = frozenset({"meta", "payload"})
_OUTSIDE: Final = frozenset({"id", "signature"})
_REQUIRED: Final = frozenset({"alg", "key_id", "seq", "prev"})
_KNOWN: Final = frozenset({"id", "from", "kind", "ts", "nonce", "signature", "v", "ns", "alg", "key_id", "seq", "prev"})
"""All members of ``meta`` that version 2 knows. None of them is an object or a list."""
_FROM_URLSAFE: Final = bytes.maketrans(b"-_+/=", b"+/!!!")


class Kind(StrEnum):
    """The kind of an envelope: what it states or asks for."""

    __hash__ = str.__hash__  # faster: that of enum.Enum is a Python function, and hot tables have these as keys

    SEED_CREATED = "SeedCreated"
    BID_SUBMITTED = "BidSubmitted"
    CLAIM_CREATED = "ClaimCreated"
    TASK_STARTED = "TaskStarted"
    TASK_RESULT = "TaskResult"
    TASK_SETTLE = "TaskSettle"
    SETTLE_ACKNOWLEDGED = "SettleAcknowledged"
    NODE_HELLO = "NodeHello"
    FEED_HEADS = "FeedHeads"
    FEED_REQUEST = "FeedRequest"
    FORK_REQUEST = "ForkRequest"
    RELAY_PRUNE = "RelayPrune"
    BID_DECLINED = "BidDeclined"
    UNKNOWN = ""
    """A kind of a later version. The envelope keeps its place in its author's feed and has no effect here."""


FEED_KINDS: Final = frozenset(
    {
        Kind.SEED_CREATED,
        Kind.BID_SUBMITTED,
        Kind.CLAIM_CREATED,
        Kind.TASK_STARTED,
        Kind.TASK_RESULT,
        Kind.TASK_SETTLE,
        Kind.SETTLE_ACKNOWLEDGED,
    }
)
"""Kinds that belong to their author's feed. All others go between neighbours (``seq`` 0, ``prev`` empty)."""
BASELINE_KINDS: Final = FEED_KINDS - {Kind.TASK_STARTED, Kind.SETTLE_ACKNOWLEDGED}


class EnvelopeMeta(Struct, frozen=True, gc=False, kw_only=True):
    """The ``meta`` of an envelope. Baseline envelopes have only the first six fields."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    from_: Annotated[str, Meta(min_length=1, max_length=limits.NODE_ID_CHARS_MAX)] = field(name="from")
    kind: Annotated[str, Meta(max_length=64)]
    ts: Annotated[int, Meta(ge=0)]
    nonce: Annotated[int, Meta(ge=0)]
    signature: Annotated[str, Meta(max_length=8192)] | None = ""
    v: int | None = None
    ns: Annotated[str, Meta(max_length=limits.NAMESPACE_CHARS_MAX)] = "default"
    alg: Annotated[str, Meta(max_length=32)] = ""
    key_id: Annotated[str, Meta(max_length=128)] = ""
    seq: Annotated[int, Meta(ge=0)] = 0
    prev: Annotated[str, Meta(max_length=64)] = ""


class Envelope(Struct, frozen=True, gc=False):
    """A parsed envelope. ``raw`` is its canonical form. ``content`` is the part that id and signature cover."""

    meta: EnvelopeMeta
    payload: JsonObject
    raw: bytes
    content: bytes

    @property
    def signed(self) -> bool:
        """False for baseline envelopes: they are unsigned."""
        return self.meta.v is not None


def content_of(value: JsonObject) -> bytes:
    """Canonical bytes of an envelope without ``meta.id`` and ``meta.signature``. Does not change ``value``."""
    meta = value["meta"]
    if not isinstance(meta, dict):
        raise TypeError("meta is not an object")
    bare = dict(meta)
    bare.pop("id", None)
    bare.pop("signature", None)
    return canonical_bytes({**value, "meta": bare})


def _content_within(value: JsonObject, canonical: bytes, head: EnvelopeMeta) -> bytes:
    """``content_of`` a value whose canonical bytes are known. Usually it cuts two members of ``meta`` out of them."""
    meta = value.get("meta")
    if not isinstance(meta, dict) or value.keys() != _PARTS:
        return content_of(value)
    if meta.keys() == _KNOWN and _is_plain(head.id) and _is_plain(head.signature):
        # Nothing is nested in this meta, and quotes within strings are escaped. So a match is the member itself.
        before, found_id, rest = canonical.partition(b'"id":"%b",' % head.id.encode())
        between, found_signature, after = rest.partition(b'"signature":"%b",' % (head.signature or "").encode())
        if found_id and found_signature:
            return before + between + after
    start = b'{"meta":' + canonical_bytes(meta)
    if canonical.startswith(start):
        bare = {key: item for key, item in meta.items() if key not in _OUTSIDE}
        return b'{"meta":' + canonical_bytes(bare) + canonical[len(start) :]
    return content_of(value)


def _is_plain(text: str | None) -> bool:
    """True for text that JSON writes without escapes."""
    return text is not None and text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def shape(value: JsonObject, raw: bytes) -> Envelope:
    """Check the shape of a parsed envelope. Raises ``msgspec.ValidationError``."""
    head = msgspec.convert(value.get("meta"), EnvelopeMeta)
    payload = value.get("payload")
    if not isinstance(payload, dict):
        raise msgspec.ValidationError("payload is not an object")
    content = b"" if head.v is None else _content_within(value, raw, head)
    return Envelope(head, payload, raw, content)


def missing_fields(value: JsonObject, head: EnvelopeMeta) -> list[str]:
    """The names that version 2 requires in ``meta``, that the baseline does not know, and that are missing."""
    meta = value["meta"]
    if head.v != VERSION or not isinstance(meta, dict) or meta.keys() >= _REQUIRED:
        return []
    return sorted(_REQUIRED - meta.keys())


def envelope_id(content: bytes) -> str:
    """Hex SHA-256 of the content."""
    return hashlib.sha256(content).hexdigest()


def signature_bytes(text: str) -> bytes | None:
    """The 64 bytes of a base64url signature without padding. None unless the text is their one valid spelling."""
    if len(text) != _SIGNATURE_CHARS or text[-1] not in _LAST_CHARS:
        return None
    try:
        decoded = a2b_base64(text.encode("ascii").translate(_FROM_URLSAFE) + b"==", strict_mode=True)
    except ValueError:
        return None
    return decoded if len(decoded) == SIGNATURE_BYTES else None


def object_id(namespace: str, author: str, seq: int) -> str:
    """The id of the object that envelope ``seq`` of an author creates: a UUID of version 5 (RFC 9562).

    See docs/PROTOCOL.md, section 5.
    """
    digest = _UUID_SEED.copy()
    digest.update(f"{namespace}/{author}/{seq}".encode())
    text = digest.hexdigest()
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:32]}"


def seal(
    signer: Signer,
    *,
    kind: Kind,
    namespace: str,
    ts: int,
    nonce: int,
    payload: JsonObject,
    seq: int = 0,
    prev: str = "",
) -> Envelope:
    """Make and sign an envelope. ``ts`` is in seconds. ``nonce`` is a random integer up to 2^53-1."""
    meta: JsonObject = {
        "from": signer.node_id,
        "kind": kind.value,
        "ts": ts,
        "nonce": nonce,
        "v": VERSION,
        "ns": namespace,
        "alg": ALGORITHM,
        "key_id": signer.key_id,
        "seq": seq,
        "prev": prev,
    }
    content = canonical_bytes({"meta": meta, "payload": payload})
    meta["id"] = envelope_id(content)
    meta["signature"] = urlsafe_b64encode(signer.sign(content)).decode().rstrip("=")
    raw = canonical_bytes({"meta": meta, "payload": payload})
    return Envelope(msgspec.convert(meta, EnvelopeMeta), payload, raw, content)
