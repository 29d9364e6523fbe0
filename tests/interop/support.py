"""A foreign peer in a process of its own."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.interop.js_install import HERE
from tests.support.nodes import DEADLINE_S, NodeProcess, environment, wait_for

Event = dict[str, Any]
STOP_S: Final = 10


class JsPeer:
    """The foreign peer. It is told what to do, and it tells what it hears."""

    def __init__(
        self, node: str, directory: Path, seed: bytes, *, namespace: str = "default", swarm_key: str = ""
    ) -> None:
        """``node`` is the path of Node.js; ``seed`` makes the key; ``swarm_key`` is the text of a key file."""
        self._stderr = directory / f"js-{seed[:4].hex()}.stderr"
        with self._stderr.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [node, "peer.mjs"],
                cwd=HERE,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(),
            )
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._number = 0
        listen = ["/ip4/127.0.0.1/tcp/0"]
        self._write({"seed": seed.hex(), "namespace": namespace, "listen": listen, "swarm_key": swarm_key})
        ready = self.wait_for("ready")
        self.id = str(ready["id"])
        self.multiaddr = str(ready["addresses"][0])
        assert ready["peer"] == self.id, "the id of the author is that of the libp2p peer"

    def close(self) -> None:
        """End the process."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        stdout.close()

    def _write(self, value: Event) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(json.dumps(value) + "\n")
        stdin.flush()

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        for line in stdout:
            with self._changed:
                self._events.append(json.loads(line))
                self._changed.notify_all()

    # --- telling and asking ----------------------------------------------------------------------------

    def order(self, order: str, **fields: object) -> Event:
        """Have it do something; what it says of the outcome."""
        self._number += 1
        self._write({"order": order, "number": self._number, **fields})
        with self._changed:
            done = self._wait(f"{order} is done", lambda event: event.get("number") == self._number)
        assert done["event"] == "done", done
        return done

    def state(self, kind: str, name: str, *, silent: bool = False, **body: object) -> Event:
        """Have it state an object in its feed, and publish that: ``object_id``, ``envelope``, ``recipients``."""
        return self.order("state", kind=kind, name=name, body=body, silent=silent)

    def publish(self, *, silent: bool = False, **fields: object) -> Event:
        """Have it publish a seed."""
        return self.state("SeedCreated", "seed", silent=silent, **{**self.seed(), **fields})

    def seed(self) -> Event:
        """The fields of a seed, but for those that follow from its place in the feed."""
        return {
            "title": "from JavaScript",
            "command": "echo hello",
            "timeout_ms": 5_000,
            "bid_deadline_ts": int(time.time()) + 600,
            "exec_deadline_ms": 60_000,
            "created_by": self.id,
        }

    def events(self, event: str, **fields: object) -> list[Event]:
        """The events of a kind that have these fields."""
        with self._changed:
            return [each for each in self._events if each["event"] == event and fields.items() <= each.items()]

    def wait_for(self, event: str, **fields: object) -> Event:
        """The first such event, waited for."""
        with self._changed:
            return self._wait(
                f"{event} {fields}", lambda each: each["event"] == event and fields.items() <= each.items()
            )

    def object(self, author: str, kind: str, name: str, **fields: object) -> tuple[Event, Event]:
        """The first object of this kind and author with these fields that it hears, waited for, and its event."""

        def is_it(event: Event) -> bool:
            return (
                event["event"] == "envelope"
                and (event["meta"]["from"], event["meta"]["kind"]) == (author, kind)
                and fields.items() <= event["payload"][name].items()
            )

        with self._changed:
            event = self._wait(f"{kind} {fields}", is_it)
        return event["payload"][name], event

    def _wait(self, what: str, is_it: Callable[[Event], bool]) -> Event:
        at, deadline = 0, time.monotonic() + DEADLINE_S
        while True:
            for event in self._events[at:]:
                if is_it(event):
                    return event
            at = len(self._events)
            left = deadline - time.monotonic()
            if left <= 0 or self._process.poll() is not None:
                errors = self._stderr.read_text(encoding="utf-8")[-2_000:]
                raise AssertionError(f"the js peer: waited in vain: {what}; last {self._events[-5:]} {errors}")
            self._changed.wait(min(left, 1))

    def knows_the_topics_of(self, node: NodeProcess) -> None:
        """Wait until it knows which topics the node reads: then it sends the node what it publishes."""
        for channel in ("tasks", "work"):
            wait_for(f"the node's subscription to {channel}", partial(self._is_read, node.node_id, channel))

    def _is_read(self, peer: str, channel: str) -> bool:
        return peer in self.order("subscribers", channel=channel)["peers"]
