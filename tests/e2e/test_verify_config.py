"""``crabnet config verify`` beside a running node."""

from __future__ import annotations

import json

from tests.support.nodes import Nodes


def test_what_a_running_node_holds_is_not_tried(nodes: Nodes) -> None:
    node = nodes.start("node")
    done = node.cli("config", "verify", "--json", "--listen-addr", node.listen, "--announce-addr", "127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["node"]["verdict"] == checks["listen_addr"]["verdict"] == "ok"
    assert "is not tried" in checks["listen_addr"]["detail"]
