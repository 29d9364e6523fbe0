"""``--join``: a node of the network to begin with."""

from __future__ import annotations

import socket
from typing import Final

import click

from crabnet.cli.context import State, state_of
from crabnet.cli.output import note
from crabnet.settings import DEFAULT_ORIGIN, split_address

PORT: Final = 9012
"""The port of a node that has no other."""


def join_option() -> click.Option:
    """An option that adds to the setting ``bootstrap_peers``."""
    return click.Option(
        ["--join"], metavar="HOST[:PORT]", multiple=True, expose_value=False, callback=_store,
        help=f"A node of the network to begin with; may be repeated. A multiaddr is for libp2p. Default port: {PORT}.",
    )  # fmt: skip


def _store(context: click.Context, _: click.Parameter, value: tuple[str, ...]) -> None:
    if value:
        state_of(context).typed["bootstrap_peers"] = "--join"
        add_peers(state_of(context), [peer_address(each) for text in value for each in text.split(",") if each.strip()])


def add_peers(state: State, addresses: list[str]) -> None:
    """Add addresses to those that the flag ``--bootstrap-peers`` names."""
    given = state.flags.get("bootstrap_peers")
    before = [str(each) for each in given] if isinstance(given, list | tuple) else []
    state.flags["bootstrap_peers"] = [*before, *addresses]


def peer_address(text: str) -> str:
    """The address of a peer as settings have it: a port is added if there is none. Raises UsageError."""
    text = text.strip()
    if text.startswith("/"):
        return text
    if _lacks_port(text):
        text = f"[{text}]:{PORT}" if ":" in text and not text.startswith("[") else f"{text}:{PORT}"
    split_address(text.removeprefix("udp:"))
    return text


def _lacks_port(text: str) -> bool:
    if text.startswith("["):
        return text.endswith("]")
    return ":" not in text or text.count(":") > 1


def find_port(state: State, *, tells: bool = True) -> None:
    """Use a free port if nobody has chosen one, and the default one is in use: by another worker, for example."""
    if state.resolved.origins["listen_addr"] != DEFAULT_ORIGIN or not state.settings.uses_udp:
        return
    host, port = split_address(state.settings.listen_addr)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            if tells:
                note(f"port {port} is in use, so this node listens on a free one; choose one with --listen-addr")
            state.set_flag("listen_addr", f"{host}:0")
