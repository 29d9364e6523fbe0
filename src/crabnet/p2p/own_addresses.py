"""The addresses of this node that others may dial: a wildcard such as ``0.0.0.0`` stands for all of this machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import ifaddr

from crabnet import limits
from crabnet.settings.kinds import Wrong
from crabnet.settings.multiaddr import parse_multiaddr


def expanded(texts: Iterable[str]) -> list[str]:
    """The addresses without peer ids, with the machine's own in the place of wildcards; bounded."""
    found: dict[str, None] = {}
    for text in texts:
        try:
            parsed = parse_multiaddr(text)
        except Wrong:
            continue
        parsed = parsed if parsed.via else parsed._replace(peer="")
        if parsed.host in ("0.0.0.0", "::"):  # noqa: S104 - it is read here, not listened on
            for host in machine_addresses(parsed.family):
                found[str(parsed._replace(host=host))] = None
        else:
            found[str(parsed)] = None
    return list(found)[: limits.P2P_OWN_ADDRESSES_MAX]


def machine_addresses(family: str) -> list[str]:
    """The addresses of this machine of a family (``ip4``, ``ip6``), loopback last, without those that need a zone."""
    found: list[str] = []
    try:
        adapters = list(ifaddr.get_adapters())
    except OSError:
        return found
    for adapter in adapters:
        for each in adapter.ips:
            host = each.ip if isinstance(each.ip, str) else each.ip[0]
            ip = ipaddress.ip_address(host)
            if f"ip{ip.version}" == family and not (ip.version == 6 and ip.is_link_local):
                found.append(host)
    return sorted(found, key=lambda host: ipaddress.ip_address(host).is_loopback)
