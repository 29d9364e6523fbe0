"""The control socket: the real server and client on real sockets, and hostile local input."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.control.client import NodeNotRunningError, call
from crabnet.errors import (
    ERRORS_BY_EXIT_CODE,
    CrabnetError,
    DataDirDamagedError,
    NetworkError,
    NodeTimeoutError,
    Reason,
    RefusedError,
    StorageFailedError,
    UsageError,
)
from crabnet.node.operations import control_server
from crabnet.node.operations.control_server import serve_control
from crabnet.protocol.canonical import JsonObject, JsonValue

VALID = b'{"v":1,"id":7,"method":"echo","params":{"x":1}}\n'


class Dispatch:
    """Answers ``echo``; raises what ``errors`` holds; waits for ``release`` on ``wait``."""

    def __init__(self) -> None:
        self.errors: dict[str, Exception] = {}
        self.started = trio.Event()
        self.release = trio.Event()
        self.finished = trio.Event()
        self.calls: list[tuple[str, JsonObject]] = []

    async def __call__(self, method: str, params: JsonObject) -> JsonValue:
        self.calls.append((method, params))
        if method in self.errors:
            raise self.errors[method]
        if method == "wait":
            self.started.set()
            await self.release.wait()
            self.finished.set()
        if method == "big":
            return "x" * 3_000_000
        if method == "huge":
            return "x" * (limits.CONTROL_RESPONSE_BYTES_MAX + 1)
        return {"method": method, "params": params}


@asynccontextmanager
async def serving(
    data_dir: Path, dispatch: Dispatch, on_failure: Callable[[str, Exception], None] | None = None
) -> AsyncIterator[Path]:
    path = data_dir / "control.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_control, path, dispatch, on_failure=on_failure))
        yield path
        nursery.cancel_scope.cancel()


async def ask(data_dir: Path, method: str, params: JsonObject, timeout_ms: int | None = 20_000) -> JsonValue:
    return await trio.to_thread.run_sync(call, data_dir, method, params, timeout_ms)


async def raw(path: Path, data: bytes) -> bytes:
    """Send bytes, end the sending side, return everything that comes back."""
    stream = await trio.open_unix_socket(path)
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            await stream.send_eof()
        answer = b""
        with contextlib.suppress(trio.BrokenResourceError):
            while chunk := await stream.receive_some(65_536):
                answer += chunk
        return answer


async def test_a_call_and_its_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, Dispatch()) as path:
        assert await ask(tmp_path, "echo", {"text": "grüße\n\x00", "n": None}) == {
            "method": "echo",
            "params": {"text": "grüße\n\x00", "n": None},
        }
        assert await ask(tmp_path, "big", {}) == "x" * 3_000_000
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_requests_on_one_connection_are_answered_in_order_with_their_ids(tmp_path: Path) -> None:
    async with serving(tmp_path, Dispatch()) as path:
        lines = b"".join(b'{"v":1,"id":%s,"method":"m"}\n' % name for name in (b"1", b'"two"', b"[3]", b"null"))
        answers = [json.loads(line) for line in (await raw(path, lines)).splitlines()]
    assert [answer["id"] for answer in answers] == [1, "two", [3], None]
    assert all(answer["result"] == {"method": "m", "params": {}} for answer in answers)


@pytest.mark.parametrize("error_class", list(ERRORS_BY_EXIT_CODE.values()))
async def test_errors_arrive_with_class_reason_and_message(tmp_path: Path, error_class: type[CrabnetError]) -> None:
    dispatch = Dispatch()
    dispatch.errors["m"] = error_class("what happened", Reason.PRICE_TOO_LOW)
    async with serving(tmp_path, dispatch):
        with pytest.raises(error_class) as caught:
            await ask(tmp_path, "m", {})
    assert type(caught.value) is error_class
    assert (caught.value.reason, caught.value.message) == (Reason.PRICE_TOO_LOW, "what happened")


async def test_an_error_inside_a_nursery_group_is_still_that_error(tmp_path: Path) -> None:
    dispatch = Dispatch()
    dispatch.errors["m"] = ExceptionGroup("nursery", [RefusedError("no", Reason.NOT_DUE)])
    async with serving(tmp_path, dispatch):
        with pytest.raises(RefusedError):
            await ask(tmp_path, "m", {})


async def test_an_unexpected_error_is_answered_reported_and_survived(tmp_path: Path) -> None:
    dispatch = Dispatch()
    dispatch.errors["m"] = KeyError("secret detail")
    reported: list[tuple[str, str]] = []
    async with serving(tmp_path, dispatch, lambda method, error: reported.append((method, repr(error)))):
        with pytest.raises(CrabnetError) as caught:
            await ask(tmp_path, "m", {})
        assert caught.value.reason is Reason.INTERNAL
        assert "secret detail" not in caught.value.message
        assert await ask(tmp_path, "echo", {}) is not None
    assert reported == [("m", "KeyError('secret detail')")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "malformed"),
        (b"\x00", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"not json", "malformed"),
        (b"[]", "malformed"),
        (b"null", "malformed"),
        (b"1", "malformed"),
        (b"{}", "unsupported_version"),
        (b'{"v":2,"method":"m"}', "unsupported_version"),
        (b'{"v":true,"method":"m"}', "unsupported_version"),
        (b'{"v":"1","method":"m"}', "unsupported_version"),
        (b'{"v":1}', "malformed"),
        (b'{"v":1,"method":1}', "malformed"),
        (b'{"v":1,"method":"m","params":[]}', "malformed"),
        (b'{"v":1,"method":"m","params":null}', "malformed"),
        (b'{"v":1,"method":"m","extra":1}', "malformed"),
        (b'{"v":1,"v":1,"method":"m"}', "malformed"),
        (b'{"v":1,"method":"m","params":{"a":1,"a":2}}', "malformed"),
        (b'{"v":1,"method":"m","params":{"a":NaN}}', "malformed"),
        (b'{"v":1,"method":"m","params":{"a":1.5}}', "malformed"),
        (b'{"v":1,"method":"m","params":{"a":"\\ud800"}}', "malformed"),
        (b'{"v":1,"method":"m"} trailing', "malformed"),
        (b'{"v":1,"method":"m","params":' + b"[" * 100_000, "malformed"),
        (b'{"v":1,"method":"m","params":{"a":' + b"[" * 1_000 + b"]" * 1_000 + b"}}", "malformed"),
    ],
)
async def test_malformed_requests_are_refused_and_the_connection_goes_on(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    dispatch = Dispatch()
    async with serving(tmp_path, dispatch) as path:
        answers = (await raw(path, line + b"\n" + VALID)).splitlines()
    refused, accepted = (json.loads(answer) for answer in answers)
    assert refused["error"]["reason"] == reason
    assert refused["error"]["exit_code"] == 2
    assert accepted == {"id": 7, "result": {"method": "echo", "params": {"x": 1}}}
    assert dispatch.calls == [("echo", {"x": 1})]


@given(
    st.lists(
        st.binary(max_size=60) | st.sampled_from([VALID, VALID[:-1], b"\n", b'{"v":1,"method":"m"}\n']), max_size=8
    )
)
async def test_no_bytes_end_the_server(pieces: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        async with serving(Path(name), Dispatch()) as path:
            for line in (await raw(path, b"".join(pieces))).splitlines():
                answer = json.loads(line)
                assert ("result" in answer) != ("error" in answer)
            assert await raw(path, VALID) == b'{"id":7,"result":{"method":"echo","params":{"x":1}}}\n'


async def test_an_endless_line_is_refused_at_the_bound(tmp_path: Path) -> None:
    async with serving(tmp_path, Dispatch()) as path:
        answer = json.loads(await raw(path, b"x" * (limits.CONTROL_LINE_BYTES_MAX + 100_000)))
        assert answer["error"]["reason"] == "too_large"
        assert await ask(tmp_path, "echo", {}) is not None


async def test_a_line_of_just_the_bound_is_taken(tmp_path: Path) -> None:
    empty = len(b'{"v":1,"id":1,"method":"echo","params":{"x":""}}\n')
    async with serving(tmp_path, Dispatch()):
        params: JsonObject = {"x": "x" * (limits.CONTROL_LINE_BYTES_MAX - empty)}
        assert await ask(tmp_path, "echo", params) == {"method": "echo", "params": params}
        params["x"] = f"{params['x']}x"
        with pytest.raises(UsageError) as caught:
            await ask(tmp_path, "echo", params)
        assert caught.value.reason is Reason.TOO_LARGE


async def test_an_answer_beyond_the_bound_becomes_an_error(tmp_path: Path) -> None:
    async with serving(tmp_path, Dispatch()):
        with pytest.raises(RefusedError) as caught:
            await ask(tmp_path, "huge", {})
    assert caught.value.reason is Reason.LIMIT_EXCEEDED


async def test_clients_that_leave_at_any_moment_cost_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, Dispatch()) as path:
        for end in range(0, len(VALID), 5):
            stream = await trio.open_unix_socket(path)
            await stream.send_all(VALID[:end])
            await trio.aclose_forcefully(stream)
        assert await ask(tmp_path, "echo", {}) is not None


async def test_a_request_is_finished_when_its_client_leaves(tmp_path: Path) -> None:
    dispatch = Dispatch()
    async with serving(tmp_path, dispatch) as path:
        stream = await trio.open_unix_socket(path)
        await stream.send_all(b'{"v":1,"id":1,"method":"wait"}\n')
        await dispatch.started.wait()
        await trio.aclose_forcefully(stream)
        dispatch.release.set()
        await dispatch.finished.wait()


async def test_more_connections_than_the_bound_wait_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONTROL_CONNECTIONS_MAX", 2)
    dispatch = Dispatch()
    answers: list[JsonValue] = []

    async def one(method: str) -> None:
        answers.append(await ask(tmp_path, method, {}))

    async with serving(tmp_path, dispatch), trio.open_nursery() as nursery:
        for method in ["wait", "wait", *["echo"] * 6]:
            nursery.start_soon(one, method)
        await dispatch.started.wait()
        dispatch.release.set()
    assert len(answers) == 8


async def test_idle_connections_are_closed_and_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONTROL_CONNECTIONS_MAX", 1)
    monkeypatch.setattr(limits, "CONTROL_IDLE_MS", 50)
    async with serving(tmp_path, Dispatch()) as path:
        idle = await trio.open_unix_socket(path)
        await idle.send_all(b'{"v":1')
        assert await ask(tmp_path, "echo", {}) is not None
        await idle.aclose()


async def test_a_client_that_does_not_read_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONTROL_CONNECTIONS_MAX", 1)
    monkeypatch.setattr(limits, "CONTROL_SEND_MS", 50)
    async with serving(tmp_path, Dispatch()) as path:
        deaf = await trio.open_unix_socket(path)
        await deaf.send_all(b'{"v":1,"id":1,"method":"big"}\n')
        assert await ask(tmp_path, "echo", {}) is not None
        await deaf.aclose()


async def test_other_users_are_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "_UCRED", _Ucred(uid=os.geteuid() + 1))
    dispatch = Dispatch()
    async with serving(tmp_path, dispatch) as path:
        assert await raw(path, VALID) == b""
    assert dispatch.calls == []


class _Ucred:
    """Stands for the kernel's answer about a peer, which a test cannot change without being root."""

    size = 12

    def __init__(self, uid: int) -> None:
        self.uid = uid

    def unpack(self, data: bytes) -> tuple[int, int, int]:
        return (1, self.uid, 1)


