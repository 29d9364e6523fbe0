"""``crabnet receipt``: a receipt is written once, and verified on a machine that has nothing but the file."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from crabnet.cli.main import main
from crabnet.errors import ExitCode, Reason, RefusedError
from tests.cli.conftest import CannedNode
from tests.support.envelopes import job, seed_id_of
from tests.support.nodes import CRABNET
from tests.support.receipts import written

JOB = job()
SEED_ID = seed_id_of(JOB[0])
DOCUMENT = written(JOB)


@pytest.fixture(name="receipt_file")
def _receipt_file(tmp_path: Path) -> Path:
    path = tmp_path / "receipt.json"
    path.write_bytes(DOCUMENT)
    return path


def test_a_bare_machine_verifies_it(receipt_file: Path) -> None:
    """Without HOME, data dir or settings, by a user whose directory cannot be written."""
    bare = {"PATH": os.environ["PATH"], "CRABNET_DATA_DIR": "/proc/nowhere"}
    words = [*CRABNET, "receipt", "verify", str(receipt_file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=bare, cwd="/proc/self", timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    for said in (SEED_ID, "echo hello", "price         10", "accepted: ", "by the worker", "It does not prove:"):
        assert said in done.stdout
    assert len([line for line in done.stdout.splitlines() if ", envelope " in line]) == 7


def test_the_page_is_also_an_object(receipt_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["receipt", "verify", str(receipt_file), "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert (page["valid"], page["outcome"], page["acknowledged"], page["price"]) == (True, "Accepted", True, 10)
    assert [row["envelope_id"] for row in page["steps"]] == [envelope.meta.id for envelope in JOB]


def test_a_missing_acknowledgement_is_said(receipt_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    receipt_file.write_bytes(written(JOB[:6]))
    assert main(["receipt", "verify", str(receipt_file)]) == 0
    assert "no acknowledgement of the worker" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (DOCUMENT.replace(b"echo hello", b"echo hallo"), ExitCode.REFUSED, "envelope 1 of 7"),
        (written(JOB[:3] + JOB[4:]), ExitCode.REFUSED, "a step is missing"),
        (b"", ExitCode.REFUSED, "it is not a receipt"),
    ],
)
def test_what_is_wrong_is_named(
    receipt_file: Path, data: bytes, code: ExitCode, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    receipt_file.write_bytes(data)
    assert main(["receipt", "verify", str(receipt_file)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{receipt_file} is not a valid receipt" in err
    assert words in err


def test_there_is_no_such_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["receipt", "verify", str(tmp_path / "none")]) == ExitCode.USAGE
    assert "there is no file" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["ID"], ["make", "ID"]])
def test_it_is_written_to_a_new_file_only(
    node: CannedNode, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    node.answers["seed.receipt"] = {"seed_id": SEED_ID, "document": DOCUMENT.decode()}
    out = tmp_path / "out.json"
    words = ["receipt", "-o", str(out), *[SEED_ID if word == "ID" else word for word in words]]
    if "make" in words:
        words = ["receipt", "make", SEED_ID, "-o", str(out)]
    words += ["--data-dir", str(node.data_dir)]
    assert main(words) == 0
    assert out.read_bytes() == DOCUMENT
    assert node.asked[-1] == ("seed.receipt", {"seed_id": SEED_ID})
    out.write_text("mine")
    assert main(words) == ExitCode.USAGE
    assert out.read_text() == "mine"
    assert "exists" in capsys.readouterr().err


def test_without_a_file_it_goes_to_a_pipe_and_from_there_to_verify(
    node: CannedNode, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    node.answers["seed.receipt"] = {"seed_id": SEED_ID, "document": DOCUMENT.decode()}
    assert main(["receipt", "--data-dir", str(node.data_dir), SEED_ID]) == 0
    assert capfdbinary.readouterr().out == DOCUMENT


def test_a_refusal_of_the_node_is_told(node: CannedNode, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["seed.receipt"] = RefusedError("there is no receipt of it: the task is Open", Reason.WRONG_STATE)
    assert main(["receipt", SEED_ID, "--data-dir", str(node.data_dir)]) == ExitCode.REFUSED
    assert "the task is Open" in capsys.readouterr().err
