"""Turns records and peers into the objects of ``operations``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import asdict

from crabnet import limits
from crabnet.core.sweeper import lease_of
from crabnet.core.sync.neighbours import Neighbours
from crabnet.domain.lifecycle import is_overdue, settlement_due_s, status_at
from crabnet.domain.local_rules import is_biddable
from crabnet.domain.model import (
    Acknowledgement,
    Bid,
    Body,
    Claim,
    Fact,
    Run,
    SeedStatus,
    Settlement,
    TaskResult,
)
from crabnet.domain.record import Record, claimed_bids, counting_bids
from crabnet.errors import Reason, UsageError
from crabnet.node.execution.runs import RunView
from crabnet.node.seeds import Search
from crabnet.operations import info, objects, seeds
from crabnet.source import bare, is_p2p, p2p_source
from crabnet.transport.p2p_wire import Known, Learnt

IsEquivocator = Callable[[str], bool]
"""Tells whether a proof exists that an author signed two envelopes for one place of its feed."""


def bid_view(body: Bid) -> objects.Bid:
    """A bid."""
    return objects.Bid(**asdict(body))


def claim_view(body: Claim) -> objects.Claim:
    """A claim."""
    return objects.Claim(**asdict(body))


def result_view(body: TaskResult) -> objects.Result:
    """A result, with its output as text for people."""
    return objects.Result(**_result_fields(body))


def _result_fields(body: TaskResult) -> dict[str, Any]:
    return {
        **asdict(body),
        "stdout": body.stdout or body.raw_stdout.decode(errors="replace"),
        "stderr": body.stderr or body.raw_stderr.decode(errors="replace"),
    }


class _P2pPeer:
    """What is known of a libp2p peer by its addresses."""

    def __init__(self, known: Sequence[Known]) -> None:
        self.names = [each.address for each in known]
        self.configured = any(each.learnt is Learnt.CONFIGURED for each in known)
        seen_s = max((each.succeeded_s for each in known), default=0)
        self.last_seen_ms = seen_s * 1000 if seen_s else None
        self.failures = min((each.failures for each in known), default=0)


def peer_views(
    neighbours: Neighbours,
    names: Mapping[str, list[str]],
    now_ms: int,
    is_equivocator: IsEquivocator,
    p2p: Iterable[Known] = (),
) -> list[info.Peer]:
    """Configured, confirmed and remembered peers, most recently heard first. Times are in milliseconds since the epoch.

    ``names`` gives the names of an address in the settings, ``p2p`` are the known addresses of libp2p peers.
    """
    addresses: dict[str, list[Known]] = {}
    for each in p2p:
        addresses.setdefault(p2p_source(each.peer), []).append(each)
    by_address = {source: _P2pPeer(found) for source, found in addresses.items()}
    peers = neighbours.peers
    remembered = {peer.address: peer for peer in neighbours.book.peers(peers.heard_ms)}
    confirmed = dict.fromkeys(peers.confirmed())
    views: list[info.Peer] = []
    for address in dict.fromkeys([*sorted(neighbours.trusted), *confirmed, *remembered, *by_address]):
        libp2p = by_address.get(address) or _P2pPeer(())
        known = remembered.get(address)
        heard_ms = peers.last_heard_ms(address)
        if heard_ms is None and known is not None:
            heard_ms = known.last_seen_s * 1000
        if heard_ms is None:
            heard_ms = libp2p.last_seen_ms
        refused = peers.last_refused(address)
        node_id = peers.node_id(address) or (known.node_id if known is not None else "")
        if is_p2p(address):
            node_id = bare(address)
        views.append(
            info.Peer(
                address=address,
                names=[*names.get(address, []), *libp2p.names],
                node_id=node_id or None,
                configured=address in neighbours.trusted or libp2p.configured,
                confirmed=address in confirmed,
                last_seen_ms=heard_ms,
                silent_ms=None if heard_ms is None else max(0, now_ms - heard_ms),
                last_refused_ms=None if refused is None else refused.at_ms,
                refused_reason=None if refused is None else refused.reason,
                refused_detail=None if refused is None else refused.detail,
                failures=neighbours.book.failures(address) or libp2p.failures,
                equivocator=is_equivocator(node_id),
            )
        )
    views.sort(key=_silence)
    return views


def _silence(peer: info.Peer) -> float:
    return float("inf") if peer.silent_ms is None else peer.silent_ms


def seed_view(record: Record, now_s: int) -> objects.Seed:
    """A seed with its status at ``now_s``, in seconds since the epoch. Raises ValueError without a definition."""
    return objects.Seed(**_seed_fields(record, now_s))


def _seed_fields(record: Record, now_s: int) -> dict[str, Any]:
    seed, progress = record.definition, record.progress
    if seed is None:
        raise ValueError("a seed without definition is not shown")
    return {
        **asdict(seed),
        "status": status_at(record, now_s),
        "claimed_by": progress.claimed_by,
        "claimed_at": progress.claimed_at,
        "claim_id": progress.claim_id,
        "result_id": progress.result_id,
        "price": _agreed_price(record),
        "claim_deadline_ts": seed.claim_deadline_s,
        "settle_window_s": seed.settle_within_s,
        "settle_by": settlement_due_s(record),
        "overdue": is_overdue(record, now_s),
        "attempt": progress.attempt,
        "version": progress.version,
        "biddable": is_biddable(record, now_s),
        "bid_count": len(record.bids),
        "note": progress.note,
        **_run_fields(record),
        **_outcome_fields(record),
    }


def _agreed_price(record: Record) -> int | None:
    """The price of the bid of the current claim; None without one."""
    claim = record.claim
    bid_id = claim.body.bid_id if claim is not None and isinstance(claim.body, Claim) else None
    bids = (fact.body for fact in record.bids) if bid_id is not None else ()
    return next((bid.price for bid in bids if isinstance(bid, Bid) and bid.id == bid_id), None)


def _outcome_fields(record: Record) -> dict[str, Any]:
    """How the run of the current result ended; None values without a result."""
    bodies = (fact.body for fact in record.others)
    result = next(
        (body for body in bodies if isinstance(body, TaskResult) and body.id == record.progress.result_id), None
    )
    if result is None:
        return {"exit_code": None, "timed_out": None, "refusal": None, "failed": None}
    return {
        "exit_code": result.exit_code,
        "timed_out": result.timed_out,
        "refusal": result.refusal,
        "failed": result.whose_failure,
    }


def _run_fields(record: Record) -> dict[str, Any]:
    """Times of the run of the current claim, in seconds: its start, its last sign of life, and the end of its lease."""
    progress = record.progress
    run = record.run
    started_at = None if run is None else run.body.created_at
    running = progress.status is SeedStatus.RUNNING
    heard_at = progress.renewed_at if progress.renewed_at is not None else started_at
    lease_ms = lease_of(record)
    return {
        "started_at": started_at,
        "heard_at": heard_at if running else None,
        "lease_until": None if lease_ms is None or heard_at is None else heard_at + -(-lease_ms // 1000),
        "renewals": progress.renewals,
    }


def local_run(view: RunView | None) -> objects.LocalRun | None:
    """The run of a seed on this node. Other nodes do not see this view."""
    if view is None:
        return None
    return objects.LocalRun(stage=view.stage.value, position=view.position, since_ms=view.since_ms)


def story(
    record: Record,
    now_s: int,
    is_equivocator: IsEquivocator,
    *,
    limit: int | None = None,
    after: str | None = None,
    here: objects.LocalRun | None = None,
) -> objects.Story:
    """A seed with all statements about it that count, and a page of its bids in the order in which they count.

    The page has at most ``limit`` bids after the bid with the id ``after``. Raises UsageError if there is no such bid.
    """
    most = limits.SEED_ROWS_DEFAULT if limit is None else limit
    begin = 0 if after is None else _place_behind(record.bids, after)
    page = record.bids[begin : begin + most]
    return objects.Story(
        seed=objects.ShownSeed(
            **_seed_fields(record, now_s),
            envelope_id=None if record.seed is None else record.seed.envelope or None,
            equivocator=_by_equivocator(record, is_equivocator),
        ),
        claims=tuple(objects.ShownClaim(**fields) for fields in _bodies(record, Claim)),
        runs=tuple(objects.ShownRun(**fields) for fields in _bodies(record, Run)),
        results=tuple(objects.ShownResult(**fields) for fields in _bodies(record, TaskResult)),
        settlements=tuple(objects.ShownSettlement(**fields) for fields in _bodies(record, Settlement)),
        acknowledgements=tuple(objects.ShownAcknowledgement(**fields) for fields in _bodies(record, Acknowledgement)),
        bids=_bid_rows(record, page, is_equivocator),
        totals=objects.Totals(bids=len(record.bids)),
        next=page[-1].key if page and begin + most < len(record.bids) else None,
        local_run=here,
    )


def _place_behind(bids: tuple[Fact, ...], after: str) -> int:
    for place, bid in enumerate(bids, 1):
        if bid.key == after:
            return place
    raise UsageError(f"this seed has no bid {after[:128]!r} to continue after", Reason.UNKNOWN_BID)


def _bid_rows(record: Record, bids: tuple[Fact, ...], is_equivocator: IsEquivocator) -> tuple[objects.ShownBid, ...]:
    counting = {fact.key for fact in counting_bids(record)}
    claimed = {fact.ref for fact in claimed_bids(record)}
    return tuple(
        objects.ShownBid(
            **asdict(bid.body),
            envelope_id=bid.envelope or None,
            counts=bid.key in counting,
            claimed=bid.ref in claimed,
            equivocator=is_equivocator(bid.author),
        )
        for bid in bids
    )


def _by_equivocator(record: Record, is_equivocator: IsEquivocator) -> bool:
    return record.seed is not None and is_equivocator(record.seed.author)


def _bodies(record: Record, body_type: type[Body]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for fact in record.others:
        body = fact.body
        if isinstance(body, body_type):
            fields = _result_fields(body) if isinstance(body, TaskResult) else asdict(body)
            found.append({**fields, "envelope_id": fact.envelope or None, "signed": fact.signed})
    return found


def view_mark(shown: objects.Story) -> str:
    """A short text that differs whenever two views of a seed differ in anything but the elapsed time."""
    here = shown.local_run
    aged = (
        shown if here is None else msgspec.structs.replace(shown, local_run=msgspec.structs.replace(here, since_ms=0))
    )
    return hashlib.sha256(msgspec.json.encode(aged)).hexdigest()[:32]


def watched(shown: objects.Story, mark: str) -> seeds.Watched:
    """A view of a seed with its mark."""
    return seeds.Watched(**asdict(shown), mark=mark)


def seed_page(
    search: Search,
    now_s: int,
    is_equivocator: IsEquivocator,
    needs_me: Callable[[Record], bool],
    *,
    node_id: str,
    unreadable: int,
) -> seeds.SeedPage:
    """A page of seeds. ``needs_me`` tells whether the next step is one of this node's operator."""
    return seeds.SeedPage(
        seeds=[
            objects.ListedSeed(
                **_seed_fields(item.record, now_s),
                archived=item.archived,
                needs_me=needs_me(item.record),
                equivocator=_by_equivocator(item.record, is_equivocator),
            )
            for item in search.found
        ],
        next=search.following,
        node_id=node_id,
        unreadable=unreadable,
    )
