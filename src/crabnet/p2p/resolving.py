"""From an address with a name to addresses that can be dialled. What a name service answers is as hostile as a peer."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio
import trio.socket

from crabnet import limits
from crabnet.errors import NetworkError, Reason
from crabnet.settings.kinds import Wrong
from crabnet.settings.multiaddr import Multiaddr, parse_multiaddr

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

_PREFIX: Final = "dnsaddr="

Hosts = Callable[[str], Awaitable[list[str]]]
"""The IP addresses of a host, best first. Raises OSError or UnicodeError."""
Records = Callable[[str], Awaitable[list[str]]]
"""The TXT records of a name. Raises OSError if there is no answer."""


class Names:
    """Looks names up: hosts as the machine does (hosts file, DNS), and TXT records of ``/dnsaddr`` by DNS."""

    def __init__(self, hosts: Hosts | None = None, records: Records | None = None) -> None:
        self._look_up = hosts or host_addresses
        self._records = records or txt_records

    async def addresses(self, text: str) -> list[Multiaddr]:
        """The addresses to dial for an address of the operator, or of the address book; at least one.

        Raises NetworkError (ADDRESS_INVALID, TIMEOUT).
        """
        parsed = parse_multiaddr(text)
        with trio.move_on_after(limits.P2P_RESOLVE_MS / 1000):
            if parsed.transport != "dnsaddr":
                return await self._hosts(parsed)
            found = await self._dnsaddr(parsed)
            if not found:
                raise NetworkError(
                    f"the TXT records of _dnsaddr.{parsed.host} name no address that this node can use",
                    Reason.ADDRESS_INVALID,
                )
            return found
        raise NetworkError(f"no answer about {text} within {limits.P2P_RESOLVE_MS} ms", Reason.TIMEOUT)

    async def _hosts(self, parsed: Multiaddr) -> list[Multiaddr]:
        if not parsed.family.startswith("dns") or parsed.via:
            return [parsed]
        try:
            texts = await self._look_up(parsed.host)
        except (OSError, UnicodeError) as error:
            raise NetworkError(f"the host {parsed.host} cannot be found: {error}", Reason.ADDRESS_INVALID) from error
        found = []
        for text in texts[: limits.DNSADDR_ADDRESSES_MAX]:
            family = f"ip{ipaddress.ip_address(text).version}"
            if parsed.family in ("dns", family.replace("ip", "dns")):
                found.append(parsed._replace(host=text, family=family))
        if not found:
            raise NetworkError(f"{parsed.host} has no address of the kind of /{parsed.family}", Reason.ADDRESS_INVALID)
        return found

    async def _dnsaddr(self, asked: Multiaddr) -> list[Multiaddr]:
        """Addresses with the peer's id, from the records of a name and of the names that these name, but no further."""
        found: dict[str, Multiaddr] = {}
        further = [asked.host]
        for at in range(limits.DNSADDR_LOOKUPS_MAX):
            if at >= len(further):
                break
            for each in await self._named(further[at], required=at == 0):
                if asked.peer and each.peer not in ("", asked.peer):
                    continue
                if each.transport == "dnsaddr":
                    if at == 0 and each.host not in further:
                        further.append(each.host)
                elif each.peer and len(found) < limits.DNSADDR_ADDRESSES_MAX:
                    for address in await self._literal(each):
                        found[str(address)] = address
        return list(found.values())[: limits.DNSADDR_ADDRESSES_MAX]

    async def _literal(self, parsed: Multiaddr) -> list[Multiaddr]:
        try:
            return await self._hosts(parsed)
        except NetworkError:
            return []

    async def _named(self, host: str, *, required: bool) -> list[Multiaddr]:
        """What the TXT records of a name say. Records that are no addresses are left out."""
        try:
            texts = await self._records(f"_dnsaddr.{host}")
        except OSError as error:
            if not required:
                return []
            raise NetworkError(f"cannot look up _dnsaddr.{host}: {error}", Reason.ADDRESS_INVALID) from error
        found = []
        for text in texts[: limits.DNSADDR_RECORDS_MAX]:
            if text.startswith(_PREFIX) and len(text) <= limits.MULTIADDR_CHARS_MAX:
                try:
                    found.append(parse_multiaddr(text.removeprefix(_PREFIX).strip()))
                except Wrong:
                    continue
        return found


async def host_addresses(host: str) -> list[str]:
    """The IP addresses of a host, as this machine finds them (hosts file, DNS). Raises OSError and UnicodeError."""
    found = await trio.socket.getaddrinfo(host, None, type=trio.socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]).partition("%")[0] for *_, sockaddr in found))


async def txt_records(name: str, resolver: Resolver | None = None) -> list[str]:
    """The TXT records of a name, by the name servers of this machine or those of ``resolver``. Raises OSError."""
    import dns.asyncresolver  # noqa: PLC0415 - only needed for /dnsaddr
    import dns.exception  # noqa: PLC0415
    import dns.rdtypes.ANY.TXT  # noqa: PLC0415

    try:
        resolver = resolver or dns.asyncresolver.Resolver()
        answer = await resolver.resolve(name, "TXT", lifetime=limits.P2P_RESOLVE_MS / 1000)
    except dns.exception.DNSException as error:
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error
    return [
        b"".join(each.strings).decode("utf-8", "replace")
        for each in answer
        if isinstance(each, dns.rdtypes.ANY.TXT.TXT)
    ]
