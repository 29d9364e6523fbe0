"""What is put around a run: requests of seeds, the self-test, limits and what results say of them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import pytest
import trio

from crabnet import limits
from crabnet.errors import Reason, RefusedError
from crabnet.runner import landlock, self_test
from crabnet.runner.execute import run_command
from crabnet.runner.outcome import Cause, RunOutcome, RunRequest
from crabnet.runner.policy import RunnerPolicy
from crabnet.runner.runner import Runner
from crabnet.runner.sandbox import cgroups
from crabnet.runner.sandbox.model import (
    NO_FENCE,
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
from tests.runner.support import ANY

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
    with pytest.raises(RefusedError, match="rules request") as caught:
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
    assert runner.objection(request) is not None
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
    closed = await run("printf hi > out; chmod 0 .", fence, "", policy)
    assert [file.name for file in closed.files] == ["out"]


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


def test_the_defaults_fit_together() -> None:
    default = RunLimits()

    assert default.file_bytes <= default.workdir_bytes
    assert default.workdir_bytes + 2 * default.tmp_bytes < default.memory_bytes
    assert default.memory_bytes == limits.RUNNER_MEMORY_BYTES_DEFAULT
