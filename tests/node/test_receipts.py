"""``seed.receipt``: the envelopes are found in a node and in its files, in memory and archived."""

from __future__ import annotations

from pathlib import Path

import pytest

from crabnet.core.commands import FinishRun, Settle, StartRun
from crabnet.domain.model import Failure, SeedStatus, Termination, TerminationCause
from crabnet.errors import Reason, RefusedError
from crabnet.node.node import Node
from crabnet.node.operations.doors import dispatch
from crabnet.node.operations.importing import import_entries
from crabnet.node.operations.reading import read_locally
from crabnet.operations.market import Receipt
from crabnet.protocol.receipt import verify_receipt
from tests.operator.support import Clock, publish, settings_of, work
from tests.support.envelopes import job, seed_id_of
from tests.support.receipts import written


def local(data_dir: Path, seed_id: str) -> str:
    answer = read_locally(settings_of(data_dir), "seed.receipt", {"seed_id": seed_id})
    assert isinstance(answer, dict)
    return str(answer["document"])


async def asked(node: Node, seed_id: str) -> str:
    answer = await dispatch(node, "seed.receipt", {"seed_id": seed_id})
    assert isinstance(answer, Receipt)
    return answer.document


def test_a_node_and_its_files_give_the_same_receipt_also_of_an_archived_task(tmp_path: Path) -> None:
    envelopes, clock = job(), Clock()
    seed_id, wanted = seed_id_of(envelopes[0]), written(envelopes).decode()

    async def fill(node: Node) -> None:
        await import_entries(node, [envelope.raw for envelope in envelopes], [])
        assert await asked(node, seed_id) == wanted
        clock.now_ms += 3_600_000
        while await node.archivist.archive_due():
            pass
        assert seed_id not in node.core.replica.state.records
        assert await asked(node, seed_id) == wanted

    work(tmp_path / "d", fill, clock, archive_after_s=60)
    assert local(tmp_path / "d", seed_id) == wanted


def test_an_attempt_that_its_worker_gave_up_is_in_the_receipt_after_a_restart(tmp_path: Path) -> None:
    found: list[str] = []

    async def give_up(node: Node) -> None:
        seed = await publish(node)
        bid = await node.bid(seed.id, 3)
        await node.claim(seed.id, bid.id)
        await node.perform(StartRun(seed_id=seed.id))
        failed = FinishRun(
            seed_id=seed.id, exit_code=1, timed_out=False, stdout="", stderr="", output_hash="0" * 64, duration_ms=1,
            termination=Termination(cause=TerminationCause.CANCELLED), failed=Failure.WORKER,
        )  # fmt: skip
        await node.perform(failed)
        await node.perform(Settle(seed_id=seed.id, outcome=SeedStatus.FORFEITED))
        found.extend([seed.id, await asked(node, seed.id)])

    async def ask(node: Node) -> None:
        assert await asked(node, found[0]) == found[1]

    work(tmp_path / "d", give_up)
    work(tmp_path / "d", ask)
    assert local(tmp_path / "d", found[0]) == found[1]
    steps = [fact.kind.value for fact in verify_receipt(found[1].encode()).facts]
    assert steps == ["seed", "bid", "claim", "started", "result", "forfeit"]


def test_a_task_that_goes_on_or_is_unknown_has_none(tmp_path: Path) -> None:
    async def ask(node: Node) -> None:
        seed = await publish(node)
        with pytest.raises(RefusedError, match=f"no receipt of seed {seed.id}: the task is Open") as caught:
            await asked(node, seed.id)
        assert caught.value.reason is Reason.WRONG_STATE
        with pytest.raises(RefusedError) as caught:
            await asked(node, "4c00978b-cd09-5cf7-8515-2b692cfde7c5")
        assert caught.value.reason is Reason.UNKNOWN_SEED

    work(tmp_path / "d", ask)
