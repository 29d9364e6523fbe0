"""Real nodes with a mistake planted in applying or committing: they start again from the journal, and go on."""

from __future__ import annotations

import json
import sys
import time
from base64 import b64decode
from pathlib import Path
from typing import cast

import pytest

from crabnet.core.mending import hash_of
from crabnet.errors import CrabnetError, ExitCode
from crabnet.protocol.envelope import Envelope, Kind
from tests.support.envelopes import Author
from tests.support.nodes import DEADLINE_S, Json, NodeProcess, Nodes, converge, wait_for, whole_job
from tests.support.planted import TITLE


def planted(nodes: Nodes, mistake: str, *words: str, peers: tuple[str, ...] = ()) -> NodeProcess:
    node = nodes.make("planted", peers, *words)
    node.program = [sys.executable, "-m", "tests.support.planted", mistake]
    return node.start()


def seed(author: Author, title: str) -> Envelope:
    now_s = int(time.time())
    return author.say(Kind.SEED_CREATED, {"seed": author.seed(now_s, title=title)}, now_s)


def restarted(node: NodeProcess, count: int) -> None:
    """Wait until the node has started itself again so often, and answers."""
    wait_for(f"restart {count}", lambda: len(node.events("node_restarted")) >= count)
    wait_for("the control socket", lambda: answers(node))


def answers(node: NodeProcess) -> bool:
    try:
        return bool(node.ask("id"))
    except CrabnetError:
        return False


def counted(node: NodeProcess, name: str) -> int:
    return cast(int, cast(Json, node.ask("status")["counters"]).get(name, 0))


def insist_until_refused(node: NodeProcess, *envelopes: Envelope) -> None:
    """Send these again and again, until the node has refused one of them as quarantined."""

    def is_refused() -> bool:
        for envelope in envelopes:
            node.send_to(envelope.raw)
        try:
            return counted(node, "envelope_ignored.quarantined") > 0
        except CrabnetError:  # it is going down, or not there yet
            return False

    wait_for("the refusal", is_refused)


def refused(node: NodeProcess) -> list[str]:
    """The hashes that the node refuses."""
    return cast(list[str], json.loads((node.data_dir / "quarantine" / "refused.json").read_bytes())["refused"])


def kept(data_dir: Path) -> list[Json]:
    return [json.loads(path.read_bytes()) for path in (data_dir / "quarantine").glob("*-*.json")]


@pytest.mark.parametrize("mistake", ["applying", pytest.param("committing", marks=pytest.mark.deep)])
def test_a_node_that_fails_on_a_message_starts_again_and_refuses_it(nodes: Nodes, mistake: str) -> None:
    peer = nodes.start("peer")
    node = planted(nodes, mistake, peers=(peer.listen,))
    before = whole_job(peer, node)
    address = node.listen
    poison = seed(Author("stranger"), TITLE)

    insist_until_refused(node, poison)
    after = whole_job(peer, node)

    converge([peer, node], [before, after])
    assert node.listen == address
    restarts = len(node.events("node_restarted"))
    # What was committed together with it makes it a suspect at first.
    assert 1 <= restarts <= (1 if mistake == "applying" else 2)
    assert len(node.events("replica_failed", part=mistake)) == restarts
    faults = [each for each in kept(node.data_dir) if each["part"] == mistake]
    assert poison.raw in [b64decode(str(each["message"])) for each in faults]
    assert all("planted" in str(each["traceback"]) for each in faults)
    assert refused(node) == [hash_of(poison.raw)]
    assert node.end() == ExitCode.OK
    assert node.cli("audit", "verify").returncode == ExitCode.OK
    assert "Traceback" not in node.errors()


@pytest.mark.deep
def test_of_messages_that_were_committed_together_the_bad_one_is_found(nodes: Nodes) -> None:
    """After the first restart each is committed alone, so that only the bad one is refused in the end."""
    node = planted(nodes, "committing")
    good = [Author(f"good{number}") for number in range(8)]
    envelopes = [*(seed(author, "t") for author in good), seed(Author("stranger"), TITLE)]

    insist_until_refused(node, *envelopes)
    wait_for("all but one", lambda: len(node.seed_ids()) == len(good))
    assert refused(node) == [hash_of(envelopes[-1].raw)]
    assert len(node.events("node_restarted")) <= 2
    assert node.end() == ExitCode.OK


def test_a_node_that_fails_too_often_says_so_and_ends(nodes: Nodes) -> None:
    node = planted(nodes, "applying", "--restarts-max", "2", "--restarts-window-s", "3600")
    for number in range(3):
        node.send_to(seed(Author(f"stranger{number}"), TITLE).raw)
        if number < 2:
            restarted(node, number + 1)
    assert node.process is not None
    assert node.process.wait(DEADLINE_S) == ExitCode.FAILING
    assert "error: restarts_exhausted: unexpected " in node.errors()
    node.end()


def test_a_node_that_may_not_restart_does_not(nodes: Nodes) -> None:
    node = planted(nodes, "applying", "--restarts-max", "0")
    node.send_to(seed(Author("stranger"), TITLE).raw)
    assert node.process is not None
    assert node.process.wait(DEADLINE_S) == ExitCode.FAILING
    assert node.events("node_restarted") == []
    node.end()
