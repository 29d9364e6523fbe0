"""The examples of docs/API.md work as they stand there, and the generated pages are those of the code."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crabnet.operations.openapi import openapi_json
from crabnet.operations.remedies import problems_markdown
from tests.support.nodes import Nodes, environment
from tests.web.support import start

DOCS = Path(__file__).parents[2] / "docs"


def test_the_generated_pages_are_up_to_date() -> None:
    assert (DOCS / "PROBLEMS.md").read_text(encoding="utf-8") == problems_markdown(), "run scripts/write_reference.py"
    assert (DOCS / "openapi.json").read_bytes() == openapi_json(), "run scripts/write_reference.py"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_examples_of_the_page_work(nodes: Nodes) -> None:
    web = start(nodes)
    page = (DOCS / "API.md").read_text(encoding="utf-8")
    block = re.search(r"```sh\n(.*?)```", page, re.DOTALL)
    assert block is not None
    script = (
        block[1].replace("127.0.0.1:3000", f"127.0.0.1:{web.port}").replace("curl -s ", "curl -sS --fail-with-body ")
    )
    command = f"{shlex.quote(sys.executable)} -m crabnet"
    script = f'set -e\ncrabnet() {{ {command} "$@" --data-dir {shlex.quote(str(web.node.data_dir))}; }}\n{script}'
    script = script.replace("\ncurl", "\necho; curl")
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True, text=True, check=False, cwd=nodes.directory, env=environment(PATH=os.environ["PATH"]),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert "\nok\n" in done.stdout
    assert json.loads(answers[0])["node_id"] == web.node.node_id
    assert "events" in json.loads(answers[1])
    assert json.loads(answers[2])["seed"]["title"] == "first"
