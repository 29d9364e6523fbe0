"""Peers on the local network, by multicast DNS (libp2p specification "mDNS"), in a thread beside the host's loop.

The type of the service has a tag of the namespace in it, so that other networks neither see nor answer its questions.
Everybody on the link can answer, so what is found is judged like the word of any stranger.
"""

from __future__ import annotations

import hashlib
import ipaddress
import queue
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.p2p.scope import Scope, scope_of
from crabnet.settings.kinds import Wrong
from crabnet.settings.multiaddr import Multiaddr, parse_multiaddr

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, ServiceStateChange, Zeroconf

_PREFIX: Final = b"dnsaddr="
_TXT_STRING_BYTES_MAX: Final = 255
_NAME_CHARS: Final = 32

Found = Callable[[str, str], None]
"""Gets an address that was found, and the id of the peer that is to be there."""


def service_type(namespace: str, network_key: bytes) -> str:
    """The type of the service: that of libp2p (``_p2p._udp``), with a tag of the namespace and the network's key."""
    digest = hashlib.sha256(b"crabnet mdns 1\0" + network_key + b"\0" + namespace.encode()).hexdigest()
    return f"_p2p-{digest[:10]}._udp.local."


def txt_of(addresses: Iterable[str]) -> bytes:
    """The TXT record: a ``dnsaddr=`` for each address with its peer id."""
    found = b""
    for address in list(addresses)[: limits.P2P_ADDRESSES_PER_PEER_MAX]:
        text = _PREFIX + address.encode()
        if len(text) <= _TXT_STRING_BYTES_MAX:
            found += bytes([len(text)]) + text
    return found


def found_in(txt: bytes | None, own: str) -> list[tuple[str, str]]:
    """The pairs of address and peer in a TXT record that count: addresses of the local network, with the peer's id."""
    found: list[tuple[str, str]] = []
    at, data = 0, (txt or b"")[: limits.MDNS_TXT_BYTES_MAX]
    while at < len(data) and len(found) < limits.P2P_ADDRESSES_PER_PEER_MAX:
        string = data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
        if not string.startswith(_PREFIX):
            continue
        try:
            parsed = parse_multiaddr(string[len(_PREFIX) :].decode("ascii", "replace"))
        except Wrong:
            continue
        if parsed.peer not in ("", own) and not parsed.via and parsed.port and _is_local(parsed):
            found.append((str(parsed), parsed.peer))
    return found


def _is_local(parsed: Multiaddr) -> bool:
    """True for an address of the local network. Link-local addresses of IPv6 need a zone, which this node has not."""
    scope = scope_of(parsed)
    return scope is Scope.PRIVATE or (scope is Scope.LINK and parsed.family == "ip4")


def local_of(addresses: Iterable[str], own: str) -> list[str]:
    """Of this node's addresses those to announce, with its id: addresses of the local network."""
    found = []
    for text in addresses:
        with suppress(Wrong):
            parsed = parse_multiaddr(text)
            if not parsed.via and _is_local(parsed):
                found.append(str(parsed._replace(peer=own)))
    return found


class Mdns:
    """Announces this node, and looks for others, while it has an address on a local network."""

    def __init__(self, kind: str, own: str, addresses: Callable[[], Sequence[str]], found: Found) -> None:
        """``kind`` is the ``service_type``. ``addresses`` are this node's; both functions are called in trio's loop."""
        self._kind = kind
        self._own = own
        self._addresses = addresses
        self._found = found
        self._seen: BoundedTable[str, list[tuple[str, str]]] = BoundedTable(limits.MDNS_NAMES_MAX)
        """What was found, by the name of its service."""
        self._tell_ms = 0
        self._name = f"{secrets.token_hex(_NAME_CHARS // 2)}.{kind}"
        self.failures = 0

    async def run(self) -> None:
        """Take part until cancelled. Without a local address nothing is sent, and no socket is opened."""
        while True:
            announced = local_of(self._addresses(), self._own)
            if announced:
                await self._take_part(announced)
            else:
                await trio.sleep(limits.MDNS_LOOK_MS / 1000)

    async def _take_part(self, announced: list[str]) -> None:
        """Announce these addresses, until this node has other ones. The library fails without a usable interface."""
        life = _Life(self._kind, self._name, self._own, announced, trio.lowlevel.current_trio_token(), self._take)
        thread = threading.Thread(target=life.run, name="mdns", daemon=True)
        thread.start()
        try:
            while not life.ended.is_set() and local_of(self._addresses(), self._own) == announced:
                with trio.move_on_after(limits.MDNS_LOOK_MS / 1000):
                    await life.ended.wait()
                self._tell_again()
            if life.failed:
                self.failures += 1
                await trio.sleep(limits.MDNS_RETRY_MS / 1000)
        finally:
            life.stop()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(thread.join, limits.MDNS_END_MS / 1000)

    def _take(self, name: str, pairs: list[tuple[str, str]]) -> None:
        """Take what a service says; nothing if it is gone."""
        if not pairs:
            self._seen.pop(name)
            return
        self._seen.put(name, pairs)
        for address, peer in pairs:
            self._found(address, peer)

    def _tell_again(self) -> None:
        """Tell again what is still there: an address that could not be dialled is forgotten after some tries."""
        now_ms = int(trio.current_time() * 1000)
        if now_ms < self._tell_ms:
            return
        self._tell_ms = now_ms + limits.MDNS_TELL_MS
        for pairs in list(self._seen.values()):
            for address, peer in pairs:
                self._found(address, peer)