async def test_a_long_path_works(tmp_path: Path) -> None:
    data_dir = tmp_path / ("d" * 100) / ("e" * 100)
    data_dir.mkdir(parents=True)
    async with serving(data_dir, Dispatch()):
        assert await ask(data_dir, "echo", {}) is not None
    with pytest.raises(NodeNotRunningError):
        await ask(data_dir, "echo", {})


async def test_a_stale_socket_file_is_not_running_and_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(NodeNotRunningError):
        await ask(tmp_path, "echo", {})
    async with serving(tmp_path, Dispatch()):
        assert await ask(tmp_path, "echo", {}) is not None


def test_not_running(tmp_path: Path) -> None:
    for data_dir in (tmp_path, tmp_path / "absent", tmp_path / "file" / "x"):
        (tmp_path / "file").write_text("x")
        with pytest.raises(NodeNotRunningError):
            call(data_dir, "echo", {}, 1_000)
    (tmp_path / "control.sock").write_text("not a socket")
    with pytest.raises(NodeNotRunningError):
        call(tmp_path, "echo", {}, 1_000)


async def test_the_place_of_the_socket_is_taken_or_out_of_reach(tmp_path: Path) -> None:
    (tmp_path / "control.sock").write_text("precious")
    with pytest.raises(DataDirDamagedError):
        await serve_control(tmp_path / "control.sock", Dispatch())
    assert (tmp_path / "control.sock").read_text() == "precious"
    with pytest.raises(StorageFailedError):
        await serve_control(tmp_path / "absent" / "control.sock", Dispatch())


