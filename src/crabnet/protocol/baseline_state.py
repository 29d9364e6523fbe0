"""Reads the ``state.json`` of the Rust program as unsigned facts.

The file holds the state, but not the author of each step. The author of a fact is taken to be the only node that may
state it. Inconsistent entries are left out and reported, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeVar

import msgspec
from msgspec import Raw, Struct

from crabnet import limits
from crabnet.domain.model import Bid, Body, Claim, Fact, FactKind, Seed, SeedStatus, Settlement, TaskResult
from crabnet.protocol.canonical import JsonObject, JsonValue

T = TypeVar("T", Seed, Bid, Claim, TaskResult)

_values: Final = msgspec.json.Decoder(dict)
_SETTLED: Final = frozenset({SeedStatus.ACCEPTED, SeedStatus.REJECTED})
_RETURNED: Final = _SETTLED | {SeedStatus.DONE}


class _Identity(Struct):
    node_id: str


class _File(Struct):
    identity: _Identity
    seeds: dict[str, Raw]
    bids: dict[str, Raw]
    claims: dict[str, Raw] = {}
    results: dict[str, Raw] = {}


class _Said(Struct):
    """The data about a seed in the file, besides its definition."""

    status: SeedStatus = SeedStatus.OPEN
    claim_id: str | None = None
    result_id: str | None = None


class BaselineState(NamedTuple):
    """The content of a baseline file.

    ``facts`` are ordered so that parents come first. ``statuses`` are those in the file. ``problems`` describes the
    entries that were left out.
    """

    node_id: str
    facts: list[Fact]
    statuses: dict[str, SeedStatus]
    problems: list[str]


def parse_baseline_state(content: bytes, result_links: Mapping[str, str] | None = None) -> BaselineState | None:
    """The facts in a baseline ``state.json``, or None for a file of another shape.

    ``result_links`` maps result ids to seed ids. It is needed because a result from the network does not name its seed.
    """
    try:
        stored = msgspec.json.decode(content, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return _Reader(stored, {} if result_links is None else result_links).read()


class _Reader:
    """Turns one file into facts."""

    def __init__(self, stored: _File, result_links: Mapping[str, str]) -> None:
        self._stored = stored
        self._links = result_links
        self._problems: list[str] = []
        self._facts: list[Fact] = []
        self._seeds: dict[str, Seed] = {}
        self._said: dict[str, _Said] = {}
        self._claims: dict[str, Claim] = {}
        """The claim that counts, by seed."""
        self._results: dict[str, TaskResult] = {}
        """The result that counts, by seed."""

    def read(self) -> BaselineState:
        stored = self._stored
        self._seeds = self._objects(stored.seeds, Seed)
        for seed in sorted(self._seeds.values(), key=lambda each: (each.created_at, each.id)):
            self._said[seed.id] = self._said_of(seed.id, stored.seeds[seed.id])
            self._add(FactKind.SEED, seed.created_by, seed.created_at, seed)
        bids = self._objects(stored.bids, Bid)
        for bid in sorted(bids.values(), key=lambda each: (each.created_at, each.id)):
            if self._knows("bid", bid.id, bid.seed_id):
                self._add(FactKind.BID, bid.bidder, bid.created_at, bid)
        self._read_claims()
        self._read_results()
        for seed_id, said in self._said.items():
            self._settle(seed_id, said)
        statuses = {seed_id: said.status for seed_id, said in self._said.items()}
        return BaselineState(stored.identity.node_id, self._facts, statuses, self._problems)

    def _objects(self, found: Mapping[str, Raw], kind: type[T]) -> dict[str, T]:
        objects: dict[str, T] = {}
        name = kind.__name__
        for key, raw in found.items():
            try:
                value = _stated(raw)
                item = msgspec.convert(value, kind)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self._problems.append(f"{name} {key[: limits.NODE_ID_CHARS_MAX]}: {error}")
                continue
            if item.id != key or not _integers_fit(value):
                self._problems.append(
                    f"{name} {key[: limits.NODE_ID_CHARS_MAX]}: its id differs from its key or a number is out of range"
                )
                continue
            objects[key] = item
        return objects

    def _said_of(self, seed_id: str, raw: Raw) -> _Said:
        try:
            return msgspec.convert(_stated(raw), _Said)
        except msgspec.ValidationError as error:
            self._problems.append(f"Seed {seed_id}: {error}; taken as open")
            return _Said()

    def _add(self, kind: FactKind, author: str, ts: int, body: Body) -> None:
        self._facts.append(Fact(kind=kind, author=author, seq=0, ts=ts, body=body, signed=False))

    def _knows(self, name: str, object_id: str, seed_id: str) -> bool:
        if seed_id not in self._seeds:
            self._problems.append(f"{name} {object_id}: its seed {seed_id!r} is not in the file")
        return seed_id in self._seeds

    def _read_claims(self) -> None:
        """Add the claims, with the seed's creator as author. Of several for a seed, the one it names comes first."""
        claims = self._objects(self._stored.claims, Claim)

        def order(claim: Claim) -> tuple[bool, int, str]:
            said = self._said.get(claim.seed_id, _Said())
            return (claim.id != said.claim_id, claim.created_at, claim.id)

        for claim in sorted(claims.values(), key=order):
            if self._knows("claim", claim.id, claim.seed_id):
                self._claims.setdefault(claim.seed_id, claim)
                self._add(FactKind.CLAIM, self._seeds[claim.seed_id].created_by, claim.created_at, claim)
        for seed_id, said in self._said.items():
            if said.claim_id is not None and said.claim_id not in claims:
                self._problems.append(f"Seed {seed_id}: its claim {said.claim_id} is not in the file")

    def _read_results(self) -> None:
        """Find the seed of each result.

        Either the result names the seed, or the seed names the result, or ``result_links`` does. If exactly one seed
        and one result are then left over, they belong together.
        """
        results = self._objects(self._stored.results, TaskResult)
        named = {said.result_id: seed_id for seed_id, said in self._said.items() if said.result_id is not None}
        loose: list[TaskResult] = []
        for result in results.values():
            seed_id = result.seed_id or named.get(result.id, "")
            if not seed_id and self._links.get(result.id) in self._seeds:
                seed_id = self._links[result.id]
            if seed_id:
                self._result(result, seed_id)
            else:
                loose.append(result)
        waiting = [each for each in self._claims if each not in self._results]
        returned = [each for each in waiting if self._said[each].status in _RETURNED]
        candidates = returned or waiting
        if len(loose) == 1 and len(candidates) == 1:
            self._result(loose[0], candidates[0])
            return
        for result in loose:
            self._problems.append(
                f"TaskResult {result.id}: it names no seed; {len(candidates)} seeds lack a result and"
                f" {len(loose)} results lack a seed"
            )

    def _result(self, result: TaskResult, seed_id: str) -> None:
        if not self._knows("TaskResult", result.id, seed_id):
            return
        claim = self._claims.get(seed_id)
        if claim is None:
            self._problems.append(f"TaskResult {result.id}: its seed {seed_id} has no claim")
            return
        worker = result.worker or claim.worker
        linked = msgspec.structs.replace(result, seed_id=seed_id, worker=worker, claim_id=claim.id)
        self._results.setdefault(seed_id, linked)
        self._add(FactKind.RESULT, worker, claim.created_at, linked)

    def _settle(self, seed_id: str, said: _Said) -> None:
        """Add the settlement of a seed. The baseline stores no settlement, only the resulting status."""
        if said.status not in _SETTLED:
            return
        claim, result = self._claims.get(seed_id), self._results.get(seed_id)
        if claim is None or result is None:
            what = "claim" if claim is None else "result"
            self._problems.append(f"Seed {seed_id}: it is {said.status.value}, but the file lacks its {what}")
            return
        settlement = Settlement(
            id=f"settle:{seed_id}",
            seed_id=seed_id,
            outcome=said.status,
            claim_id=claim.id,
            result_id=result.id,
            created_at=claim.created_at,
        )
        self._add(FactKind.SETTLE, self._seeds[seed_id].created_by, claim.created_at, settlement)


def _stated(raw: Raw) -> JsonObject:
    """The object without its null members: null is the same as absent."""
    value: JsonObject = _values.decode(raw)
    return {name: item for name, item in value.items() if item is not None}


def _integers_fit(value: JsonValue) -> bool:
    if isinstance(value, int):
        return -limits.LEGACY_INTEGER_MAX <= value <= limits.LEGACY_INTEGER_MAX
    return all(map(_integers_fit, value.values())) if isinstance(value, dict) else True
