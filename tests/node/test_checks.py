"""Results are judged in the judge's own sandbox, and what is settled is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import crabnet
from crabnet.domain.acceptance import Acceptance
from crabnet.domain.model import SeedStatus
from crabnet.errors import Reason, RefusedError
from crabnet.market.policies import Judgement
from crabnet.node.operations.doors import perform
from crabnet.operations import accounts, judging

DEADLINE_S = 60
S = SeedStatus


def settings(data_dir: Path, **changes: object) -> crabnet.Settings:
    allowed = ("echo", "grep", "cat", "sleep")
    given = {"listen_addr": "127.0.0.1:0", "announce_addrs": (), "runner_allowed_commands": allowed, **changes}
    return crabnet.Settings(data_dir=data_dir, **given)  # type: ignore[arg-type]


async def done(node: crabnet.Node, acceptance: Acceptance, price: int = 3) -> str:
    """A task that this node publishes and runs itself; its id."""
    wish = crabnet.Publish(title="t", command="echo hello", acceptance=acceptance)
    seed = await node.publish(wish)
    bid = await node.bid(seed.id, price)
    await node.claim(seed.id, bid.id)
    await node.run(seed.id)
    return seed.id


async def checked(node: crabnet.Node, seed_id: str) -> judging.Judged:
    return await perform(node, judging.CHECK, judging.CheckRequest(seed_id=seed_id))


async def test_a_check_judges_on_request(tmp_path: Path) -> None:
    async with crabnet.Node(settings(tmp_path)) as node:
        for check, judgement, reason in (
            ("grep -q hello", Judgement.ACCEPT, Reason.CONDITIONS_MET),
            ("grep bye", Judgement.REJECT, Reason.CHECK_FAILED),
            ("tr a b", Judgement.ASK, Reason.CHECK_UNAVAILABLE),
        ):
            seed_id = await done(node, Acceptance(check=check))
            before = await perform(node, judging.VERDICT, judging.VerdictRequest(seed_id=seed_id))
            assert (before.judgement, before.reason, before.check) == (Judgement.ASK, Reason.CHECK_UNAVAILABLE, None)

            judged = await checked(node, seed_id)

            assert (judged.judgement, judged.reason) == (judgement, reason), judged.detail
            assert judged.check is not None
            assert (await node.show(seed_id)).status is S.DONE, "nothing is settled"


@pytest.mark.deep
async def test_a_check_reads_the_output_and_is_not_run_in_vain(tmp_path: Path) -> None:
    async with crabnet.Node(settings(tmp_path)) as node:
        seen = await checked(node, await done(node, Acceptance(check="cat")))
        assert seen.check is not None
        assert (seen.check.exit_code, seen.check.output) == (0, "hello\\n")

        decided = await checked(node, await done(node, Acceptance(exit_code=1, check="cat")))
        assert (decided.judgement, decided.reason, decided.check) == (Judgement.REJECT, Reason.EXIT_CODE_DIFFERS, None)

        open_seed = await node.publish(crabnet.Publish(title="t", command="true"))
        with pytest.raises(RefusedError, match="is Open: it has no result to judge"):
            await checked(node, open_seed.id)


async def test_a_publisher_settles_by_its_check_and_the_account_says_so(tmp_path: Path) -> None:
    async with crabnet.Node(settings(tmp_path, auto_settle="check")) as node:
        with trio.fail_after(DEADLINE_S):
            good = await done(node, Acceptance(check="grep -q hello"), price=3)
            await node.wait_for(good, lambda state: state.status is S.ACCEPTED)
            bad = await done(node, Acceptance(check="grep -q bye"), price=4)
            await node.wait_for(bad, lambda state: state.status is S.REJECTED)
        shown = await perform(node, accounts.SHOW, accounts.AccountRequest())
        assert (shown.author, shown.complete) == (node.node_id, True)
        assert (shown.worker.won, shown.worker.earned, shown.worker.owed) == (2, 3, 0)
        assert (shown.publisher.accepted, shown.publisher.rejected, shown.publisher.spent) == (1, 1, 3)
        page = await perform(node, accounts.LIST, accounts.AccountListRequest())
        assert [each.author for each in page.accounts] == [node.node_id]
