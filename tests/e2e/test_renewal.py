"""A key that two copies of a data dir have used: the feed ends for everybody, and `crabnet id renew` is the way on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.nodes import Nodes, crabnet, quiet, wait_for


def publish(data_dir: Path, title: str, *words: str) -> str:
    """Offer a task without a node; its id."""
    done = crabnet("seed", "publish", "--title", title, "--cmd", "true", "--json", *quiet(data_dir), *words)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["seed"]["id"])


@pytest.mark.deep
def test_two_copies_of_a_key_end_its_feed_and_a_new_identity_goes_on(nodes: Nodes, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    kept = publish(one, "before the copy")
    shutil.copytree(one, other)
    publish(one, "one")
    publish(other, "other", "--accept-feed-risk")

    witness = nodes.start("witness")
    first = nodes.start("one", [witness.listen], "--accept-feed-risk")
    nodes.start("other", [witness.listen], "--accept-feed-risk")
    former = first.node_id
    witness.await_event("fork_detected")
    first.await_event("feed_ended")
    refused = crabnet("seed", "publish", "--title", "t", "--cmd", "true", "--data-dir", str(one))
    assert refused.returncode == 3
    assert "feed_ended" in refused.stderr
    assert "crabnet id renew" in refused.stderr
    busy = crabnet("id", "renew", "--data-dir", str(one))
    assert busy.returncode == 4, busy.stderr

    first.end()
    renewed = crabnet("id", "renew", "--json", "--data-dir", str(one))
    assert renewed.returncode == 0, renewed.stderr
    done = json.loads(renewed.stdout)
    assert (done["former"], done["end"]) == (former, 2)
    assert done["node_id"] != former
    assert Path(done["key_kept"]).stat().st_mode & 0o777 == 0o600

    first.start()
    assert first.node_id == done["node_id"]
    assert first.seed(kept)["title"] == "before the copy"
    seed_id = first.publish()
    wait_for("others take what it says now", lambda: seed_id in witness.seed_ids())
    assert crabnet("fsck", "--data-dir", str(other)).returncode == 4
    again = crabnet("id", "renew", "--data-dir", str(one))
    assert again.returncode == 4
    first.end()
    again = crabnet("id", "renew", "--data-dir", str(one))
    assert again.returncode == 3
    assert "has not ended" in again.stderr
