"""``seed show --follow`` goes on when its node is started again (run-4)."""

from __future__ import annotations

import subprocess

from tests.support.nodes import CRABNET, Nodes, environment, wait_for


def test_following_goes_on_over_a_restart(nodes: Nodes) -> None:
    node = nodes.start("node")
    seed_id = node.publish("echo hi")
    words = [*CRABNET, "seed", "show", seed_id, "--follow", "--data-dir", str(node.data_dir)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as following:
        assert following.stdout is not None
        assert "[OPEN]" in following.stdout.readline()
        node.kill()
        node.start()
        bid_id = node.bid(seed_id, 1)
        node.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
        node.ask("seed.run", seed_id=seed_id)
        wait_for("the result is there", lambda: node.status(seed_id) == "Done")
        node.ask("seed.settle", seed_id=seed_id, outcome="Accepted")
        out, err = following.communicate(timeout=60)
    assert following.returncode == 0
    assert "[ACCEPTED]" in out.splitlines()[-1]
    assert err in {"", "the node does not answer; waiting until it runs again\n"}
