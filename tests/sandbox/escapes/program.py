"""What runs the attempts: the end of the program's text."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Callable

from tests.sandbox.escapes.kit import (
    ESCAPES,
    Host,
    Probe,
    own_descriptors,
)


def tried(probe: Probe, host: Host) -> dict[str, object]:
    count = 0
    out: list[str] = []

    def attempt(name: str, action: Callable[[], object]) -> None:
        nonlocal count
        count += 1
        try:
            if action() is not False:
                out.append(name)
        except OSError:
            pass

    probe(host, attempt)
    return {"attempts": count, "out": out}


def in_a_child(probe: Probe, host: Host) -> object:
    """Try it in a process of its own, so that it cannot spoil the others."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        own_descriptors.update({writer})
        try:
            result: object = tried(probe, host)
        except BaseException as error:  # noqa: BLE001 - a probe that fails shows in the test
            result = repr(error)
        os.write(writer, json.dumps(result).encode())
        os._exit(0)
    os.close(writer)
    ready = select.select([reader], [], [], 20)[0]
    answer = os.read(reader, 65536) if ready else b'"hung"'
    os.close(reader)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return json.loads(answer or b'"died"')


def main(order: str) -> None:
    wanted = json.loads(order)
    host: Host = wanted["host"]
    found: dict[str, object] = {}
    for name in wanted["names"]:
        directory = f"{name}.d"
        os.mkdir(directory)
        os.chdir(directory)
        found[name] = in_a_child(ESCAPES[name], host)
        os.chdir("..")
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
