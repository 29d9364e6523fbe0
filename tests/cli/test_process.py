"""The command as a process: start-up, pipes, signals, completion, broken surroundings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crabnet.cli.document import cli_markdown
from crabnet.monitor.events import EventEncoder, make_event
from crabnet.monitor.registry import EventKind

ROOT = Path(__file__).parents[2]
CRABNET = [sys.executable, "-m", "crabnet"]


def run(*words: str, env: dict[str, str] | None = None, check: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*CRABNET, *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **(env or {})},
        check=False,
    )
    assert done.returncode == check, done.stderr
    assert "Traceback" not in done.stderr
    return done


def imported(*words: str) -> set[str]:
    """The modules that a command imports. Those that the interpreter has at its start do not count."""
    program = (
        "import sys\nbefore = set(sys.modules)\nfrom crabnet.cli.main import main\nmain(sys.argv[1:])\n"
        "print('\\n', *(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_document_is_up_to_date() -> None:
    text = (ROOT / "docs" / "CLI.md").read_text(encoding="utf-8")
    assert text == cli_markdown(), "run scripts/write_reference.py"


def test_the_version_imports_next_to_nothing() -> None:
    assert not {"click", "dataclasses", "json", "pathlib", "socket"} & imported("--version")


def test_signals_are_held_before_anything_slow_is_imported() -> None:
    program = "import sys\nimport crabnet.cli.main\nprint(*(name for name in sys.modules if 'crabnet' in name))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    ours = {"crabnet", "crabnet._version", "crabnet.cli", "crabnet.cli.main", "crabnet.signals"}
    assert {name for name in done.stdout.split() if not name.startswith("__editable__")} <= ours


def test_commands_beside_a_node_import_nothing_slow(node: object, tmp_path: Path) -> None:
    getattr(node, "answers")["status"] = {"running": True}  # noqa: B009 - the fixture's class is in conftest
    loaded = imported("status", "--data-dir", str(tmp_path / "data"))
    assert "crabnet.control.client" in loaded
    assert not {"trio", "msgspec", "nacl", "cryptography", "asyncio", "tomllib", "crabnet.node"} & loaded


def test_the_console_script_and_the_module_are_the_same_command() -> None:
    script = Path(sys.executable).with_name("crabnet")
    if not script.exists():
        pytest.skip("the console script is not installed beside the interpreter")
    assert (
        subprocess.run([script, "--version"], capture_output=True, check=True).stdout
        == run("--version").stdout.encode()
    )


def test_a_closed_pipe_is_quiet() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as closed:
        done = subprocess.run([*CRABNET, "config", "show"], stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_no_stdout_and_no_stderr_at_all() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *CRABNET, "config", "show", "--network", "tcp"], check=False
    )
    assert done.returncode == 2
    assert subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *CRABNET, "config", "show"], check=False).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("words", ["config show", "--version", "--help", "listen --help"])
def test_a_full_disk_behind_stdout_is_an_error(words: str, unbuffered: str) -> None:
    """Whenever Python writes what it was given: at once, or when the process ends."""
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*CRABNET, *words.split()], stdout=full, stderr=subprocess.PIPE, check=False, env=env)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: internal: standard output cannot be written")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stderr_changes_no_exit_code() -> None:
    with Path("/dev/full").open("wb") as full:
        for words, code in ((["--version"], 0), (["nonsense"], 2)):
            done = subprocess.run([*CRABNET, *words], stdout=subprocess.PIPE, stderr=full, check=False)
            assert done.returncode == code


def test_any_locale_can_print_any_text(node: object, tmp_path: Path) -> None:
    getattr(node, "answers")["id"] = {"alias": "漢字🦀"}  # noqa: B009 - the fixture's class is in conftest
    for env in ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "latin-1"}):
        assert "alias: " in run("id", "--data-dir", str(tmp_path / "data"), env=env).stdout


def test_following_ends_when_nobody_reads_though_nothing_new_comes(tmp_path: Path) -> None:
    event = make_event(EventKind.NODE_STARTED, 1, "n")
    event.id = 1
    (tmp_path / "events.ndjson").write_bytes(EventEncoder().lines([event]))
    words = [*CRABNET, "events", "--follow", "--json", "--data-dir", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        assert json.loads(follower.stdout.readline())["id"] == 1
        follower.stdout.close()
        assert follower.wait(60) == 141
        assert follower.stderr.read() == b""


def test_events_are_followed_until_interrupted(tmp_path: Path) -> None:
    events = [make_event(EventKind.NODE_STARTED, number, "n") for number in (1, 2)]
    for number, event in enumerate(events, start=1):
        event.id = number
    log = tmp_path / "events.ndjson"
    log.write_bytes(EventEncoder().lines(events[:1]))
    follower = subprocess.Popen(
        [*CRABNET, "events", "--follow", "--json", "--data-dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["id"] == 1
        with log.open("ab") as file:
            file.write(EventEncoder().lines(events[1:]))
        assert json.loads(follower.stdout.readline())["id"] == 2
        follower.send_signal(signal.SIGINT)
        out, err = follower.communicate(timeout=30)
    finally:
        follower.kill()
        follower.communicate()
    assert (follower.returncode, out, err) == (130, b"", b"")


def many_events(tmp_path: Path, number: int) -> None:
    """A log of that many events; every tenth is a ``run_started`` of the author ``w``."""
    events = [
        make_event(EventKind.RUN_RENEWED, 1_000 * event_id, "n", worker="w", seed_id=f"s{event_id % 20}")
        if event_id % 10 == 0
        else make_event(EventKind.ENVELOPE_IGNORED, 1_000 * event_id, "n", reason="duplicate")
        for event_id in range(1, number + 1)
    ]
    for event_id, event in enumerate(events, start=1):
        event.id = event_id
    (tmp_path / "events.ndjson").write_bytes(EventEncoder().lines(events))


def test_the_newest_events_are_shown_unless_more_are_asked_for(tmp_path: Path) -> None:
    many_events(tmp_path, 2_500)

    def ids(*words: str, told: str = "") -> list[int]:
        done = run("events", "--json", "--data-dir", str(tmp_path), *words)
        assert done.stderr.startswith(told) if told else done.stderr == ""
        return [json.loads(line)["id"] for line in done.stdout.splitlines()]

    assert ids(told="crabnet: these are the newest 1000 events; --limit N") == list(range(1_501, 2_501))
    assert ids("--kind", "run_renewed") == list(range(10, 2_501, 10))
    assert ids("--after", "0") == list(range(1, 2_501))
    assert ids("--limit", "2000") == list(range(501, 2_501))
    assert ids("--before", "100", "--limit", "2") == [98, 99]
    assert ids("--after", "50", "--before", "54") == [51, 52, 53]
    assert ids("--since", "1970-01-01T00:01:00Z", "--until", "1970-01-01T00:01:02Z") == [60, 61]
    assert ids("--author", "w", "--seed", "s0", "--limit", "2") == [2_480, 2_500]
    assert ids("--source", "network") == []
    assert ids("--source", "core", "--until", "1970-01-01T00:00:03Z") == [1, 2]
    assert "--follow" in run("events", "--data-dir", str(tmp_path), "-f", "--before", "9", check=2).stderr
    assert "--until" in run("events", "--data-dir", str(tmp_path), "--until", "never", check=2).stderr


def test_following_tells_what_was_deleted_meanwhile(tmp_path: Path) -> None:
    many_events(tmp_path, 5)
    log = tmp_path / "events.ndjson"
    with subprocess.Popen(
        [*CRABNET, "events", "--follow", "--json", "--data-dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert [json.loads(process.stdout.readline())["id"] for _ in range(5)] == [1, 2, 3, 4, 5]
        event = make_event(EventKind.NODE_STARTED, 1, "n")
        event.id = 9
        (tmp_path / "new").write_bytes(EventEncoder().lines([event]))
        (tmp_path / "new").replace(log)
        assert json.loads(process.stdout.readline())["id"] == 9
        assert process.stderr.readline() == "crabnet: the events from 6 to 8 were deleted\n"
        process.send_signal(signal.SIGINT)
        process.wait()


def test_events_are_filtered(tmp_path: Path) -> None:
    kinds = [EventKind.NODE_STARTED, EventKind.ENVELOPE_REJECTED, EventKind.ENVELOPE_REJECTED, EventKind.NODE_STOPPED]
    events = [make_event(kind, 1_000, "n") for kind in kinds]
    events[1].payload |= {"reason": "fork", "seed_id": "s", "text": "\x9b\u202e"}
    for number, event in enumerate(events, start=1):
        event.id = number
    (tmp_path / "events.ndjson").write_bytes(EventEncoder().lines(events))

    def ids(*words: str) -> list[int]:
        out = run("events", "--json", "--data-dir", str(tmp_path), *words).stdout
        assert out.isascii()
        return [json.loads(line)["id"] for line in out.splitlines()]

    assert ids() == [1, 2, 3, 4]
    assert ids("--limit", "2") == [3, 4]
    assert ids("--after", "1") == [2, 3, 4]
    assert ids("--after", "1", "--limit", "2") == [2, 3]
    assert ids("--kind", "node_started", "--kind", "node_stopped") == [1, 4]
    assert ids("--reason", "fork") == [2]
    assert ids("--seed", "s") == [2]
    assert ids("--severity", events[1].severity) == [2, 3]
    assert ids("--seed", "other") == []
    lines = run("events", "--data-dir", str(tmp_path)).stdout.splitlines()
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
    assert "no data dir at" in run("events", "--data-dir", str(tmp_path / "absent"), check=2).stderr


def test_an_unexpected_error_is_one_line_and_shows_its_traceback_only_when_asked(tmp_path: Path) -> None:
    # A click that cannot be imported stands for any defect of the installation.
    (tmp_path / "click.py").write_text("raise ValueError('two\\nlines')")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")])}
    done = run("status", env=env, check=1)
    assert (
        done.stderr == "error: internal: unexpected ValueError: two\\nlines; set CRABNET_DEBUG=1 to see the traceback\n"
    )
    debug = subprocess.run(
        [*CRABNET, "status"],
        capture_output=True,
        text=True,
        env={**os.environ, **env, "CRABNET_DEBUG": "1"},
        check=False,
    )
    assert debug.returncode == 1
    assert debug.stderr.startswith("error: internal: unexpected ValueError: two\\nlines\nTraceback")


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        ("KeyboardInterrupt()", 130, ""),
        ("BaseExceptionGroup('', [KeyboardInterrupt(), ValueError()])", 130, ""),
        ("ExceptionGroup('', [ExceptionGroup('', [RefusedError('no')])])", 3, "error: wrong_state: no\n"),
        ("ExceptionGroup('', [StorageFailedError('a'), StorageFailedError('b')])", 6, "error: storage_failed: a\n"),
        (
            "ExceptionGroup('', [ValueError('v'), RefusedError('no')])",
            1,
            "error: internal: unexpected ValueError: v; set CRABNET_DEBUG=1 to see the traceback\n",
        ),
    ],
)
def test_groups_of_errors_become_one_line(tmp_path: Path, raised: str, code: int, line: str) -> None:
    text = f"from crabnet.errors import RefusedError, StorageFailedError\nraise {raised}\n"
    (tmp_path / "click.py").write_text(text)
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")])}
    assert run("status", env=env, check=code).stderr == line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    script = run("completion", shell).stdout
    assert "_CRABNET_COMPLETE" in script
    assert json.loads(run("completion", shell, "--json").stdout) == {"shell": shell, "script": script}
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("crabnet se", "plain,seed"),
        ("crabnet seed pu", "plain,publish"),
        ("crabnet seed settle x --ac", "plain,--accepted"),
        ("crabnet completion f", "plain,fish"),
    ],
)
def test_completion_answers(words: str, expected: str) -> None:
    env = {
        "_CRABNET_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    assert expected in run(env=env).stdout.splitlines()
    assert run(env={**env, "_CRABNET_COMPLETE": "nonsense"}).stdout == ""
