"""Commands of Crabnet in processes of their own that need not start Python and import everything first.

A process that has imported the command line forks once for each command. What is forked has its own arguments,
environment, directory, standard streams and end, like a process that was started anew. Tests of the start itself
(``cli/test_process.py``) start Python.

The file is a program, too: the process that forks. It ends when its control socket is closed.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final, NoReturn

_ORDER_BYTES_MAX: Final = 100_000
_ROOT: Final = Path(__file__).parents[2]
_lock: Final = threading.Lock()
_servers: dict[int, tuple[subprocess.Popen[bytes], socket.socket]] = {}
"""This process's server and its control socket, by the id of this process: a fork must not use that of its parent."""


def run_warm(words: list[str], env: dict[str, str], timeout_s: float) -> subprocess.CompletedProcess[str] | None:
    """Run ``crabnet`` with these words to its end. None if it must be started the usual way, with these variables.

    Raises subprocess.TimeoutExpired.
    """
    order = json.dumps([words, env, str(Path.cwd()), _umask()]).encode()
    if len(order) > _ORDER_BYTES_MAX or _start_matters(env) or not hasattr(os, "pidfd_open"):
        return None
    (out, out_end), (err, err_end), (answers, answers_end) = os.pipe(), os.pipe(), socket.socketpair()
    with os.fdopen(out, "rb") as stdout, os.fdopen(err, "rb") as stderr, answers:
        try:
            socket.send_fds(_control(), [order], [out_end, err_end, answers_end.fileno()])
        finally:
            os.close(out_end)
            os.close(err_end)
            answers_end.close()
        pid = int.from_bytes(answers.recv(4), "big")
        try:
            texts = _read_all([stdout.fileno(), stderr.fileno()], timeout_s)
            answers.settimeout(timeout_s)
            status = int.from_bytes(answers.recv(4), "big")
        except TimeoutError:
            os.kill(pid, 9)
            raise subprocess.TimeoutExpired(words, timeout_s) from None
    code = os.waitstatus_to_exitcode(status)
    said, told = (text.decode().replace("\r\n", "\n").replace("\r", "\n") for text in texts)
    return subprocess.CompletedProcess(words, code, said, told)


def server_pid() -> int | None:
    """The process of this process's server, a child of it; None before the first command."""
    server = _servers.get(os.getpid())
    return None if server is None else server[0].pid


def _start_matters(env: dict[str, str]) -> bool:
    """True if the interpreter itself would start in another way, or if its coverage is measured."""
    names = {*env, *os.environ}
    watched = [name for name in names if name.startswith(("PYTHON", "LANG", "LC_", "LD_", "COV"))]
    return any(name.startswith("COV") or env.get(name) != os.environ.get(name) for name in watched)


def _umask() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("Umask:")), 8)


def _control() -> socket.socket:
    with _lock:
        known = _servers.get(os.getpid())
        if known is None:
            control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                # Python remembers of its streams whether they can be rewound: these are pipes, as those of commands.
                server = subprocess.Popen(
                    [sys.executable, __file__, str(theirs.fileno())], stdin=subprocess.DEVNULL, cwd=_ROOT,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[theirs.fileno()],
                )  # fmt: skip
            _servers[os.getpid()] = server, control
            return control
        return known[1]


def _read_all(fds: list[int], timeout_s: float) -> list[bytes]:
    """Everything from these pipes until all are closed."""
    deadline = time.monotonic() + timeout_s
    found = {fd: bytearray() for fd in fds}
    with selectors.DefaultSelector() as selector:
        for fd in fds:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                chunk = os.read(key.fd, 65_536)
                found[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
    return [bytes(found[fd]) for fd in fds]


def _serve(control: socket.socket) -> None:
    """Fork for each order. Returns in each forked process, with everything as ordered."""
    running: dict[int, tuple[int, socket.socket]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd in running:
                    pid, answers = running.pop(key.fd)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    _, status = os.waitpid(pid, 0)
                    with answers:
                        answers.send(status.to_bytes(4, "big"))
                    continue
                order, fds, _, _ = socket.recv_fds(control, _ORDER_BYTES_MAX, 3)
                if not order:
                    os._exit(0)
                pid = os.fork()
                if pid == 0:
                    _become(order, fds)
                    return
                os.close(fds[0])
                os.close(fds[1])
                answers = socket.socket(fileno=fds[2])
                answers.send(pid.to_bytes(4, "big"))
                pidfd = os.pidfd_open(pid)
                running[pidfd] = (pid, answers)
                selector.register(pidfd, selectors.EVENT_READ)


def _become(order: bytes, fds: list[int]) -> None:
    words, env, directory, umask = json.loads(order)
    os.dup2(fds[0], 1)
    os.dup2(fds[1], 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 4_096 else 4_096)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(directory)
    os.umask(umask)
    sys.argv = ["crabnet", *words]


def _main() -> NoReturn:
    """Import what commands use, then fork them."""
    import crabnet.cli.group
    import crabnet.cli.main
    import crabnet.control.client
    import crabnet.node.operations.oneshot
    import crabnet.node.operations.reading
    import crabnet.node.run

    gc.collect()
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.exit(crabnet.cli.main.main())


if __name__ == "__main__":
    _main()
