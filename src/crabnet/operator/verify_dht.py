"""The checks of ``crabnet config verify`` for the dht network: what a start would find, without starting libp2p."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import trio

from crabnet import limits
from crabnet.errors import CrabnetError, NetworkError, Reason
from crabnet.node.durable.store import signer_of
from crabnet.node.network.dht_network import demand_libp2p
from crabnet.operator.check import Check, Situation, Verdict
from crabnet.settings.multiaddr import Multiaddr, parse_multiaddr
from crabnet.settings.network_key import read_network_key
from crabnet.storage.keyfile import load_key_file
from crabnet.transport.p2p_addresses import check_bootstrap, check_listener


def dht(at: Situation) -> Iterator[Check]:
    """Whether libp2p is installed, its addresses can be listened on, and its bootstrap peers be dialled from here."""
    settings = at.settings
    if not settings.uses_dht:
        return
    yield _tried("network", demand_libp2p, "libp2p is installed")
    if settings.dht_network_key_file is not None:
        path = settings.dht_network_key_file
        yield _tried("dht_network_key_file", lambda: read_network_key(path), f"{path} is the key of a network")
    for text in settings.dht_listen_addrs:
        if at.running:
            yield Check("listen_addr", Verdict.OK, f"{text} is not tried, because a node runs on this data dir")
        else:
            yield _listener(text, fallback=settings.dht_listen_fallback)
    yield from _bootstrap(at)


def _tried(name: str, check: Callable[[], object], good: str) -> Check:
    try:
        check()
    except CrabnetError as error:
        return Check(name, Verdict.FAILED, error.message, error)
    return Check(name, Verdict.OK, good)


def _listener(text: str, *, fallback: bool) -> Check:
    try:
        check_listener(text)
    except NetworkError as error:
        falls_back = fallback and error.reason is Reason.ADDRESS_IN_USE
        verdict = Verdict.WARNING if falls_back else Verdict.FAILED
        detail = f"{text} is in use, so the node would listen on another port" if falls_back else error.message
        detail = detail.removeprefix("listen_addr: ")
        return Check("listen_addr", verdict, detail, error)
    return Check("listen_addr", Verdict.OK, f"{text} can be listened on")


def _bootstrap(at: Situation) -> Iterator[Check]:
    """A node starts without its bootstrap peers, so these are warnings."""
    settings = at.settings
    pem = load_key_file(at.files, settings.data_dir) if settings.data_dir.is_dir() else None
    own = "" if pem is None else signer_of(pem, settings.data_dir).node_id
    if not settings.bootstrap_peers and not settings.dht_mdns:
        detail = "there is no bootstrap peer, and dht_mdns is off, so this node finds nobody by itself; set one of them"
        yield Check("bootstrap_peers", Verdict.WARNING, detail)
    dialled = []
    for text in settings.bootstrap_peers:
        try:
            check_bootstrap(text, own, settings.dht_listen_addrs)
        except NetworkError as error:
            yield Check("bootstrap_peers", Verdict.WARNING, error.message.removeprefix("bootstrap_peers: "), error)
            continue
        parsed = parse_multiaddr(text)
        if parsed.transport == "tcp" and not parsed.via:
            dialled.append(parsed)
        else:
            yield Check("bootstrap_peers", Verdict.OK, f"{text} is looked up when it is dialled")
    for address, failed in trio.run(_dial_all, dialled):
        if failed is None:
            yield Check("bootstrap_peers", Verdict.OK, f"{address} takes connections")
        else:
            yield Check("bootstrap_peers", Verdict.WARNING, failed.message, failed)


async def _dial_all(addresses: list[Multiaddr]) -> list[tuple[Multiaddr, CrabnetError | None]]:
    """Connect to each address, and say nothing there."""
    found: list[tuple[Multiaddr, CrabnetError | None]] = []

    async def dial(address: Multiaddr) -> None:
        error: CrabnetError | None = None
        try:
            with trio.fail_after(limits.PROBE_MS / 1000):
                await (await trio.open_tcp_stream(address.host, address.port)).aclose()
        except trio.TooSlowError:
            error = NetworkError(f"{address} did not answer within {limits.PROBE_MS} ms", Reason.NODE_UNREACHABLE)
        except OSError as failed:
            error = NetworkError(f"{address} cannot be reached: {failed.strerror or failed}", Reason.NODE_UNREACHABLE)
        found.append((address, error))

    async with trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(dial, address)
    return found