class _Life:
    """The thread, from one set of addresses to the next."""

    def __init__(
        self,
        kind: str,
        name: str,
        own: str,
        announced: list[str],
        token: trio.lowlevel.TrioToken,
        take: Callable[[str, list[tuple[str, str]]], None],
    ) -> None:
        self._kind = kind
        self._name = name
        self._own = own
        self._announced = announced
        self._token = token
        self._take = take
        self._names: queue.Queue[str] = queue.Queue(limits.MDNS_NAMES_MAX)
        self._stopped = False
        self.ended = trio.Event()
        self.failed = ""

    def stop(self) -> None:
        """Have the thread end soon."""
        self._stopped = True

    def run(self) -> None:
        """Announce, and report what is found. Ends at ``stop`` or at an error, which ``failed`` then says."""
        from zeroconf import ServiceBrowser, ServiceInfo, Zeroconf  # noqa: PLC0415 - another 50 ms of import

        zeroconf: Zeroconf | None = None
        try:
            zeroconf = Zeroconf(interfaces=_interfaces(self._announced))
            zeroconf.register_service(self._service(ServiceInfo), strict=False)
            browser = ServiceBrowser(zeroconf, self._kind, handlers=[self._changed])
            while not self._stopped:
                with suppress(queue.Empty):
                    name = self._names.get(timeout=limits.MDNS_STEP_MS / 1000)
                    self._look(zeroconf, ServiceInfo(self._kind, name))
            browser.cancel()
        except Exception as error:  # noqa: BLE001 - the library raises many kinds; the host goes on without mDNS
            self.failed = type(error).__name__
        finally:
            if zeroconf is not None:
                with suppress(Exception):
                    zeroconf.close()  # says goodbye
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self.ended.set)

    def _service(self, kind: type[ServiceInfo]) -> ServiceInfo:
        first = parse_multiaddr(self._announced[0])
        hosts = {parse_multiaddr(each).host for each in self._announced}
        return kind(
            self._kind,
            self._name,
            port=first.port,
            properties=txt_of(self._announced),
            server=f"{self._name.split('.')[0]}.local.",
            addresses=[ipaddress.ip_address(each).packed for each in sorted(hosts)],
        )

    def _changed(self, *, name: str, state_change: ServiceStateChange, **_: object) -> None:
        """Called by the library, in its thread, for each service that appears, changes or goes."""
        if name == self._name or len(name) > limits.MDNS_NAME_CHARS_MAX:
            return
        if state_change.name == "Removed":
            self._tell(name, [])
            return
        with suppress(queue.Full):
            self._names.put_nowait(name)

    def _look(self, zeroconf: Zeroconf, service: ServiceInfo) -> None:
        if service.load_from_cache(zeroconf) or service.request(zeroconf, limits.MDNS_ASK_MS):
            self._tell(service.name, found_in(service.text, self._own))

    def _tell(self, name: str, pairs: list[tuple[str, str]]) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._take, name, pairs)


def _interfaces(announced: Iterable[str]) -> list[str]:
    """The addresses of this machine whose links are to be used."""
    return sorted({parse_multiaddr(each).host for each in announced})
