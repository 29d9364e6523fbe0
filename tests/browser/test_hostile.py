"""What strangers write is shown as text on every view: markup, bidirectional overrides, control characters."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenTab
from tests.browser.support import VIEWS
from tests.support.nodes import Nodes, wait_for, whole_job
from tests.web.support import Web, start

MARKUP = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"
ENTITIES = "&lt;b&gt; &amp; {{7*7}} ${7*7} javascript:alert(1)"
OVERRIDE = "\u202egnp.exe\u202c"
CONTROL = "\x1b[31mred\x07\x00 zero\u200bwidth \u2066iso\u2069 \ufeff"
ATTRIBUTES = """[...document.querySelectorAll('*')].flatMap((each) => each.getAttributeNames())
    .filter((name) => name.startsWith('on') || name === 'style')"""
INVISIBLE = "/[\\u202a-\\u202e\\u2066-\\u2069\\u200b\\ufeff\\u0007\\u001b]/.test(document.body.textContent)"
ALIAS = "eve <b onmouseover=alert(1)>"


@pytest.fixture
def scene(nodes: Nodes) -> tuple[Web, str]:
    """A node that knows of hostile tasks, one of which ran, and a hostile peer; the id of the task that ran."""
    victim = start(nodes, "victim")
    eve = nodes.start("eve", [victim.node.listen], "--alias", ALIAS)
    eve.publish("echo x", title=MARKUP + OVERRIDE, description=CONTROL + "\n" + ENTITIES, rules=MARKUP)
    seed_id = whole_job(
        eve,
        victim.node,
        f"echo '{MARKUP} {OVERRIDE}'",
        title=OVERRIDE + CONTROL.replace("\x00", ""),
        description=MARKUP,
    )
    wait_for("the task is over here", lambda: victim.node.status(seed_id) == "Accepted")
    return victim, seed_id


def test_everything_is_text(scene: tuple[Web, str], open_tab: OpenTab) -> None:
    victim, seed_id = scene
    tab = open_tab(victim).log_in()
    tab.view("Tasks")
    expect(tab.page.get_by_role("link", name=f"{MARKUP}[U+202E]gnp.exe[U+202C]")).to_be_visible()
    hostile = tab.page.get_by_role("link", name="[U+202E]gnp.exe[U+202C][U+001B][31mred")
    expect(hostile).to_be_visible()
    hostile.click()
    tab.loaded()
    assert tab.page.url.endswith(seed_id)
    expect(tab.section("Task")).to_contain_text(MARKUP)
    expect(tab.page.locator("pre.stdout")).to_have_text(f"{MARKUP} U+202Egnp.exeU+202C\n")
    assert tab.page.title().startswith("[U+202E]gnp.exe[U+202C][U+001B]")
    tab.page.get_by_role("link", name="Tasks", exact=True).click()
    tab.page.get_by_role("link", name=MARKUP).click()
    expect(tab.section("Task").locator(".prose")).to_have_text(
        "U+001B[31mredU+0007U+0000 zeroU+200Bwidth U+2066isoU+2069 U+FEFF\n" + ENTITIES
    )
    tab.view("Peers")
    expect(tab.section("Network")).to_contain_text("eve <b onmouseover=alert(1)>")


def test_nothing_runs_and_nothing_is_built(scene: tuple[Web, str], open_tab: OpenTab) -> None:
    victim, seed_id = scene
    tab = open_tab(victim, width=400).log_in()
    for name in (*VIEWS, ""):
        if name:
            tab.view(name)
        else:
            tab.go(f"tasks/{seed_id}")
        assert tab.page.evaluate("window.hacked") is None
        assert tab.page.locator("img, iframe, object, embed, main script, main style, [onmouseover]").count() == 0
        assert tab.page.evaluate(ATTRIBUTES) == []
        assert tab.page.evaluate(INVISIBLE) is False
        assert tab.overflow() <= 0
