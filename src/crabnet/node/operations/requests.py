"""Requests that a caller may repeat: each is done once, whoever repeats it, also after a crash (ADR 32)."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import trio
from msgspec import Raw, Struct

from crabnet import limits
from crabnet.core.commands import RequestTag
from crabnet.core.effects import Effects
from crabnet.core.replica.records import NO_ANSWER, RequestRecord
from crabnet.domain.model import Body
from crabnet.errors import Reason, RefusedError
from crabnet.node.node import Node, UnderWay
from crabnet.operations.model import Operation, Writing

W = TypeVar("W", bound=Writing)
R = TypeVar("R", bound=Struct)
B = TypeVar("B", bound=Body)


@dataclass(frozen=True, slots=True)
class Ticket:
    """The request that a performer carries out. Without an id of the caller both are None."""

    tag: RequestTag | None = None
    """For the operation of the core, which journals it together with the envelope."""
    stated: RequestRecord | None = None
    """What an earlier try has stated. The performer must not state it again."""


def digest_of(operation: Operation[W, R], request: W) -> str:
    """Stands for the content of a request: what it does, whatever its id."""
    content = msgspec.json.encode([operation.name, msgspec.structs.replace(request, request_id=None)])
    return hashlib.sha256(content).hexdigest()


async def once(node: Node, operation: Operation[W, R], request: W, carry_out: Callable[[Ticket], Awaitable[R]]) -> R:
    """Carry out a request, unless one with the same id was carried out. Then return the first answer.

    A refused request leaves no trace: if it is repeated, it is tried again. Raises RefusedError (REQUEST_CONFLICT) if
    the id belongs to a request with another content, and the errors of the operation.
    """
    request_id = request.request_id
    if request_id is None:
        return await carry_out(Ticket())
    digest = digest_of(operation, request)
    while (before := node.requests_under_way.get(request_id)) is not None:
        _demand_same(request_id, digest, before.digest)
        await before.done.wait()
    known = node.core.request(request_id, node.clock_ms())
    if known is not None:
        _demand_same(request_id, digest, known.digest)
        if bytes(known.answer) != bytes(NO_ANSWER):
            return msgspec.json.decode(known.answer, type=operation.response)
    mine = node.requests_under_way[request_id] = UnderWay(digest)
    try:
        stated = known if known is not None and is_held(node, known) else None
        answer = await carry_out(Ticket(RequestTag(request_id, operation.name, digest), stated))
        await _remember(node, RequestTag(request_id, operation.name, digest), answer)
        return answer
    finally:
        del node.requests_under_way[request_id]
        mine.done.set()


def _demand_same(request_id: str, digest: str, before: str) -> None:
    if digest != before:
        raise RefusedError(
            f"the request id {request_id!r} belongs to an earlier request with another content; choose another id",
            Reason.REQUEST_CONFLICT,
        )


async def _remember(node: Node, tag: RequestTag, answer: Struct) -> None:
    """Journal the answer. It is durable before anybody gets it."""
    now_ms = node.clock_ms()
    known = node.core.request(tag.request_id, now_ms)
    encoded = msgspec.json.encode(answer)
    record = RequestRecord(
        tag.request_id,
        tag.operation,
        tag.digest,
        now_ms // 1000 if known is None else known.at_s,
        "" if known is None else known.seed_id,
        "" if known is None else known.envelope_id,
        Raw(encoded) if len(encoded) <= limits.REQUEST_ANSWER_BYTES_MAX else NO_ANSWER,
    )
    effects = Effects()
    node.core.note_request(record, effects)
    with trio.CancelScope(shield=True):
        await node.committer.submit(effects)


def is_held(node: Node, request: RequestRecord) -> bool:
    """Whether the envelope that a request states is held. A crash may have kept the request alone."""
    if not request.envelope_id:
        return False
    try:
        record = node.core.record(request.seed_id)
    except RefusedError:
        return False
    return any(fact.envelope == request.envelope_id for fact in (*record.facts(), *record.fallen))


def stated_body(node: Node, request: RequestRecord, body_type: type[B]) -> B:
    """The object that a request has stated. Raises RefusedError if it has stated another kind."""
    record = node.core.record(request.seed_id)
    for fact in (*record.facts(), *record.fallen):
        if fact.envelope == request.envelope_id and isinstance(fact.body, body_type):
            return fact.body
    raise RefusedError(f"the request {request.request_id!r} has stated no {body_type.__name__}", Reason.WRONG_STATE)
