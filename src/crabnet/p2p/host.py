"""The libp2p host of this process."""

from __future__ import annotations

from collections.abc import Callable

from libp2p.host.basic_host import BasicHost
from libp2p.network.swarm import Swarm
from multiaddr import Multiaddr


class Host(BasicHost):
    """A host that tells its peers the addresses that it is given."""

    def __init__(self, network: Swarm) -> None:
        self.told: Callable[[], list[Multiaddr]] = list
        """The addresses of this host, without its own id."""
        super().__init__(network)

    def get_addrs(self) -> list[Multiaddr]:
        """The addresses to tell. The library cuts an address through a relay off behind that of the relay."""
        own = Multiaddr(f"/p2p/{self.get_id()}")
        return [each.encapsulate(own) for each in self.told()]
