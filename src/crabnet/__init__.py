"""Crabnet: a decentralised task network (publish, bid, claim, run, settle) without a server."""

from __future__ import annotations

from crabnet._version import __version__

__all__ = ["__version__"]
