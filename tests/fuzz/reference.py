"""What may be admitted, written a second time from docs/PROTOCOL.md sections 2 to 4 and 9; slow and plain.

It shares no code with Crabnet: JSON is the standard library's, canonical JSON is the package rfc8785's, signatures are
OpenSSL's, base58 is that of the outsider of the end-to-end tests.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.e2e.outsider import key_of, pae

FEED_KINDS = {"SeedCreated", "BidSubmitted", "ClaimCreated", "TaskStarted", "TaskResult", "TaskSettle"}
TALK_KINDS = {"NodeHello", "FeedHeads", "FeedRequest"}
HEX_64 = re.compile("[0-9a-f]{64}")
INTEGER_MAX = 2**53 - 1
ENVELOPE_BYTES_MAX = 524_288


class Refused(ValueError):  # noqa: N818
    """The reference does not take it."""


def strict_object(raw: bytes) -> dict[str, Any]:
    """Section 3, but for the bound of integers. Raises ``Refused``."""
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_float=_no_float, parse_constant=_no_float
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Refused(str(error)) from error
    if not isinstance(value, dict) or _depth(value) > 16:
        raise Refused("no object, or too deep")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise Refused("a key twice")
    return dict(pairs)


def _no_float(text: str) -> Any:
    raise Refused(text)


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def integers(value: Any) -> list[int]:
    """All integers in a value."""
    if isinstance(value, bool):
        return []
    if isinstance(value, int):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [integer for item in inner for integer in integers(item)]


def admit(raw: bytes, now_s: int) -> dict[str, Any]:
    """The envelope, if steps 2 to 12 let it in with default settings and nothing seen before. Raises ``Refused``."""
    if not 0 < len(raw) <= ENVELOPE_BYTES_MAX:
        raise Refused("size")
    value = strict_object(raw)
    meta, payload = value.get("meta"), value.get("payload")
    if not isinstance(meta, dict) or not isinstance(payload, dict):
        raise Refused("shape")
    if any(abs(integer) > INTEGER_MAX for integer in integers(value)):
        raise Refused("integers")
    _head(meta)
    if meta["v"] != 2 or meta.get("ns", "default") != "default":
        raise Refused("not for us")
    asks_for_time = meta["kind"] == "NodeHello" and (payload.get("challenge") or payload.get("echo"))
    if not now_s - 43_200 <= meta["ts"] <= now_s + 300 and not asks_for_time:
        raise Refused("time")
    if meta["kind"] in TALK_KINDS:
        placed = meta["seq"] == 0 and meta["prev"] == ""
    else:
        placed = meta["seq"] > 0 and (meta["prev"] == "" if meta["seq"] == 1 else _is_hash(meta["prev"]))
    if not placed:
        raise Refused("place")
    content = rfc8785.dumps({**value, "meta": {key: meta[key] for key in meta if key not in {"id", "signature"}}})
    if meta["id"] != hashlib.sha256(content).hexdigest():
        raise Refused("id")
    _signed(meta, content)
    return value


def _is_hash(text: str) -> bool:
    return HEX_64.fullmatch(text) is not None


def _head(meta: dict[str, Any]) -> None:
    """Section 4: the types and bounds of ``meta``."""
    texts = {"id": 128, "from": 128, "kind": 64, "signature": 8_192, "ns": 64, "alg": 32, "key_id": 128, "prev": 64}
    for name, most in texts.items():
        text = meta.get(name, "default" if name == "ns" else None)
        if type(text) is not str or len(text) > most:
            raise Refused(name)
    for name in ("ts", "nonce", "seq", "v"):
        number = meta.get(name)
        if type(number) is not int or (number < 0 and name != "v"):
            raise Refused(name)


def _signed(meta: dict[str, Any], content: bytes) -> None:
    if meta["alg"] != "ed25519" or len(meta["from"]) != 52:
        raise Refused("key")
    try:
        key = key_of(meta["from"])
        if meta["key_id"] != "ed25519:" + hashlib.sha256(key).hexdigest()[:32]:
            raise Refused("key id")
        signature = urlsafe_b64decode(meta["signature"] + "==")
        if urlsafe_b64encode(signature).decode().rstrip("=") != meta["signature"]:
            raise Refused("spelling of the signature")
        Ed25519PublicKey.from_public_bytes(key).verify(signature, pae(content))
    except (ValueError, OverflowError, InvalidSignature) as error:
        raise Refused("signature") from error
