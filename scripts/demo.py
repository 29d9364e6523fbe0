"""`make demo`: three real nodes on this machine do a whole task and refuse a forged settlement. They speak over UDP, or
with `make demo ARGS="--network dht"` over libp2p.

Each node is a separate process with its own data dir in a temporary directory, which is removed at the end. Commands
after a `$` run as shown, with `--data-dir` and `--state-dir` added. The exit code is 0 only if every step succeeds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TextIO

from crabnet.control.client import JsonValue
from crabnet.errors import CrabnetError, Reason
from crabnet.monitor.reader import read_events
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Kind, seal
from crabnet.protocol.identity import Signer
from crabnet.protocol.topics import channel_of
from scripts.demo_nodes import DHT, NETWORKS, UDP, DemoError, Node, Teller, wait_for
from scripts.demo_stranger import publish, send_datagrams

LOG_FILE = Path(".demo/demo.log")
TASK = 'echo "6 x 7 = 42"'


class InterruptError(Exception):
    """A signal has asked the demo to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


class Demo:
    """The steps of the demo: publish, bid, claim, run, forge, settle, compare."""

    def __init__(self, directory: Path, tell: Teller, network: str) -> None:
        self.tell = tell
        self.network = network
        self.publisher = Node("publisher", directory, tell, network)
        self.workers = [Node(name, directory, tell, network) for name in ("worker-1", "worker-2")]
        self.nodes = [self.publisher, *self.workers]

    def play(self) -> None:
        """Do all steps. Raises DemoError."""
        self.start()
        seed_id = self.publish()
        cheapest = self.auction(seed_id)
        winner = next(node for node in self.workers if node.node_id == cheapest["bidder"])
        self.claim(seed_id, cheapest, winner)
        self.work(seed_id, winner)
        forged_id = self.forge(seed_id)
        self.settle(seed_id)
        self.compare(seed_id, forged_id)

    def start(self) -> None:
        """Start three nodes and wait until they have found one another."""
        over = "UDP" if self.network == UDP else "libp2p"
        self.tell.heading(f"1. Three nodes start: three processes, talking over {over} on loopback")
        started: list[Node] = []
        for node in self.nodes:
            node.start(started)
            started.append(node)
        wanted = {self.publisher: 2, self.workers[0]: 1}
        wait_for(
            "the nodes find one another",
            lambda: all(int(str(node.ask("status")["peers"])) >= count for node, count in wanted.items()),
        )
        for worker in self.workers:
            self.tell.say(worker.name, f"confines tasks with: {wait_for('a self-test', partial(sandbox_of, worker))}")
        proved = "its address" if self.network == UDP else "by its handshake who it is"
        self.tell.say("all", f"each later node has proved {proved} to the earlier ones; all nodes know one another")

    def publish(self) -> str:
        """Publish a seed and wait until all workers have received it. Returns its id."""
        self.tell.heading("2. The publisher offers a task")
        words = ["--title", "the answer", "--cmd", TASK, "--min-price", "10", "--max-bids", "5", "--reward", "90"]
        line = self.publisher.run("seed", "publish", *words)
        seed_id = line.split()[2]
        for worker in self.workers:
            wait_for(f"{worker.name} receives the seed", partial(worker.seed, seed_id))
            self.tell.say(worker.name, f"has received it: seed {seed_id}")
        return seed_id

    def auction(self, seed_id: str) -> dict[str, JsonValue]:
        """Have the workers underbid each other. Returns the cheapest bid that the publisher knows."""
        self.tell.heading("3. The workers bid against each other")
        one, two = self.workers
        self.bid(one, seed_id, 80)
        self.underbid(two, seed_id, one, 65)
        self.underbid(one, seed_id, two, 50)
        self.tell.say(two.name, "cannot do it for less and does not bid again")
        wait_for("all bids reach the publisher", lambda: len(self.publisher.bids(seed_id)) == 3)
        bids = self.publisher.bids(seed_id)
        known = {str(node.node_id): node.name for node in self.workers}
        for bid in bids:
            self.tell.say("publisher", f"bid {bid['id']}  price {bid['price']}  by {known[str(bid['bidder'])]}")
        return bids[0]

    def bid(self, worker: Node, seed_id: str, price: int) -> None:
        """Make a bid."""
        worker.run("seed", "bid", seed_id, "--price", str(price))

    def underbid(self, worker: Node, seed_id: str, rival: Node, price: int) -> None:
        """Make a lower bid after the rival's bid has arrived."""

        def rivals() -> dict[str, JsonValue] | None:
            best = next(iter(worker.bids(seed_id)), None)
            return best if best is not None and best["bidder"] == rival.node_id else None

        seen = wait_for(f"{worker.name} sees the bid of {rival.name}", rivals)
        self.tell.say(worker.name, f"sees the bid of {rival.name}: price {seen['price']}")
        self.bid(worker, seed_id, price)

    def claim(self, seed_id: str, cheapest: dict[str, JsonValue], winner: Node) -> None:
        """Have the publisher claim the cheapest bid."""
        self.tell.heading("4. The publisher claims the cheaper bid")
        self.publisher.run("seed", "claim", seed_id, str(cheapest["id"]))
        wait_for(f"{winner.name} learns that it won", lambda: winner.seed(seed_id).get("status") == "Claimed")
        self.tell.say(winner.name, f"has won with price {cheapest['price']}")

    def work(self, seed_id: str, winner: Node) -> None:
        """Have the winner run the command, and compare the result at the publisher with that of the worker."""
        self.tell.heading("5. The worker runs the command and returns the signed result")
        printed = winner.run("seed", "run", seed_id).split()
        wait_for("the result reaches the publisher", lambda: self.publisher.seed(seed_id).get("status") == "Done")
        results = self.publisher.seed(seed_id)["results"]
        result = results[0] if isinstance(results, list) else None
        if not isinstance(result, dict) or [str(result["id"]), f"hash={result['output_hash']}"] != printed[2:4]:
            raise DemoError(f"the publisher's result differs from the one that the worker printed: {result}")
        self.tell.say(
            "publisher",
            f"has the result: exit code {result['exit_code']}, {result['duration_ms']} ms, "
            f"stdout {json.dumps(result['stdout'])}\noutput hash {result['output_hash']}",
        )

    def forge(self, seed_id: str) -> str:
        """Send a settlement of the publisher's seed that a stranger has signed with its own key. All nodes must refuse
        it. Returns the envelope's id.
        """
        self.tell.heading("6. A stranger forges a settlement")
        details = self.publisher.seed(seed_id)
        seed = details["seed"]
        if not isinstance(seed, dict):
            raise DemoError("the publisher lost its seed")
        key = os.urandom(32)
        stranger = Signer(key)
        names = ("id", "title", "command", "timeout_ms", "bid_deadline_ts", "exec_deadline_ms", "created_by",
                 "created_at", "claim_id", "result_id", "attempt")  # fmt: skip
        settled: JsonObject = {name: seed[name] for name in names}
        results = details["results"]
        result = results[0] if isinstance(results, list) else None
        if not isinstance(result, dict):
            raise DemoError("the publisher lost the result")
        settled["rests_on"] = result["envelope_id"]
        envelope = seal(
            stranger,
            kind=Kind.TASK_SETTLE,
            namespace="default",
            ts=int(time.time()),
            nonce=int.from_bytes(os.urandom(6), "big"),
            payload={"seed": {**settled, "status": "Rejected"}},
            seq=1,
        )
        if self.network == DHT:
            publish(envelope.raw, key, [node.address for node in self.nodes], channel_of(Kind.TASK_SETTLE))
        else:
            send_datagrams(envelope.raw, [node.address for node in self.nodes])
        self.tell.say(
            "stranger",
            f"node id {stranger.node_id}\nsends all nodes a validly signed TaskSettle: seed {seed_id} as Rejected",
        )
        for node in self.nodes:
            reason = wait_for(f"{node.name} refuses the forgery", partial(refusal, node, envelope.meta.id))
            self.tell.say(node.name, f"refused it: {reason}")
            if reason != Reason.UNAUTHORISED.value:
                raise DemoError(f"{node.name} refused the forgery as {reason}, not as unauthorised")
        words = ("--kind", "envelope_rejected", "--reason", "unauthorised", "--limit", "1")
        self.publisher.run("events", *words)
        if self.publisher.seed(seed_id)["status"] != "Done":
            raise DemoError("the forged settlement changed the seed")
        return envelope.meta.id

    def settle(self, seed_id: str) -> None:
        """Have the publisher accept the result."""
        self.tell.heading("7. The publisher settles")
        self.publisher.run("seed", "settle", seed_id, "--accepted", "--note", "well done")

    def compare(self, seed_id: str, forged_id: str) -> None:
        """Check that all nodes have the same state."""
        self.tell.heading("8. The end: what each node holds")

        def hashes() -> dict[str, str] | None:
            found = {node.name: str(node.ask("status")["state_hash"]) for node in self.nodes}
            settled = all(node.seed(seed_id).get("status") == "Accepted" for node in self.nodes)
            return found if settled and len(set(found.values())) == 1 else None

        for name, state_hash in wait_for("all nodes hold the same state", hashes).items():
            self.tell.say(name, f"seed Accepted, state hash {state_hash}")
        self.tell.say("all", "same state hash on all nodes: yes")
        reasons = {node.name: refusal(node, forged_id) for node in self.nodes}
        self.tell.say("all", "forged settlement refused: " + ", ".join(f"{k}: {v}" for k, v in reasons.items()))

    def stop(self) -> None:
        """End all nodes with SIGTERM, as an operator would. Raises DemoError if one does not end cleanly."""
        for node in self.nodes:
            code = node.stop()
            if code != 0:
                raise DemoError(f"{node.name} ended with exit code {code}: {node.last_words()}")
        self.tell.say("all", "stopped cleanly")

    def abandon(self) -> None:
        """End the nodes that still run."""
        for node in self.nodes:
            node.stop()


