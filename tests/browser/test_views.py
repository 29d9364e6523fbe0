"""Every view: accessible, by keyboard alone, narrow, dark and light, live, and over restarts."""

from __future__ import annotations

import os
import re
import signal
from typing import Literal

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenTab
from tests.browser.support import VIEWS, Tab
from tests.support.nodes import Nodes, wait_for, whole_job
from tests.support.ports import reserved_port
from tests.web.support import Web, start


@pytest.mark.parametrize(("scheme", "width"), [pytest.param("light", 1200, marks=pytest.mark.deep), ("dark", 400)])
def test_all_views_are_accessible(
    pair: tuple[Web, Web], open_tab: OpenTab, scheme: Literal["light", "dark"], width: int
) -> None:
    seed_id = whole_job(pair[0].node, pair[1].node, "echo done", title="a job")
    tab = open_tab(pair[0], scheme=scheme, width=width)
    tab.page.goto(tab.base)
    expect(tab.heading("Log in")).to_be_visible()
    assert tab.violations() == []
    tab.log_in()
    for name in VIEWS:
        tab.view(name)
        expect(
            tab.page.get_by_role("link", name=name, exact=True).and_(tab.page.locator("[aria-current=page]"))
        ).to_be_visible()
        assert tab.violations() == [], name
        assert tab.overflow() <= 0, name
    for path in (f"tasks/{seed_id}", "publish"):
        tab.go(path)
        assert tab.violations() == [], path
        assert tab.overflow() <= 0, path
    background = tab.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", background)[:3])) < 128) == (scheme == "dark")


def focused(tab: Tab) -> str:
    """The text of what has the focus."""
    return str(tab.page.evaluate("document.activeElement.innerText || document.activeElement.name || ''")).strip()


def tab_to(tab: Tab, wanted: str) -> None:
    """Press Tab until this has the focus."""
    for _ in range(60):
        tab.page.keyboard.press("Tab")
        if focused(tab) == wanted:
            return
    raise AssertionError(f"Tab never comes to {wanted}")


def test_everything_by_keyboard(pair: tuple[Web, Web], open_tab: OpenTab) -> None:
    tab = open_tab(pair[0]).log_in()
    tab.page.keyboard.press("Tab")
    assert focused(tab) == "Skip to the content"
    tab.page.keyboard.press("Enter")
    expect(tab.page.get_by_role("main")).to_be_focused()
    tab.page.reload()
    for name in (*VIEWS[1:], VIEWS[0]):
        tab_to(tab, name)
        outline = tab.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", "the focus can be seen"
        tab.page.keyboard.press("Enter")
        expect(tab.heading(name)).to_be_focused()
        for _ in range(12):  # back to the start
            tab.page.keyboard.press("Shift+Tab")
    tab.view("Tasks")
    tab_to(tab, "Publish a task")
    tab.page.keyboard.press("Enter")
    expect(tab.heading("Publish a task")).to_be_focused()
    for name, text in (("title", "typed"), ("command", "echo typed")):
        tab_to(tab, name)
        tab.page.keyboard.type(text)
    tab.page.keyboard.press("Enter")
    expect(tab.heading("typed")).to_be_focused()
    tab_to(tab, "Withdraw")
    tab.page.keyboard.press("Enter")
    expect(tab.page.get_by_role("dialog", name="Withdraw the task?")).to_be_visible()
    tab.page.keyboard.type("no more")
    tab.page.keyboard.press("Enter")
    expect(tab.page.locator("#status")).to_contain_text("Expired")
    expect(tab.section("Settlement")).to_contain_text("no more")


@pytest.mark.deep
def test_the_focus_and_what_is_typed_survive_news(pair: tuple[Web, Web], open_tab: OpenTab) -> None:
    seed_id = pair[0].node.publish(title="for sale", bid_window_ms=300_000)
    wait_for("the task comes over", lambda: pair[1].node.status(seed_id))
    tab = open_tab(pair[1]).log_in().go(f"tasks/{seed_id}")
    notes = tab.page.get_by_label("Notes")
    notes.fill("half a sen")
    pair[1].node.bid(seed_id, 3)
    expect(tab.section(re.compile("^Bids: 1"))).to_be_visible()
    expect(notes).to_have_value("half a sen")
    expect(notes).to_be_focused()


