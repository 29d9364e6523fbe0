"""Addresses as text, and what host names lead to over time (on a virtual clock)."""

from __future__ import annotations

import socket
import threading

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.errors import NetworkError, Reason, UsageError
from crabnet.transport.base import Address, parse_address
from crabnet.transport.resolver import Endpoint, Resolver, literal_endpoint

NAME = Address("node.example", 9012)


def ipv4(last: int) -> Endpoint:
    return Endpoint(socket.AF_INET, (f"192.0.2.{last}", 9012))


IPV6 = Endpoint(socket.AF_INET6, ("2001:db8::1", 9012, 0, 0))


class Names:
    """A name service whose next answers the test sets; ``asked`` counts."""

    def __init__(self, *answers: list[Endpoint] | OSError) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, host: str, port: int) -> list[Endpoint]:
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


@pytest.mark.parametrize("text", ["1.2.3.4:9012", "[::1]:9012", "[fe80::1%eth0]:1", "host.example:65535", "0.0.0.0:0"])
def test_addresses_read_back_as_written(text: str) -> None:
    assert str(parse_address(text)) == text


@given(st.ip_addresses().map(str), st.integers(0, 65_535))
def test_every_address_and_port_reads_back(host: str, port: int) -> None:
    assert parse_address(str(Address(host, port))) == Address(host, port)


@pytest.mark.parametrize(
    "text", ["", "1.2.3.4", "::1:9012", "1.2.3.4:65536", "1.2.3.4:-1", "1.2.3.256:1", "[]:1", "a b:1"]
)
def test_wrong_addresses_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert caught.value.reason is Reason.ADDRESS_INVALID


def test_literal_addresses_need_no_look_up() -> None:
    found = literal_endpoint(Address("127.0.0.1", 9012))
    assert found == Endpoint(socket.AF_INET, ("127.0.0.1", 9012))
    assert literal_endpoint(NAME) is None


async def test_a_name_is_looked_up_once_and_again_after_its_time(mock_clock: trio.testing.MockClock) -> None:
    names = Names([ipv4(1)], [ipv4(2)])
    resolver = Resolver(names)
    assert await resolver.resolve(NAME) == ipv4(1)
    mock_clock.jump(limits.RESOLVE_TTL_MS / 1000 - 1)
    assert await resolver.resolve(NAME) == ipv4(1)
    assert names.asked == 1
    mock_clock.jump(1)
    assert await resolver.resolve(NAME) == ipv4(2)


async def test_the_wanted_family_is_preferred() -> None:
    resolver = Resolver(Names([IPV6, ipv4(1)]))
    assert await resolver.resolve(NAME) == IPV6
    assert await resolver.resolve(NAME, socket.AF_INET) == ipv4(1)
    only_ipv6 = Resolver(Names([IPV6]))
    assert await only_ipv6.resolve(NAME, socket.AF_INET) == IPV6


async def test_a_failed_look_up_is_remembered_for_a_while_only(mock_clock: trio.testing.MockClock) -> None:
    names = Names(socket.gaierror(socket.EAI_AGAIN, "try again"), [], [ipv4(1)])
    resolver = Resolver(names)
    for words in ("try again", "no address"):
        for _ in range(3):
            with pytest.raises(NetworkError, match=words) as caught:
                await resolver.resolve(NAME)
            assert caught.value.reason is Reason.ADDRESS_INVALID
        mock_clock.jump(limits.RESOLVE_RETRY_MS / 1000)
    assert await resolver.resolve(NAME) == ipv4(1)
    assert names.asked == 3


async def test_after_a_failed_send_a_name_is_looked_up_again(mock_clock: trio.testing.MockClock) -> None:
    names = Names([ipv4(1)], [ipv4(2)], OSError("down"))
    resolver = Resolver(names)
    resolver.failed(NAME)
    await resolver.resolve(NAME)
    resolver.failed(NAME)
    assert await resolver.resolve(NAME) == ipv4(1)
    mock_clock.jump(limits.RESOLVE_RETRY_MS / 1000)
    assert await resolver.resolve(NAME) == ipv4(2)
    resolver.failed(NAME)
    mock_clock.jump(limits.RESOLVE_RETRY_MS / 1000)
    assert await resolver.resolve(NAME) == ipv4(2), "what was known stays in use"
    assert names.asked == 3


async def test_a_look_up_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(host: str, port: int) -> list[Endpoint]:
        release.wait(60)
        return []

    monkeypatch.setattr(limits, "RESOLVE_TIMEOUT_MS", 50)
    try:
        with pytest.raises(NetworkError, match="no answer within 50 ms"):
            await Resolver(hang).resolve(NAME)
    finally:
        release.set()


async def test_many_askers_make_one_look_up() -> None:
    names = Names([ipv4(1)])
    resolver = Resolver(names)
    found: list[Endpoint] = []

    async def ask() -> None:
        found.append(await resolver.resolve(NAME))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert found == [ipv4(1)] * 20
    assert names.asked == 1
