"""Two machines: a liar's result is judged by check and hash, everybody sees who settles late, and restarts forget none
of it.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from typing import cast

import pytest

from tests.support.nodes import Json, NodeProcess, Nodes, wait_for

pytestmark = pytest.mark.deep
ALLOW = ("--runner-allowed-commands", "printf,echo,sh,grep,sha256sum")


def worked(publisher: NodeProcess, worker: NodeProcess, *words: str) -> str:
    """A task that was published with these options of ``seed publish``, and run; its id."""
    seed_id = publisher.ok("seed", "publish", "--title", "t", *words).split()[-1]
    wait_for("the seed comes to the worker", lambda: worker.status(seed_id) == "Open")
    bid_id = worker.bid(seed_id, 5)
    wait_for("the bid comes to the publisher", lambda: publisher.rows(seed_id, "bids"))
    publisher.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
    wait_for("the claim comes to the worker", lambda: worker.status(seed_id) == "Claimed")
    worker.ask("seed.run", seed_id=seed_id)
    wait_for("the result comes to the publisher", lambda: publisher.status(seed_id) == "Done")
    return seed_id


def account(node: NodeProcess, author: str) -> Json:
    """An account without whether it is complete."""
    found = wait_for("the archive is counted", lambda: _complete(node, author))
    return {name: value for name, value in found.items() if name != "complete"}


def _is(node: NodeProcess, seed_id: str, status: str) -> bool:
    return node.status(seed_id) == status


def _archived(node: NodeProcess) -> set[str]:
    rows = cast(list[Json], node.ask("seed.list")["seeds"])
    return {str(row["id"]) for row in rows if row["archived"]}


def _complete(node: NodeProcess, author: str) -> Json | None:
    shown = node.ask("account.show", author=author)
    return shown if shown["complete"] else None


def test_results_are_judged_alike_everywhere_and_accounts_survive(nodes: Nodes) -> None:
    publisher = nodes.start("publisher", [], "--auto-settle", "check", "--archive-after-s", "1", *ALLOW)
    worker = nodes.start("worker", [publisher.listen], *ALLOW)
    wait_for("they know each other", lambda: publisher.ask("status")["peers"])
    digest = hashlib.sha256(b"hello").hexdigest()
    good = ("--cmd", "printf hello", "--expect-exit", "0", "--expect-stdout-sha256", digest, "--check", "grep -q hello")
    bad = ("--cmd", "printf bye", "--expect-exit", "0", "--check", "grep -q hello")
    unclear = ("--cmd", "printf bye", "--check", "tr a b", "--settle-within", "1s")
    settled = {worked(publisher, worker, *good): "Accepted", worked(publisher, worker, *bad): "Rejected"}
    for seed_id, status in settled.items():
        wait_for("it is settled", partial(_is, worker, seed_id, status))

    left = worked(publisher, worker, *unclear)
    publisher.await_event("settlement_overdue", seed_id=left)
    worker.await_event("settlement_missing", seed_id=left)
    assert all(node.seed(left)["overdue"] for node in (publisher, worker))
    for seed_id, judgement in zip(settled, ("accept", "reject"), strict=True):
        judged = json.loads(worker.ok("seed", "verdict", seed_id, "--run-check", "--json"))
        assert judged["judgement"] == judgement
        assert worker.ok("seed", "verdict", seed_id).startswith("ask: the check has not been run")
    assert publisher.ok("seed", "verdict", left, "--run-check").startswith("ask: the check cannot be run here")

    who = {name: str(node.ask("id")["node_id"]) for name, node in (("publisher", publisher), ("worker", worker))}
    wait_for("seeds leave memory", lambda: _archived(publisher) == set(settled))
    accounts = {name: account(publisher, author) for name, author in who.items()}
    assert cast(Json, accounts["worker"]["worker"])["earned"] == 5
    assert cast(Json, accounts["publisher"]["publisher"])["overdue"] == 1
    for name, author in who.items():
        assert account(worker, author) == accounts[name], "equal state, equal numbers"
    publisher.end()
    assert json.loads(publisher.ok("account", who["worker"], "--json"))["worker"] == accounts["worker"]["worker"]
    publisher.start()
    for name, author in who.items():
        assert account(publisher, author) == accounts[name], "the archive is counted again"
