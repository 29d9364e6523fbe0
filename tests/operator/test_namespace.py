"""A data dir is of one namespace, whatever the settings of the next command say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from crabnet.cli.main import main
from crabnet.errors import ExitCode, UsageError
from crabnet.node.node import Node
from crabnet.operator.namespace import namespace_of
from crabnet.storage.files import RealFiles
from crabnet.storage.layout import Layout
from tests.operator.support import publish, whole_job, work

PUBLISH = ["seed", "publish", "--title", "t", "--cmd", "true"]


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A data dir of namespace ``harbour`` with a journal and no checkpoint, as ``kill -9`` leaves it."""

    async def job(node: Node) -> None:
        await whole_job(node)

    work(tmp_path / "d", job, namespace="harbour")
    (tmp_path / "d" / "state.json").unlink()
    (tmp_path / "d" / "sealed").unlink()
    for path in (tmp_path / "d").glob("journal/*.log"):
        if int(path.stem) > 1 and path.stat().st_size < 200:
            path.unlink()
    return tmp_path / "d"


def content(data_dir: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (data_dir / "journal").iterdir()}


def refused(capsys: pytest.CaptureFixture[str], data_dir: Path, words: Sequence[str]) -> None:
    capsys.readouterr()
    assert main([*words, "--data-dir", str(data_dir)]) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err.startswith("error: wrong_namespace: ")
    assert "'harbour'" in shown.err


def test_a_journal_without_checkpoint_tells_its_namespace(capsys: pytest.CaptureFixture[str], killed: Path) -> None:
    before = content(killed)
    for words in ([*PUBLISH, "--accept-feed-risk"], ["seed", "list", "--namespace", "other"], ["fsck", "--repair"]):
        refused(capsys, killed, words)
    with pytest.raises(UsageError):
        work(killed, publish_one, namespace="other")
    assert content(killed) == before
    assert main(["seed", "list", "--namespace", "harbour", "--data-dir", str(killed)]) == 0
    assert "[ACCEPTED]" in capsys.readouterr().out


async def publish_one(node: Node) -> None:
    await publish(node)


def test_a_checkpoint_tells_its_namespace(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    work(tmp_path / "d", publish_one, namespace="harbour")
    for words in (PUBLISH, ["status"], ["fsck"], ["fsck", "--repair"]):
        refused(capsys, tmp_path / "d", words)


def test_an_audit_goes_by_the_namespace_of_the_data_dir(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    work(tmp_path / "d", publish_one, namespace="harbour")
    assert namespace_of(RealFiles(), Layout(tmp_path / "d")) == "harbour"
    assert main(["audit", "verify", "--data-dir", str(tmp_path / "d")]) == 0
    assert "sound: 1 frames" in capsys.readouterr().out


def test_a_journal_that_tells_nothing(tmp_path: Path) -> None:

    async def nothing(_: Node) -> None:
        """The node has begun, and said nothing."""

    work(tmp_path / "d", nothing)
    assert namespace_of(RealFiles(), Layout(tmp_path / "d")) is None
