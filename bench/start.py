"""Measures the time of a command: whole processes from start to exit, compared with a bare interpreter."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.report import Measure, at_most

GROUP: Final = "Start of the command line"
_START_S: Final = 60
_END_S: Final = 30


def measure(*, quick: bool) -> list[Measure]:
    """Medians of processes that run in turns. Raises RuntimeError if the node cannot be started."""
    rounds = 25 if quick else 80
    crabnet = str(Path(sys.executable).with_name("crabnet"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRABNET_")}
    with tempfile.TemporaryDirectory(prefix="crabnet-bench-") as directory:
        data_dir = Path(directory) / "node"
        node = subprocess.Popen(
            [crabnet, "listen", "--data-dir", data_dir, "--listen-addr", "127.0.0.1:0", "--announce-addr", ""],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        try:
            _wait_for(data_dir / "control.sock", node)
            commands = {
                "bare interpreter": [sys.executable, "-c", "pass"],
                "crabnet --version": [crabnet, "--version"],
                "crabnet status": [crabnet, "status", "--data-dir", str(data_dir)],
            }
            taken: dict[str, list[float]] = {name: [] for name in commands}
            for _ in range(rounds):
                for name, command in commands.items():
                    begun = time.perf_counter()
                    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment)
                    taken[name].append(time.perf_counter() - begun)
        finally:
            node.terminate()
            node.wait(_END_S)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    bare = medians["bare interpreter"]
    rows = [Measure(GROUP, name, 1000 * median, "ms") for name, median in medians.items()]
    rows.append(Measure(GROUP, "--version to bare interpreter", medians["crabnet --version"] / bare, "", at_most(3)))
    rows.append(Measure(GROUP, "status to bare interpreter", medians["crabnet status"] / bare, "", at_most(10)))
    return rows


def _wait_for(socket: Path, node: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while not socket.exists():
        if node.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the node did not start")
        time.sleep(0.02)
