"""Running real commands."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from crabnet import limits
from crabnet.errors import Reason
from crabnet.runner.outcome import Cause, RunOutcome
from crabnet.runner.output import truncation_marker
from crabnet.runner.policy import RunnerPolicy
from tests.runner.support import ANY, Script, run


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


# --- commands that end by themselves ---------------------------------------------------------------------


async def test_a_command_ends_with_its_output_and_hash() -> None:
    outcome = await run("printf '%s\\n' one 'two  words'", RunnerPolicy())

    assert (outcome.run_id, outcome.exit_code, outcome.timed_out) == ("run-1", 0, False)
    assert (outcome.stdout, outcome.stderr) == ("one\ntwo  words\n", "")
    assert (outcome.stdout_bytes, outcome.stderr_bytes) == (15, 0)
    assert not outcome.stdout_truncated
    assert outcome.output_hash == sha256(b"one\ntwo  words\n")
    assert outcome.termination.cause is Cause.EXITED
    assert outcome.termination.signal is None
    assert outcome.refusal is None
    assert outcome.duration_ms >= outcome.termination.wall_ms


@pytest.mark.parametrize("code", [0, 1, 2, 42, 255])
async def test_exit_codes_come_through(script: Script, code: int) -> None:
    outcome = await run(script(f"exit {code}"))

    assert outcome.exit_code == code
    assert outcome.termination.cause is Cause.EXITED


@pytest.mark.parametrize(("name", "code"), [("KILL", 137), ("TERM", 143), ("SEGV", 139), ("PIPE", 141)])
async def test_a_signal_gives_128_plus_its_number(script: Script, name: str, code: int) -> None:
    outcome = await run(script(f"kill -{name} $$"))

    assert outcome.exit_code == code
    assert outcome.termination.cause is Cause.SIGNALED
    assert outcome.termination.signal == f"SIG{name}"
    assert not outcome.timed_out


async def test_both_streams_are_kept_apart(script: Script) -> None:
    outcome = await run(script("echo err >&2; echo out"))

    assert (outcome.stdout, outcome.stderr) == ("out\n", "err\n")
    assert outcome.output_hash == sha256(b"out\nerr\n")


async def test_words_reach_the_command_literally(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    outcome = await run("printf '%s|' * '$HOME' ';' \"a b\" ''", replace(ANY, workdir=tmp_path))

    assert outcome.stdout == "*|$HOME|;|a b||"


async def test_standard_input_is_empty_and_no_descriptor_leaks(script: Script) -> None:
    outcome = await run(script("cat; ls /proc/$$/fd"))

    descriptors = set(outcome.stdout.split())
    # A shell reads its script through a descriptor of 10 or more, or of 3 or 255.
    assert descriptors - {"0", "1", "2"} <= {"3", "10", "255"}
    assert outcome.exit_code == 0


async def test_no_signal_is_blocked_or_ignored() -> None:
    outcome = await run("cat /proc/self/status")

    fields = dict(line.split(":\t", 1) for line in outcome.stdout.splitlines())
    of_the_c_library = 1 << 31 | 1 << 32  # 32 and 33, which a thread of the test's own process may hold back
    assert [int(fields[name], 16) & ~of_the_c_library for name in ("SigIgn", "SigBlk")] == [0, 0]


async def test_processor_time_of_all_descendants_is_counted(script: Script) -> None:
    loop = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"

    outcome = await run(script(f"({loop}) & wait"))

    assert outcome.termination.cpu_ms > 0


async def test_runs_side_by_side_do_not_mix(script: Script) -> None:
    path = script("echo $1; exit $1")
    outcomes: dict[int, RunOutcome] = {}

    async def one(number: int) -> None:
        outcomes[number] = await run(f"{path} {number}")

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(one, number)

    assert {number: (outcome.exit_code, outcome.stdout) for number, outcome in outcomes.items()} == {
        number: (number, f"{number}\n") for number in range(8)
    }


# --- the environment -------------------------------------------------------------------------------------


async def test_nothing_of_the_nodes_environment_reaches_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: Script
) -> None:
    monkeypatch.setenv("CRABNET_WEB_API_TOKEN", "the-secret")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")

    outcome = await run("env", replace(ANY, workdir=tmp_path))
    of_parent = await run(script("cat /proc/$PPID/environ /proc/$PPID/cmdline"))

    assert set(outcome.stdout.splitlines()) == {
        "PATH=/usr/local/bin:/usr/bin:/bin",
        "LANG=C.UTF-8",
        f"HOME={tmp_path.resolve()}",
    }
    assert of_parent.exit_code == 0
    assert "the-secret" not in of_parent.stdout


async def test_executables_are_found_by_the_policys_path_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: Script
) -> None:
    fake = script("echo fake")
    fake.rename(tmp_path / "echo")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    assert (await run("echo real", replace(ANY, workdir=tmp_path))).stdout == "real\n"
    assert (await run("echo x", replace(ANY, search_path=(str(tmp_path),)))).stdout == "fake\n"


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("rm -rf /", Reason.COMMAND_NOT_ALLOWED),
        ("echo a; ls", Reason.SHELL_OPERATOR),
        ("echo " + "a" * 5_000, Reason.COMMAND_TOO_LONG),
        ("", Reason.EMPTY),
        ("echo 'a", Reason.MALFORMED),
    ],
)
async def test_a_refusal_is_a_result_the_publisher_can_read(command: str, reason: Reason) -> None:
    outcome = await run(command, RunnerPolicy())

    assert outcome.exit_code == 126
    assert outcome.refusal is reason
    assert outcome.termination.cause is Cause.REFUSED
    assert outcome.stderr == f"refused: {reason.value}: {outcome.message}\n"
    assert outcome.stdout == ""
    assert outcome.output_hash == sha256(outcome.stderr.encode())
    assert outcome.stderr_bytes == len(outcome.stderr.encode())


@pytest.mark.parametrize("timeout_ms", [0, -1, limits.TIMEOUT_MS_MAX + 1, 2**64])
async def test_an_impossible_timeout_is_refused(timeout_ms: int) -> None:
    outcome = await run("true", timeout_ms=timeout_ms)

    assert outcome.refusal is Reason.INVALID_ARGUMENT
    assert outcome.exit_code == 126


@pytest.mark.parametrize("name", ["no-such-command", "n" * 300, "/no/such/file", "./" + "n" * 300, "''"])
async def test_an_unknown_command_gives_127(name: str) -> None:
    outcome = await run(name)

    assert outcome.exit_code == 127
    assert outcome.refusal is Reason.SPAWN_FAILED
    assert outcome.termination.cause is Cause.SPAWN_FAILED
    assert outcome.stderr.startswith("refused: spawn_failed: ")


async def test_files_that_cannot_be_executed_give_an_outcome(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("no program")
    (tmp_path / "binary").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "binary").chmod(0o755)
    (tmp_path / "dangling").write_text("#!/no/such/interpreter\n")
    (tmp_path / "dangling").chmod(0o755)

    codes = {name: (await run(tmp_path / name)).exit_code for name in ("plain", "binary", "dangling")}

    assert codes == {"plain": 127, "binary": 126, "dangling": 127}


async def test_an_argument_too_long_for_the_system_gives_an_outcome() -> None:
    policy = replace(ANY, command_chars_max=limits.COMMAND_CHARS_MAX)

    outcome = await run("true " + "🦀" * 40_000, policy)

    assert outcome.refusal is Reason.SPAWN_FAILED
    assert outcome.exit_code == 126


# --- the working directory -------------------------------------------------------------------------------


async def test_a_command_starts_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    policy = replace(ANY, workdir=tmp_path / "in", workdir_root=tmp_path)

    assert (await run("pwd", policy)).stdout == f"{tmp_path.resolve()}/in\n"
    assert (await run("pwd", replace(policy, workdir=Path("in")))).stdout == f"{tmp_path.resolve()}/in\n"
    assert (await run("pwd", replace(policy, workdir=None))).stdout == f"{tmp_path.resolve()}\n"


async def test_without_a_working_directory_each_run_gets_a_fresh_one(script: Script) -> None:
    path = script("pwd; ls -A; ls -ld . >&2; touch left-behind; chmod 0 left-behind; mkdir d; ln -s / d/link")

    first, second = await run(path), await run(path)

    assert first.stdout != second.stdout
    assert first.stderr.startswith("drwx------")
    for outcome in (first, second):
        (line,) = outcome.stdout.splitlines()
        assert not Path(line).exists()
    assert Path("/etc").exists()


@pytest.mark.parametrize("where", ["../outside", "link", "in/../../outside", "loop", "missing", "file", "/"])
async def test_a_working_directory_outside_its_root_is_refused(tmp_path: Path, where: str) -> None:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to(root / "loop")
    (root / "file").touch()

    outcome = await run("pwd", replace(ANY, workdir=Path(where), workdir_root=root))

    missing = where in {"loop", "missing", "file"}
    assert outcome.refusal is (Reason.WORKDIR_MISSING if missing else Reason.WORKDIR_OUTSIDE_ROOT)
    assert outcome.exit_code == 126
    assert str(tmp_path) not in outcome.stderr


async def test_links_that_stay_inside_the_root_are_followed(tmp_path: Path) -> None:
    (tmp_path / "root" / "in").mkdir(parents=True)
    (tmp_path / "root" / "link").symlink_to("in")
    (tmp_path / "alias").symlink_to("root")
    policy = replace(ANY, workdir=tmp_path / "alias" / "link", workdir_root=tmp_path / "alias")

    assert (await run("pwd", policy)).stdout == f"{tmp_path.resolve()}/root/in\n"


async def test_a_sibling_with_the_roots_name_as_prefix_is_outside(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root2").mkdir()

    outcome = await run("pwd", replace(ANY, workdir=tmp_path / "root2", workdir_root=tmp_path / "root"))

    assert outcome.refusal is Reason.WORKDIR_OUTSIDE_ROOT


async def test_cd_is_a_probe_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "root" / "in").mkdir(parents=True)
    (tmp_path / "root" / "out").symlink_to("/")
    policy = replace(RunnerPolicy(), workdir_root=tmp_path / "root")
    probes = ["cd", "cd .", "cd in", "cd -- in", "cd in/..", "cd missing", "cd ..", "cd /", "cd out", "cd a b", "cd ''"]

    codes = [(await run(probe, policy)).exit_code for probe in probes]

    assert codes == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0]
    assert (await run("cd missing", policy)).stderr == "cd: missing: no such directory\n"


# --- output ----------------------------------------------------------------------------------------------


async def test_long_output_is_cut_and_marked_but_hashed_whole(script: Script) -> None:
    fill = "head -c {count} /dev/zero | tr '\\0' {char}"
    path = script(f"{fill.format(count=300_000, char='x')}; {fill.format(count=200_000, char='y')} >&2")

    outcome = await run(path, replace(ANY, output_bytes_max=1_000))

    assert (outcome.stdout_bytes, outcome.stderr_bytes) == (300_000, 200_000)
    assert outcome.stdout_truncated
    assert outcome.stderr_truncated
    assert outcome.output_hash == sha256(b"x" * 300_000 + b"y" * 200_000)
    marker = truncation_marker(300_000)
    assert outcome.stdout == "x" * (1_000 - len(marker)) + marker
    assert outcome.exit_code == 0


async def test_a_flood_of_stderr_is_hashed_whole_and_leaves_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: Script
) -> None:
    path = script("head -c 5000000 /dev/zero >&2; echo end >&2; echo out")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))

    outcome = await run(path, replace(ANY, output_bytes_max=1_000))

    assert outcome.output_hash == sha256(b"out\n" + b"\0" * 5_000_000 + b"end\n")
    assert outcome.stderr_bytes == 5_000_004
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_output_that_is_not_text_becomes_valid_text(script: Script) -> None:
    outcome = await run(script("printf 'a\\377b\\000c'"))

    assert outcome.stdout == "a\ufffdb\0c"
    assert outcome.output_hash == sha256(b"a\xffb\0c")


@pytest.mark.parametrize("redirect", ["", ">&2"])
async def test_endless_output_is_ended_at_the_limit(script: Script, redirect: str) -> None:
    policy = replace(ANY, output_bytes_max=100, output_total_bytes_max=1_000_000)

    outcome = await run(script(f"exec cat /dev/zero {redirect}"), policy)

    assert outcome.termination.cause is Cause.OUTPUT_LIMIT
    assert outcome.termination.signal == "SIGTERM"
    assert outcome.stdout_bytes + outcome.stderr_bytes == 1_000_000
    assert outcome.stdout_truncated or outcome.stderr_truncated
    assert outcome.output_hash == sha256(b"\0" * 1_000_000)
    assert not outcome.timed_out
    assert outcome.exit_code == 143


# --- shell mode ------------------------------------------------------------------------------------------


async def test_shell_mode_runs_a_pipeline(tmp_path: Path) -> None:
    policy = RunnerPolicy(allow_shell_operators=True, workdir=tmp_path)

    outcome = await run("echo one > f && cat f | cat; cd /; pwd", policy)

    assert outcome.stdout == "one\n/\n"
    assert (tmp_path / "f").read_text() == "one\n"
