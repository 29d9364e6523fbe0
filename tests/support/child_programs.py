"""Children of every kind, for tests of ``node.children``."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from crabnet.child import Lifeline, Retry
from crabnet.errors import Reason


def _for_ever() -> None:
    while True:
        signal.pause()


def works(lifeline: Lifeline) -> None:
    """Ends by its lifeline only."""
    lifeline.ready(detail="here I am", addresses=["127.0.0.1:3000"])
    _for_ever()


def echoes(lifeline: Lifeline) -> None:
    """Uses the lifeline at once, and says goodbye on it."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    lifeline.ready()
    lifeline.socket.sendall(b"right after the handshake\n")
    while said := lifeline.socket.recv(4096):
        lifeline.socket.sendall(said)
    lifeline.socket.sendall(b"goodbye")


def tells(lifeline: Lifeline) -> None:
    """Tells all that others could see of it, and what it was given."""
    seen = {
        "argv": Path("/proc/self/cmdline").read_text(),
        "environment": dict(os.environ),
        "cwd": str(Path.cwd()),
        "session": os.getsid(0) == os.getpid(),
        "descriptors": descriptors(),
        "given": lifeline.given.decode(),
        "sigint": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        "path": sys.path,
    }
    lifeline.ready()
    lifeline.socket.sendall(json.dumps(seen).encode() + b"\n")
    _for_ever()


def descriptors() -> dict[int, str]:
    """What the open descriptors of this process are."""
    listed = list(Path("/proc/self/fd").iterdir())  # then the descriptor for this is closed
    return {int(each.name): str(each.readlink()) for each in listed if each.exists()}


def has_a_helper(lifeline: Lifeline) -> None:
    """Starts a process of its own, and ends without it."""
    with subprocess.Popen(["sleep", "1000"]) as helper:
        lifeline.ready(detail=str(helper.pid))
        _for_ever()


def writes(lifeline: Lifeline) -> None:
    """Writes to its stderr."""
    print("a word on stderr", file=sys.stderr, flush=True)
    lifeline.ready()
    _for_ever()


def hostile_words(lifeline: Lifeline) -> None:
    """A child in the hands of a stranger."""
    lifeline.ready(detail="\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}red\n" + "x" * 5_000, addresses=["a\x00"] * 999)
    _for_ever()


def stubborn(lifeline: Lifeline) -> None:
    """Does not end when it is asked."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    lifeline.ready()
    _for_ever()


def computes(lifeline: Lifeline) -> None:
    """Never releases the interpreter: no thread of it runs again, and no handler of a signal."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    lifeline.ready()
    re.match(r"(a+)+$", "a" * 99 + "b")


def silent(_: Lifeline) -> None:
    """Never says that it works."""
    _for_ever()


def deaf(_: Lifeline) -> None:
    """The same, and it does not end when it is asked."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _for_ever()


def exits(_: Lifeline) -> None:
    """Ends without a word."""
    os._exit(3)


def closes(lifeline: Lifeline) -> None:
    """Closes its lifeline without a word, and lives on."""
    lifeline.socket.close()
    _for_ever()


def returns(lifeline: Lifeline) -> None:
    """Ends soon after it was ready."""
    lifeline.ready()


def raises(_: Lifeline) -> None:
    """A bug."""
    raise ValueError("a secret")


def port_in_use(lifeline: Lifeline) -> None:
    """Somebody must do something."""
    lifeline.fail(Reason.ADDRESS_IN_USE, "127.0.0.1:3000 is in use by another program", Retry.SLOWLY)


def hopeless(lifeline: Lifeline) -> None:
    """Only a restart of the node can help."""
    lifeline.fail(Reason.INVALID_CONFIG, "this cannot work", Retry.NEVER)


def lacks_a_module(lifeline: Lifeline) -> None:
    """Something is not installed."""
    import no_such_module  # type: ignore[import-not-found]  # noqa: F401

    lifeline.ready()


def fails_until_told(lifeline: Lifeline) -> None:
    """Works once the file that it was given exists."""
    if not Path(lifeline.given.decode()).exists():
        lifeline.fail(Reason.UNAVAILABLE, "not yet")
    works(lifeline)


def starts_when_told(lifeline: Lifeline) -> None:
    """Takes its time to start: until the file that it was given exists."""
    while not Path(lifeline.given.decode()).exists():
        time.sleep(0.005)
    works(lifeline)


def says_what_it_was_given(lifeline: Lifeline) -> None:
    """Its handshake is what it was given."""
    lifeline.socket.sendall(lifeline.given)
    _for_ever()


def talks_without_end(lifeline: Lifeline) -> None:
    """Its handshake has no end."""
    while True:
        lifeline.socket.sendall(b"x" * 4096)
        time.sleep(0)
