"""The look at the data dir before a start: it holds no lock, so other commands change files meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from crabnet.storage.opening.shape import demand_shape

_CHANGE = """
import os, sys
names = [os.path.join(sys.argv[1], name) for name in ("state.json.tmp", "index.sqlite-wal", "feed-risk")]
print("changing", flush=True)
while True:
    for name in names:
        open(name, "w").close()
    for name in names:
        os.unlink(name)
"""


def test_files_that_come_and_go_meanwhile_are_no_fault(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _CHANGE, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as changing:
        try:
            assert changing.stdout is not None
            assert changing.stdout.readline() == "changing\n"
            for _ in range(2_000):
                demand_shape(tmp_path, listens=False)
        finally:
            changing.kill()
