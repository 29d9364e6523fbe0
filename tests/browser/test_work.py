"""A whole job through the pages of two nodes, by clicks; and what steers the runs of a node."""

from __future__ import annotations

import json
import re
from typing import cast

import pytest
from playwright.sync_api import expect

from crabnet.access.secret import make_secret
from tests.browser.conftest import OpenTab
from tests.browser.support import Tab
from tests.support.nodes import Json, Nodes, environment, wait_for
from tests.web.support import Web, start


def publish(tab: Tab, title: str, command: str) -> str:
    """Publish a task by the form; its id."""
    tab.view("Tasks")
    tab.page.get_by_role("link", name="Publish a task").click()
    tab.page.get_by_label("Title").fill(title)
    tab.page.get_by_label("Command").fill(command)
    tab.page.get_by_label("Bid window, seconds").fill("300")
    tab.button("Publish").click()
    expect(tab.heading(title)).to_be_visible()
    return tab.page.url.rpartition("/")[2]


def offered(publisher: Tab, worker: Tab, title: str, command: str, price: str = "7") -> str:
    """Publish at one page, bid at the other and claim; the id of the task."""
    seed_id = publish(publisher, title, command)
    worker.view("Tasks")
    worker.page.get_by_role("link", name=title, exact=True).click()
    worker.page.get_by_label("Price").fill(price)
    worker.page.get_by_label("Notes").fill("I can do it")
    worker.button("Bid").click()
    expect(worker.page.get_by_role("status")).to_have_text("The bid is made.")
    bid = publisher.section(re.compile("^Bids: 1")).get_by_role("row").filter(has_text="I can do it")
    expect(bid).to_contain_text(price)
    bid.get_by_role("button", name="Claim").click()
    expect(publisher.page.locator("#status")).to_contain_text("Claimed")
    expect(worker.page.locator("#status")).to_contain_text("this node to run it")
    return seed_id


def test_a_job_from_publish_to_settle_by_clicks(pair: tuple[Web, Web], open_tab: OpenTab) -> None:
    ann, bob = (open_tab(web).log_in() for web in pair)
    seed_id = offered(ann, bob, "count the sheep", "echo four sheep")
    bob.button("Run here").click()
    expect(bob.page.get_by_role("status")).to_have_text("The run has ended.")
    for tab in (ann, bob):
        expect(tab.page.locator("pre.stdout")).to_have_text("four sheep\n")
        expect(tab.section("Output")).to_contain_text("Exit code0")
    ann.button("Accept").click()
    ann.page.get_by_label("Note, for everybody to read").fill("well counted")
    ann.button("Accept the result").click()
    for tab in (ann, bob):
        settled = tab.section("Settlement").get_by_role("row").filter(has_text="well counted")
        expect(settled).to_contain_text("Accepted")
        expect(settled).to_contain_text("yes")
        expect(tab.page.locator("#status")).to_contain_text("It is over.")
        timeline = tab.section("Timeline")
        for what in ("published", "bid 7", "claimed, attempt 1", "run began", "result", "settled: Accepted"):
            row = timeline.get_by_role("row").filter(has=tab.page.get_by_text(what, exact=True))
            expect(row).to_have_count(1)
            expect(row.locator("[data-label=Place]")).to_have_text(re.compile(r"^\d+$"))
        expect(timeline.get_by_role("row").filter(has_text="published")).to_contain_text("ann")
        expect(timeline.get_by_role("row").filter(has_text="run began")).to_contain_text("bob")
        assert tab.web.node.status(seed_id) == "Accepted"
    ann.button("Read the trail").click()
    trail = ann.section("Audit trail").get_by_role("row")
    expect(trail.filter(has_text="settle").filter(has_text="accepted")).not_to_have_count(0)
    (settlement,) = pair[1].node.rows(seed_id, "settlements")
    assert settlement["note"] == "well counted"