async def test_a_successor_keeps_its_socket_file(tmp_path: Path) -> None:
    async with serving(tmp_path, Dispatch()):
        first = tmp_path / "control.sock"
        first.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(first))
    assert first.exists()


async def test_no_answer_in_time(tmp_path: Path) -> None:
    dispatch = Dispatch()
    async with serving(tmp_path, dispatch):
        with pytest.raises(NodeTimeoutError) as caught:
            await ask(tmp_path, "wait", {}, timeout_ms=100)
        assert caught.value.reason is Reason.TIMEOUT
        assert "not known" in caught.value.message


def _answering(path: Path, answer: bytes) -> tuple[socket.socket, Callable[[], None]]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(answer)

    return listener, serve


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (b"", NodeTimeoutError, Reason.NODE_STOPPING),
        (b'{"id":1,"result"', NodeTimeoutError, Reason.NODE_STOPPING),
        (b"nonsense\n", CrabnetError, Reason.INTERNAL),
        (b"[1]\n", CrabnetError, Reason.INTERNAL),
        (b'{"id":1}\n', CrabnetError, Reason.INTERNAL),
        (b'{"id":1,"result":1,"error":{}}\n', CrabnetError, Reason.INTERNAL),
        (b'{"id":1,"error":"x"}\n', CrabnetError, Reason.INTERNAL),
        (
            b'{"id":1,"error":{"reason":"from_a_newer_node","message":"m","exit_code":3}}\n',
            RefusedError,
            Reason.INTERNAL,
        ),
        (b'{"id":1,"error":{"reason":"fork","message":"m","exit_code":99}}\n', CrabnetError, Reason.FORK),
    ],
)
async def test_answers_that_make_no_sense(
    tmp_path: Path, answer: bytes, error: type[CrabnetError], reason: Reason
) -> None:
    listener, serve = _answering(tmp_path / "control.sock", answer)
    with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, serve)
            with pytest.raises(error) as caught:
                await ask(tmp_path, "echo", {})
    assert type(caught.value) is error
    assert caught.value.reason is reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use every socket: needs an ordinary user")
