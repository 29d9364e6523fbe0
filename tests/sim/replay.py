"""The journal of an incident, replayed in the simulation: do its envelopes lead all nodes to the state it shows?

The envelopes of a data dir or of an export are given to fresh nodes, each to some of them, over a network that loses,
doubles and reorders; the nodes get the rest from each other. All checks of the simulation watch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from crabnet.core.commands import Received
from crabnet.core.config import CoreConfig
from crabnet.core.replica.records import (
    EnvelopeRecord,
    ForkRecord,
    Record,
    Via,
    decode_frame,
    envelope_of,
    is_frame_of_records,
)
from crabnet.core.replica.replica import Replica
from crabnet.errors import CrabnetError
from crabnet.operator.envelopes import any_age_policy
from crabnet.operator.exchange import check_export, read_entries
from crabnet.protocol.canonical import parse_object
from crabnet.protocol.envelope import EnvelopeMeta, shape
from crabnet.storage.files import RealFiles
from crabnet.storage.journal.segment import Frame
from crabnet.storage.journal.walk import walk_journal
from crabnet.storage.layout import Layout
from tests.sim.checks import Safety, ViolationError
from tests.sim.world import SimNode, Weather, World

NODES = 4
ROUNDS_MAX = 600
_SLICE = 8
"""Envelopes between two ticks."""


class Incident(Struct):
    """What was read: envelopes in their order, the state that the journal's own decisions make, and what was left."""

    namespace: str
    envelopes: list[bytes]
    forkers: set[str]
    unsigned: int = 0
    state_hash: str = ""
    statuses: dict[str, str] = {}


class Replayed(Struct, frozen=True):
    """What the replay came to: ``differing`` are seeds that end elsewhere than the journal says."""

    rounds: int
    state_hash: str
    differing: list[str]


def read(path: Path) -> Incident:
    """The envelopes of a data dir (read, not changed) or of an export. Raises CrabnetError, FileNotFoundError."""
    return _read_data_dir(path) if path.is_dir() else _read_export(path)


def _read_data_dir(path: Path) -> Incident:
    records = list(_records(path))
    metas = [envelope_of(record).meta for record in records if isinstance(record, EnvelopeRecord | ForkRecord)]
    if not metas:
        raise FileNotFoundError(f"{path} holds no journalled envelopes")
    incident = Incident(metas[0].ns, [], set())
    replica = Replica(any_age_policy(incident.namespace), seen_ttl_s=0, seen_capacity=1, parked_ttl_s=1)
    for record in records:
        if isinstance(record, EnvelopeRecord | ForkRecord):
            meta = envelope_of(record).meta
            _add(incident, bytes(record.raw), meta)
            if isinstance(record, ForkRecord):
                incident.forkers.add(meta.from_)
        replica.replay(record)
    incident.state_hash = replica.state_hash()
    incident.statuses = _statuses(replica)
    return incident


def _records(path: Path) -> Iterator[Record]:
    for found in walk_journal(RealFiles(), Layout(path), is_frame_of_records):
        if isinstance(found, Frame):
            yield from decode_frame(found.payload)


def _read_export(path: Path) -> Incident:
    files = RealFiles()
    export = check_export(files, path)
    incident = Incident(export.header.namespace, [], set())
    places: dict[tuple[str, int], str] = {}
    for line in read_entries(files, export):
        if not isinstance(line, bytes):
            continue  # a fact of a baseline state, which nobody sends
        meta = shape(*parse_object(line)).meta
        _add(incident, line, meta)
        if places.setdefault((meta.from_, meta.seq), meta.id) != meta.id:
            incident.forkers.add(meta.from_)
    return incident


def _add(incident: Incident, raw: bytes, meta: EnvelopeMeta) -> None:
    if meta.v is None:
        incident.unsigned += 1
    else:
        incident.envelopes.append(raw)


def _statuses(replica: Replica) -> dict[str, str]:
    return {seed_id: record.progress.status.value for seed_id, record in replica.state.records.items()}


def run(incident: Incident, seed: int) -> Replayed:
    """Give the envelopes to a network of fresh nodes with keys of their own. Raises ViolationError.

    In the end one of them is given all once more: what lies behind the end of a feed is kept only once something that
    is held rests on it.
    """
    world = World(seed, forks=True)
    config = CoreConfig(policy=any_age_policy(incident.namespace))
    nodes = [world.add(f"replay{number}", config) for number in range(NODES)]
    world.observers.append(Safety(frozenset(node.id for node in nodes), incident.forkers.__contains__, imports=True))
    for node in nodes:
        node.targets = [other.address for other in nodes if other is not node]
        node.keep_notices = False
        node.start()
    world.weather = Weather(loss=0.1, duplicate=0.1, delay_ms=(1, 200))
    for number, raw in enumerate(incident.envelopes):
        for node in world.rng.sample(nodes, world.rng.randint(1, NODES - 1)):
            node.give(Received("udp:192.0.2.1:9012", raw, via=Via.IMPORT))
        if number % _SLICE == _SLICE - 1:
            world.run(100)
    world.weather = Weather()
    world.run(2_000)
    for raw in incident.envelopes:
        nodes[0].give(Received("udp:192.0.2.1:9012", raw, via=Via.IMPORT))
    rounds = 0
    while len(world.hashes()) > 1:
        if rounds >= ROUNDS_MAX:
            raise ViolationError(f"after {ROUNDS_MAX} sync rounds the nodes disagree")
        rounds += 1
        world.run(1_000)
    return Replayed(rounds, nodes[0].running.replica.state_hash(), _differing(incident, nodes[0]))


def _differing(incident: Incident, node: SimNode) -> list[str]:
    found = _statuses(node.running.replica)
    return [
        f"{seed_id}: {status} in the journal, {found.get(seed_id, 'unknown')} in the replay"
        for seed_id, status in sorted(incident.statuses.items())
        if found.get(seed_id) != status
    ]


def replay(path: Path, seed: int) -> int:
    """Replay and tell. The exit code: 0 if all is as it was."""
    try:
        incident = read(path)
    except (CrabnetError, OSError) as error:
        print(f"cannot replay {path}: {error}")
        return 2
    print(f"{len(incident.envelopes)} envelopes in namespace {incident.namespace!r}, seed {seed}")
    if incident.unsigned:
        print(f"{incident.unsigned} unsigned envelopes are left out: they have no feed, and peers do not pass them on")
    try:
        replayed = run(incident, seed)
    except ViolationError as error:
        print(f"VIOLATION: {error}\nreproduce: python -m tests.sim replay {path} --seed {seed}")
        return 1
    print(f"all {NODES} nodes agree on {replayed.state_hash} after {replayed.rounds} sync rounds")
    if incident.state_hash:
        same = incident.state_hash == replayed.state_hash
        print("that is the state of the journal" if same else f"the journal's decisions give {incident.state_hash}")
        for line in replayed.differing[:50]:
            print(f"  {line}")
        return 0 if same else 1
    return 0
