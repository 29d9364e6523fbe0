"""The redacted report of a running node over HTTP."""

from __future__ import annotations

from crabnet.access.secret import make_secret
from crabnet.operations.model import Scope
from tests.support.nodes import Nodes, environment
from tests.web.support import start


def test_a_report_has_no_secret_no_address_and_no_content_of_tasks(nodes: Nodes) -> None:
    token = make_secret()
    words = ("--bootstrap-peers", "192.0.2.7:4001,relay.example.org:4001")
    web = start(nodes, "n", *words, env=environment(CRABNET_WEB_API_TOKEN=token))
    seed_id = web.node.publish("echo recipe", title="headline", description="anecdote")
    web.node.await_event("envelope_created")  # only written events are in it
    answer = web.ask("GET", "/api/v1/report", scope=Scope.READ)
    assert answer.status == 200
    for hidden in (token, "192.0.2.7", "relay.example.org", "recipe", "headline", "anecdote"):
        assert hidden.encode() not in answer.body, hidden
    parts = answer.json["parts"]
    assert isinstance(parts, dict)
    for name in ("status", "identity", "config", "doctor", "topology", "peers", "sync", "feeds", "tasks", "runs"):
        part = parts[name]
        assert isinstance(part, dict), name
        assert "error" not in part, name
    assert seed_id.encode() in answer.body
    events = answer.json["events"]
    assert isinstance(events, list)
    assert {"node_started", "envelope_created"} <= {each["kind"] for each in events if isinstance(each, dict)}
    again = web.ask("GET", "/api/v1/report", scope=Scope.READ).json["parts"]
    assert isinstance(again, dict)
    assert again["config"] != parts["config"], "another report has other words for addresses"
