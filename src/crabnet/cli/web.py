"""``crabnet web``: the web process and its page."""

from __future__ import annotations

from crabnet.cli.options import LazyGroup

web = LazyGroup(
    "web",
    "Serve the HTTP API and the web page of a node, or open the page. Without a subcommand: serve.",
    {"serve": "crabnet.cli.web_serve:serve", "open": "crabnet.cli.web_open:open_"},
    default="serve",
)
