"""The methods of the control API (docs/CONTROL.md): JSON parameters in, JSON objects out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Protocol, TypeVar

import msgspec
import trio
from msgspec import Meta, Struct

from crabnet import limits
from crabnet.core.commands import Publish
from crabnet.core.core import Core
from crabnet.domain.model import SeedStatus, Settlement
from crabnet.errors import Reason, UsageError
from crabnet.node.clock import NodeClock
from crabnet.node.durable.archiving import ReadPages
from crabnet.node.execution.prechecks import doubts_about, doubts_about_bid
from crabnet.node.node import Node
from crabnet.node.operations.importing import UnsignedFact, import_entries
from crabnet.node.operations.status import Live, config_view, heads_view, identity_view, sandbox_view, status_view
from crabnet.node.operations.views import (
    body_view,
    local_run,
    peer_views,
    seed_details,
    seed_page,
    seed_view,
    view_mark,
)
from crabnet.node.seeds import find_seeds
from crabnet.protocol.canonical import JsonObject, JsonValue

P = TypeVar("P", bound=Struct)


class NoParams(Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters."""


class _Bid(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    seed_id: str
    price: int
    notes: str = ""
    announce: bool = True
    force: bool = False


class _Claim(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    seed_id: str
    bid_id: str
    announce: bool = True


class _Run(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    seed_id: str
    announce: bool = True


class _Settle(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    seed_id: str
    outcome: SeedStatus
    note: str = ""
    announce: bool = True


class _Cancel(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    seed_id: str
    note: str = ""
    announce: bool = True


class ListParams(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Selects seeds: those with ``status``, at most ``limit``, and only those that follow the seed ``after``.

    ``biddable`` selects open seeds that take bids (true), or open seeds that take none any more (false).
    """

    status: SeedStatus | None = None
    biddable: bool | None = None
    limit: Annotated[int, Meta(ge=1, le=limits.SEED_LIST_MAX)] = 100
    after: str | None = None


class ShowParams(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Selects a seed, and at most ``limit`` of its bids: those that follow the bid ``after``."""

    seed_id: str
    limit: Annotated[int, Meta(ge=1, le=limits.SEED_ROWS_MAX)] = limits.SEED_ROWS_DEFAULT
    after: str | None = None


class _Watch(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    seed_id: str
    seen: str = ""
    wait_ms: Annotated[int, Meta(ge=0, le=limits.WATCH_MS_MAX)] = 0


class _Import(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    envelopes: list[bytes] = []
    facts: list[UnsignedFact] = []
    proofs: list[bytes] = []


class _Publish(Publish, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


async def _publish(node: Node, params: _Publish) -> JsonObject:
    seed = await node.publish(Publish(**msgspec.structs.asdict(params)))
    view = seed_view(node.core.record(seed.id), node.clock_ms() // 1000)
    return {"seed": view, "warnings": [*doubts_about(params)], **await _announced(node, params, seed.id, seed.id)}


async def _bid(node: Node, params: _Bid) -> JsonObject:
    bid = await node.bid(params.seed_id, params.price, notes=params.notes, announce=params.announce, force=params.force)
    seed = node.core.record(params.seed_id).definition
    warnings: list[JsonValue] = [] if seed is None else [*doubts_about_bid(seed, params.price)]
    return {"bid": body_view(bid), "warnings": warnings, **await _announced(node, params, params.seed_id, bid.id)}


async def _claim(node: Node, params: _Claim) -> JsonObject:
    claim = await node.claim(params.seed_id, params.bid_id, announce=params.announce)
    return {"claim": body_view(claim), **await _announced(node, params, params.seed_id, claim.id)}


async def _run(node: Node, params: _Run) -> JsonObject:
    result = await node.run(params.seed_id, announce=params.announce)
    return {"result": body_view(result), **await _announced(node, params, params.seed_id, result.id)}


async def _settle(node: Node, params: _Settle) -> JsonObject:
    await node.settle(params.seed_id, params.outcome, note=params.note, announce=params.announce)
    return {
        "seed": seed_view(node.core.record(params.seed_id), node.clock_ms() // 1000),
        **await _announced(node, params, params.seed_id, _last_settlement(node, params.seed_id)),
    }


async def _cancel(node: Node, params: _Cancel) -> JsonObject:
    cancelled = await node.cancel(params.seed_id, note=params.note, announce=params.announce)
    settled = _last_settlement(node, params.seed_id) if cancelled == "seed" else ""
    return {
        "cancelled": cancelled,
        "seed": seed_view(node.core.record(params.seed_id), node.clock_ms() // 1000),
        **await _announced(node, params, params.seed_id, settled),
    }


class _Announcing(Protocol):
    @property
    def announce(self) -> bool: ...


async def _announced(node: Node, params: _Announcing, seed_id: str, object_id: str) -> JsonObject:
    """The field ``announced`` if an announcement was requested: where the envelope was sent, null if not known."""
    if not params.announce or not object_id:
        return {}
    delivery = await node.delivery(seed_id, object_id)
    return {"announced": None if delivery is None else delivery._asdict()}


def _last_settlement(node: Node, seed_id: str) -> str:
    facts = [fact for fact in node.core.record(seed_id).others if isinstance(fact.body, Settlement)]
    return facts[-1].body.id if facts else ""


async def _list(node: Node, params: ListParams) -> JsonObject:
    page = list_seeds(node.core, node.archivist, params, node.clock_ms() // 1000)
    await node.durable()
    return page


def list_seeds(core: Core, archived: ReadPages, params: ListParams, now_s: int) -> JsonObject:
    """A page of seeds, in memory and archived. Raises RefusedError if the seed ``params.after`` is unknown."""
    after = None
    if params.after is not None:
        definition = core.record(params.after).definition
        after = None if definition is None else (definition.created_at, params.after)
    records, limit = core.replica.state.records, params.limit
    found = find_seeds(
        records,
        archived.page,
        now_s,
        status=params.status,
        biddable=params.biddable,
        limit=limit + 1,
        after=after,
    )
    page = seed_page(found, now_s, core.replica.feeds.is_equivocator, limit=limit)
    if archived.unreadable:
        page["unreadable"] = archived.unreadable
    return page


async def _show(node: Node, params: ShowParams) -> JsonObject:
    details = _details(node, params.seed_id, params.limit, params.after)
    await node.durable()
    return details


def _details(node: Node, seed_id: str, limit: int = limits.SEED_ROWS_DEFAULT, after: str | None = None) -> JsonObject:
    is_equivocator = node.core.replica.feeds.is_equivocator
    record, now_s = node.core.record(seed_id), node.clock_ms() // 1000
    details = seed_details(record, now_s, is_equivocator, limit=limit, after=after)
    details["local_run"] = local_run(node.run_manager.view(seed_id))
    return details


async def _watch(node: Node, params: _Watch) -> JsonObject:
    """The answer of ``seed.show`` as soon as its mark differs from ``seen``, at the latest after ``wait_ms``."""
    with trio.move_on_after(params.wait_ms / 1000):
        while view_mark(_details(node, params.seed_id)) == params.seen:
            await node.changed()
    details = _details(node, params.seed_id)
    details["mark"] = view_mark(details)
    await node.durable()
    return details


async def _id(node: Node, _: NoParams) -> JsonObject:
    return identity_view(node.core.signer, node.settings)


async def _config(node: Node, _: NoParams) -> JsonObject:
    return config_view(node.settings)


async def _state_point(node: Node) -> tuple[str, int]:
    """The state hash, and the lsn of the last durable frame that it covers."""
    await node.state_hash()
    hashes: list[str] = []
    lsns: list[int] = []
    await node.committer.boundary(
        lambda: hashes.append(node.core.replica.state_hash()), lambda: lsns.append(node.ledger.last_lsn)
    )
    return hashes[0], lsns[0]


async def _vector(node: Node, _: NoParams) -> JsonObject:
    heads: JsonObject = {}
    lsns: list[int] = []
    await node.committer.boundary(
        lambda: heads.update(heads_view(node.core.replica.feeds)), lambda: lsns.append(node.ledger.last_lsn)
    )
    return {"namespace": node.settings.namespace, "node_id": node.node_id, "lsn": lsns[0], "heads": heads}


async def _import(node: Node, params: _Import) -> JsonObject:
    return await import_entries(node, params.envelopes, params.facts, params.proofs)


async def _peers(node: Node, _: NoParams) -> JsonObject:
    is_equivocator = node.core.replica.feeds.is_equivocator
    return {"peers": peer_views(node.core.neighbours, node.targets.names(), node.clock_ms(), is_equivocator)}


async def _status(node: Node, _: NoParams) -> JsonObject:
    now_ms = node.clock_ms()
    state_hash, state_lsn = await _state_point(node)
    events = None if node.events is None else node.events.gauges(now_ms)
    flow = node.core.neighbours.planner.flow
    live = Live(
        listen_addr=node.listen_address,
        running=node.listen,
        uptime_ms=now_ms - node.started_ms,
        clock_ahead_ms=node.clock_ms.ahead_ms if isinstance(node.clock_ms, NodeClock) else 0,
        entries_in_flight=flow.flying,
        envelopes_served=node.serving.envelopes,
        bytes_served=node.serving.bytes,
        serves_dropped=node.serving.dropped,
        unsent=node.outbox.unsent,
        runs_running=node.run_manager.turns.running,
        runs_queued=node.run_manager.turns.queued,
        events_written=0 if events is None else events.written,
        events_dropped=0 if events is None else events.dropped,
        events_failed=0 if events is None else events.write_failures,
        counters=dict(sorted(node.reporter.counters.items())),
    )
    sandbox = sandbox_view(node.runner.report if node.listen else await node.runner.prepare())
    status = status_view(node.settings, node.core, live, sandbox, state_hash=state_hash, state_lsn=state_lsn)
    await node.durable()
    status["lsn"] = node.ledger.last_lsn
    return status


_METHODS: Final[dict[str, tuple[type[Struct], Callable[..., Awaitable[JsonObject]]]]] = {
    "status": (NoParams, _status),
    "id": (NoParams, _id),
    "config": (NoParams, _config),
    "seed.publish": (_Publish, _publish),
    "seed.bid": (_Bid, _bid),
    "seed.claim": (_Claim, _claim),
    "seed.run": (_Run, _run),
    "seed.settle": (_Settle, _settle),
    "seed.cancel": (_Cancel, _cancel),
    "seed.list": (ListParams, _list),
    "seed.show": (ShowParams, _show),
    "seed.watch": (_Watch, _watch),
    "peers": (NoParams, _peers),
    "state.vector": (NoParams, _vector),
    "state.import": (_Import, _import),
}


async def dispatch(node: Node, method: str, params: JsonObject) -> JsonValue:
    """Do one method. Raises UsageError for an unknown method or bad parameters, and the errors of the operation."""
    known = _METHODS.get(method)
    if known is None:
        raise UsageError(f"there is no method {method[:64]!r}", Reason.UNKNOWN_OPERATION)
    params_type, perform = known
    return await perform(node, typed(method, params, params_type))


def typed(method: str, params: JsonObject, params_type: type[P]) -> P:
    """Convert parameters to the type of the method. Raises UsageError."""
    try:
        return msgspec.convert(params, params_type)
    except msgspec.ValidationError as error:
        raise UsageError(f"{method}: {error}") from error
