"""What is said about configured libp2p addresses before they are used."""

from __future__ import annotations

import socket

import pytest

from crabnet.errors import NetworkError, Reason
from crabnet.protocol.identity import Signer
from crabnet.transport.p2p_addresses import check_bootstrap, check_listener

OWN, PEER = Signer(b"o" * 32).node_id, Signer(b"p" * 32).node_id


def reason(text: str, *listen: str) -> Reason | None:
    try:
        check_bootstrap(text, OWN, listen)
    except NetworkError as error:
        return error.reason if error.message.startswith("bootstrap_peers: ") else Reason.INTERNAL
    return None


def test_this_node_itself_is_no_bootstrap_peer() -> None:
    assert reason(f"/ip4/192.0.2.1/tcp/1/p2p/{OWN}") is Reason.OWN_ADDRESS
    assert reason(f"/dnsaddr/boot.example/p2p/{OWN}") is Reason.OWN_ADDRESS
    assert reason("127.0.0.1:9012", "/ip4/127.0.0.1/tcp/9012") is Reason.OWN_ADDRESS
    assert reason("127.0.0.1:9013", "/ip4/127.0.0.1/tcp/9012") is None


def test_names_are_not_judged_before_they_are_looked_up() -> None:
    for text in ("boot.example:1", "/dns6/boot.example/tcp/1", f"/dnsaddr/boot.example/p2p/{PEER}"):
        assert reason(text) is None


def test_an_address_that_this_machine_has_a_route_to() -> None:
    assert reason("/ip4/127.0.0.1/tcp/1") is None


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", "ip4"), ("::1", "ip6")])
def test_a_listener_in_use(host: str, family: str) -> None:
    with socket.socket(socket.AF_INET6 if family == "ip6" else socket.AF_INET) as taken:
        taken.bind((host, 0))
        taken.listen()
        text = f"/{family}/{host}/tcp/{taken.getsockname()[1]}"
        with pytest.raises(NetworkError, match="dht_listen_fallback") as error:
            check_listener(text)
        assert error.value.reason is Reason.ADDRESS_IN_USE
    check_listener(text)


def test_a_listener_of_another_machine() -> None:
    with pytest.raises(NetworkError, match="listen_addr: cannot listen on") as error:
        check_listener("/ip4/192.0.2.1/tcp/0")
    assert error.value.reason is Reason.ADDRESS_INVALID
