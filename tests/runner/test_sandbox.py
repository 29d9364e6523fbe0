"""What is put around a run: requests of seeds, the self-test, limits and what results say of them, leftovers."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import pytest
import trio

from crabnet import limits
from crabnet.errors import Reason, RefusedError
from crabnet.runner import landlock, scratch, self_test
from crabnet.runner.execute import run_command
from crabnet.runner.outcome import Cause, RunOutcome, RunRequest
from crabnet.runner.policy import RunnerPolicy
from crabnet.runner.runner import Runner
from crabnet.runner.sandbox import cgroups, leftovers
from crabnet.runner.sandbox.model import (
    NO_FENCE,
    CgroupPlaces,
    Choice,
    Enforcer,
    Fence,
    Mode,
    Profile,
    RunLimits,
    enforcers,
)
from crabnet.runner.sandbox.requests import agree
from crabnet.runner.supervisor.cgroup import RunCgroup
from crabnet.runner.supervisor.order import Bounds, CgroupOrder
from crabnet.runner.supervisor.spawn import GATE

ANY = RunnerPolicy(allowed_commands=frozenset({"*"}), kill_wait_ms=100)
MIB = 1024 * 1024
BOTH = (Profile.STRICT, Profile.NETWORK)
BWRAP = next((Path(path) for path in self_test.BWRAP_PATHS if os.access(path, os.X_OK)), None)
FENCES = [
    pytest.param(
        Fence(Mode.BWRAP, bwrap=BWRAP), id="bwrap", marks=pytest.mark.skipif(BWRAP is None, reason="needs bubblewrap")
    ),
    pytest.param(
        Fence(Mode.LANDLOCK, landlock_abi=landlock.abi_version()),
        id="landlock",
        marks=pytest.mark.skipif(landlock.abi_version() == 0, reason="needs Landlock"),
    ),
]


async def run(command: str, fence: Fence, rules: str = "", policy: RunnerPolicy = ANY) -> RunOutcome:
    return await run_command(RunRequest("run-1", command, 60_000, rules), policy, fence)


# --- what a seed asks ---


@pytest.mark.parametrize(
    ("rules", "changed"),
    [
        ("", {}),
        ("please be quick\nrunning: memory_mib=1", {}),
        ("run: memory_mib=64", {"memory_bytes": 64 * MIB}),
        ("text\n  run: processes=3 cpu_s=2\nmore", {"processes": 3, "cpu_time_s": 2}),
        ("run: cpu_percent=5 file_mib=1 open_files=40", {"cpu_percent": 5, "file_bytes": MIB, "open_files": 40}),
        ("run: disk_mib=2 tmp_mib=3", {"workdir_bytes": 2 * MIB, "tmp_bytes": 3 * MIB}),
        ("run: memory_mib=999999", {}),
        ("run: processes=9\nrun: processes=5\nrun: processes=7", {"processes": 5}),
    ],
)
def test_the_tighter_of_operator_and_seed_wins(rules: str, changed: dict[str, int]) -> None:
    assert agree(rules, BOTH, RunLimits()).limits == replace(RunLimits(), **changed)


@pytest.mark.parametrize(
    "word",
    [
        "memory_mib",
        "memory_mib=",
        "memory_mib=-1",
        "processes=0",
        "memory_mib=15",
        "open_files=31",
        "memory=1",
        "x",
        "cpu_s=1e3",
    ],
)
def test_a_request_that_is_not_understood_is_refused(word: str) -> None:
    with pytest.raises(RefusedError, match="rules ask") as caught:
        agree(f"run: {word}", BOTH, RunLimits())
    assert caught.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("least", ["memory_mib=16", "open_files=32", "processes=1", "disk_mib=1 tmp_mib=1 file_mib=1"])
@pytest.mark.parametrize("fence", FENCES)
async def test_the_least_that_a_seed_may_ask_for_is_enough_for_a_command(fence: Fence, least: str) -> None:
    outcome = await run("echo hi", fence, f"run: {least}")
    assert (outcome.exit_code, outcome.stdout) == (0, "hi\n"), outcome


def test_profiles_need_the_operators_word() -> None:
    assert agree("", BOTH, RunLimits()).profile is Profile.STRICT
    assert agree("run: profile=network", BOTH, RunLimits()).profile is Profile.NETWORK
    for profiles, asked in (((Profile.STRICT,), "network"), (BOTH, "root")):
        with pytest.raises(RefusedError) as caught:
            agree(f"run: profile={asked}", profiles, RunLimits())
        assert caught.value.reason is Reason.PROFILE_NOT_ALLOWED


async def test_the_network_is_not_given_without_namespaces() -> None:
    policy = replace(ANY, profiles=BOTH)
    outcome = await run("true", replace(NO_FENCE, mode=Mode.LANDLOCK), "run: profile=network", policy)

    assert outcome.refusal is Reason.PROFILE_NOT_ALLOWED
    assert outcome.exit_code == 126


# --- the self-test ---


async def test_the_canary_finds_that_nothing_holds_it() -> None:
    assert "canary" in await self_test.canary_problem(NO_FENCE, ANY, "test")


@pytest.mark.parametrize("fence", FENCES)
async def test_the_canary_is_held(fence: Fence) -> None:
    assert await self_test.canary_problem(fence, ANY, "test") == ""


async def test_without_any_sandbox_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "BWRAP_PATHS", ())
    marker = tmp_path / "marker"
    runner = Runner(ANY, Choice.BWRAP, tmp_path)
    request = RunRequest("run-1", f"touch {marker}", 60_000)

    refused = await runner.refusal(request)
    outcome = await runner.run(request, trio.Event())
    runner.close()

    assert refused is not None
    for each in (refused, outcome):
        assert each.refusal is Reason.SANDBOX_UNAVAILABLE
        assert "bubblewrap is not installed" in each.stderr
    assert runner.refuses(request)
    assert not marker.exists()
    assert runner.report is not None
    assert runner.report.mode == "unavailable"


async def test_none_is_only_for_who_asks_for_it(tmp_path: Path) -> None:
    runner = Runner(ANY, Choice.NONE, tmp_path)
    outcome = await runner.run(RunRequest("run-1", "true", 60_000), trio.Event())
    runner.close()

    assert runner.unsandboxed
    assert outcome.sandbox == "none"
    assert not Runner(ANY, Choice.AUTO, tmp_path).unsandboxed


def test_every_limit_has_an_enforcer_in_bwrap_but_the_speed() -> None:
    found = enforcers(Fence(Mode.BWRAP))

    assert {field.name for field in fields(RunLimits)} - found.keys() == {"cpu_percent"}
    assert found["workdir_bytes"] is Enforcer.TMPFS


# --- runs ---


@pytest.mark.parametrize("fence", FENCES)
async def test_a_run_sees_neither_the_host_nor_the_nodes_descriptors(fence: Fence, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    leak = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        script = (
            f"cat {secret}; for fd in 3 4 5 6 7 8 9 {leak}; do cat /dev/fd/$fd/secret; done 2>/dev/null; pwd; id -u"
        )
        outcome = await run(f"sh -c '{script}'", fence)
    finally:
        os.close(leak)

    assert "secret" not in outcome.stdout
    assert (outcome.sandbox, outcome.profile) == (fence.mode.value, "strict")
    if fence.mode is Mode.BWRAP:
        assert outcome.stdout == "/work\n1000\n"


GROW = "import time; x = [b'x' * (5 << 20) for _ in range(26)]; time.sleep(60)"
FILL = "for n in 1 2 3 4 5 6; do dd if=/dev/zero of=$n bs=1M count=1 || exit 1; done; sleep 60"


@pytest.mark.parametrize("fence", FENCES)
@pytest.mark.parametrize(
    ("script", "rules", "cause"),
    [
        ("dd if=/dev/zero of=f bs=1M count=9", "run: file_mib=2", Cause.FILE_SIZE),
        (FILL, "run: disk_mib=3", Cause.DISK),
        (f'exec python3 -c "{GROW}"', "run: memory_mib=100", Cause.MEMORY),
        ("while :; do :; done", "run: cpu_s=1", Cause.CPU),
    ],
)
async def test_the_result_names_the_limit(fence: Fence, script: str, rules: str, cause: Cause) -> None:
    if cause is Cause.MEMORY and not Path("/usr/bin/python3").exists():
        pytest.skip("needs /usr/bin/python3")
    policy = replace(ANY, allow_shell_operators=True)
    outcome = await run(script, fence, rules, policy)

    assert outcome.termination.cause is cause, outcome
    assert cause.value in outcome.termination.limits_hit
    assert outcome.exit_code != 0


@pytest.mark.parametrize("fence", FENCES)
async def test_signals_and_high_exit_codes_are_told_apart(fence: Fence) -> None:
    killed = await run("sh -c 'kill -SEGV $$'", fence)

    assert (killed.exit_code, killed.termination.cause, killed.termination.signal) == (139, Cause.SIGNALED, "SIGSEGV")


@pytest.mark.parametrize("fence", FENCES)
async def test_sigterm_reaches_the_command(fence: Fence) -> None:
    policy = replace(ANY, kill_wait_ms=30_000)
    script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done"
    outcome = await run_command(RunRequest("r", f'sh -c "{script}"', 1_500), policy, fence)

    assert outcome.stdout == "up\nbye\n"
    assert outcome.timed_out
    assert (outcome.exit_code, outcome.termination.escalated) == (3, False)


@pytest.mark.parametrize("fence", FENCES)
async def test_output_files_are_listed_and_links_are_not_followed(fence: Fence) -> None:
    policy = replace(ANY, allow_shell_operators=True)
    outcome = await run("mkdir d; printf hi > d/out; ln -s /usr/bin/env link; mkfifo pipe; exit 4", fence, "", policy)

    assert outcome.exit_code == 4
    assert [(file.name, file.size_bytes) for file in outcome.files] == [("d/out", 2)]
    assert outcome.files[0].sha256 == hashlib.sha256(b"hi").hexdigest()
    assert outcome.files_omitted == 2
    assert (await run("printf hi > out", fence, "", replace(policy, files_max=0))).files == ()


@pytest.mark.parametrize("fence", FENCES)
async def test_a_file_that_could_not_grow_is_named_although_its_signal_was_ignored(fence: Fence) -> None:
    policy = replace(ANY, allow_shell_operators=True)
    outcome = await run("trap '' XFSZ; dd if=/dev/zero of=f bs=1M count=9", fence, "run: file_mib=2", policy)

    assert (outcome.termination.cause, outcome.exit_code) == (Cause.FILE_SIZE, 1)


@pytest.mark.skipif(BWRAP is None, reason="needs bubblewrap")
async def test_the_operators_directory_is_shown_but_not_written() -> None:
    # Not pytest's: that lies in a directory which nobody else may enter.
    with tempfile.TemporaryDirectory(prefix="crabnet-shown-") as name:
        shown = Path(name)
        shown.chmod(0o755)
        (shown / "data").write_text("shared\n")
        policy = replace(ANY, workdir=shown)
        fence = Fence(Mode.BWRAP, bwrap=BWRAP)

        assert (await run("cat data", fence, policy=policy)).stdout == "shared\n"
        assert (await run("touch new", fence, policy=policy)).exit_code != 0
        assert not (shown / "new").exists()


# --- control groups and leftovers ---


def test_limits_are_written_as_cgroup_v2_wants_them(tmp_path: Path) -> None:
    group = tmp_path / "run-1"
    group.mkdir()
    names = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max")
    for name in names:
        (group / name).touch()
    (group / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    (group / "pids.events").write_text("max 5\n")
    (group / "cpu.stat").write_text("usage_usec 7000\nuser_usec 1\n")
    (group / "memory.peak").write_text("4096\n")
    parents = dict.fromkeys(cgroups.CONTROLLERS, str(tmp_path))

    made = RunCgroup(CgroupOrder(2, parents, "", "run-1"), Bounds(MIB, 8, 1_000, 50, 0), 2)

    assert [(group / name).read_text() for name in names] == [str(MIB), "0", "1", "10", "50000 100000"]
    assert made.usage() == (4096, 2, 5, 7)


def test_groups_of_this_node_are_found_and_swept(tmp_path: Path) -> None:
    tag = cgroups.owner_tag(tmp_path)
    places = cgroups.find_places(tag)
    if places is None:
        pytest.skip("needs control groups that may be made: NOT tested")
    group = RunCgroup(cgroups.order_for(places, "run-left"), Bounds(64 * MIB, 8, 1_000, 100, 0), 0)
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        for path in group.member_files:
            Path(path).write_text(str(sleeper.pid))

        assert leftovers.sweep(places, tag) == 1
        assert sleeper.wait(30) == -signal.SIGKILL
    assert leftovers.sweep(places, tag) == 0
    cgroups.remove_places(places)
    assert not any(Path(path).exists() for path in group.member_files)


async def test_a_survey_beside_a_running_node_leaves_its_groups_alone(tmp_path: Path) -> None:
    places = cgroups.find_places(cgroups.owner_tag(tmp_path))
    if places is None:
        pytest.skip("needs control groups that may be made: NOT tested")
    held = cgroups.hold(places)
    directories = [*places.parents.values()]

    await self_test.survey(ANY, Choice.NONE, tmp_path)

    assert all(path.is_dir() for path in directories)
    assert not [path for path in directories[0].parent.iterdir() if path.name.startswith(f"{directories[0].name}-")]
    held.release()
    assert not any(path.exists() for path in directories)


@pytest.mark.parametrize("held", [False, True])
def test_groups_of_killed_nodes_are_removed_by_others_unless_somebody_holds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    monkeypatch.setattr(cgroups, "_ABANDONED_AFTER_S", -1)
    own, other = tmp_path / "crabnet-own", tmp_path / "crabnet-other"
    (other / "run-1").mkdir(parents=True)
    theirs = cgroups.hold(CgroupPlaces(2, {}, other)) if held else None
    own.mkdir()

    cgroups.hold(CgroupPlaces(2, {}, own)).release()

    assert other.exists() is held
    if theirs is not None:
        theirs.release()


def test_a_gate_without_its_supervisor_is_found_by_name(tmp_path: Path) -> None:
    name = leftovers.run_name("0123")
    waiting = [sys.executable, "-c", "import time; time.sleep(600)", GATE]
    with subprocess.Popen([*waiting, name]) as left, subprocess.Popen([*waiting, "run-other-1"]) as other:
        leftovers.clear_run(None, name)

        assert left.wait(30) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


def test_work_dirs_are_swept_at_any_depth_and_without_following_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    left, other = tmp_path / "crabnet-run-0123-x", tmp_path / "crabnet-run-4567-x"
    for path in (left, other):
        path.mkdir()
    (left / "link").symlink_to(outside)
    closed = left / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0)
    (tmp_path / "crabnet-run-0123-link").symlink_to(outside)

    assert scratch.sweep("0123") == 1
    assert not left.exists()
    assert other.exists()
    assert (outside / "kept").exists()


def test_what_no_node_locks_is_swept_by_any_node_of_this_user_once_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    used = scratch.make("4567")
    left, new, foreign = tmp_path / "crabnet-run-89ab-x", tmp_path / "crabnet-run-89ab-y", tmp_path / "other-89ab-x"
    for path in (left, new, foreign):
        path.mkdir()
        (path / "file").touch()
    file = tmp_path / "crabnet-run-89ab-file"
    file.touch()
    for path in (used.path, left, foreign, file):
        os.utime(path, (0, 0))

    assert scratch.sweep("0123") == 0
    assert sorted(tmp_path.iterdir()) == sorted([used.path, new, foreign, file])

    os.close(used.fd)  # as when its node is killed
    assert scratch.sweep("0123") == 0
    assert sorted(tmp_path.iterdir()) == sorted([new, foreign, file])
    assert scratch.sweep("89ab") == 1
    assert sorted(tmp_path.iterdir()) == sorted([foreign, file])


_WATCHED = """
import sys
from crabnet.runner import scratch
sys.addaudithook(lambda event, args: event in ("open", "os.mkdir") and print(args[0], file=sys.stderr))
scratch.sweep("0123")
scratch.make("0123")
"""


def test_nothing_but_directories_of_runs_is_made_for_them_so_that_a_killed_node_leaves_nothing_unknown(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )

    touched = {Path(line) for line in done.stderr.splitlines()}
    (made,) = tmp_path.iterdir()
    assert {path for path in touched if path.parent == tmp_path} == {made}


@pytest.mark.parametrize(
    "bad", ["absent", "file", "file/below", "closed", "closed/below", pytest.param("n" * 300, id="long")]
)
def test_a_temporary_directory_that_cannot_be_used_gives_way_to_the_next(
    bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bad == "closed" and os.geteuid() == 0:
        pytest.skip("root may write everywhere: needs an ordinary user")
    (tmp_path / "file").touch()
    (tmp_path / "closed").mkdir(0)
    monkeypatch.setenv("TMPDIR", str(tmp_path / bad))
    monkeypatch.delenv("TEMP", raising=False)
    monkeypatch.setenv("TMP", str(tmp_path))

    assert scratch.temporary() == tmp_path


_KILLED = """
import os, signal, sys, trio
from pathlib import Path
from crabnet.runner import self_test
from crabnet.runner.sandbox.model import Choice
from crabnet.runner.policy import RunnerPolicy
async def kill():
    while not any(Path(os.environ["TMPDIR"]).glob("*/secret")):
        await trio.sleep(0)
    os.kill(os.getpid(), signal.SIGKILL)
async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        await self_test.survey(RunnerPolicy(), Choice.AUTO, Path(sys.argv[1]))
trio.run(main)
"""


async def test_a_self_test_that_was_killed_is_swept_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, temporary = tmp_path / "data", tmp_path / "tmp"
    data.mkdir()
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    done = await trio.run_process([sys.executable, "-c", _KILLED, str(data)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(temporary.glob("*/secret"))

    runner = Runner(ANY, Choice.AUTO, data)
    await runner.prepare()
    runner.close()

    assert list(temporary.iterdir()) == []


def test_the_defaults_fit_together() -> None:
    default = RunLimits()

    assert default.file_bytes <= default.workdir_bytes
    assert default.workdir_bytes + 2 * default.tmp_bytes < default.memory_bytes
    assert default.memory_bytes == limits.RUNNER_MEMORY_BYTES_DEFAULT
