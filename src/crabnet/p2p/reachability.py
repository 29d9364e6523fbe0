"""Whether others can dial this node, and at which addresses: what they report, judged. Pure.

One host has one voice, whatever number of peers it runs (docs/PROTOCOL.md, section 14).
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from enum import StrEnum

from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable


class Reachability(StrEnum):
    """Whether this node can be dialled."""

    UNKNOWN = "unknown"
    PUBLIC = "public"
    PRIVATE = "private"


class Vote(Struct, frozen=True):
    """The last answer of one host. ``address`` is where it reached this node, "" if it did not."""

    address: str
    is_global: bool


class Votes:
    """The answers of other hosts. Those of hosts in the internet count before those of hosts in private networks: a
    neighbour behind the same router says nothing about what is outside.
    """

    def __init__(self) -> None:
        self._votes: BoundedTable[str, Vote] = BoundedTable(limits.P2P_REACHABILITY_VOTES_MAX)
        self._asked: BoundedTable[str, int] = BoundedTable(limits.P2P_CONNECTIONS_MAX)
        """When (ms) a host was asked last, whether it answered or not."""

    def put(self, host: str, address: str) -> None:
        """Record the answer of a host: where it reached this node, or "" if it could not."""
        self._votes.put(host, Vote(address, is_global(host)))

    def ask(self, host: str, now_ms: int) -> bool:
        """True if a host is to be asked now. It then counts as asked."""
        last_ms = self._asked.get(host)
        if last_ms is not None and now_ms - last_ms < limits.P2P_REACHABILITY_ASK_MS:
            return False
        asked = sum(now_ms - each < limits.P2P_REACHABILITY_ASK_MS for each in self._asked.values())
        if asked >= limits.P2P_REACHABILITY_HOSTS_MAX:
            return False
        self._asked.put(host, now_ms)
        return True

    def _counting(self) -> list[Vote]:
        votes = list(self._votes.values())
        return [each for each in votes if each.is_global] or votes

    @property
    def verdict(self) -> Reachability:
        """What the majority says. A draw counts as unreachable: a place at a relay costs little."""
        votes = self._counting()
        if not votes:
            return Reachability.UNKNOWN
        reached = sum(bool(each.address) for each in votes)
        return Reachability.PUBLIC if 2 * reached > len(votes) else Reachability.PRIVATE

    def addresses(self) -> list[str]:
        """Where this node was reached."""
        return list(dict.fromkeys(each.address for each in self._counting() if each.address))


class Observations:
    """The IP addresses under which peers see this node. The ports are of no use for TCP: they belong to connections
    that this node has made.
    """

    def __init__(self) -> None:
        self._seen: BoundedTable[int, tuple[str, str]] = BoundedTable(limits.P2P_OBSERVATIONS_MAX)
        """Host of the observer, and the address that it saw, by connection."""

    def put(self, connection: int, host: str, ip: str) -> None:
        """Record what a peer reports of a connection."""
        self._seen.put(connection, (host, ip))

    def forget(self, connection: int) -> None:
        """Forget a connection that has ended."""
        self._seen.pop(connection)

    def by(self, connection: int) -> str:
        """The address that one peer saw, or "" if it has said nothing."""
        seen = self._seen.get(connection)
        return "" if seen is None else seen[1]

    def all(self) -> list[str]:
        """All addresses that somebody sees, those that most peers see first."""
        return [ip for ip, _ in Counter(ip for _, ip in self._seen.values()).most_common()]

    def confirmed(self) -> list[str]:
        """The addresses that several hosts see."""
        hosts: dict[str, set[str]] = {}
        for host, ip in self._seen.values():
            hosts.setdefault(ip, set()).add(host)
        return [ip for ip, observers in hosts.items() if len(observers) >= limits.P2P_OBSERVERS_MIN]


def is_global(host: str) -> bool:
    """True for an IP address or network of the public internet."""
    try:
        return ipaddress.ip_network(host, strict=False).is_global
    except ValueError:
        return False
