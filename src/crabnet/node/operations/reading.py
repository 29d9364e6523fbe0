"""Performs operations that change nothing on a data dir without a running node. Nothing is locked or written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from msgspec import Struct

from crabnet.core.sync.gauges import SyncGauges
from crabnet.errors import CrabnetError
from crabnet.node.clock import wall_ms
from crabnet.node.config import runner_of, sandbox_report
from crabnet.node.durable.archiving import ReadPages
from crabnet.node.durable.reading import Reading, read_store
from crabnet.node.network.p2p_book import BookFile
from crabnet.node.network.remembering import PeersFile
from crabnet.node.operations.access import stored_tokens
from crabnet.node.operations.accounts import StoredAccounts, account_page, shown_account
from crabnet.node.operations.bids import bid_page
from crabnet.node.operations.dht import p2p_addresses
from crabnet.node.operations.events import page_of
from crabnet.node.operations.explaining import explain_from_files
from crabnet.node.operations.finding import find_ids
from crabnet.node.operations.judging import judgement
from crabnet.node.operations.networks import feed_page
from crabnet.node.operations.performing import as_json, known, request_of
from crabnet.node.operations.purchases import list_purchases
from crabnet.node.operations.receipts import receipt_from_files
from crabnet.node.operations.status import Live, config_view, heads_view, identity_view, sandbox_view, status_view
from crabnet.node.operations.tasks import list_seeds
from crabnet.node.operations.topology import Place, topology_view
from crabnet.node.operations.trail import read_trail
from crabnet.node.operations.views import peer_views, story
from crabnet.node.operations.work import offer_page
from crabnet.node.trading.working import surround
from crabnet.operations import (
    access,
    accounts,
    events,
    history,
    info,
    judging,
    market,
    network,
    objects,
    purchases,
    seeds,
    work,
)
from crabnet.operations.model import Empty, Operation, Request
from crabnet.protocol.canonical import JsonObject, JsonValue
from crabnet.settings import Settings
from crabnet.source import udp_source
from crabnet.storage.files import RealFiles

P = TypeVar("P", bound=Request)
R = TypeVar("R", bound=Struct)
READERS: Final[dict[str, Callable[[Settings, Reading, Any], Struct]]] = {}


def read_locally(settings: Settings, method: str, params: JsonObject) -> JsonValue:
    """The answer that a node would give to an operation that can be answered from the files.

    Raises UsageError, RefusedError, and the errors of ``read_store``.
    """
    operation = known(method)
    if operation is info.CONFIG:
        return as_json(config_view(settings))
    given = request_of(operation, params)
    if isinstance(given, events.EventsRequest):
        return as_json(page_of(settings.monitor_events.parent, given))
    files = RealFiles()
    reading = read_store(settings, files)
    neighbours = reading.core.neighbours
    neighbours.trusted = frozenset(map(udp_source, [*settings.udp_announce_addrs, *settings.udp_bootstrap_peers]))
    remembered, _ = PeersFile(files, settings.data_dir).read()
    neighbours.book.load(remembered, wall_ms())
    return as_json(READERS[method](settings, reading, given))


def reads_files(
    operation: Operation[P, R],
) -> Callable[[Callable[[Settings, Reading, P], R]], Callable[[Settings, Reading, P], R]]:
    """Register the function that answers an operation from the files of a data dir."""

    def register(function: Callable[[Settings, Reading, P], R]) -> Callable[[Settings, Reading, P], R]:
        READERS[operation.name] = function
        return function

    return register


@reads_files(info.STATUS)
def _status(settings: Settings, reading: Reading, _: Empty) -> info.Status:
    try:
        sandbox = sandbox_view(sandbox_report(settings))
    except (CrabnetError, OSError) as error:
        sandbox = info.Sandbox(mode="unknown", detail=str(error))
    state_hash, lsn = reading.core.replica.state_hash(), reading.last_lsn
    return status_view(settings, reading.core, Live(), sandbox, state_hash=state_hash, state_lsn=lsn, lsn=lsn)


@reads_files(info.ID)
def _id(settings: Settings, reading: Reading, _: Empty) -> info.Identity:
    return identity_view(reading.core.signer, settings)


@reads_files(info.PEERS)
def _peers(settings: Settings, reading: Reading, _: Empty) -> info.PeerList:
    return info.PeerList(peers=_all_peers(settings, reading))


@reads_files(network.TOPOLOGY)
def _topology(settings: Settings, reading: Reading, _: Empty) -> network.Topology:
    place = Place(settings.alias, False, wall_ms())
    return topology_view(reading.core, _all_peers(settings, reading), SyncGauges(), place)


def _all_peers(settings: Settings, reading: Reading) -> list[info.Peer]:
    core, now_ms = reading.core, wall_ms()
    remembered, _ = BookFile(RealFiles(), settings.data_dir, core.signer, wall_ms).read()
    p2p = p2p_addresses(settings, remembered)
    return peer_views(core.neighbours, {}, now_ms, core.replica.feeds.is_equivocator, p2p)


@reads_files(network.FEEDS)
def _feeds(_settings: Settings, reading: Reading, given: network.FeedsRequest) -> network.FeedPage:
    return feed_page(reading.core, given, wall_ms())


@reads_files(history.TRAIL)
def _trail(settings: Settings, reading: Reading, given: history.TrailRequest) -> history.Trail:
    reading.core.record(given.seed_id)
    return read_trail(RealFiles(), settings.data_dir, given, reading.last_lsn)


@reads_files(market.RECEIPT)
def _receipt(settings: Settings, reading: Reading, given: market.ReceiptRequest) -> market.Receipt:
    return receipt_from_files(RealFiles(), settings, reading.core, given, reading.last_lsn)


@reads_files(history.BIDS)
def _bids(_settings: Settings, reading: Reading, given: history.BidsRequest) -> history.BidPage:
    return bid_page(reading.core, ReadPages(reading.core, reading.archive), given, wall_ms() // 1000)


@reads_files(info.VECTOR)
def _vector(settings: Settings, reading: Reading, _: Empty) -> info.Vector:
    core = reading.core
    heads = heads_view(core.replica.feeds)
    return info.Vector(namespace=settings.namespace, node_id=core.signer.node_id, lsn=reading.last_lsn, heads=heads)


@reads_files(seeds.LIST)
def _list(_settings: Settings, reading: Reading, given: seeds.ListRequest) -> seeds.SeedPage:
    return list_seeds(reading.core, ReadPages(reading.core, reading.archive), given, wall_ms() // 1000)


@reads_files(seeds.FIND)
def _find(_settings: Settings, reading: Reading, given: seeds.FindRequest) -> seeds.IdPage:
    return find_ids(reading.core, ReadPages(reading.core, reading.archive), given, wall_ms() // 1000)


@reads_files(seeds.SHOW)
def _show(_settings: Settings, reading: Reading, given: seeds.ShowRequest) -> objects.Story:
    record, is_equivocator = reading.core.record(given.seed_id), reading.core.replica.feeds.is_equivocator
    return story(record, wall_ms() // 1000, is_equivocator, limit=given.limit, after=given.after)


@reads_files(accounts.SHOW)
def _account(_settings: Settings, reading: Reading, given: accounts.AccountRequest) -> accounts.ShownAccount:
    stored = StoredAccounts(reading.core, reading.archive)
    author = reading.core.signer.node_id if given.author is None else given.author
    return shown_account(stored.account(author, wall_ms() // 1000), complete=True)


@reads_files(accounts.LIST)
def _accounts(_settings: Settings, reading: Reading, given: accounts.AccountListRequest) -> accounts.AccountPage:
    stored, now_s = StoredAccounts(reading.core, reading.archive), wall_ms() // 1000
    return account_page(stored.authors(), lambda author: stored.account(author, now_s), given, complete=True)


@reads_files(judging.VERDICT)
def _verdict(_settings: Settings, reading: Reading, given: judging.VerdictRequest) -> judging.Judged:
    return judgement(reading.core.record(given.seed_id), given.seed_id)


@reads_files(purchases.LIST)
def _purchases(_settings: Settings, reading: Reading, given: purchases.PurchaseListRequest) -> purchases.PurchasePage:
    return list_purchases(reading.core, given)


@reads_files(work.OFFERS)
def _offers(settings: Settings, reading: Reading, given: work.OffersRequest) -> work.OfferPage:
    surround(reading.core, runner_of(settings))
    return offer_page(reading.core, given, wall_ms())


@reads_files(market.WHY)
def _why(_settings: Settings, reading: Reading, given: market.WhyRequest) -> market.Why:
    return explain_from_files(reading.core, given, wall_ms())


@reads_files(access.TOKEN_LIST)
def _tokens(settings: Settings, _reading: Reading, _: Empty) -> access.TokenList:
    return stored_tokens(settings, RealFiles())
