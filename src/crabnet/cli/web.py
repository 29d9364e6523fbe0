"""``crabnet web``: the web page of a node."""

from __future__ import annotations

from crabnet.cli.options import LazyGroup

web = LazyGroup("web", "Use the web page of a node.", {"open": "crabnet.cli.web_open:open_"})
