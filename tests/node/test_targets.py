"""Configured peers are known by the addresses that their datagrams come from, also when a name moves (net-2, net-3)."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import trio

from crabnet import limits
from crabnet.core.effects import FieldValue
from crabnet.node.network.targets import Targets
from crabnet.transport.base import Address
from crabnet.transport.resolver import Endpoint, Resolver

NAME = "peer.example:9012"


@pytest.fixture(autouse=True)
def look_ups_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps would not wait for a thread."""

    async def run_sync(look_up: Callable[..., list[Endpoint]], *words: object, **_: object) -> list[Endpoint]:
        await trio.lowlevel.checkpoint()
        return look_up(*words)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


class Names:
    """A name service whose answers the test sets; none for a failure."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = list(hosts)

    def __call__(self, host: str, port: int) -> list[Endpoint]:
        if not self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        families = [socket.AF_INET6 if ":" in each else socket.AF_INET for each in self.hosts]
        ends = [(each, port, 0, 0) if ":" in each else (each, port) for each in self.hosts]
        return [Endpoint(family, end) for family, end in zip(families, ends, strict=True)]


class Scene:
    def __init__(self, names: Names, *configured: str, family: int | None = None) -> None:
        self.trusted: list[frozenset[str]] = []
        self.moved: list[dict[str, FieldValue]] = []
        self.targets = Targets(configured, Resolver(names), family, self.trusted.append, self._notify)

    def _notify(self, kind: str, fields: dict[str, FieldValue]) -> None:
        assert kind == "peer_moved"
        self.moved.append(fields)

    @property
    def at(self) -> list[str]:
        assert self.trusted[-1] == frozenset(address.source for address in self.targets.addresses())
        return [str(address) for address in self.targets.addresses()]


async def test_a_name_stands_for_its_address() -> None:
    scene = Scene(Names("192.0.2.1"), NAME, "192.0.2.7:9")
    assert scene.at == [NAME, "192.0.2.7:9"]
    await scene.targets.look_up()
    assert scene.at == ["192.0.2.1:9012", "192.0.2.7:9"]
    assert scene.targets.names() == {"udp:192.0.2.1:9012": [NAME]}
    assert not scene.moved


@pytest.mark.parametrize(
    ("text", "address"),
    [("[2001:DB8:0:0::1]:9", "[2001:db8::1]:9"), ("[::ffff:192.0.2.1]:9", "[::ffff:192.0.2.1]:9")],
)
async def test_an_address_is_written_as_the_kernel_writes_it(text: str, address: str) -> None:
    scene = Scene(Names(), text)
    await scene.targets.look_up()
    assert scene.at == [address]


async def test_a_name_that_leads_nowhere_stands_for_itself_until_it_does(autojump_clock: trio.abc.Clock) -> None:
    names = Names()
    scene = Scene(names, NAME)
    await scene.targets.look_up()
    assert scene.at == [NAME]
    names.hosts = ["192.0.2.1"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.targets.run)
        await trio.sleep(limits.RESOLVE_RETRY_MS / 1000 + limits.TARGETS_LOOK_UP_MS / 1000)
        nursery.cancel_scope.cancel()
    assert scene.at == ["192.0.2.1:9012"]


async def test_a_name_that_moves_is_followed_within_a_minute(autojump_clock: trio.abc.Clock) -> None:
    names = Names("192.0.2.1")
    scene = Scene(names, NAME)
    await scene.targets.look_up()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.targets.run)
        await trio.sleep(100)
        names.hosts = ["192.0.2.2"]
        await trio.sleep(60)
        assert scene.at == ["192.0.2.2:9012"]
        names.hosts = []
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert scene.at == ["192.0.2.2:9012"], "what cannot be looked up stays where it was"
    moved: dict[str, FieldValue] = {
        "name": NAME,
        "address_before": "udp:192.0.2.1:9012",
        "address": "udp:192.0.2.2:9012",
    }
    assert scene.moved == [moved]


async def test_of_several_addresses_the_one_in_use_stays(autojump_clock: trio.abc.Clock) -> None:
    """Name servers give them in turn."""
    names = Names("192.0.2.1", "192.0.2.2")
    scene = Scene(names, NAME)
    await scene.targets.look_up()
    names.hosts.reverse()
    await trio.sleep(60)
    await scene.targets.look_up()
    assert scene.at == ["192.0.2.1:9012"]


@pytest.mark.parametrize(("family", "at"), [(socket.AF_INET, "192.0.2.1:9012"), (None, "[2001:db8::1]:9012")])
async def test_an_address_of_the_family_that_is_listened_on_is_chosen(family: int | None, at: str) -> None:
    scene = Scene(Names("2001:db8::1", "192.0.2.1"), NAME, family=family)
    await scene.targets.look_up()
    assert scene.at == [at]


async def test_two_names_of_one_peer_are_one_target() -> None:
    scene = Scene(Names("192.0.2.1"), NAME, "also.example:9012", "192.0.2.1:9012")
    await scene.targets.look_up()
    assert scene.targets.addresses() == [Address("192.0.2.1", 9012)]
    assert scene.targets.names() == {"udp:192.0.2.1:9012": [NAME, "also.example:9012"]}
