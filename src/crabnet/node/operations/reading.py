"""Does the methods that change nothing on a data dir without a running node. Nothing is locked, created or written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from crabnet.errors import CrabnetError
from crabnet.node.clock import wall_ms
from crabnet.node.config import sandbox_report
from crabnet.node.durable.archiving import ReadPages
from crabnet.node.durable.reading import Reading, read_store
from crabnet.node.network.remembering import PeersFile
from crabnet.node.operations.operations import ListParams, NoParams, ShowParams, list_seeds, typed
from crabnet.node.operations.status import Live, config_view, heads_view, identity_view, sandbox_view, status_view
from crabnet.node.operations.views import local_run, peer_views, seed_details
from crabnet.protocol.canonical import JsonObject, JsonValue
from crabnet.settings import Settings
from crabnet.storage.files import RealFiles


def read_locally(settings: Settings, method: str, params: JsonObject) -> JsonValue:
    """The answer that a node would give to ``config`` or a method of ``READS``.

    Raises UsageError, RefusedError, and the errors of ``read_store``.
    """
    if method == "config":
        return config_view(settings)
    params_type, view = READS[method]
    given = typed(method, params, params_type)
    files = RealFiles()
    reading = read_store(settings, files)
    neighbours = reading.core.neighbours
    neighbours.trusted = frozenset([*settings.announce_addrs, *settings.bootstrap_peers])
    remembered, _ = PeersFile(files, settings.data_dir).read()
    neighbours.book.load(remembered, wall_ms())
    return view(settings, reading, given)


def _status(settings: Settings, reading: Reading, _: NoParams) -> JsonObject:
    try:
        sandbox = sandbox_view(sandbox_report(settings))
    except (CrabnetError, OSError) as error:
        sandbox = {"mode": "unknown", "detail": str(error)}
    state_hash, lsn = reading.core.replica.state_hash(), reading.last_lsn
    status = status_view(settings, reading.core, Live(), sandbox, state_hash=state_hash, state_lsn=lsn)
    status["lsn"] = lsn
    return status


def _id(settings: Settings, reading: Reading, _: NoParams) -> JsonObject:
    return identity_view(reading.core.signer, settings)


def _peers(_settings: Settings, reading: Reading, _: NoParams) -> JsonObject:
    core = reading.core
    return {"peers": peer_views(core.neighbours, {}, wall_ms(), core.replica.feeds.is_equivocator)}


def _vector(settings: Settings, reading: Reading, _: NoParams) -> JsonObject:
    core = reading.core
    heads = heads_view(core.replica.feeds)
    return {"namespace": settings.namespace, "node_id": core.signer.node_id, "lsn": reading.last_lsn, "heads": heads}


def _list(_settings: Settings, reading: Reading, params: ListParams) -> JsonObject:
    return list_seeds(reading.core, ReadPages(reading.core, reading.archive), params, wall_ms() // 1000)


def _show(_settings: Settings, reading: Reading, params: ShowParams) -> JsonObject:
    core, now_s = reading.core, wall_ms() // 1000
    record, is_equivocator = core.record(params.seed_id), core.replica.feeds.is_equivocator
    details = seed_details(record, now_s, is_equivocator, limit=params.limit, after=params.after)
    details["local_run"] = local_run(None)
    return details


READS: Final[dict[str, tuple[type[Struct], Callable[[Settings, Reading, Any], JsonObject]]]] = {
    "status": (NoParams, _status),
    "id": (NoParams, _id),
    "peers": (NoParams, _peers),
    "state.vector": (NoParams, _vector),
    "seed.list": (ListParams, _list),
    "seed.show": (ShowParams, _show),
}
