"""`make demo`: real nodes on this machine. A worker sells and a buyer buys, with one line each. Then nodes do the steps
of a task one by one, and refuse a forged settlement. They speak over UDP, or with `make demo ARGS="--network dht"` over
libp2p.

Each node is a separate process with its own data dir in a temporary directory, which is removed at the end. Commands
after a `$` run as shown, with `--data-dir` added; nodes also get addresses of loopback. The exit code is 0 only
if every step succeeds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
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
from typing import TextIO, cast

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
RECEIPT = "hello.receipt"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends the demo in order."""


class InterruptError(Exception):
    """A signal has asked the demo to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


class Demo:
    """The steps of the demo: sell and buy with one line each; then publish, bid, claim, run, forge, settle, compare."""

    def __init__(self, directory: Path, tell: Teller, network: str) -> None:
        self.tell = tell
        self.network = network
        self.buyer = Node("buyer", directory, tell, network)
        self.seller = Node("worker", directory, tell, network)
        self.workers = [Node(name, directory, tell, network) for name in ("worker-1", "worker-2")]
        self.nodes = [self.buyer, *self.workers]

    def play(self) -> None:
        """Do all steps. Raises DemoError."""
        self.trade()
        self.explain()
        self.prove()
        self.end_work()
        self.start()
        seed_id = self.publish()
        cheapest = self.auction(seed_id)
        winner = next(node for node in self.workers if node.node_id == cheapest["bidder"])
        self.claim(seed_id, cheapest, winner)
        self.work(seed_id, winner)
        forged_id = self.forge(seed_id)
        self.settle(seed_id)
        self.compare(seed_id, forged_id)

    def trade(self) -> None:
        """Have a worker sell and the buyer buy, with one line each."""
        self.tell.heading("1. One line to sell, one line to buy")
        self.buyer.start(["listen"])
        self.seller.start(
            ["work", "--join", self.buyer.address, "--allow", "echo,sha256sum", "--min-price", "1"], shown=True
        )
        confined = wait_for("a self-test", partial(sandbox_of, self.seller))
        self.tell.say(self.seller.name, f"confines tasks with: {confined}")
        wait_for("the buyer finds the worker", partial(self.buyer.knows, {self.seller.node_id}))
        printed = self.buyer.run("run", "--max-price", "5", "--", "echo", "hello")
        if printed != "hello\n":
            raise DemoError(f"the command should print hello, and printed {printed!r}")
        self.tell.say(self.buyer.name, "exit code 0: that of the command")
        wait_for("the worker hears that it has earned", lambda: "earned 1" in self.seller.log())
        wait_for("the buyer hears that the worker knows", self.acknowledged)
        for line in self.seller.log().splitlines():
            if re.search(r"\b(bid|won|finished|earned)\b", line):
                self.tell.say(self.seller.name, f"log: {line}")

    def acknowledged(self) -> bool:
        """True if the buyer knows that the worker has seen the settlement of its only task."""
        (row,) = cast(list[dict[str, JsonValue]], self.buyer.ask("seed.list")["seeds"])
        return "was accepted at" in str(self.buyer.ask("seed.why", seed_id=row["id"])["headline"])

    def explain(self) -> None:
        """Show what became of the task, and the account of the worker."""
        self.tell.heading("2. What has happened, and what it has cost")
        self.buyer.run("why", "@last")
        if "spent 1" not in " ".join(self.buyer.run("account").split()):
            raise DemoError("the account of the buyer does not say that it has spent 1")

    def prove(self) -> None:
        """Write the receipt of the task, verify it, and see that a changed byte is found."""
        self.tell.heading("3. A receipt, which anybody can verify without a node")
        self.buyer.run("receipt", "@last", "-o", RECEIPT)
        self.buyer.run("receipt", "verify", RECEIPT, lines=14)
        path = self.buyer.data_dir.with_name(RECEIPT)
        path.write_bytes(path.read_bytes().replace(b"hello", b"HELLO", 1))
        self.tell.say("stranger", f"changes a word in {RECEIPT}")
        self.buyer.refused("receipt", "verify", RECEIPT)

    def end_work(self) -> None:
        """End the worker, which says what it has earned."""
        self.tell.heading("4. The worker ends")
        self.seller.run("drain")
        code = self.seller.stop()
        if code != 0:
            raise DemoError(f"the worker ended with exit code {code}: {self.seller.last_words()}")
        summary = next((line for line in self.seller.log().splitlines() if line.startswith("this session")), "")
        if "earned 1" not in summary:
            raise DemoError(f"the worker did not say what it has earned: {self.seller.last_words()}")
        self.tell.say(self.seller.name, f"log: {summary}")

    def start(self) -> None:
        """Start two more nodes and wait until all have found one another."""
        over = "UDP" if self.network == UDP else "libp2p"
        self.tell.heading(f"5. The same by hand: three nodes, three processes, talking over {over} on loopback")
        started = [self.buyer]
        for worker in self.workers:
            known = [word for node in started for word in ("--join", node.address)]
            worker.start(["listen", "--alias", worker.name, *known])
            started.append(worker)
        for node in self.nodes:
            others = {other.node_id for other in self.nodes if other is not node}
            wait_for(f"{node.name} finds the others", partial(node.knows, others))
        for worker in self.workers:
            wait_for("a self-test", partial(sandbox_of, worker))
        proved = "its address" if self.network == UDP else "by its handshake who it is"
        self.tell.say("all", f"each later node has proved {proved} to the earlier ones; all nodes know one another")

    def publish(self) -> str:
        """Publish a seed and wait until all workers have received it. Returns its id."""
        self.tell.heading("6. The buyer offers a task")
        words = ["--title", "the answer", "--cmd", TASK, "--min-price", "10", "--max-bids", "5", "--reward", "90"]
        line = self.buyer.run("seed", "publish", *words)
        seed_id = line.split()[2]
        for worker in self.workers:
            wait_for(f"{worker.name} receives the seed", partial(worker.seed, seed_id))
            self.tell.say(worker.name, f"has received it: seed {seed_id}")
        return seed_id

    def auction(self, seed_id: str) -> dict[str, JsonValue]:
        """Have one worker underbid the other. Returns the cheapest bid that the buyer knows."""
        self.tell.heading("7. The workers bid against each other")
        one, two = self.workers
        one.run("seed", "bid", seed_id, "--price", "80")
        seen = wait_for(f"{two.name} sees the bid of {one.name}", lambda: next(iter(two.bids(seed_id)), None))
        self.tell.say(two.name, f"sees the bid of {one.name}: price {seen['price']}")
        two.run("seed", "bid", seed_id, "--price", "65")
        wait_for("all bids reach the buyer", lambda: len(self.buyer.bids(seed_id)) == 2)
        bids = self.buyer.bids(seed_id)
        known = {str(node.node_id): node.name for node in self.workers}
        for bid in bids:
            self.tell.say("buyer", f"bid {bid['id']}  price {bid['price']}  by {known[str(bid['bidder'])]}")
        return bids[0]

    def claim(self, seed_id: str, cheapest: dict[str, JsonValue], winner: Node) -> None:
        """Have the buyer claim the cheapest bid."""
        self.tell.heading("8. The buyer claims the cheaper bid")
        self.buyer.run("seed", "claim", seed_id, str(cheapest["id"]))
        wait_for(f"{winner.name} learns that it won", lambda: winner.seed(seed_id).get("status") == "Claimed")
        self.tell.say(winner.name, f"has won with price {cheapest['price']}")

    def work(self, seed_id: str, winner: Node) -> None:
        """Have the winner run the command, and compare the result at the buyer with that of the worker."""
        self.tell.heading("9. The worker runs the command and returns the signed result")
        printed = winner.run("seed", "run", seed_id).split()
        wait_for("the result reaches the buyer", lambda: self.buyer.seed(seed_id).get("status") == "Done")
        results = self.buyer.seed(seed_id)["results"]
        result = results[0] if isinstance(results, list) else None
        if not isinstance(result, dict) or [str(result["id"]), f"hash={result['output_hash']}"] != printed[2:4]:
            raise DemoError(f"the buyer's result differs from the one that the worker printed: {result}")
        self.tell.say(
            "buyer",
            f"has the result: exit code {result['exit_code']}, {result['duration_ms']} ms, "
            f"stdout {json.dumps(result['stdout'])}\noutput hash {result['output_hash']}",
        )

    def forge(self, seed_id: str) -> str:
        """Send a settlement of the buyer's seed that a stranger has signed with its own key. All nodes must refuse
        it. Returns the envelope's id.
        """
        self.tell.heading("10. A stranger forges a settlement")
        details = self.buyer.seed(seed_id)
        seed = details["seed"]
        if not isinstance(seed, dict):
            raise DemoError("the buyer lost its seed")
        key = os.urandom(32)
        stranger = Signer(key)
        names = ("id", "title", "command", "timeout_ms", "bid_deadline_ts", "exec_deadline_ms", "created_by",
                 "created_at", "claim_id", "result_id", "attempt")  # fmt: skip
        settled: JsonObject = {name: seed[name] for name in names}
        results = details["results"]
        result = results[0] if isinstance(results, list) else None
        if not isinstance(result, dict):
            raise DemoError("the buyer lost the result")
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
        self.buyer.run("events", *words)
        if self.buyer.seed(seed_id)["status"] != "Done":
            raise DemoError("the forged settlement changed the seed")
        return envelope.meta.id

    def settle(self, seed_id: str) -> None:
        """Have the buyer accept the result."""
        self.tell.heading("11. The buyer settles")
        self.buyer.run("seed", "settle", seed_id, "--accepted", "--note", "well done")

    def compare(self, seed_id: str, forged_id: str) -> None:
        """Check that all nodes have the same state."""
        self.tell.heading("12. The end: what each node holds")

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
        for node in [*self.nodes, self.seller]:
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
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def interrupt(number: int, _: FrameType | None) -> None:
    """Turn the first signal into an exception. Later ones are ignored, because they must not stop the cleanup."""
    ignore_signals()
    raise InterruptError(number)


def main() -> int:
    """Run the command line: run the demo and clean up in any case. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description="One line to sell, one to buy; then three nodes, one task, one forgery."
    )
    parser.add_argument("--log", type=Path, default=LOG_FILE, help=f"file for a copy of what is shown ({LOG_FILE})")
    parser.add_argument("--network", choices=NETWORKS, default=UDP, help=f"how the nodes speak ({UDP})")
    given = parser.parse_args()
    log_path: Path = given.log
    for number in SIGNALS:
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
