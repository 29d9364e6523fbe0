"""Checkpoints: valid JSON, a stream both ways, and nothing believed before the checksum."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.errors import Reason, RefusedError, StorageFailedError
from crabnet.storage.checkpoint.format import Condition
from crabnet.storage.checkpoint.reading import examine_checkpoint, read_rows
from tests.storage.support import FILES, HEADER, checkpoint, open_ledger, payloads


def test_it_is_json_with_the_documented_members(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "data") as ledger:
        ledger.append(b"[1]")
        checkpoint(ledger, [b'["seed",{"id":"a"}]', b'["bid",{"id":"b"}]'])
    content = (tmp_path / "data" / "state.json").read_bytes()
    assert json.loads(content) == {
        "format": "crabnet-state",
        "version": 1,
        "lsn": 1,
        "journal_head": ledger.head_hash,
        "state_hash": "hash",
        "created_at_ms": 5,
        "node_id": "node",
        "extra": {"text": "ä", "flag": True, "no": None},
        "rows": [["seed", {"id": "a"}], ["bid", {"id": "b"}]],
        "row_count": 2,
        "checksum": json.loads(content)["checksum"],
    }
    covered = content[: content.rindex(b'"checksum"')]
    assert json.loads(content)["checksum"] == "sha256:" + hashlib.sha256(covered).hexdigest()
    assert (tmp_path / "data" / "state.json").stat().st_mode & 0o777 == 0o600


rows = st.lists(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ).map(lambda value: json.dumps(["kind", value]).encode()),
    max_size=30,
)


@given(rows)
def test_rows_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, rows: list[bytes]) -> None:
    data_dir = tmp_path_factory.mktemp("rows") / "data"
    with open_ledger(data_dir) as ledger:
        checkpoint(ledger, rows)
    with open_ledger(data_dir) as ledger:
        assert list(ledger.recovery.rows()) == rows
        assert ledger.recovery.checkpoint is not None
        assert ledger.recovery.checkpoint.extra == HEADER.extra


def test_rows_larger_than_a_read(tmp_path: Path) -> None:
    rows = [b'["%s"]' % (b"x" * size) for size in (10, 2_000_000, 0, 5_000_000, 1)]
    with open_ledger(tmp_path / "data") as ledger:
        checkpoint(ledger, rows)
    with open_ledger(tmp_path / "data") as ledger:
        assert list(ledger.recovery.rows()) == rows


@given(st.binary(max_size=300))
def test_any_bytes_are_damaged_and_no_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "state.json"
    for start in (b"", b'{"format":"crabnet-state","version":1,', b'{"identity":{},"seeds":{},'):
        path.write_bytes(start + content)
        assert examine_checkpoint(FILES, path).condition is Condition.DAMAGED


@pytest.mark.parametrize(
    "content", [b"[" * 500_000, b"{}", b"", b"null", b'{"identity":1,"seeds":{},"bids":{}}', b"\0" * 4096]
)
def test_what_is_no_checkpoint_is_damaged(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    assert examine_checkpoint(FILES, path).condition is Condition.DAMAGED


def test_appends_in_between_are_replayed_after_it(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "data") as ledger:
        ledger.append(b"[1]")
        writer = ledger.begin_checkpoint(HEADER)
        ledger.append(b"[2]")
        writer.write_rows([b'["one"]'])
        ledger.append(b"[3]")
        assert writer.commit().lsn == 1
        ledger.append(b"[4]")
        assert ledger.checkpoint_lsn == 1
        assert ledger.replay_bytes == 3 * 104
    with open_ledger(tmp_path / "data") as ledger:
        assert list(ledger.recovery.rows()) == [b'["one"]']
        assert payloads(ledger) == [b"[2]", b"[3]", b"[4]"]
        assert ledger.replay_bytes == 3 * 104


def test_one_at_a_time_and_giving_up(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "data") as ledger:
        first = ledger.begin_checkpoint(HEADER)
        with pytest.raises(RefusedError):
            ledger.begin_checkpoint(HEADER)
        first.write_rows([b'["x"]'])
        first.abort()
        first.abort()
        with pytest.raises(RefusedError):
            first.commit()
        assert ledger.failure is None
        checkpoint(ledger)
    assert not (tmp_path / "data" / "state.json.tmp").exists()


@pytest.mark.parametrize("row", [b"", b'{"a":1}', b"[1]\n", b"]"])
def test_a_bad_row_is_refused_and_poisons_nothing(row: bytes, tmp_path: Path) -> None:
    with open_ledger(tmp_path / "data") as ledger:
        writer = ledger.begin_checkpoint(HEADER)
        with pytest.raises(RefusedError) as refusal:
            writer.write_rows([row])
        assert refusal.value.reason is Reason.MALFORMED
        writer.abort()
        ledger.append(b"[1]")


def test_a_checkpoint_after_close_is_refused(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "data")
    ledger.close()
    with pytest.raises(StorageFailedError):
        ledger.begin_checkpoint(HEADER)


def test_a_checkpoint_with_missing_rows_is_damaged(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "data") as ledger:
        checkpoint(ledger, [b'["a"]', b'["b"]'])
    path = tmp_path / "data" / "state.json"
    content = path.read_bytes().replace(b'["a"],\n', b"")
    body = content[: content.rindex(b'"checksum"')]
    path.write_bytes(body + b'"checksum":"sha256:%s"}\n' % hashlib.sha256(body).hexdigest().encode())
    finding = examine_checkpoint(FILES, path)
    assert finding.condition is Condition.OK
    with pytest.raises(Exception, match="1 rows, but it says 2"):
        list(read_rows(FILES, finding))