async def test_a_socket_that_may_not_be_used(tmp_path: Path) -> None:
    async with serving(tmp_path, Dispatch()) as path:
        path.chmod(0)
        with pytest.raises(NetworkError) as caught:
            await ask(tmp_path, "echo", {})
    assert type(caught.value) is NetworkError


def test_the_client_imports_nothing_slow() -> None:
    program = "import sys, crabnet.control.client; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"trio", "msgspec", "nacl", "cryptography", "click"} & set(loaded)


def test_a_node_that_is_killed_leaves_a_socket_that_means_not_running(tmp_path: Path) -> None:
    program = (
        "import sys, trio, pathlib\n"
        "from crabnet.node.operations.control_server import serve_control\n"
        "async def dispatch(method, params):\n    await trio.sleep_forever()\n"
        "async def main():\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        await nursery.start(serve_control, pathlib.Path(sys.argv[1]), dispatch)\n"
        "        print('ready', flush=True)\n"
        "trio.run(main)\n"
    )
    path = tmp_path / "control.sock"
    node = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    try:
        assert node.stdout is not None
        assert node.stdout.readline() == b"ready\n"
        with pytest.raises(NodeTimeoutError):
            call(tmp_path, "m", {}, 50)
        node.send_signal(signal.SIGKILL)
        node.wait()
        assert path.exists()
        with pytest.raises(NodeNotRunningError):
            call(tmp_path, "m", {}, 1_000)
    finally:
        node.kill()
        node.communicate()
