"""Finds ids by their beginning, for the operation ``id.find``."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final

from crabnet.core.core import Core
from crabnet.domain.lifecycle import status_at
from crabnet.domain.model import Bid
from crabnet.domain.record import Record
from crabnet.node.durable.archiving import ReadPages
from crabnet.operations import seeds

LAST: Final = "@last"
_COMMON: Final = "12D3KooW"
"""The beginning of the id of every node (docs/PROTOCOL.md, section 2)."""
_ELLIPSIS: Final = "…"
_LATEST: Final = 16
"""Archived seeds of this node that are looked at for the last one. Its feed orders those of one second."""


def find_ids(core: Core, archived: ReadPages, given: seeds.FindRequest, now_s: int) -> seeds.IdPage:
    """The ids that begin with a text. Raises RefusedError if the task of the bids is unknown."""
    text = given.text.strip()
    if given.kind == "node":
        found = _nodes(core, text, given.limit + 1)
    elif given.kind == "bid":
        record = core.record(given.seed_id or "")
        found = _bids(record, text.lower(), given.limit + 1)
    else:
        rows = _last(core, archived) if text.lower() == LAST else _seeds(core, archived, text, given.limit + 1)
        found = [
            seeds.FoundId(id=seed_id, kind="seed", title=seed.title, status=status_at(record, now_s))
            for seed_id, record in rows
            if (seed := record.definition) is not None
        ]
    return seeds.IdPage(found=found[: given.limit], more=len(found) > given.limit)


def _nodes(core: Core, text: str, limit: int) -> list[seeds.FoundId]:
    authors = core.replica.feeds.authors()
    if text in authors:
        authors = [text]
    head, ellipsis, tail = text.partition(_ELLIPSIS)
    beginnings = (head, _COMMON + head) if not ellipsis else (head,)
    matching = (
        author
        for author in authors
        if (author.startswith(beginnings) and author.endswith(tail))
        or (head and not ellipsis and author.endswith(head))
    )
    return [seeds.FoundId(id=author, kind="node", title="", status=None) for author in heapq.nsmallest(limit, matching)]


def _bids(record: Record, text: str, limit: int) -> list[seeds.FoundId]:
    bids = [fact.body for fact in record.bids if isinstance(fact.body, Bid) and fact.body.id.startswith(text)]
    whole = [bid for bid in bids if bid.id == text]
    return [
        seeds.FoundId(id=bid.id, kind="bid", title=f"{bid.price} by {bid.bidder}", status=None)
        for bid in (whole or bids)[:limit]
    ]


def _seeds(core: Core, archived: ReadPages, text: str, limit: int) -> list[tuple[str, Record]]:
    records = core.replica.state.records
    if text in records:
        return [(text, records[text])]
    text = text.lower()
    matching = ((seed_id, record) for seed_id, record in records.items() if seed_id.startswith(text))
    if text:
        old: Iterable[tuple[str, Record]] = archived.starting_with(text, limit)
    else:
        old = archived.page(status=None, limit=limit, after=None)
    found = heapq.nsmallest(limit, [*matching, *old], key=_newest_first)
    return [row for row in found if row[0] == text] or found


def _newest_first(row: tuple[str, Record]) -> tuple[int, str]:
    seed = row[1].definition
    return (0 if seed is None else -seed.created_at, row[0])


def _last(core: Core, archived: ReadPages) -> list[tuple[str, Record]]:
    """The seed that this node has published last: its own feed says which."""
    me = core.signer.node_id
    own = [
        (seed_id, record)
        for seed_id, record in core.replica.state.records.items()
        if record.seed is not None and record.seed.author == me
    ]
    own += archived.page(status=None, owner=me, limit=_LATEST, after=None)
    return [max(own, key=lambda row: 0 if row[1].seed is None else row[1].seed.seq)] if own else []
