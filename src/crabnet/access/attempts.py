"""Bounds failed attempts to log in, by the address that they come from. Pure: the time comes as an argument."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple

from crabnet import limits
from crabnet.bounded import BoundedTable

_IPV6_PREFIX_BITS: Final = 64
"""Whoever has one IPv6 address usually has the others with these first bits, too."""
_DOUBLINGS_MAX: Final = 20


class _Tries(NamedTuple):
    failures: int
    until_ms: int
    """End of the block."""


class Attempts:
    """Blocks an address for longer and longer while its attempts fail. Times are of a clock that never goes back.

    The first ATTEMPTS_FREE failures have no effect. After each further one the address is blocked: first for
    ATTEMPTS_BLOCK_MS, then for twice as long each time, at most for ATTEMPTS_BLOCK_MS_MAX. Its failures are forgotten
    when it has been quiet for ATTEMPTS_QUIET_MS after the end of a block. IPv6 addresses count by their /64.
    """

    def __init__(self, capacity: int = limits.ATTEMPT_ADDRESSES_MAX) -> None:
        self._tries: BoundedTable[str, _Tries] = BoundedTable(capacity)

    def blocked_ms(self, address: str, now_ms: int) -> int:
        """How long the address is still blocked; 0 if it is not."""
        found = self._tries.get(source_of(address))
        return 0 if found is None else max(0, found.until_ms - now_ms)

    def failed(self, address: str, now_ms: int) -> int:
        """Note a failure. Returns for how long the address is blocked now."""
        source = source_of(address)
        before = self._tries.get(source)
        failures = 1
        if before is not None and now_ms < before.until_ms + limits.ATTEMPTS_QUIET_MS:
            failures += before.failures
        excess = failures - limits.ATTEMPTS_FREE
        block_ms = 0
        if excess > 0:
            doubled_ms = limits.ATTEMPTS_BLOCK_MS << min(excess - 1, _DOUBLINGS_MAX)
            block_ms = min(doubled_ms, limits.ATTEMPTS_BLOCK_MS_MAX)
        self._tries.put(source, _Tries(failures, now_ms + block_ms))
        return block_ms


def source_of(address: str) -> str:
    """What an IP address counts as: an IPv4 address as itself, an IPv6 address as its network of 64 bits."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address[: limits.REPORT_ADDRESS_CHARS_MAX]
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        low_bits = 128 - _IPV6_PREFIX_BITS
        return f"{IPv6Address(int(parsed) >> low_bits << low_bits)}/{_IPV6_PREFIX_BITS}"
    return str(parsed)
