"""A market of real processes: what is bought is settled once, run at most once in an attempt, and brought as it was.

Some workers run without a sandbox, so that each of their runs can leave a mark in a file. The others have the sandbox
of this machine, and their events tell what they ran.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, cast

import msgspec
import pytest

from tests.support.buying import Bought
from tests.support.nodes import CRABNET, DEADLINE_S, Json, NodeProcess, Nodes, environment, wait_for

SEED: Final = 13
_BUY_S: Final = 240
"""How long buying may take at most. Only a failure takes so long."""
_KILL_EVERY_S: Final = 0.7
MARK: Final = '{ echo "$WORKER %d" >> "$MARKS"; } 2>/dev/null; '
"""Does nothing in a sandbox: the variables and the file are not there."""


class Job(NamedTuple):
    """A command, and what it has to bring."""

    number: int
    script: str
    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def command(self) -> str:
        """The command line."""
        return f"sh -c '{MARK % self.number}{self.script}'"


def jobs(count: int) -> list[Job]:
    """Jobs of all kinds in turns: text, an exit code without output, binary, stderr, and slow ones with both."""
    return [_job(number) for number in range(count)]


def _job(number: int) -> Job:
    match number % 5:
        case 0:
            return Job(number, f"echo hello {number}", 0, b"hello %d\n" % number, b"")
        case 1:
            code = number % 239 + 1
            return Job(number, f"exit {code}", code, b"", b"")
        case 2:
            return Job(number, rf'printf "\000\377\n{number}"', 0, b"\0\xff\n%d" % number, b"")
        case 3:
            return Job(number, f"echo warn {number} >&2; exit 3", 3, b"", b"warn %d\n" % number)
        case _:
            return Job(number, f"sleep 0.2; echo out; echo err >&2; exit {number % 2}", number % 2, b"out\n", b"err\n")


class Market:
    """A buyer and its workers. Every second worker has no sandbox and leaves marks."""

    def __init__(self, nodes: Nodes, directory: Path, workers: int) -> None:
        self.marks = directory / "marks"
        self.marks.touch()
        self.buyer = nodes.start("buyer")
        self.sellers: list[NodeProcess] = []
        self.marking: list[NodeProcess] = []
        for number in range(workers):
            words = ["--join", self.buyer.listen, "--allow", "sh", "--price", str(number + 1)]
            seller = nodes.make(f"worker{number}", [], *words)
            seller.command = "work"
            if number % 2 == 0:
                seller.words += ("--runner-sandbox", "none", "--runner-environment", "WORKER,MARKS")
                seller.env = environment(WORKER=seller.data_dir.name, MARKS=str(self.marks))
                self.marking.append(seller)
            self.sellers.append(seller)
            seller.launch()
        for seller in self.sellers:
            seller.ready()

    def run_line(self, job: Job) -> None:
        """Buy a job with `crabnet run`, and demand that it behaves like the job itself."""
        words = ["run", "--award", "first", "--max-price", "9", "--timeout", "10s", "--retries", "9"]
        done = subprocess.run(
            [*CRABNET, *words, "--data-dir", str(self.buyer.data_dir), "--", "sh", "-c", job.command[7:-1]],
            capture_output=True,
            check=False,
            env=environment(),
            timeout=_BUY_S,
        )
        assert (done.returncode, done.stdout, done.stderr) == (job.exit_code, job.stdout, job.stderr), job

    def buy(self, wanted: list[Job], at_once: int) -> list[Bought]:
        """Buy jobs with the Python API, on the data dir and address of the buyer, whose node is ended meanwhile."""
        self.buyer.end()
        words = [sys.executable, "-m", "tests.support.buying"]
        done = subprocess.run(
            [*words, str(self.buyer.data_dir), self.buyer.listen, str(at_once)],
            input=msgspec.json.encode([job.command for job in wanted]),
            capture_output=True,
            check=False,
            env=environment(),
            timeout=_BUY_S,
        )
        assert done.returncode == 0, done.stderr.decode()
        self.buyer.start()
        bought = msgspec.json.decode(done.stdout, type=list[Bought])
        for job, brought in zip(wanted, bought, strict=True):
            assert (brought.exit_code, brought.stdout, brought.stderr) == job[2:], job
        return bought

    def ask(self, wanted: list[Job]) -> None:
        """Buy jobs over the control socket, all at once."""
        for job in wanted:
            self.buyer.publish(job.command, timeout_ms=10_000, exec_deadline_ms=70_000, terms={"award": "first"})
        wait_for("all are bought", lambda: self.buyer.ask("purchase.list")["purchases"] == [])
        by_number = {job.number: job for job in wanted}
        for seed_id in self.buyer.seed_ids():
            shown = self.buyer.show(seed_id)
            asked = by_number.get(_job_of(shown))
            if asked is not None:
                result = _rows(shown, "results")[-1]
                brought = [result["exit_code"], _raw(result, "stdout"), _raw(result, "stderr")]
                assert brought == [asked.exit_code, asked.stdout, asked.stderr], asked

    # --- what must hold at the end ---------------------------------------------------------------------

    def check(self, wanted: list[Job]) -> None:
        """Each job was settled once and executed at most once in an attempt, and all nodes tell the same."""
        nodes = [self.buyer, *self.sellers]
        wait_for("all nodes hold the same", lambda: len({node.state_hash() for node in nodes}) == 1)
        seeds = [self.buyer.show(seed_id) for seed_id in sorted(self.buyer.seed_ids())]
        self._check_settlements(seeds, wanted)
        self._check_accounts(seeds)
        claimed = Counter((str(claim["worker"]), _job_of(shown)) for shown in seeds for claim in _rows(shown, "claims"))
        self._check_runs(claimed)
        wait_for("nothing is under way", lambda: self.buyer.ask("purchase.list")["purchases"] == [])

    def _check_settlements(self, seeds: list[Json], wanted: list[Job]) -> None:
        accepted = Counter(_job_of(shown) for shown in seeds if cast(Json, shown["seed"])["status"] == "Accepted")
        assert accepted == Counter(job.number for job in wanted)
        for shown in seeds:
            outcomes = [str(each["outcome"]) for each in _rows(shown, "settlements")]
            assert outcomes.count("Accepted") == (cast(Json, shown["seed"])["status"] == "Accepted"), shown
            assert not {"Rejected", "Disputed"} & {*outcomes}, shown

    def _check_accounts(self, seeds: list[Json]) -> None:
        listed = [node.ask("account.list")["accounts"] for node in [self.buyer, *self.sellers]]
        assert all(each == listed[0] for each in listed)
        accounts = {str(row["author"]): row for row in cast(list[Json], listed[0])}
        publisher = cast(dict[str, int], accounts[self.buyer.node_id]["publisher"])
        won = [accounts[seller.node_id] for seller in self.sellers if seller.node_id in accounts]
        workers = [cast(dict[str, int], each["worker"]) for each in won]
        settled = [shown for shown in seeds if cast(Json, shown["seed"])["status"] == "Accepted"]
        assert publisher["published"] == len(seeds)
        assert publisher["accepted"] == sum(each["accepted"] for each in workers) == len(settled)
        assert publisher["spent"] == sum(each["earned"] for each in workers) == sum(map(_price, settled))
        assert (publisher["awaiting"], publisher["committed"], sum(each["owed"] for each in workers)) == (0, 0, 0)

    def _check_runs(self, claimed: Counter[tuple[str, int]]) -> None:
        """A purchase goes to no worker that has begun it before, so no worker has two marks of a job."""
        ids = {seller.data_dir.name: seller.node_id for seller in self.marking}
        marks = Counter((ids[who], int(number)) for who, number in map(str.split, self.marks.read_text().splitlines()))
        assert not [mark for mark, count in marks.items() if count > 1]
        assert marks.keys() <= claimed.keys()
        for seller in self.sellers:
            begun = Counter(str(event.payload["claim_id"]) for event in seller.events("run_started"))
            assert not [claim_id for claim_id, count in begun.items() if count > 1]


def _rows(shown: Json, name: str) -> list[Json]:
    return cast(list[Json], shown.get(name) or [])


def _raw(result: Json, name: str) -> bytes:
    encoded = result.get(f"{name}_base64")
    return b64decode(str(encoded)) if encoded else str(result[name]).encode()


def _job_of(shown: Json) -> int:
    """The number of the job is in the mark that its command leaves."""
    return int(str(cast(Json, shown["seed"])["command"]).partition("$WORKER ")[2].partition('"')[0])


def _price(shown: Json) -> int:
    bid_id = _rows(shown, "claims")[-1]["bid_id"]
    return next(cast(int, bid["price"]) for bid in _rows(shown, "bids") if bid["id"] == bid_id)


@contextmanager
def killing(sellers: list[NodeProcess]) -> Iterator[None]:
    """kill -9 one worker after the other, at random, and start it again, until the block ends."""
    stop, rng = threading.Event(), random.Random(SEED)

    def kill() -> int:
        killed = 0
        while not stop.wait(rng.uniform(0.3, 1) * _KILL_EVERY_S):
            victim = rng.choice(sellers)
            victim.kill()
            victim.start()
            killed += 1
        return killed

    with ThreadPoolExecutor(1) as pool:
        killer = pool.submit(kill)
        try:
            yield
        finally:
            stop.set()
        assert killer.result(DEADLINE_S) > 3


@pytest.fixture
def small(nodes: Nodes, tmp_path: Path) -> Market:
    """A market of two workers."""
    return Market(nodes, tmp_path, 2)


def test_six_tasks_and_two_workers(small: Market) -> None:
    wanted = jobs(6)
    small.run_line(wanted[0])
    small.ask(wanted[1:])
    small.check(wanted)


@pytest.mark.deep
def test_500_tasks_and_workers_that_are_killed(nodes: Nodes, tmp_path: Path) -> None:
    market = Market(nodes, tmp_path, 5)
    wanted = jobs(500)
    with killing(market.sellers):
        with ThreadPoolExecutor(4) as buyers:
            list(buyers.map(market.run_line, wanted[:60]))
        market.buy(wanted[60:], at_once=32)
    market.check(wanted)
    assert all(seller.events("run_started") for seller in market.sellers)
    assert len(market.marks.read_text().splitlines()) > len(wanted) // 10
    assert market.buyer.end(signal.SIGTERM) == 0
