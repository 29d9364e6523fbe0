"""``crabnet web serve``: the web process by hand."""

from __future__ import annotations

from collections.abc import Sequence

import click

from crabnet.cli.context import object_text, state_of
from crabnet.cli.options import Command
from crabnet.cli.output import note, write
from crabnet.errors import Reason, UsageError
from crabnet.plain import plain


@click.command("serve", cls=Command)
@click.pass_context
def serve(context: click.Context) -> None:
    """Serve the HTTP API of the node on this data dir, until it is stopped. Prints: web started on ADDR.

    A node that runs with --web-addr starts this process by itself. By hand it serves a node that runs with --web-addr
    off.
    """
    state = state_of(context)
    settings = state.settings
    try:
        from crabnet.web.config import config_of
        from crabnet.web.running import run
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the web process needs the Python package {error.name}; install it with: pip install 'crabnet-node[web]'",
            Reason.UNAVAILABLE,
        ) from None
    if not settings.serves_http:
        raise UsageError(
            "web_addr is off, and neither web_socket nor metrics_addr is set: there is nothing to serve at"
        )

    def ready(addresses: Sequence[str]) -> None:
        for address in addresses:
            write(object_text({"listening": address}) if state.json else f"web started on {plain(address)}\n")

    run(config_of(settings), ready, lambda line: note(plain(line)))
