"""Measures a late joiner: a node fetches the whole history of another over UDP on loopback, both as real processes.

It also measures the ingest of the same envelopes without a network. The ratio shows the cost of the network.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, cast

import trio
from msgspec import Struct

from bench.ingest import Rig, addressed
from bench.report import Measure, at_least
from bench.workload import Population
from crabnet.control.client import JsonValue, call
from crabnet.core.commands import Received
from crabnet.core.effects import Effects
from crabnet.core.replica.records import Via, frame_of
from crabnet.node.clock import wall_ms
from crabnet.node.durable.store import open_store
from crabnet.settings import Settings
from crabnet.storage.files import RealFiles
from crabnet.storage.lock import LockRole

GROUP: Final = "Catching up"
_FRAME_RECORDS: Final = 500
_ENVELOPES: Final = 20_000
_DEADLINE_S: Final = 120
_POLL_S: Final = 0.05


def measure(*, quick: bool) -> list[Measure]:
    """Measure a few joiners, one after the other, in turns with the ingest of as many envelopes."""
    rounds = 2 if quick else 5
    caught_up, ingested = [], []
    with tempfile.TemporaryDirectory(prefix="crabnet-bench-") as name:
        directory = Path(name)
        apart(fill, directory / "source", _ENVELOPES)
        source, address = _start(directory / "source", "")
        try:
            for number in range(rounds):
                caught_up.append(_join(directory / f"joiner{number}", directory / "source", address, source.pid))
                ingested.append(apart(_ingest, directory / f"rig{number}", _ENVELOPES))
        finally:
            _stop(source)
    best = max(_ENVELOPES / joined.seconds for joined in caught_up)
    median = statistics.median(_ENVELOPES / joined.seconds for joined in caught_up)
    bare = statistics.median(_ENVELOPES / seconds for seconds in ingested)
    note = f"{_ENVELOPES:,} envelopes of 16 authors, from the first that came to the last; best {best:,.0f}"
    micro = 1_000_000 / _ENVELOPES
    return [
        Measure(GROUP, "ingest of the same, without network", bare, "1/s"),
        Measure(GROUP, "late joiner", median, "1/s", at_least(5_000), note),
        Measure(GROUP, "late joiner to ingest", median / bare, ""),
        Measure(
            GROUP,
            "processor time of the joiner",
            min(each.joiner_cpu_s for each in caught_up) * micro,
            "µs",
            note="for each envelope, all threads, start included",
        ),
        Measure(GROUP, "processor time of the source", min(each.source_cpu_s for each in caught_up) * micro, "µs"),
    ]


class Joined(Struct, frozen=True):
    """Seconds of wall time, and of processor time in both processes."""

    seconds: float
    joiner_cpu_s: float
    source_cpu_s: float


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _start(data_dir: Path, peer: str) -> tuple[subprocess.Popen[str], str]:
    words = ["listen", "--data-dir", str(data_dir), "--listen-addr", "127.0.0.1:0", "--announce-addr", peer]
    process = subprocess.Popen(
        [sys.executable, "-m", "crabnet", *words], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    if process.stdout is None:
        raise RuntimeError("no pipe")
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("the node did not start")
    return process, line.rpartition("Udp:")[2].strip()


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(_DEADLINE_S)
    if process.stdout is not None:
        process.stdout.close()


def _status(data_dir: Path) -> dict[str, JsonValue]:
    return cast("dict[str, JsonValue]", call(data_dir, "status", {}, _DEADLINE_S * 1000))


def _vector(data_dir: Path) -> int:
    answer = cast("dict[str, JsonValue]", call(data_dir, "state.vector", {}, _DEADLINE_S * 1000))
    heads = cast("dict[str, tuple[int, str]]", answer["heads"])
    return sum(seq for seq, _ in heads.values())


def _join(data_dir: Path, source_dir: Path, address: str, source_pid: int) -> Joined:
    """Run a joiner. The time is from its first envelope until the last one is durable."""
    source_cpu_s = _cpu_s(source_pid)
    process, _ = _start(data_dir, address)
    try:
        deadline = time.perf_counter() + _DEADLINE_S
        begun = time.perf_counter()
        while (held := _vector(data_dir)) < _ENVELOPES:
            if time.perf_counter() > deadline:
                raise RuntimeError(f"only {held} envelopes arrived: {_status(data_dir)}")
            if not held:
                begun = time.perf_counter()
            time.sleep(_POLL_S)
        taken_s = time.perf_counter() - begun
        if _status(data_dir)["state_hash"] != _status(source_dir)["state_hash"]:
            raise RuntimeError("the states differ")
        return Joined(taken_s, _cpu_s(process.pid), _cpu_s(source_pid) - source_cpu_s)
    finally:
        _stop(process)


def apart(step: object, data_dir: Path, count: int) -> float:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs, step, str(data_dir), count))
    process.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError as error:
        raise RuntimeError(f"{step} failed") from error
    process.join()
    if not isinstance(answer, float):
        raise TypeError("the process returned something else than a number of seconds")
    return answer


def _run(connection: Connection, step: object, data_dir: str, count: int) -> None:
    if not callable(step):
        raise TypeError("not a step")
    connection.send(step(Path(data_dir), count))


def fill(data_dir: Path, count: int) -> float:
    """Make a data dir whose journal holds ``count`` envelopes."""
    now_ms = wall_ms()
    store = open_store(Settings(data_dir=data_dir), RealFiles(), role=LockRole.NODE, now_ms=now_ms)
    messages = Population(now_ms // 1000).messages(count)
    for at in range(0, count, _FRAME_RECORDS):
        effects = Effects()
        for message in messages[at : at + _FRAME_RECORDS]:
            store.core.handle(Received(message.source, message.raw, Via.IMPORT), now_ms, effects)
        store.ledger.append(frame_of(effects.records))
    store.close()
    return 0.0


def _ingest(data_dir: Path, count: int) -> float:
    """Ingest ``count`` envelopes from memory. Returns the seconds until they are durable."""

    async def ingest() -> float:
        data_dir.mkdir()
        rig = Rig(data_dir, 0)
        datagrams = addressed(rig.population.messages(count))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.network.receive)
            nursery.start_soon(rig.committer.run)
            nursery.start_soon(rig.write_behind, None)
            seconds = await rig.ingest(datagrams)
            nursery.cancel_scope.cancel()
        rig.close()
        return seconds

    return trio.run(ingest)
