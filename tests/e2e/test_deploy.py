"""The files of deploy/ for Prometheus and Grafana, checked against the names that a real node gives."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from crabnet.monitor.metrics import METRICS, Metric
from crabnet.web.exposition import render
from crabnet.web.request_meter import WEB_METRICS, RequestMeter
from tests.support.nodes import Nodes
from tests.support.scraping import scraped

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "crabnet.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
EXAMPLE = DEPLOY / "prometheus" / "prometheus.yml"
NAME = re.compile(r"\b(?:crabnet_\w+)")
SELECTOR = re.compile(r"\b(crabnet_\w+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|=|!=)\s*"([^"]*)"')
GROUPING = re.compile(r"\bby \(([^)]*)\)")
OF_PROMETHEUS = {"instance", "job", "le"}
BY_SERIES: dict[str, Metric] = {name: each for each in (*METRICS, *WEB_METRICS) for name in each.series_names}


def alert_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


def queries() -> Iterator[str]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    yield from (target["expr"] for panel in panels() for target in panel.get("targets", []))
    yield from (str(each["definition"]) for each in dashboard["templating"]["list"] if each["type"] == "query")
    yield from (rule["expr"] for rule in alert_rules())


def test_every_metric_in_a_query_is_given_by_a_real_node(nodes: Nodes) -> None:
    meter = RequestMeter()
    meter.observe("status", 200, 0.01)
    text = render((*scraped(nodes.start("node", [])), *meter.families())).body.decode()
    given: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        given |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    asked = {name for query in queries() for name in NAME.findall(query)}
    assert len(asked) > 50
    assert asked <= given


def test_every_label_in_a_query_is_one_of_the_metric_and_has_such_values() -> None:
    for query in queries():
        for name, matchers in SELECTOR.findall(query):
            labels = {label.name: label for label in BY_SERIES[name].labels}
            for label, sign, value in MATCHER.findall(matchers):
                assert label in labels.keys() | OF_PROMETHEUS, query
                if label not in labels or value.startswith("$"):
                    continue
                known = labels[label]
                if sign in {"=", "!="}:
                    assert known.admits(value), query
                else:
                    assert any(re.fullmatch(value, each) for each in known.values or ()), query
        names = {label.name for name in NAME.findall(query) for label in BY_SERIES[name].labels}
        for grouping in GROUPING.findall(query):
            assert {word.strip() for word in grouping.split(",")} <= names | OF_PROMETHEUS, query


def test_alerts_say_what_happened_and_what_to_do() -> None:
    rules = alert_rules()
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert "$labels.instance" in rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")


def test_the_dashboard_can_be_imported() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing: apt install prometheus")
def test_promtool_takes_rules_queries_and_the_example(tmp_path: Path) -> None:
    replaced = [
        re.sub(r"\$__rate_interval|\$instance", lambda match: "5m" if "rate" in match[0] else ".*", query)
        for query in queries()
        if not query.startswith("label_values")
    ]
    rules = {"groups": [{"name": "all", "rules": [{"record": f"q:{at}", "expr": q} for at, q in enumerate(replaced)]}]}
    every_query = tmp_path / "queries.yml"
    every_query.write_text(yaml.safe_dump(rules), encoding="utf-8")
    for words in (["rules", str(ALERTS)], ["rules", str(every_query)]):
        done = subprocess.run(["promtool", "check", *words], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
    example = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    token = tmp_path / "token"
    token.write_text("secret", encoding="utf-8")
    example["scrape_configs"][0]["authorization"]["credentials_file"] = str(token)
    example["rule_files"] = [str(ALERTS)]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(example), encoding="utf-8")
    words = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
