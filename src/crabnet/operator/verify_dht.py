"""The checks of ``crabnet config verify`` for the dht network: extra, addresses, the network's key, peers."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import trio

from crabnet import limits
from crabnet.errors import CrabnetError, NetworkError, Reason
from crabnet.node.network.dht_given import network_key
from crabnet.node.network.dht_network import demand_libp2p
from crabnet.operator.check import Check, Situation, Verdict
from crabnet.settings.multiaddr import Multiaddr, parse_multiaddr

_DIALLED: Final = "tcp"


def dht(at: Situation) -> Iterator[Check]:
    """Whether this node could take part in the dht network."""
    settings = at.settings
    if not settings.uses_dht:
        return
    demand_libp2p()
    if settings.dht_network_key_file is not None:
        network_key(settings.dht_network_key_file)
        yield Check("dht_network_key_file", Verdict.OK, "only nodes with the same key connect")
    if not at.running:
        for text in settings.dht_listen_addrs:
            yield _listening(parse_multiaddr(text), text, fallback=settings.dht_listen_fallback)
    yield from _bootstrap(at)


def _listening(address: Multiaddr, text: str, *, fallback: bool) -> Check:
    name = "listen_addr"
    kind = socket.SOCK_STREAM if address.transport == _DIALLED else socket.SOCK_DGRAM
    family = socket.AF_INET6 if address.family == "ip6" else socket.AF_INET
    with closing(socket.socket(family, kind)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
            if kind is socket.SOCK_STREAM:
                probe.listen(1)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = Reason.ADDRESS_IN_USE if taken else Reason.ADDRESS_INVALID
            failed = NetworkError(f"{text} cannot be listened on: {error.strerror or error}", reason)
            verdict = Verdict.WARNING if fallback and taken else Verdict.FAILED
            return Check(name, verdict, failed.message, failed)
    return Check(name, Verdict.OK, f"{text} can be bound")


def _bootstrap(at: Situation) -> Iterator[Check]:
    name, settings = "bootstrap_peers", at.settings
    found = [parse_multiaddr(each) for each in settings.bootstrap_peers]
    if not found:
        ways = "its own memory and multicast DNS" if settings.dht_mdns else "its own memory"
        detail = f"there is none, so the node knows libp2p peers from {ways} only; set one"
        yield Check(name, Verdict.WARNING, detail)
    dialled = [each for each in found if each.transport == _DIALLED and not each.via]
    for address, error in trio.run(_dial_all, dialled):
        if error is None:
            yield Check(name, Verdict.OK, f"{address} takes connections")
        else:
            yield Check(name, Verdict.WARNING, error.message, error)


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
