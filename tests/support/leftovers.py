"""What a run of the tests leaves behind fails it: processes, and files in the directories for temporary ones.

The process that leads the run adopts every orphan beneath it, and gives the run directories of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from crabnet.runner.remove_tree import remove_tree
from tests.support import orphans

MEMORY_DIR: Final = "TESTS_MEMORY_DIR"
"""The environment variable that names the run's directory in memory, where there is one."""
_PATIENCE_S: Final = 10
"""How long the test processes themselves may take to end."""
_GLANCE_S: Final = 0.05
_WORKER: Final = "exec(eval(sys.stdin.readline()))"
"""What execnet starts the test processes of pytest-xdist with."""
_MEMORY: Final = Path("/dev/shm")


def _directory(parent: Path | None) -> Path:
    """For everybody, as ``/tmp`` is: some tests start processes of other users. Short: sockets are made in it."""
    made = Path(tempfile.mkdtemp(prefix="ct-", dir=parent))
    made.chmod(0o1777)
    return made


class Watch:
    """From ``__init__`` to ``findings``: one run.

    ``leads`` test processes of its own, and starts no others: then it can tell whose a process is that was left.
    """

    def __init__(self, *, leads: bool) -> None:
        self.temporary = _directory(None)
        self.of_tests = self.temporary / "t"
        """The base of pytest's own directories; what lies elsewhere was not made by ``tmp_path``."""
        self._memory = None
        if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK):
            self._memory = _directory(_MEMORY)
            os.environ[MEMORY_DIR] = str(self._memory)
        os.environ["TMPDIR"] = str(self.temporary)
        os.environ["XDG_STATE_HOME"] = str(self.of_tests / "state")
        tempfile.tempdir = None
        self._leads = leads and sys.platform == "linux"
        self._over = threading.Event()
        if self._leads:
            orphans.adopt(on=True)
            threading.Thread(target=self._reap, daemon=True).start()

    def _reap(self) -> None:
        """Orphans that end are to vanish, as they do elsewhere: tests look for that."""
        while not self._over.wait(_GLANCE_S):
            orphans.reap({pid for pid, words in orphans.children().items() if _WORKER in words})

    def findings(self) -> list[str]:
        """What was left, one line each. Processes are ended then."""
        found = [f"process {pid}: {words}" for pid, words in self._processes().items()] if self._leads else []
        for directory in (self.temporary, self._memory):
            if directory is not None:
                found += [f"file {path}" for path in directory.iterdir() if path != self.of_tests]
        return found

    def _processes(self) -> dict[int, str]:
        deadline = time.monotonic() + _PATIENCE_S
        while (left := orphans.children()) and time.monotonic() < deadline:
            self._over.wait(_GLANCE_S)
        self._over.set()
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return left

    def clean(self, *, keep: bool) -> bool:
        """Remove the run's directories; ``keep`` leaves those of its tests, to look at. False if that was not possible.

        Tests leave directories that their owner may not read.
        """
        unwanted = [] if self._memory is None else [self._memory]
        unwanted += [] if keep else [self.temporary]
        removed = [remove_tree(directory) for directory in unwanted]
        return all(removed)
