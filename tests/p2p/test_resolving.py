"""Names of bootstrap peers: what a name service answers is bounded, and judged."""

from __future__ import annotations

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio

from crabnet import limits
from crabnet.errors import NetworkError, Reason
from crabnet.p2p.resolving import Names, txt_records
from crabnet.protocol.identity import Signer

PEER, OTHER = Signer(b"p" * 32).node_id, Signer(b"q" * 32).node_id
Zone = dict[str, list[str]]


def names(zone: Zone, hosts: Zone | None = None, asked: list[str] | None = None) -> Names:
    async def records(name: str) -> list[str]:
        if asked is not None:
            asked.append(name)
        if name not in zone:
            raise OSError("no such name")
        return zone[name]

    async def addresses(host: str) -> list[str]:
        if host not in (hosts or {}):
            raise OSError("no such host")
        return (hosts or {})[host]

    return Names(addresses, records)


def found(made: Names, text: str) -> list[str]:
    return [str(each) for each in trio.run(made.addresses, text)]


def refused(made: Names, text: str) -> Reason:
    with pytest.raises(NetworkError) as error:
        trio.run(made.addresses, text)
    return error.value.reason


def record(place: str, peer: str = PEER) -> str:
    return f"dnsaddr={place}/p2p/{peer}"


def test_hosts_by_family() -> None:
    made = names({}, {"host.example": ["2001:db8::1", "192.0.2.1"]})
    assert found(made, "host.example:1") == ["/ip6/2001:db8::1/tcp/1", "/ip4/192.0.2.1/tcp/1"]
    assert found(made, f"/dns4/host.example/tcp/1/p2p/{PEER}") == [f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}"]
    assert found(made, "/dns6/host.example/tcp/1") == ["/ip6/2001:db8::1/tcp/1"]
    assert found(made, "/ip4/192.0.2.9/tcp/1") == ["/ip4/192.0.2.9/tcp/1"]
    assert refused(made, "other.example:1") is Reason.ADDRESS_INVALID
    assert refused(names({}, {"host.example": ["192.0.2.1"]}), "/dns6/host.example/tcp/1") is Reason.ADDRESS_INVALID


def test_dnsaddr_gives_addresses_with_ids_of_the_asked_peer_only() -> None:
    zone = {
        "_dnsaddr.boot.example": [
            record("/ip4/192.0.2.1/tcp/1"),
            record("/ip4/192.0.2.2/tcp/1", OTHER),
            "dnsaddr=/ip4/192.0.2.3/tcp/1",
            record("/dns4/host.example/tcp/1"),
            "v=spf1 -all",
            "dnsaddr=nonsense",
            "dnsaddr=" + "/ip4/192.0.2.1" * 60,
        ]
    }
    made = names(zone, {"host.example": ["192.0.2.4"]})
    mine = [f"/ip4/192.0.2.{last}/tcp/1/p2p/{PEER}" for last in (1, 4)]
    assert found(made, f"/dnsaddr/boot.example/p2p/{PEER}") == mine
    assert found(made, "/dnsaddr/boot.example") == [mine[0], f"/ip4/192.0.2.2/tcp/1/p2p/{OTHER}", mine[1]]
    assert refused(made, f"/dnsaddr/boot.example/p2p/{Signer(b'r' * 32).node_id}") is Reason.ADDRESS_INVALID
    assert refused(made, "/dnsaddr/none.example") is Reason.ADDRESS_INVALID


def test_a_name_may_name_others_but_these_no_further_ones() -> None:
    asked: list[str] = []
    zone = {
        "_dnsaddr.a": ["dnsaddr=/dnsaddr/b", "dnsaddr=/dnsaddr/a", f"dnsaddr=/dnsaddr/gone/p2p/{PEER}"],
        "_dnsaddr.b": ["dnsaddr=/dnsaddr/c", record("/ip4/192.0.2.1/tcp/1")],
        "_dnsaddr.c": [record("/ip4/192.0.2.2/tcp/1")],
    }
    assert found(names(zone, asked=asked), "/dnsaddr/a") == [f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}"]
    assert asked == ["_dnsaddr.a", "_dnsaddr.b", "_dnsaddr.gone"]


def test_answers_without_end_are_cut() -> None:
    asked: list[str] = []
    zone = {"_dnsaddr.a": [f"dnsaddr=/dnsaddr/n{number}" for number in range(1_000)]}
    zone |= {
        f"_dnsaddr.n{number}": [record(f"/ip4/192.0.2.1/tcp/{at + 1}") for at in range(1_000)] for number in range(99)
    }
    assert len(found(names(zone, asked=asked), "/dnsaddr/a")) == limits.DNSADDR_ADDRESSES_MAX
    assert len(asked) == limits.DNSADDR_LOOKUPS_MAX


def test_records_come_from_a_name_server() -> None:
    """Records in several strings are joined. A name that does not exist, and an answer that is none, are errors."""

    async def serve(server: trio.socket.SocketType) -> None:
        while True:
            data, sender = await server.recvfrom(4_096)
            query = dns.message.from_wire(data)
            answer = dns.message.make_response(query)
            name = query.question[0].name
            if str(name).startswith("_dnsaddr.good"):
                answer.answer.append(dns.rrset.from_text(name, 1, "IN", "TXT", '"dnsaddr=" "/ip4/1.2.3.4"', '"x"'))
            elif str(name).startswith("_dnsaddr.bad"):
                answer.set_rcode(dns.rcode.NXDOMAIN)
            await server.sendto(answer.to_wire(), sender)

    async def run() -> None:
        resolver = dns.asyncresolver.Resolver(configure=False)
        async with trio.open_nursery() as nursery:
            with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as server:
                await server.bind(("127.0.0.1", 0))
                nursery.start_soon(serve, server)
                resolver.nameservers, resolver.port = ["127.0.0.1"], server.getsockname()[1]
                assert sorted(await txt_records("_dnsaddr.good.example", resolver)) == ["dnsaddr=/ip4/1.2.3.4", "x"]
                for name in ("_dnsaddr.bad.example", "_dnsaddr.empty.example", "." * 300):
                    with pytest.raises(OSError, match=r".+"):
                        await txt_records(name, resolver)
                nursery.cancel_scope.cancel()

    trio.run(run)
