"""``crabnet config verify`` for the dht network, with real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from crabnet.errors import Reason
from crabnet.operations.health import Verdict
from crabnet.operator.check import Check
from crabnet.operator.verify_config import verify_config
from crabnet.settings import Settings
from crabnet.storage.files import RealFiles
from tests.support.dht import needs_libp2p
from tests.support.ports import reserved_port

pytestmark = needs_libp2p


@pytest.fixture
def taken() -> Iterator[str]:
    """An address at which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def checks(tmp_path: Path, name: str, **settings: object) -> list[Check]:
    given = Settings(data_dir=tmp_path / "d", network="dht", **{"listen_addr": "127.0.0.1:0", **settings})  # type: ignore[arg-type]
    return [each for each in verify_config(given, RealFiles()) if each.name == name]


def reason_of(check: Check) -> Reason | None:
    return None if check.error is None else check.error.reason


def test_a_listener_port_in_use_fails_unless_falling_back_was_asked_for(tmp_path: Path, taken: str) -> None:
    (check,) = checks(tmp_path, "listen_addr", listen_addr=taken)
    assert (check.verdict, reason_of(check)) == (Verdict.FAILED, Reason.ADDRESS_IN_USE)
    (check,) = checks(tmp_path, "listen_addr", listen_addr=taken, dht_listen_fallback=True)
    assert check.verdict is Verdict.WARNING
    (check,) = checks(tmp_path, "listen_addr")
    assert (check.verdict, check.detail) == (Verdict.OK, "/ip4/127.0.0.1/tcp/0 can be listened on"), (
        "nothing is said of UDP"
    )


def test_bootstrap_peers_are_dialled(tmp_path: Path, taken: str) -> None:
    nobody = f"127.0.0.1:{reserved_port()}"
    found = checks(tmp_path, "bootstrap_peers", bootstrap_peers=(taken, nobody))
    assert {each.verdict: reason_of(each) for each in found} == {
        Verdict.OK: None,
        Verdict.WARNING: Reason.NODE_UNREACHABLE,
    }
    assert checks(tmp_path, "bootstrap_peers") == [], "multicast DNS may find some"
    (none,) = checks(tmp_path, "bootstrap_peers", dht_mdns=False)
    assert none.verdict is Verdict.WARNING


def test_the_key_of_a_private_network_must_be_readable_by_its_owner_only(tmp_path: Path) -> None:
    key = tmp_path / "swarm.key"
    key.write_text("/key/swarm/psk/1.0.0/\n/base16/\n" + "ab" * 32 + "\n", encoding="ascii")
    key.chmod(0o644)
    (check,) = checks(tmp_path, "dht_network_key_file", dht_network_key_file=key)
    assert (check.verdict, reason_of(check)) == (Verdict.FAILED, Reason.UNSAFE_PERMISSIONS)
    key.chmod(0o600)
    (check,) = checks(tmp_path, "dht_network_key_file", dht_network_key_file=key)
    assert check.verdict is Verdict.OK