@pytest.mark.deep
def test_pause_queue_and_end_of_a_run(pair: tuple[Web, Web], open_tab: OpenTab) -> None:
    ann, bob = (open_tab(web).log_in() for web in pair)
    seed_id = offered(ann, bob, "long", "sleep 100")
    bob.view("Work")
    bob.button("Pause").click()
    bob.page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(bob.page.locator("#pace")).to_contain_text("paused")
    assert pair[1].node.ask("run.list")["paused"] is True
    bob.go(f"tasks/{seed_id}").button("Run here").click()
    expect(bob.page.locator("#status")).to_contain_text("queued")
    bob.view("Work")
    expect(bob.section("Queue: 1 of at most 64")).to_contain_text("sleep 100")
    bob.button("Resume").click()
    expect(bob.section("Running: 1 of at most 4")).to_contain_text("sleep 100")
    bob.button("End").click()
    bob.page.keyboard.press("Escape")
    expect(bob.page.get_by_role("dialog")).to_have_count(0)
    assert cast(list[Json], pair[1].node.ask("run.list")["runs"]), "Escape means no"
    bob.button("End").click()
    bob.button("End the run").click()
    expect(bob.section("Running: 0 of at most 4")).to_be_visible()
    expect(ann.page.locator("#status")).to_contain_text("Forfeited")
    expect(ann.section("Settlement").get_by_role("row").filter(has_text="cancelled")).to_contain_text("Forfeited")
    bid = ann.section(re.compile("^Bids: 1")).get_by_role("row").filter(has_text="I can do it")
    bid.get_by_role("button", name="Claim").click()
    expect(ann.page.locator("#status")).to_contain_text("Claimed")
    assert pair[0].node.seed(seed_id)["attempt"] == 2


@pytest.mark.deep
def test_drain_ends_the_node(nodes: Nodes, open_tab: OpenTab) -> None:
    web = start(nodes)
    tab = open_tab(web).log_in().view("Work")
    tab.button("Drain").click()
    tab.button("Drain and end the node").click()
    assert web.node.await_end() == 0
    expect(tab.page.locator("#live")).to_have_text("connecting")
    tab.forgive("Failed to load resource|net::ERR")


@pytest.mark.deep
def test_refusals_of_the_node_are_said(pair: tuple[Web, Web], open_tab: OpenTab) -> None:
    seed_id = pair[0].node.publish("curl -O example.org", title="fetch", bid_window_ms=300_000)
    wait_for("the task comes to the worker", lambda: pair[1].node.status(seed_id))
    bob = open_tab(pair[1]).log_in().go(f"tasks/{seed_id}")
    bob.page.get_by_label("Price").fill("1")
    bob.button("Bid").click()
    expect(bob.page.get_by_role("alert")).to_contain_text("(command_not_allowed)")
    for title in ("first", "second"):
        with bob.page.expect_response(lambda response: seed_id in response.url):
            pair[0].node.publish("echo news", title=title)
    expect(bob.page.get_by_role("alert")).to_contain_text("(command_not_allowed)")
    assert pair[1].node.rows(seed_id, "bids") == []
    bob.page.get_by_label("Bid even if this node would refuse to run it").check()
    bob.button("Bid").click()
    expect(bob.page.get_by_role("status")).to_have_text("The bid is made.")
    expect(bob.page.get_by_role("alert")).to_be_empty()
    bob.forgive("Failed to load resource: .* status of 403")


def test_the_report_is_redacted(nodes: Nodes, open_tab: OpenTab) -> None:
    token = make_secret()
    web = start(nodes, "n", "--bootstrap-peers", "192.0.2.7:4001", env=environment(CRABNET_WEB_API_TOKEN=token))
    seed_id = web.node.publish("echo a secret recipe", title="the secret title")
    web.node.await_event("envelope_created")
    tab = open_tab(web).log_in().view("Diagnose")
    expect(tab.page.locator("#verdict")).to_contain_text("No check failed.")
    expect(tab.section("Checks")).to_contain_text("sandbox")
    with tab.page.expect_download() as download:
        tab.button("Save the report").click()
    text = download.value.path().read_text(encoding="utf-8")
    report = json.loads(text)
    assert report["parts"]["status"]["node_id"] == web.node.node_id
    assert {"doctor", "config", "topology", "sync"} <= report["parts"].keys()
    assert [each["id"] for each in report["parts"]["tasks"]["seeds"]] == [seed_id]
    assert [each for each in report["events"] if each["kind"] == "envelope_created"]
    for secret in ("secret recipe", "secret title", "192.0.2.7", token):
        assert secret not in text