def sandbox_of(node: Node) -> str | None:
    """The sandbox of a node; None until its self-test is done."""
    report = node.ask("status")["sandbox"]
    mode = report.get("mode") if isinstance(report, dict) else None
    return mode if isinstance(mode, str) and mode != "unknown" else None


def refusal(node: Node, envelope_id: str) -> str | None:
    """The Reason in the node's events for refusing an envelope; None if there is no such event."""
    page = read_events(node.data_dir, kinds={"envelope_rejected"})
    found = (event.payload.get("reason") for event in page.events if event.payload.get("envelope_id") == envelope_id)
    return next((str(reason) for reason in found), None)


def ignore_signals() -> None:
    """Ignore signals, so that nothing interrupts the cleanup."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def interrupt(number: int, _: FrameType | None) -> None:
    """Turn the first signal into an exception. Later ones are ignored, because they must not stop the cleanup."""
    ignore_signals()
    raise InterruptError(number)


def main() -> int:
    """Run the command line: run the demo and clean up in any case. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Three nodes, one task, one forgery.")
    parser.add_argument("--log", type=Path, default=LOG_FILE, help=f"file for a copy of what is shown ({LOG_FILE})")
    parser.add_argument("--network", choices=NETWORKS, default=UDP, help=f"how the nodes speak ({UDP})")
    given = parser.parse_args()
    log_path: Path = given.log
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    with ExitStack() as stack:
        log: TextIO | None = None
        try:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            log = stack.enter_context(log_path.open("w", encoding="utf-8"))
        except OSError as error:
            print(f"demo: no log file {log_path}: {error.strerror}", file=sys.stderr)
        tell = Teller(log)
        try:
            play(tell, given.network)
        except (DemoError, CrabnetError, OSError, subprocess.SubprocessError, LookupError, ValueError) as error:
            tell.say("demo", f"FAILED: {error}")
            return 1
        except InterruptError as stop:
            tell.say("demo", f"interrupted by {stop}; everything was stopped and removed")
            return 128 + stop.number
        seconds = time.monotonic() - tell.started
        tell.say("all", f"done in {seconds:.1f} s" + (f"; this is also in {log_path}" if log is not None else ""))
    return 0


def play(tell: Teller, network: str) -> None:
    """Run the demo in a temporary directory. Afterwards remove the directory and end the processes."""
    directory = Path(tempfile.mkdtemp(prefix="crabnet-demo-"))
    demo = Demo(directory, tell, network)
    try:
        demo.play()
        demo.stop()
    finally:
        ignore_signals()
        demo.abandon()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
