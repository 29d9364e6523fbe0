"""What the API and the CLI show, as JSON objects (docs/CONTROL.md)."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from crabnet.core.neighbours import Neighbours
from crabnet.core.sweeper import lease_of
from crabnet.domain.lifecycle import Entry, Record, counting_bids, status_at
from crabnet.domain.model import Body, Claim, Run, SeedStatus, Settlement, TaskResult, Verdict
from crabnet.errors import Reason, UsageError
from crabnet.node.work import RunView
from crabnet.protocol.canonical import JsonObject, JsonValue
from crabnet.protocol.payloads import wire_seed

SeedPlace = tuple[int, str]
"""(created_at, seed id): the place of a seed in lists."""


class ArchivePage(Protocol):
    """Gives archived seeds, newest first."""

    def __call__(
        self, *, status: SeedStatus | None, limit: int, after: SeedPlace | None
    ) -> list[tuple[str, Record]]: ...


def body_view(body: Body) -> JsonObject:
    """All fields of an object."""
    view: JsonObject = msgspec.to_builtins(msgspec.structs.asdict(body), str_keys=True)
    return view


def peer_views(neighbours: Neighbours, now_ms: int, is_equivocator: IsEquivocator) -> list[JsonValue]:
    """Configured, confirmed and remembered peers, those heard last first. Times in milliseconds since the epoch."""
    peers = neighbours.peers
    remembered = {peer.address: peer for peer in neighbours.book.peers(peers.heard_ms)}
    confirmed = dict.fromkeys(peers.confirmed())
    views: list[JsonObject] = []
    for address in dict.fromkeys([*sorted(neighbours.trusted), *confirmed, *remembered]):
        known = remembered.get(address)
        heard_ms = peers.last_heard_ms(address)
        if heard_ms is None and known is not None:
            heard_ms = known.last_seen_s * 1000
        node_id = peers.node_id(address) or (known.node_id if known is not None else "")
        views.append(
            {
                "address": address,
                "node_id": node_id or None,
                "configured": address in neighbours.trusted,
                "confirmed": address in confirmed,
                "last_seen_ms": heard_ms,
                "silent_ms": None if heard_ms is None else max(0, now_ms - heard_ms),
                "failures": neighbours.book.failures(address),
                "equivocator": is_equivocator(node_id),
            }
        )
    views.sort(key=_silence)
    return list(views)


def _silence(view: JsonObject) -> float:
    silent_ms = view["silent_ms"]
    return silent_ms if isinstance(silent_ms, int) else float("inf")


def seed_view(record: Record, now_s: int) -> JsonObject:
    """A seed as it stands at ``now_s``."""
    seed, progress = record.definition, record.progress
    if seed is None:
        raise ValueError("a seed without definition is not shown")
    view = wire_seed(seed, progress)
    view.update(
        status=status_at(record, now_s).value,
        claim_deadline_ts=seed.claim_deadline_s,
        attempt=progress.attempt,
        version=progress.version,
        bid_count=sum(entry.effective for entry in record.bids),
        note=progress.note,
        **_run_view(record),
    )
    return view


def _run_view(record: Record) -> JsonObject:
    """When the run of the current claim began, when it was heard of last, and until when it may be silent: seconds."""
    progress = record.progress
    begun = next((entry.fact.body for entry in record.others if entry.fact.key == progress.run_id), None)
    started_at = None if begun is None else begun.created_at
    running = progress.status is SeedStatus.RUNNING
    heard_at = progress.renewed_at if progress.renewed_at is not None else started_at
    lease_ms = lease_of(record)
    return {
        "started_at": started_at,
        "heard_at": heard_at if running else None,
        "lease_until": None if lease_ms is None or heard_at is None else heard_at + -(-lease_ms // 1000),
        "renewals": progress.renewals,
    }


def local_run(view: RunView | None) -> JsonValue:
    """The run of a seed on this node, which others do not see."""
    if view is None:
        return None
    return {"stage": view.stage.value, "position": view.position, "since_ms": view.since_ms}


IsEquivocator = Callable[[str], bool]
"""Tells whether it is proved that an author signed two envelopes for one place."""


def seed_details(
    record: Record, now_s: int, is_equivocator: IsEquivocator, *, limit: int, after: str | None = None
) -> JsonObject:
    """A seed with what counts of all that was said about it, and a page of what strangers may say at any length.

    The page has at most ``limit`` rows behind that with the id ``after``: first bids, in the order in which they count,
    then facts without effect, of which nothing is shown that their authors could make long. Raises UsageError for an
    ``after`` that is not there.
    """
    bids = [entry for entry in record.bids if entry.effective]
    ineffective = [entry for entry in (*record.bids, *record.others) if not entry.effective]
    rows = [*bids, *ineffective]
    begin = 0 if after is None else _place_behind(rows, after)
    page = rows[begin : begin + limit]
    waiting = sum(entry.judgement.verdict is Verdict.WAITING for entry in ineffective)
    return {
        "seed": {**seed_view(record, now_s), "equivocator": _by_equivocator(record, is_equivocator)},
        "claims": _bodies(record, Claim),
        "runs": _bodies(record, Run),
        "results": _bodies(record, TaskResult),
        "settlements": _bodies(record, Settlement),
        "bids": _bid_rows(record, [entry for entry in page if entry.effective], is_equivocator),
        "ineffective": [_ineffective_row(entry) for entry in page if not entry.effective],
        "totals": {"bids": len(bids), "waiting": waiting, "void": len(ineffective) - waiting},
        "next": page[-1].fact.key if page and begin + limit < len(rows) else None,
    }


def _place_behind(rows: list[Entry], after: str) -> int:
    for place, entry in enumerate(rows, 1):
        if entry.fact.key == after:
            return place
    raise UsageError(f"no bid or fact {after[:128]!r} of this seed is there to go on after", Reason.INVALID_ARGUMENT)


def _bid_rows(record: Record, bids: list[Entry], is_equivocator: IsEquivocator) -> list[JsonValue]:
    counting = {fact.key for fact in counting_bids(record)}
    claimed = {
        entry.fact.body.bid_id for entry in record.others if isinstance(entry.fact.body, Claim) and entry.effective
    }
    return [
        {
            **body_view(entry.fact.body),
            "counts": entry.fact.key in counting,
            "claimed": entry.fact.key in claimed,
            "equivocator": is_equivocator(entry.fact.author),
        }
        for entry in bids
    ]


def _ineffective_row(entry: Entry) -> JsonObject:
    fact, judgement = entry.fact, entry.judgement
    return {
        "id": fact.key,
        "kind": fact.kind.value,
        "author": fact.author,
        "created_at": fact.ts,
        "verdict": judgement.verdict.value,
        "reason": None if judgement.reason is None else judgement.reason.value,
        "signed": fact.signed,
    }


def _by_equivocator(record: Record, is_equivocator: IsEquivocator) -> bool:
    return record.seed is not None and is_equivocator(record.seed.author)


def _bodies(record: Record, body_type: type[Body]) -> list[JsonValue]:
    return [
        {**body_view(entry.fact.body), "signed": entry.fact.signed}
        for entry in record.others
        if entry.effective and isinstance(entry.fact.body, body_type)
    ]


def view_mark(details: JsonObject) -> str:
    """A short text that differs whenever two views of a seed do, but for the time that has passed."""
    here = details["local_run"]
    aged: JsonObject = {"local_run": {**here, "since_ms": 0}} if isinstance(here, dict) else {}
    return hashlib.sha256(msgspec.json.encode({**details, **aged}, order="deterministic")).hexdigest()[:32]


class Found(NamedTuple):
    """A seed of a list, and whether it has left memory."""

    created_at: int
    seed_id: str
    record: Record
    archived: bool


def find_seeds(
    records: Mapping[str, Record],
    archived: ArchivePage,
    now_s: int,
    *,
    status: SeedStatus | None,
    limit: int,
    after: SeedPlace | None,
) -> list[Found]:
    """Seeds in memory and archived, newest first and then by id, at most ``limit``, those after the place ``after``."""
    live = (
        Found(seed.created_at, seed_id, record, False)
        for seed_id, record in records.items()
        if (seed := record.definition) is not None
        and (status is None or status_at(record, now_s) is status)
        and (after is None or _order(seed.created_at, seed_id) > _order(*after))
    )
    found = heapq.nsmallest(limit, live, key=lambda item: _order(item.created_at, item.seed_id))
    found += [
        Found(seed.created_at, seed_id, record, True)
        for seed_id, record in archived(status=status, limit=limit, after=after)
        if (seed := record.definition) is not None
    ]
    found.sort(key=lambda item: _order(item.created_at, item.seed_id))
    return found[:limit]


def seed_page(found: list[Found], now_s: int, is_equivocator: IsEquivocator, *, limit: int) -> JsonObject:
    """A page of at most ``limit`` seeds; one more in ``found`` says that another page follows."""
    page = found[:limit]
    return {
        "seeds": [
            {
                **seed_view(item.record, now_s),
                "archived": item.archived,
                "equivocator": _by_equivocator(item.record, is_equivocator),
            }
            for item in page
        ],
        "next": page[-1].seed_id if len(found) > limit else None,
    }


def _order(created_at: int, seed_id: str) -> tuple[int, str]:
    return (-created_at, seed_id)