@pytest.mark.deep
def test_the_page_goes_on_over_kills(nodes: Nodes, open_tab: OpenTab) -> None:
    web = start(nodes, "n", "--web-addr", f"127.0.0.1:{reserved_port()}")
    web.node.publish(title="before")
    tab = open_tab(web).log_in().view("Tasks")
    expect(tab.page.get_by_role("link", name="before")).to_be_visible()
    os.kill(web.pid, signal.SIGKILL)
    expect(tab.page.locator("#live")).to_have_text("connecting")
    web.node.publish(title="while it was away")
    expect(tab.page.locator("#live")).to_have_text("live")
    expect(tab.page.get_by_role("link", name="while it was away")).to_be_visible()
    web.node.publish(title="after it came back")
    expect(tab.page.get_by_role("link", name="after it came back")).to_be_visible()
    expect(tab.page.get_by_role("alert")).to_be_empty()
    tab.forgive("Failed to load resource|net::ERR")


@pytest.mark.deep
def test_the_page_goes_on_over_a_restart_of_the_node(nodes: Nodes, open_tab: OpenTab) -> None:
    web = start(nodes)
    tab = open_tab(web).log_in().view("Tasks")
    web.node.kill()
    expect(tab.page.get_by_role("alert")).to_contain_text("The node cannot be asked at the moment")
    web.node.words = ("--web-addr", f"127.0.0.1:{web.port}")
    web.node.start()
    web.node.publish(title="in the new life")
    expect(tab.page.get_by_role("link", name="in the new life")).to_be_visible()
    expect(tab.page.get_by_role("alert")).to_be_empty()
    tab.forgive("Failed to load resource|net::ERR")


def test_events_live_filtered_and_bounded(pair: tuple[Web, Web], open_tab: OpenTab) -> None:
    web = pair[0]
    tab = open_tab(web).log_in().view("Events")
    rows = tab.page.get_by_role("table").get_by_role("row")
    seed_id = web.node.publish(title="seen")
    expect(rows.filter(has_text="seed_changed").filter(has_text=seed_id)).not_to_have_count(0)
    tab.page.get_by_label("Kind").select_option("envelope_created")
    expect(rows.filter(has_text="seed_changed")).to_have_count(0)
    expect(rows.filter(has_text=seed_id)).to_have_count(1)
    other = web.node.publish(title="also seen")
    expect(rows.filter(has_text=other)).to_have_count(1)
    tab.button("Hold").click()
    held = web.node.publish(title="not yet")
    expect(tab.page.locator("#fresh")).to_have_text("Held: new events are not shown.")
    expect(rows.filter(has_text=held)).to_have_count(0)
    tab.button("Hold").click()
    expect(rows.filter(has_text=held)).to_have_count(1)
    tab.page.get_by_role("link", name="All", exact=True).click()
    for number in range(70):
        web.node.publish(title=f"many {number}")
    last = web.node.publish(title="the last")
    expect(rows.filter(has_text=last)).not_to_have_count(0)
    assert rows.count() <= 201
    tab.button("Older").click()
    expect(tab.page.locator("#fresh")).to_have_text("Older events.")
    expect(rows.filter(has_text=last)).to_have_count(0)


def test_the_overview_shows_this_node(pair: tuple[Web, Web], open_tab: OpenTab) -> None:
    tab = open_tab(pair[0]).log_in()
    node = pair[0].node
    expect(tab.section("This node")).to_contain_text(node.node_id)
    expect(tab.section("This node")).to_contain_text(node.listen)
    wait_for("the nodes know each other", lambda: node.ask("status")["peers"])
    expect(tab.page.locator("#peer-count")).to_have_text("1")
    expect(tab.section("Disk")).to_contain_text("GiB")
    expect(tab.section("Processes")).to_contain_text("web")
    expect(tab.section("Over time").locator("svg")).to_have_count(6)
    tab.view("Peers")
    expect(tab.section(re.compile("^Peers: 1"))).to_contain_text("bob")
    expect(tab.section("Network").get_by_role("img")).to_be_visible()
