"""Envelopes that the operator brings: the same verification as from the network, only that they may be old."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec
import trio
from msgspec import Struct

from crabnet import limits
from crabnet.core.commands import Received
from crabnet.core.effects import Effects, Notice
from crabnet.core.records import Via
from crabnet.errors import Reason
from crabnet.node.node import Node
from crabnet.protocol.canonical import JsonObject

SOURCE: Final = "import"
_ACCEPTED: Final = "envelope_accepted"
_COUNTED: Final = {
    "envelope_ignored": "ignored",
    "envelope_parked": "ignored",
    "envelope_rejected": "rejected",
}


class _Meta(Struct, gc=False):
    v: int | None = None
    seq: int = 0


class _Envelope(Struct, gc=False):
    meta: _Meta


_decode: Final = msgspec.json.Decoder(_Envelope).decode


async def import_envelopes(node: Node, envelopes: Iterable[bytes]) -> JsonObject:
    """How many were accepted, and how many ignored and rejected by Reason; durable when this returns.

    Raises StorageFailedError.
    """
    accepted = 0
    refused: dict[str, Counter[str]] = {"ignored": Counter(), "rejected": Counter()}
    effects = Effects()
    for number, raw in enumerate(envelopes, 1):
        if _is_talk(raw):
            refused["rejected"][Reason.UNSOLICITED.value] += 1
            continue
        told = len(effects.notices)
        node.core.handle(Received(SOURCE, raw, Via.IMPORT), node.clock_ms(), effects)
        judged = [each for each in effects.notices[told:] if each.kind == _ACCEPTED or each.kind in _COUNTED]
        accepted += sum(_count(each, refused) for each in judged)
        # Those behind the first waited for it: they were counted as ignored when their turn in the file came.
        refused["ignored"][Reason.GAP.value] -= max(0, len(judged) - 1)
        if number % limits.IMPORT_SLICE == 0:
            node.committer.enqueue(effects)
            effects = Effects()
            await trio.lowlevel.checkpoint()
            await node.committer.room()
    with trio.CancelScope(shield=True):
        await node.committer.submit(effects)
    answer: JsonObject = {"accepted": accepted}
    answer.update({name: {reason: n for reason, n in sorted(by.items()) if n} for name, by in refused.items()})
    return answer


def _is_talk(raw: bytes) -> bool:
    """Whether it is a message between neighbours, which has no business in an export."""
    try:
        meta = _decode(raw).meta
    except msgspec.MsgspecError:
        return False
    return meta.v is not None and meta.seq == 0


def _count(notice: Notice, refused: dict[str, Counter[str]]) -> int:
    if notice.kind == _ACCEPTED:
        return 1
    refused[_COUNTED[notice.kind]][str(notice.fields.get("reason"))] += 1
    return 0
