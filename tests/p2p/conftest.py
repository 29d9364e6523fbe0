"""Tests of the modules of the libp2p process that import libp2p into the process of the test."""

from __future__ import annotations

from importlib.util import find_spec

from crabnet.p2p.stand_in import without_fastecdsa

_HAS_LIBP2P = find_spec("libp2p") is not None
if _HAS_LIBP2P:
    without_fastecdsa()
else:
    collect_ignore = [
        "test_autonat.py",
        "test_gossip.py",
        "test_identity.py",
        "test_kad.py",
        "test_relay.py",
        "test_rendezvous.py",
        "test_resolving.py",
    ]


def pytest_report_header() -> str | None:
    """Say loudly what is not tested."""
    return None if _HAS_LIBP2P else "LIBP2P IS NOT INSTALLED: the libp2p process is NOT tested (run `make env`)"
