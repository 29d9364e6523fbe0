"""The web process of a node: what it is given, and where it serves."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

import msgspec

from crabnet.errors import Reason
from crabnet.node.children.children import Children
from crabnet.node.children.spec import ChildSpec
from crabnet.operations.children import ChildHealth
from crabnet.settings import OFF, Settings

NAME: Final = "web"
_MODULES: Final = ("prometheus_client", "starlette", "uvicorn")
_INSTALL: Final = "install crabnet with its extra `web`: pip install 'crabnet-node[web]'"
_GIVEN: Final = (
    "data_dir",
    "control_timeout_ms",
    "web_addr",
    "web_socket",
    "metrics_addr",
    "web_api_token",
    "web_api_auth_required",
    "web_allowed_hosts",
    "web_tls_cert",
    "web_tls_key",
    "web_connections_max",
    "web_address_connections_max",
    "web_requests_per_sec",
)
"""The settings that the process gets (``crabnet.web.config``)."""


def keep_web(children: Children, settings: Settings) -> str | None:
    """Have the web process kept, if the settings say so. Returns a line for the operator if it cannot be."""
    if not settings.serves_http:
        children.off(NAME, "web_addr is off")
        return None
    missing = missing_for_web()
    if missing:
        children.off(NAME, missing, Reason.UNAVAILABLE)
        return f"no web page and no HTTP API: {missing}, or set --web-addr off"
    children.keep(
        ChildSpec(
            name=NAME,
            entry="crabnet.web.child:serve",
            without="the HTTP API and the web page cannot be reached",
            given=msgspec.json.encode(settings.part(_GIVEN)),
            stderr=True,
        )
    )
    return None


def missing_for_web() -> str:
    """Which module the web process lacks here, and how to install it. Empty if it lacks none."""
    missing = next((module for module in _MODULES if find_spec(module) is None), None)
    return "" if missing is None else f"{missing} is not installed; {_INSTALL}"


def web_url(settings: Settings, health: Sequence[ChildHealth]) -> str | None:
    """The address of the web page for a browser on this machine; None if it is not served."""
    if settings.web_addr == OFF:
        return None
    addresses = [address for child in health if child.name == NAME for address in child.addresses]
    url = next((address for address in addresses if address.startswith("http")), None)
    if url is None:
        return None
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
