"""The methods of the control API (docs/CONTROL.md): JSON parameters in, JSON objects out."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Final

import msgspec
import trio
from msgspec import Meta, Struct

from crabnet import __version__, limits
from crabnet.core.commands import Publish
from crabnet.domain.model import FactKind, SeedStatus
from crabnet.errors import Reason, UsageError
from crabnet.node.clock import NodeClock
from crabnet.node.node import Node
from crabnet.node.operations.importing import UnsignedFact, import_entries
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
from crabnet.protocol.identity import ALGORITHM
from crabnet.runner.sandbox.model import SandboxReport
from crabnet.settings import shown


class _NoParams(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _Bid(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    seed_id: str
    price: int
    notes: str = ""
    announce: bool = True


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


class _List(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    status: SeedStatus | None = None
    limit: Annotated[int, Meta(ge=1, le=limits.SEED_LIST_MAX)] = 100
    after: str | None = None


class _Show(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
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
    return {"seed": seed_view(node.core.record(seed.id), node.clock_ms() // 1000)}


async def _bid(node: Node, params: _Bid) -> JsonObject:
    bid = await node.bid(params.seed_id, params.price, notes=params.notes, announce=params.announce)
    return {"bid": body_view(bid)}


async def _claim(node: Node, params: _Claim) -> JsonObject:
    return {"claim": body_view(await node.claim(params.seed_id, params.bid_id, announce=params.announce))}


async def _run(node: Node, params: _Run) -> JsonObject:
    return {"result": body_view(await node.run(params.seed_id, announce=params.announce))}


async def _settle(node: Node, params: _Settle) -> JsonObject:
    await node.settle(params.seed_id, params.outcome, note=params.note, announce=params.announce)
    return {"seed": seed_view(node.core.record(params.seed_id), node.clock_ms() // 1000)}


async def _cancel(node: Node, params: _Cancel) -> JsonObject:
    cancelled = await node.cancel(params.seed_id, note=params.note, announce=params.announce)
    return {
        "cancelled": cancelled,
        "seed": seed_view(node.core.record(params.seed_id), node.clock_ms() // 1000),
    }


async def _list(node: Node, params: _List) -> JsonObject:
    after = None
    if params.after is not None:
        definition = node.core.record(params.after).definition
        after = None if definition is None else (definition.created_at, params.after)
    now_s = node.clock_ms() // 1000
    found = find_seeds(
        node.core.replica.state.records,
        node.archivist.page,
        now_s,
        status=params.status,
        limit=params.limit + 1,
        after=after,
    )
    page = seed_page(found, now_s, node.core.replica.feeds.is_equivocator, limit=params.limit)
    await node.durable()
    return page


async def _show(node: Node, params: _Show) -> JsonObject:
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
    """``seed.show`` as soon as it differs from what the client has seen, or after ``wait_ms``."""
    with trio.move_on_after(params.wait_ms / 1000):
        while view_mark(_details(node, params.seed_id)) == params.seen:
            await node.changed()
    details = _details(node, params.seed_id)
    details["mark"] = view_mark(details)
    await node.durable()
    return details


async def _id(node: Node, _: _NoParams) -> JsonObject:
    signer = node.core.signer
    return {
        "node_id": signer.node_id,
        "key_id": signer.key_id,
        "public_key": urlsafe_b64encode(signer.public_key).decode().rstrip("="),
        "alg": ALGORITHM,
        "alias": node.settings.alias,
        "namespace": node.settings.namespace,
    }


async def _config(node: Node, _: _NoParams) -> JsonObject:
    settings: JsonObject = dict(shown(node.settings).items())  # type: ignore[arg-type]
    return {"settings": settings}


async def _state_point(node: Node) -> tuple[str, int]:
    """The state hash, and the last durable frame that it covers."""
    await node.state_hash()
    hashes: list[str] = []
    lsns: list[int] = []
    await node.committer.boundary(
        lambda: hashes.append(node.core.replica.state_hash()), lambda: lsns.append(node.ledger.last_lsn)
    )
    return hashes[0], lsns[0]


async def _vector(node: Node, _: _NoParams) -> JsonObject:
    vector: JsonObject = {}
    lsns: list[int] = []

    def read() -> None:
        for feed in node.core.replica.feeds.all():
            if feed.head_seq or feed.end:
                vector[feed.author] = [feed.head_seq, feed.head_id, *([feed.end] if feed.end else [])]

    await node.committer.boundary(read, lambda: lsns.append(node.ledger.last_lsn))
    return {"namespace": node.settings.namespace, "node_id": node.node_id, "lsn": lsns[0], "heads": vector}


async def _import(node: Node, params: _Import) -> JsonObject:
    return await import_entries(node, params.envelopes, params.facts, params.proofs)


def sandbox_view(report: SandboxReport | None) -> JsonObject:
    """What confines runs, for ``status``. The self-test of a node that has just started may be under way."""
    if report is None:
        return {"mode": "unknown", "detail": "the self-test has not been made yet"}
    values: dict[str, int] = asdict(report.limits)
    return {
        "mode": report.mode,
        "chosen_by": report.choice.value,
        "profiles": [profile.value for profile in report.profiles],
        "limits": {
            name: {"value": value, "by": report.enforced_by[name].value if name in report.enforced_by else None}
            for name, value in values.items()
        },
        "self_test_ms": report.duration_ms,
        "tried": {
            attempt.mode.value: {"usable": attempt.usable, "ms": attempt.duration_ms, "detail": attempt.detail}
            for attempt in report.attempts
        },
        "detail": report.detail,
    }


async def _peers(node: Node, _: _NoParams) -> JsonObject:
    is_equivocator = node.core.replica.feeds.is_equivocator
    return {"peers": peer_views(node.core.neighbours, node.clock_ms(), is_equivocator)}


async def _status(node: Node, _: _NoParams) -> JsonObject:
    replica = node.core.replica
    state = replica.state
    now_ms = node.clock_ms()
    state_hash, state_lsn = await _state_point(node)
    events = None if node.events is None else node.events.status()
    status: JsonObject = {
        "version": __version__,
        "node_id": node.node_id,
        "key_id": node.core.signer.key_id,
        "alias": node.settings.alias,
        "namespace": node.settings.namespace,
        "network": node.settings.network,
        "listen_addr": node.listen_address,
        "running": node.listen,
        "uptime_ms": now_ms - node.started_ms,
        "state_hash": state_hash,
        "state_lsn": state_lsn,
        "seeds": {each.value: state.counts[each] + state.archived[each] for each in SeedStatus},
        "archived": sum(state.archived.values()),
        "bids": state.totals[FactKind.BID],
        "claims": state.totals[FactKind.CLAIM],
        "results": state.totals[FactKind.RESULT],
        "feeds": len(replica.feeds),
        "parked": len(replica.parking),
        "lacking": len(replica.parking.lacking()),
        "seen": len(replica.seen),
        "peers": len(node.core.neighbours.peers.confirmed()),
        "clock_ahead_ms": node.clock_ms.ahead_ms if isinstance(node.clock_ms, NodeClock) else 0,
        "relayed": node.core.neighbours.relay.relayed,
        "peers_remembered": len(node.core.neighbours.book),
        "sync": {
            "missing_feeds": len(node.core.neighbours.planner),
            "entries_in_flight": node.core.neighbours.planner.flow.flying,
            "envelopes_served": node.serving.envelopes,
            "bytes_served": node.serving.bytes,
            "serves_dropped": node.serving.dropped,
        },
        "unsent": node.outbox.unsent,
        "runs": {
            "running": node.run_manager.turns.running,
            "queued": node.run_manager.turns.queued,
            "running_max": node.run_manager.turns.runs_max,
            "queued_max": node.run_manager.turns.queue_max,
        },
        "feed_risk": node.core.feed_risk,
        "feed_unconfirmed": node.core.neighbours.guard.waits,
        "equivocators": [*replica.feeds.equivocators()[-limits.EQUIVOCATORS_SHOWN_MAX :]],
        "equivocators_total": len(replica.feeds.equivocators()),
        "sandbox": sandbox_view(node.runner.report if node.listen else await node.runner.prepare()),
        "events": {
            "written": 0 if events is None else events.written,
            "dropped": 0 if events is None else events.dropped,
            "failed": 0 if events is None else events.write_failures,
        },
        "counters": dict(sorted(node.reporter.counters.items())),
    }
    await node.durable()
    status["lsn"] = node.ledger.last_lsn
    return status


_METHODS: Final[dict[str, tuple[type[Struct], Callable[..., Awaitable[JsonObject]]]]] = {
    "status": (_NoParams, _status),
    "id": (_NoParams, _id),
    "config": (_NoParams, _config),
    "seed.publish": (_Publish, _publish),
    "seed.bid": (_Bid, _bid),
    "seed.claim": (_Claim, _claim),
    "seed.run": (_Run, _run),
    "seed.settle": (_Settle, _settle),
    "seed.cancel": (_Cancel, _cancel),
    "seed.list": (_List, _list),
    "seed.show": (_Show, _show),
    "seed.watch": (_Watch, _watch),
    "peers": (_NoParams, _peers),
    "state.vector": (_NoParams, _vector),
    "state.import": (_Import, _import),
}


async def dispatch(node: Node, method: str, params: JsonObject) -> JsonValue:
    """Do one method. Raises UsageError for unknown methods and bad parameters, and what the operation raises."""
    known = _METHODS.get(method)
    if known is None:
        raise UsageError(f"there is no method {method[:64]!r}", Reason.UNKNOWN_OPERATION)
    params_type, perform = known
    try:
        typed = msgspec.convert(params, params_type)
    except msgspec.ValidationError as error:
        raise UsageError(f"{method}: {error}") from error
    return await perform(node, typed)
