"""The two lines of the README between two machines, each with a home of its own and nothing in it. Needs root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import page, steps
from tests.support.netns import Lab, needs_namespaces
from tests.support.nodes import DEADLINE_S, wait_for

LIMIT_S = 60
"""The issue's bound from the first command to the output of the last."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    needs_namespaces()
    with Lab() as lab:
        yield lab


class Machine:
    """A host with an empty home, where the `crabnet` of an installation is in the path."""

    def __init__(self, lab: Lab, name: str, directory: Path) -> None:
        self.home = directory / name
        self.home.mkdir()
        self._prefix = ["ip", "netns", "exec", lab.host(name)]
        self._started: list[subprocess.Popen[str]] = []

    def command(self, line: str) -> list[str]:
        """What runs a line in a login-like shell: nothing of the environment of the tests but the path."""
        path = f"{Path(sys.executable).parent}:{os.defpath}"
        return [*self._prefix, "env", "-i", f"HOME={self.home}", f"PATH={path}", "LANG=C.UTF-8", "/bin/sh", "-c", line]

    def start(self, line: str) -> subprocess.Popen[str]:
        """Leave a command running. Its output goes to a file in the home."""
        log = self.home / f"{len(self._started)}.log"
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                self.command(f"exec {line}"),
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
            )
        self._started.append(process)
        wait_for(f"{line} listens", lambda: "listen started on" in log.read_text(encoding="utf-8"))
        return process

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        return subprocess.run(
            self.command(line), cwd=self.home, capture_output=True, text=True, check=False, timeout=DEADLINE_S
        )

    def close(self) -> None:
        """End what was left running."""
        for process in self._started:
            if process.poll() is None:
                process.terminate()
                process.wait(DEADLINE_S)


@pytest.mark.deep
@pytest.mark.parametrize("buyer_has_a_node", [False, True])
def test_the_two_lines(lab: Lab, tmp_path: Path, *, buyer_has_a_node: bool) -> None:
    if shutil.which("crabnet", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("NOT TESTED: this environment has no command crabnet")
    typed = [step.command for step in steps(page("README.md")) if step.host]
    sells, buys = typed[:2]
    buyer, worker = (Machine(lab, name, tmp_path) for name in ("buyer", "worker"))
    lab.link("buyer", "worker")
    address = lab.address("worker", "buyer")
    try:
        began = time.monotonic()
        if buyer_has_a_node:
            buyer.start("crabnet listen")
        worker.start(re.sub(r"192\.0\.2\.7", address, sells))
        hello = buyer.run(buys)
        took_s = time.monotonic() - began
        assert (hello.stdout, hello.stderr, hello.returncode) == ("hello\n", "", 0)
        assert took_s < LIMIT_S
        missing = buyer.run(buys.replace("echo hello", "sha256sum /nosuch"))
        assert (missing.stdout, missing.returncode) == ("", 1)
        assert "/nosuch" in missing.stderr
        assert "earned                                         2" in worker.run("crabnet account").stdout
    finally:
        buyer.close()
        worker.close()
