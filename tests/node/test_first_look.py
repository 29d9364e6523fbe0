"""The look into the data dir before the lock is taken: a checkpoint of another process may move files meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from crabnet.node.durable.baseline import demand_importable, holds_our_state
from crabnet.settings import Settings
from crabnet.storage.files import RealFiles

_MOVE = """
import os, sys
state, bak = (os.path.join(sys.argv[1], name) for name in ("state.json", "state.json.bak"))
print("moving", flush=True)
while True:
    os.rename(state, bak)
    os.rename(bak, state)
"""


def test_a_checkpoint_that_is_moved_meanwhile_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"format": "something else"}')
    settings = Settings(data_dir=tmp_path)
    with subprocess.Popen([sys.executable, "-c", _MOVE, str(tmp_path)], stdout=subprocess.PIPE, text=True) as moving:
        try:
            assert moving.stdout is not None
            assert moving.stdout.readline() == "moving\n"
            for _ in range(2_000):
                assert not holds_our_state(RealFiles(), tmp_path)
                demand_importable(RealFiles(), settings)
        finally:
            moving.kill()
