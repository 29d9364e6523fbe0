"""A real Chromium without a screen for the tests of the page, and real nodes for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from tests.browser.support import Tab
from tests.support.nodes import DEADLINE_S, Nodes
from tests.web.support import Web, start

CHROMIUM: Final = shutil.which("chromium")
ARGUMENTS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

OpenTab = Callable[..., Tab]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests. Each tab has a context of its own, with nothing of the others."""
    if CHROMIUM is None:
        pytest.skip("NOT TESTED: the web page, because chromium is missing (Debian: apt install chromium)")
    home = tmp_path_factory.mktemp("chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=list(ARGUMENTS),
            env={"HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home), "PATH": "/usr/bin:/bin"},
        )
        yield chromium
        chromium.close()


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[OpenTab]:
    """Opens tabs in contexts of their own. At the end none may have complained, or loaded anything from elsewhere."""
    contexts: list[BrowserContext] = []
    tabs: list[Tab] = []

    def opened(web: Web, *, scheme: Literal["light", "dark"] = "light", width: int = 1200) -> Tab:
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        context.set_default_timeout(DEADLINE_S * 1000)
        contexts.append(context)
        tabs.append(Tab(context.new_page(), web))
        return tabs[-1]

    yield opened
    for tab in tabs:
        assert tab.complaints == []
        assert tab.foreign_requests == []
        assert tab.page.context.cookies() == []
    for context in contexts:
        context.close()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """A maker of nodes in the test's own directory."""
    made = Nodes(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Web, Web]]:
    """Two nodes that know each other, each with a web process, for the tests of a module that do not end them."""
    made = Nodes(tmp_path_factory.mktemp("pair"))
    first = start(made, "a", "--alias", "ann")
    node = made.start("b", [first.node.listen], "--web-addr", "127.0.0.1:0", "--alias", "bob")
    yield first, Web(node).await_it()
    made.close()
