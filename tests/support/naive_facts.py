"""What a signed envelope of a feed states, read anew from docs/PROTOCOL.md section 8 and docs/adr/0026."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from crabnet.protocol.envelope import object_id


class Fact(NamedTuple):
    """What one envelope states. ``kind``: seed bid claim start renewal result settle forfeit close ack."""

    envelope: str
    author: str
    seq: int
    ts: int
    kind: str
    id: str
    seed_id: str
    rests_on: str
    body: dict[str, Any]


class Entry(NamedTuple):
    """One envelope. ``fact`` is None for an unknown kind or a payload that is not as its kind demands."""

    id: str
    author: str
    seq: int
    prev: str
    fact: Fact | None


def _text(most: int, least: int = 0) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and least <= len(value) <= most


def _number(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _list(most: int, item: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(item, value))


def _object(required: Mapping[str, Callable[[Any], bool]], optional: Mapping[str, Callable[[Any], bool]]) -> Any:
    def check(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and all(name in value and fits(value[name]) for name, fits in required.items())
            and all(fits(value[name]) for name, fits in optional.items() if name in value)
        )

    return check


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _hash_or_nothing(value: Any) -> bool:
    return isinstance(value, str) and (not value or (len(value) == 64 and set(value) <= set("0123456789abcdef")))


_ID, _NATURAL, _LONG, _WORD = _text(128, 1), _number(0, 2**53 - 1), _text(65_536), _text(32)
_ATTEMPT, _OUTPUT = _number(1, 100), _text(131_072)
_TERMINATION = _object(
    {"cause": _text(32, 1)},
    {"signal": _WORD, "escalated": _flag, "limits_hit": _list(8, _WORD)}
    | dict.fromkeys(("wall_ms", "cpu_ms", "grace_ms", "memory_bytes"), _NATURAL),
)
_FILE = _object({"name": _text(512, 1), "size": _NATURAL, "sha256": _text(64)}, {})
_ANY = {"id": _ID, "seed_id": _ID, "created_at": _NATURAL, "rests_on": _hash_or_nothing}
_WORK = {**_ANY, "claim_id": _ID, "worker": _ID}
SHAPES: dict[str, tuple[str, str, str, Any]] = {
    "SeedCreated": (
        "seed",
        "seed",
        "created_by",
        _object(
            {"id": _ID, "title": _text(512), "command": _text(65_536, 1), "created_by": _ID}
            | dict.fromkeys(("timeout_ms", "bid_deadline_ts", "exec_deadline_ms", "created_at"), _NATURAL),
            {"description": _LONG, "rules": _LONG}
            | dict.fromkeys(("min_price", "max_bids", "reward", "claim_deadline_ts"), _NATURAL),
        ),
    ),
    "BidSubmitted": (
        "bid",
        "bid",
        "bidder",
        _object({**_ANY, "bidder": _ID, "price": _NATURAL}, {"notes": _text(4_096)}),
    ),
    "ClaimCreated": ("claim", "claim", "", _object({**_ANY, "bid_id": _ID, "worker": _ID}, {"attempt": _ATTEMPT})),
    "TaskStarted": ("run", "start", "worker", _object(_WORK, {"renews": _ID, "lease_ms": _NATURAL})),
    "TaskResult": (
        "result",
        "result",
        "worker",
        _object(
            {**_WORK, "exit_code": _number(-(2**31), 2**31 - 1), "timed_out": _flag}
            | {"output_hash": _text(128), "duration_ms": _NATURAL},
            {"stdout": _OUTPUT, "stderr": _OUTPUT, "stdout_truncated": _flag, "stderr_truncated": _flag}
            | {"termination": _TERMINATION, "refusal": _text(64), "sandbox": _WORD, "profile": _WORD}
            | {"files": _list(128, _FILE), "files_omitted": _NATURAL, "failed": _text(32, 1)},
        ),
    ),
    "TaskSettle": (
        "seed",
        "settle",
        "",
        _object(
            {"id": _ID, "rests_on": _hash_or_nothing, "status": _text(16)},
            {"claim_id": _ID, "result_id": _ID, "attempt": _ATTEMPT, "note": _LONG, "rules": _LONG},
        ),
    ),
    "SettleAcknowledged": ("acknowledgement", "ack", "worker", _object({**_ANY, "worker": _ID}, {})),
}
"""Kind -> key in the payload, kind of fact, field that names the author, and what the object must be."""
_SETTLES = {"Accepted": "settle", "Rejected": "settle", "Forfeited": "forfeit", "Expired": "close"}


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _without_nulls(item) for name, item in value.items() if item is not None}


def parse(raw: bytes) -> Entry:
    """What a validly signed envelope of a feed says."""
    envelope = json.loads(raw)
    meta = envelope["meta"]
    return Entry(meta["id"], meta["from"], meta["seq"], meta["prev"], _fact(meta, envelope["payload"]))


def _fact(meta: dict[str, Any], payload: dict[str, Any]) -> Fact | None:
    if meta["kind"] not in SHAPES:
        return None
    key, kind, speaker, fits = SHAPES[meta["kind"]]
    body = _without_nulls(payload.get(key))
    own_id = object_id(meta.get("ns", "default"), meta["from"], meta["seq"])
    if not fits(body) or (speaker and body[speaker] != meta["from"]):
        return None
    if kind == "settle":
        if body["status"] not in _SETTLES:
            return None
        kind, seed_id = _SETTLES[body["status"]], body["id"]
    else:
        if body["id"] != own_id or body["created_at"] != meta["ts"]:
            return None
        seed_id = own_id if kind == "seed" else body["seed_id"]
    if kind == "start" and "renews" in body:
        kind = "renewal"
    rests_on = "" if kind == "seed" else body["rests_on"]
    return Fact(meta["id"], meta["from"], meta["seq"], meta["ts"], kind, own_id, seed_id, rests_on, body)
