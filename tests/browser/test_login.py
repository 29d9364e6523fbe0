"""Who may use the page: links, tokens, scopes; and that a tab keeps its token to itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Error, expect

from crabnet.operations.model import Scope
from tests.browser.conftest import OpenTab
from tests.browser.support import Tab
from tests.support.nodes import Nodes, wait_for
from tests.web.support import Web, start


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """One node."""
    made = Nodes(tmp_path_factory.mktemp("login"))
    yield start(made)
    made.close()


def stored(tab: Tab) -> str:
    """The token that the tab keeps."""
    return str(tab.page.evaluate("sessionStorage.getItem('crabnet.token')"))


def test_a_link_logs_one_tab_in_once(web: Web, open_tab: OpenTab) -> None:
    tab, other = open_tab(web), open_tab(web)
    link = tab.link()
    tab.page.goto(link)
    expect(tab.heading("Overview")).to_be_visible()
    expect(tab.page.locator("#health")).to_have_text("ready")
    assert "login" not in tab.page.url
    assert tab.page.evaluate("[document.cookie, localStorage.length]") == ["", 0]
    assert stored(tab) not in link

    other.page.goto(link)
    expect(other.page.get_by_role("alert")).to_contain_text("this link is not good any more")
    expect(other.heading("Log in")).to_be_visible()
    other.forgive("status of 401")

    beside = tab.page.context.new_page()  # a new tab of the same browser
    beside.goto(tab.base)
    expect(beside.get_by_role("heading", level=1, name="Log in")).to_be_visible()

    tab.page.reload()
    expect(tab.heading("Overview")).to_be_visible()


def test_logging_out_revokes_the_session(web: Web, open_tab: OpenTab) -> None:
    tab = open_tab(web).log_in()
    secret = stored(tab)
    tab.button("Log out").click()
    expect(tab.heading("Log in")).to_be_visible()
    assert stored(tab) == "None"
    answer = web.ask("GET", "/api/v1/session", scope=None, Authorization=f"Bearer {secret}")
    assert answer.reason == "unauthenticated"
    tab.page.reload()
    expect(tab.heading("Log in")).to_be_visible()


@pytest.mark.deep
def test_a_revoked_session_ends_in_the_tab(nodes: Nodes, open_tab: OpenTab) -> None:
    """On a node of its own: each request that the tab has under way counts as a failed login of this address."""
    web = start(nodes)
    tab = open_tab(web).log_in()
    name = web.ask("GET", "/api/v1/session", scope=None, Authorization=f"Bearer {stored(tab)}").json["name"]
    web.node.ok("token", "revoke", str(name))
    expect(tab.heading("Log in")).to_be_visible()
    assert stored(tab) == "None"
    tab.forgive("status of 4(01|29)")


def test_a_wrong_token_is_refused(web: Web, open_tab: OpenTab) -> None:
    tab = open_tab(web).log_in_with("not a token at all, not even nearly")
    expect(tab.page.get_by_role("alert")).to_contain_text("the token is not valid")
    tab.forgive("status of 401")
    tab.log_in_with(web.token(Scope.READ))
    expect(tab.heading("Overview")).to_be_visible()


@pytest.mark.parametrize(
    ("scope", "publishes", "drains"), [(Scope.READ, 0, 0), (Scope.OPERATE, 1, 0), (Scope.ADMIN, 1, 1)]
)
def test_controls_follow_the_scope(web: Web, open_tab: OpenTab, scope: Scope, publishes: int, drains: int) -> None:
    seed_id = web.node.publish(title=f"own {scope}")
    tab = open_tab(web).log_in_with(web.token(scope))
    expect(tab.heading("Overview")).to_be_visible()
    tab.view("Tasks")
    expect(tab.page.get_by_role("link", name=f"own {scope}", exact=True)).to_be_visible()
    expect(tab.page.get_by_role("link", name="Publish a task")).to_have_count(publishes)
    tab.view("Work")
    expect(tab.button("Pause")).to_have_count(publishes)
    expect(tab.button("Drain")).to_have_count(drains)
    tab.go(f"tasks/{seed_id}")
    expect(tab.section("Timeline")).to_contain_text("published")
    expect(tab.button("Withdraw")).to_have_count(publishes)
    tab.go("publish")
    expect(tab.button("Publish")).to_have_count(publishes)


@pytest.mark.deep
def test_a_token_for_metrics_sees_nothing(web: Web, open_tab: OpenTab) -> None:
    tab = open_tab(web).log_in_with(web.token(Scope.METRICS))
    expect(tab.page.get_by_role("alert")).to_contain_text("this needs read")
    expect(tab.heading("Log in")).to_be_visible()
    tab.forgive("status of 403")


def test_markup_cannot_get_in_even_from_a_script(web: Web, open_tab: OpenTab) -> None:
    tab = open_tab(web).log_in()
    with pytest.raises(Error, match="TrustedHTML"):
        tab.page.evaluate("document.body.innerHTML = '<p>x</p>'")
    tab.page.evaluate(
        "() => { const s = document.createElement('style'); s.textContent = '*{}'; document.head.append(s) }"
    )
    wait_for("the browser refuses the style", lambda: [each for each in tab.complaints if "Content Security" in each])
    tab.forgive("Content Security Policy|TrustedHTML")


@pytest.mark.deep
def test_the_link_works_while_another_view_is_open(web: Web, open_tab: OpenTab) -> None:
    tab = open_tab(web).log_in_with(web.token(Scope.READ))
    expect(tab.heading("Overview")).to_be_visible()
    tab.page.goto(tab.link())
    tab.view("Work")
    expect(tab.button("Drain")).to_be_visible()
    assert re.fullmatch("[0-9a-f]{64}", stored(tab))
