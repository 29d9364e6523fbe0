"""A tab of a browser that shows the page of a node."""

from __future__ import annotations

import re
from typing import Final

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Locator, Page, Request, expect

from tests.support.nodes import DEADLINE_S
from tests.web.support import Web

VIEWS: Final = ("Overview", "Tasks", "Work", "Peers", "Events", "Diagnose")
expect.set_options(timeout=DEADLINE_S * 1000)


class Tab:
    """A tab. ``complaints`` are errors and warnings of its console, and scripts of strangers that ran."""

    def __init__(self, page: Page, web: Web) -> None:
        self.page = page
        self.web = web
        self.base = f"http://{web.host}:{web.port}/"
        self.complaints: list[str] = []
        self.foreign_requests: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        page.on("request", self._requested)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{message.type}: {message.text}")

    def _requested(self, request: Request) -> None:
        if not request.url.startswith((self.base, "blob:" + self.base)):
            self.foreign_requests.append(request.url)

    def forgive(self, pattern: str) -> None:
        """Take back complaints that a test has caused on purpose, such as about connections that it cut."""
        self.complaints = [each for each in self.complaints if re.search(pattern, each) is None]

    def log_in(self) -> Tab:
        """Follow a link of ``crabnet web open``."""
        self.page.goto(self.link())
        expect(self.heading("Overview")).to_be_visible()
        expect(self.page.locator("#live")).to_have_text("live")
        return self

    def link(self) -> str:
        """A new link."""
        return self.web.node.ok("web", "open", "--print").strip()

    def log_in_with(self, token: str) -> Tab:
        """Type a token."""
        self.page.goto(self.base)
        self.page.get_by_label("Token", exact=True).fill(token)
        self.page.get_by_role("button", name="Log in").click()
        return self

    def heading(self, name: str) -> Locator:
        """The heading of the view."""
        return self.page.get_by_role("heading", level=1, name=name, exact=True)

    def view(self, name: str) -> Tab:
        """Go to a view by its link."""
        self.page.get_by_role("navigation", name="Views").get_by_role("link", name=name, exact=True).click()
        expect(self.heading(name)).to_be_visible()
        self.loaded()
        return self

    def go(self, path: str) -> Tab:
        """Go to an address of the page."""
        self.page.goto(f"{self.base}#/{path}")
        self.loaded()
        return self

    def loaded(self) -> None:
        """Wait until the view has its content."""
        expect(self.page.get_by_text("Loading …", exact=True)).to_have_count(0)

    def button(self, name: str) -> Locator:
        """A button."""
        return self.page.get_by_role("button", name=name, exact=True)

    def section(self, name: str | re.Pattern[str]) -> Locator:
        """A part of a view."""
        return self.page.get_by_role("region", name=name, exact=isinstance(name, str))

    def violations(self) -> list[str]:
        """What axe-core objects to."""
        found = Axe().run(self.page)
        return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in found.response["violations"]]

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.page.evaluate(wide))
