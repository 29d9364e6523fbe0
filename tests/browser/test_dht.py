"""The page of a node in the dht network: where it is reached, its peers, and its process."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenTab
from tests.support.dht import DhtNode, dht_node, needs_libp2p
from tests.support.nodes import Nodes
from tests.web.support import Web, web_words

pytestmark = [needs_libp2p, pytest.mark.deep]


def test_the_page_shows_the_part_in_the_network(nodes: Nodes, open_tab: OpenTab) -> None:
    first = dht_node(nodes, "first")
    words = ["--network", "udp,dht", *web_words(nodes.directory / "second")]
    second = DhtNode(nodes, "second", [first.multiaddr], [], *words).start()
    second.knows(1)
    tab = open_tab(Web(second).await_it()).log_in()
    here = tab.section("This node")
    expect(here).to_contain_text(f"udp {second.listen}")
    expect(here).to_contain_text(f"dht {second.multiaddr}")
    expect(tab.section("Network")).to_contain_text("libp2p peers")
    expect(tab.section("Processes")).to_contain_text("libp2p")
    assert (tab.violations(), tab.overflow() <= 0) == ([], True)
    tab.view("Peers")
    listed = tab.section("Peers: 1")
    expect(listed).to_contain_text(f"p2p:{first.node_id}")
    expect(listed).to_contain_text(f"Libp2p peers reach this node at {second.multiaddr}")
    assert (tab.violations(), tab.overflow() <= 0) == ([], True)
