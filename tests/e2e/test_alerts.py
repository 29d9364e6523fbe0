"""Alerts of real nodes come to real receivers: at least once, whatever fails, is killed or is slow meanwhile."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from crabnet.alerts.config import config_of
from crabnet.alerts.streams import NodeDoor, streams_of
from crabnet.settings import Settings
from tests.support.nodes import Json, NodeProcess, Nodes, crabnet, environment, wait_for
from tests.support.receiver import Server, hang, receiver, status

KINDS = ["--alert-kinds", "envelope_created"]
ALERT_AT_START = ["--runner-sandbox", "none"]
"""A node without sandbox tells that by an alert at each start."""


@pytest.fixture
def server() -> Iterator[Server]:
    with receiver() as made:
        yield made


def with_targets(*urls: str, commands: str = "", **more: str) -> dict[str, str]:
    """The environment of a node with these targets."""
    return environment(CRABNET_ALERT_URLS=" ".join(urls), CRABNET_ALERT_COMMANDS=commands, **more)


def told(server: Server, path: str, kind: str) -> list[dict[str, Any]]:
    """The messages that were taken at a path and are about events of a kind."""
    return [each.message for each in server.at(path, taken=True) if kind in each.message["kinds"]]


def seeds_told(server: Server, path: str) -> set[str]:
    return {message["event"]["payload"]["seed_id"] for message in told(server, path, "envelope_created")}


def have_all(server: Server, path: str, seeds: frozenset[str]) -> bool:
    return seeds <= seeds_told(server, path)


def child_pid(node: NodeProcess) -> int:
    """The process that sends alerts."""

    def running() -> int:
        children = cast(list[Json], node.ask("status")["children"])
        found = [each for each in children if each["name"] == "alerts" and each["state"] == "running"]
        return cast(int, found[0]["pid"]) if found else 0

    return wait_for("the process runs", running)


def test_an_alert_of_the_first_start_goes_to_all_targets(nodes: Nodes, server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out"
    env = with_targets(server.url("/a"), server.url("/b"), commands=f"tee -a {out}")
    node = nodes.start("node", (), *ALERT_AT_START, env=env)
    wait_for("it arrives", lambda: told(server, "/a", "sandbox_off") and told(server, "/b", "sandbox_off"))
    wait_for("the command has it", lambda: out.exists() and out.read_text().endswith("\n"))
    assert json.loads(out.read_text().splitlines()[0])["event"]["kind"] == "sandbox_off"
    [message] = told(server, "/a", "sandbox_off")
    [alert] = node.events("sandbox_off")
    assert message["event"]["id"] == alert.id
    assert message["node"] == {"id": node.node_id, "alias": "node", "namespace": "default", "version": "0.1.0"}
    wait_for("all is reported", lambda: len(node.events("alert_sent", event_id=alert.id)) == 3)


def test_without_targets_there_is_no_process(nodes: Nodes) -> None:
    node = nodes.start("node", (), env=with_targets())
    [child] = [each for each in cast(list[Json], node.ask("status")["children"]) if each["name"] == "alerts"]
    assert (child["state"], child["pid"]) == ("off", None)


def test_a_target_that_fails_is_tried_again(nodes: Nodes, server: Server) -> None:
    server.answers["/a"] = [status(500), status(503)]
    node = nodes.start("node", (), *KINDS, env=with_targets(server.url("/a")))
    seed_id = node.publish()
    sent = node.await_event("alert_sent")
    assert sent.payload["failures"] == 2
    bodies = [each.message for each in server.at("/a")]
    assert len(bodies) == 3
    assert {body["id"] for body in bodies} == {f"{node.node_id}:{sent.payload['event_id']}"}
    assert seeds_told(server, "/a") == {seed_id}


def test_what_cannot_be_delivered_becomes_an_event_and_no_alert(nodes: Nodes, server: Server) -> None:
    server.usual["/bad"] = status(500)
    words = [*KINDS, "--alert-retry-s", "1"]
    node = nodes.start("node", (), *words, env=with_targets(server.url("/bad"), server.url("/good")))
    node.publish()
    dead = node.await_event("alert_undelivered")
    [published] = node.events("envelope_created")
    assert dead.severity == "warning"
    assert dead.payload["target"] == f"1 {server.url('/…')}"
    assert (dead.payload["reason"], dead.payload["detail"]) == ("send_failed", "it answered 500")
    assert (dead.payload["event_id"], dead.payload["count"]) == (published.id, 1)
    assert dead.payload["failures"] == len(server.at("/bad"))
    assert "were not delivered to 1 http://127.0.0.1" in node.errors()
    second = node.publish()
    wait_for("the good target has both", lambda: second in seeds_told(server, "/good"))
    assert not told(server, "/good", "alert_undelivered")


def test_a_target_that_hangs_delays_no_other(nodes: Nodes, server: Server) -> None:
    server.usual["/slow"] = hang
    words = [*KINDS, "--alert-timeout-ms", "600000"]
    node = nodes.start("node", (), *words, env=with_targets(server.url("/slow"), server.url("/quick")))
    seeds = {node.publish() for _ in range(4)}
    wait_for("the other target has all", lambda: seeds <= seeds_told(server, "/quick"))
    assert len(server.at("/slow")) == 1


@pytest.mark.deep
def test_every_alert_arrives_though_the_node_is_killed(nodes: Nodes, server: Server) -> None:
    server.usual["/a"] = status(500)
    words = [*KINDS, "--alert-messages-per-minute", "600"]
    node = nodes.make("node", (), *words, env=with_targets(server.url("/a"), server.url("/b")))
    seeds: set[str] = set()
    for _ in range(3):
        node.start()
        seeds |= {node.publish() for _ in range(3)}
        wait_for("one target has them", partial(have_all, server, "/b", frozenset(seeds)))
        wait_for("the other one refuses", lambda: server.at("/a"))
        node.kill()
    node.start()
    server.usual["/a"] = status(200)
    wait_for("the other one has them, too", lambda: seeds <= seeds_told(server, "/a"))
    wait_for("that is reported", lambda: node.events("alert_sent", target=f"1 {server.url('/…')}", failures=0))


def test_the_process_is_started_again_and_forgets_nothing(nodes: Nodes, server: Server) -> None:
    server.answers["/a"] = [status(500)] * 2
    node = nodes.start("node", (), *KINDS, env=with_targets(server.url("/a")))
    first = child_pid(node)
    seed_id = node.publish()
    wait_for("it is tried", lambda: server.at("/a"))
    os.kill(first, signal.SIGKILL)
    wait_for("it arrives", lambda: seed_id in seeds_told(server, "/a"))
    assert child_pid(node) != first


def test_what_was_taken_is_not_sent_again(nodes: Nodes, server: Server) -> None:
    node = nodes.start("node", (), *KINDS, env=with_targets(server.url("/a")))
    first = node.publish()
    node.await_event("alert_sent")
    wait_for("the cursor is kept", (node.data_dir / "alerts.cursor").exists)
    assert node.end() == 0
    node.start()
    second = node.publish()
    wait_for("the second one arrives", lambda: second in seeds_told(server, "/a"))
    told_of = [message["event"]["payload"]["seed_id"] for message in told(server, "/a", "envelope_created")]
    assert told_of == [first, second]


def test_a_gap_in_the_events_is_told(nodes: Nodes, server: Server) -> None:
    small = ["--events-rotate-bytes", "4096", "--events-keep-files", "1"]
    node = nodes.make("node", (), *small, env=with_targets(server.url("/a")))
    node.start()
    wait_for("the cursor is kept", (node.data_dir / "alerts.cursor").exists)
    node.end()
    node.env = environment()
    node.start()
    for _ in range(30):
        node.publish()
    node.end()
    node.env = with_targets(server.url("/a"))
    node.start()
    gaps = wait_for("it is told", lambda: [each.message for each in server.at("/a") if each.message["kind"] == "gap"])
    assert gaps[0]["gap"]["first_id"] > 0
    assert "may be missing" in gaps[0]["text"]


def test_a_damaged_cursor_is_said_and_replaced(nodes: Nodes, server: Server) -> None:
    node = nodes.make("node", (), *KINDS, env=with_targets(server.url("/a")))
    node.data_dir.mkdir(parents=True, mode=0o700)
    (node.data_dir / "alerts.cursor").write_bytes(b"\xff\x00 nonsense")
    node.start()
    detail = str(node.await_event("child_started", child="alerts").payload["detail"])
    assert "alerts.cursor is not a cursor of alerts" in detail
    seed_id = node.publish()
    wait_for("it arrives", lambda: seed_id in seeds_told(server, "/a"))
    wait_for("it is whole", lambda: b"crabnet-alerts-1" in (node.data_dir / "alerts.cursor").read_bytes())


def test_secrets_are_nowhere_but_at_their_targets(nodes: Nodes, server: Server, tmp_path: Path) -> None:
    secrets = ["s3cr3t-path", "s3cr3t-login", "s3cr3t-token", "s3cr3t-argument", "s3cr3t-sign", "s3cr3t-file"]
    urls = [
        server.url("/s3cr3t-path").replace("//", "//u:s3cr3t-login@", 1),
        "tgram://123456789:s3cr3t-token/12315544",
    ]
    kept = tmp_path / "urls"
    kept.write_text(f"# mine\n\n{server.url('/s3cr3t-file')}\n")
    kept.chmod(0o600)
    env = with_targets(*urls, commands="false s3cr3t-argument", CRABNET_ALERT_SECRET="s3cr3t-sign")
    words = [*KINDS, "--alert-retry-s", "0", "--alert-timeout-ms", "5000", "--alert-urls-file", str(kept)]
    node = nodes.start("node", (), *words, env=env)
    arguments: set[str] = set()
    node.publish()

    def over() -> bool:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                arguments.add(path.read_bytes().decode(errors="replace"))
            except OSError:
                continue
        return len(node.events("alert_undelivered", "alert_sent")) >= 4

    wait_for("all targets are tried", over)
    assert server.at("/s3cr3t-path")
    assert server.at("/s3cr3t-file")
    shown = crabnet("config", "show", "--data-dir", str(node.data_dir), env=env).stdout
    shown += crabnet("config", "show", "--json", "--data-dir", str(node.data_dir), env=env).stdout
    verified = crabnet("config", "verify", "--data-dir", str(node.data_dir), "--announce-addr", "", env=env)
    status_shown = node.ok("status") + node.ok("status", "--json")
    node.end()
    texts = {"config show": shown, "config verify": verified.stdout + verified.stderr, "status": status_shown}
    texts |= {"stderr": node.errors(), "argv": "\n".join(each for each in arguments if "s3cr3t-argument" not in each)}
    texts |= {
        str(path): path.read_bytes().decode(errors="replace") for path in node.data_dir.rglob("*") if path.is_file()
    }
    found = [(where, secret) for where, text in texts.items() for secret in secrets if secret in text]
    assert found == []
    # The command's own arguments are visible while it runs, as the documentation says; nobody else has them.
    with_argument = [each for each in arguments if "s3cr3t-argument" in each]
    assert all(each.split("\0")[0].endswith("false") for each in with_argument)
    assert (node.data_dir / "alerts.cursor").stat().st_mode & 0o077 == 0


def test_an_unusable_file_of_targets_is_said_and_the_node_goes_on(nodes: Nodes, tmp_path: Path) -> None:
    kept = tmp_path / "urls"
    kept.write_text("https://host/s3cr3t\n")
    kept.chmod(0o644)
    words = ["--alert-urls-file", str(kept)]
    node = nodes.start("node", (), *words)
    failed = node.await_event("child_failed", child="alerts")
    assert failed.payload["reason"] == "unsafe_permissions"
    assert "run chmod 600 on it" in str(failed.payload["detail"])
    assert "alerts are not sent" in str(failed.payload["detail"])
    verified = crabnet("config", "verify", "--data-dir", str(node.data_dir), "--announce-addr", "", *words)
    assert "run chmod 600 on it" in verified.stdout


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ("clock_steped", "alert_kinds has clock_steped, which is no kind of event"),
        ("alert_undelivered", "alert_kinds has alert_undelivered, but what happens to alerts is not sent as an alert"),
    ],
)
def test_kinds_that_are_none_are_refused(tmp_path: Path, kinds: str, said: str) -> None:
    words = ["--data-dir", str(tmp_path / "d"), "--listen-addr", "127.0.0.1:0", "--alert-kinds", kinds]
    started = crabnet("listen", *words)
    assert started.returncode == 2
    assert said in started.stderr
    assert not (tmp_path / "d").exists()
    verified = crabnet("config", "verify", *words)
    assert verified.returncode == 2
    assert said in verified.stdout + verified.stderr


def test_the_cursor_moves_past_events_that_are_no_alerts(nodes: Nodes) -> None:
    node = nodes.start("node")
    node.publish()
    last = node.await_event("envelope_created").id
    config = config_of(Settings(data_dir=node.data_dir, alert_kinds=("seed_changed",)))
    alerts, kinds = streams_of(config)
    door = NodeDoor(config)
    wait_for("all before is examined", lambda: door.examined(alerts, 0) >= last)
    [changed] = node.events("seed_changed")
    assert door.examined(kinds, 0) == 0
    assert door.examined(kinds, changed.id) >= changed.id


def test_the_command_tells_what_happens_to_a_test(server: Server, tmp_path: Path) -> None:
    server.usual["/bad"] = status(401)
    env = with_targets(server.url("/good"), server.url("/bad"), commands="true")
    words = ["alerts", "test", "--data-dir", str(tmp_path / "d")]
    done = crabnet(*words, env=env)
    assert done.returncode == 7
    place = server.url("/…")
    assert done.stdout.splitlines() == [
        f"1 {place}: taken",
        f"2 {place}: failed: send_failed: it answered 401",
        "3 true …: taken",
    ]
    assert "1 of 3 targets did not take the message" in done.stderr
    assert server.at("/good")[0].message["kind"] == "test"
    one = crabnet(*words, "--target", "1", "--json", env=env)
    assert one.returncode == 0
    assert json.loads(one.stdout) == {"targets": [{"number": 1, "name": f"1 {place}", "reason": None, "detail": ""}]}
    assert len(server.at("/good")) == 2
    assert crabnet(*words, "--target", "9", env=env).returncode == 2
    none = crabnet(*words)
    assert (none.returncode, "no target is configured" in none.stderr) == (2, True)
    assert not (tmp_path / "d").exists()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from crabnet.cli.main import main

    monkeypatch.setitem(sys.modules, "apprise", None)  # as if it were not installed
    monkeypatch.setenv("CRABNET_ALERT_URLS", "tgram://123456789:s3cr3t/12315544")
    assert main(["alerts", "test"]) == 7
    shown = capsys.readouterr().out
    assert shown == (
        "1 tgram://…: failed: unavailable: apprise is not installed; install crabnet with its extra `alerts`:"
        " pip install 'crabnet-node[alerts]'\n"
    )
