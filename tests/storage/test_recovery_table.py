"""One test for every cell of the recovery table: a data dir in that condition, opened for real."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from crabnet.errors import DataDirDamagedError, Reason
from crabnet.storage.checkpoint.format import CheckpointHeader, Condition
from crabnet.storage.files import RealFiles
from crabnet.storage.journal.segment import encode_header, seal_header
from crabnet.storage.layout import segment_name
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import LockRole
from crabnet.storage.opening.recovery import Action, NoticeCode, cells, decide, render_table

BASELINE = b'{"identity":{"node_id":"node-1","alias":"node"},"seeds":{},"bids":{}}'
NEWER_STATE = b'{"format":"crabnet-state","version":99,"rows":[]}'
DOCUMENT = Path(__file__).parents[2] / "docs" / "STORAGE.md"


def open_ledger(data_dir: Path) -> Ledger:
    return Ledger.open(data_dir, files=RealFiles(), now_ms=1_000, role=LockRole.NODE)


def frame(number: int) -> bytes:
    return b"[%d]" % number


def checkpoint(ledger: Ledger) -> None:
    numbers = range(1, ledger.last_lsn + 1)
    writer = ledger.begin_checkpoint(CheckpointHeader(state_hash="", created_at_ms=1, node_id="node"))
    writer.write_rows(frame(number) for number in numbers)
    writer.commit()


def content(ledger: Ledger) -> list[bytes]:
    return [*ledger.recovery.rows(), *(each.payload for each in ledger.recovery.frames())]


@pytest.fixture(name="templates", scope="module")
def _templates(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Data dirs with two checkpoints and frames after them; true: begun from a baseline state."""
    made = {}
    for imported in (False, True):
        data_dir = tmp_path_factory.mktemp("template") / "data"
        if imported:
            data_dir.mkdir()
            (data_dir / "state.json").write_bytes(BASELINE)
        with open_ledger(data_dir) as ledger:
            for number in range(1, 7):
                ledger.append(frame(number))
                if number in {2, 4}:
                    checkpoint(ledger)
        made[imported] = data_dir
    return made


EXPECTED = [frame(number) for number in range(1, 7)]


def spoil_checkpoint(path: Path, condition: Condition) -> None:
    if condition is Condition.DAMAGED:
        changed = bytearray(path.read_bytes())
        changed[len(changed) // 2] ^= 4
        path.write_bytes(changed)
    elif condition is Condition.ABSENT:
        path.unlink()
    elif condition is Condition.OLDER:
        path.write_bytes(BASELINE)
    elif condition is Condition.NEWER:
        path.write_bytes(NEWER_STATE)


def spoil_journal(data_dir: Path, condition: Condition) -> None:
    last = data_dir / "journal" / segment_name(5)
    if condition is Condition.DAMAGED:
        changed = bytearray(last.read_bytes())
        changed[150] ^= 4
        last.write_bytes(changed)
    elif condition is Condition.ABSENT:
        for name in ("journal", "history"):
            shutil.rmtree(data_dir / name)
        (data_dir / "sealed").unlink()
    elif condition in {Condition.OLDER, Condition.NEWER}:
        header = encode_header(5, "0" * 64)
        version = b"0000" if condition is Condition.OLDER else b"0002"
        changed_header = seal_header(header[:16] + version + header[20:-9])
        last.write_bytes(changed_header + last.read_bytes()[len(header) :])


@pytest.mark.parametrize(("state", "bak", "journal"), list(cells()))
def test_the_cell(
    state: Condition, bak: Condition, journal: Condition, templates: dict[bool, Path], tmp_path: Path
) -> None:
    imported = Condition.OLDER in {state, bak}
    data_dir = tmp_path / "data"
    shutil.copytree(templates[imported], data_dir)
    spoil_checkpoint(data_dir / "state.json", state)
    spoil_checkpoint(data_dir / "state.json.bak", bak)
    spoil_journal(data_dir, journal)
    originals = {path: path.read_bytes() for path in data_dir.rglob("state.json*")}
    rule = decide(state, bak, journal)
    if rule.action.refuses:
        with pytest.raises(DataDirDamagedError) as refusal:
            open_ledger(data_dir)
        newer = rule.action is Action.REFUSE_NEWER
        assert refusal.value.reason is (Reason.DATA_DIR_NEWER if newer else Reason.DATA_DIR_DAMAGED)
        assert str(data_dir) in refusal.value.message
        assert {path: path.read_bytes() for path in data_dir.rglob("state.json*")} == originals
        return
    with open_ledger(data_dir) as ledger:
        recovery = ledger.recovery
        assert recovery.conditions == (state, bak, journal)
        assert recovery.action is rule.action
        expected = [] if rule.action in {Action.START_FRESH, Action.IMPORT_BASELINE} else EXPECTED
        assert content(ledger) == expected
        assert recovery.baseline() == (BASELINE if imported and recovery.base_lsn == 0 else None)
        codes = {notice.code for notice in recovery.notices}
        assert (NoticeCode.STATE_DAMAGED in codes) == (state is Condition.DAMAGED)
        assert (NoticeCode.BAK_DAMAGED in codes) == (bak is Condition.DAMAGED)
        assert recovery.is_clean == (rule.operator_sees.startswith(("nothing", "notice `baseline")))
        checkpoint(ledger)
    kept = [path.read_bytes() for path in (data_dir / "damaged").glob("*")]
    for part, condition in (("state.json", state), ("state.json.bak", bak)):
        if condition is Condition.DAMAGED:
            assert originals[data_dir / part] in kept
    with open_ledger(data_dir) as ledger:
        assert content(ledger) == expected
        assert ledger.recovery.is_clean


def test_every_row_of_the_table_is_the_answer_to_some_cell() -> None:
    used = {id(decide(*cell)) for cell in cells()}
    from crabnet.storage.opening.recovery import RULES

    assert {id(rule) for rule in RULES} == used


def test_the_document_shows_the_table() -> None:
    assert render_table() in DOCUMENT.read_text(encoding="utf-8")


SpoilFiles = Callable[[Path], None]


def remove(*names: str) -> SpoilFiles:
    def spoil(data_dir: Path) -> None:
        for name in names:
            path = data_dir / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        remove("journal/" + segment_name(5)),
        remove("journal"),
        remove("state.json", "state.json.bak", "history"),
        remove("state.json", "state.json.bak", "history/" + segment_name(1)),
        remove("state.json", "state.json.bak", "journal", "history"),
    ],
    ids=["last segment", "journal", "no checkpoint, no history", "a hole in the history", "all but the seal"],
)
def test_a_missing_part_that_is_needed_is_noticed(
    spoil: SpoilFiles, templates: dict[bool, Path], tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    shutil.copytree(templates[False], data_dir)
    spoil(data_dir)
    with pytest.raises(DataDirDamagedError, match="fsck"):
        open_ledger(data_dir)


def test_a_whole_journal_is_enough_and_the_rest_may_go(templates: dict[bool, Path], tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    shutil.copytree(templates[False], data_dir)
    remove("state.json", "state.json.bak", "sealed", "reserve", "lock")(data_dir)
    with open_ledger(data_dir) as ledger:
        assert ledger.recovery.action is Action.REPLAY_ALL
        assert content(ledger) == EXPECTED
        assert not ledger.recovery.is_clean


def test_an_imported_data_dir_is_not_replayed_without_its_baseline(templates: dict[bool, Path], tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    shutil.copytree(templates[True], data_dir)
    remove("state.json", "state.json.bak", "history/baseline-state.json")(data_dir)
    with pytest.raises(DataDirDamagedError):
        open_ledger(data_dir)


def test_a_checkpoint_of_another_node_is_refused(templates: dict[bool, Path], tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    shutil.copytree(templates[False], data_dir)
    with pytest.raises(DataDirDamagedError, match="belongs to node node,"):
        Ledger.open(data_dir, files=RealFiles(), now_ms=1, role=LockRole.NODE, expected_node_id="other")
    Ledger.open(data_dir, files=RealFiles(), now_ms=1, role=LockRole.NODE, expected_node_id="node").close()


def test_a_checkpoint_from_another_data_dir_does_not_fit(templates: dict[bool, Path], tmp_path: Path) -> None:
    with open_ledger(tmp_path / "other") as ledger:
        for _ in range(4):
            ledger.append(b"[0]")
        checkpoint(ledger)
    data_dir = tmp_path / "data"
    shutil.copytree(templates[False], data_dir)
    shutil.copy(tmp_path / "other" / "state.json", data_dir / "state.json")
    with pytest.raises(DataDirDamagedError, match="continue"):
        open_ledger(data_dir)


@pytest.mark.parametrize("version", [0, 2, 7, 99, 123_456])
def test_versions_never_written(version: int, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with open_ledger(data_dir) as ledger:
        ledger.append(frame(1))
        checkpoint(ledger)
    state = data_dir / "state.json"
    state.write_bytes(
        state.read_bytes().replace(b'"version":1', b'"version":%d' % version, 1).replace(b"node", b"NODE")
    )
    if version > 1:
        with pytest.raises(DataDirDamagedError) as refusal:
            open_ledger(data_dir)
        assert refusal.value.reason is Reason.DATA_DIR_NEWER
        assert state.exists()
    else:
        with open_ledger(data_dir) as ledger:
            assert content(ledger) == [frame(1)]
            assert not ledger.recovery.is_clean


def test_a_flipped_version_digit_is_damage_and_not_a_newer_version(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with open_ledger(data_dir) as ledger:
        ledger.append(frame(1))
        checkpoint(ledger)
    state = data_dir / "state.json"
    state.write_bytes(state.read_bytes().replace(b'"version":1', b'"version":3', 1))
    with open_ledger(data_dir) as ledger:
        assert content(ledger) == [frame(1)]
        assert NoticeCode.STATE_DAMAGED in {notice.code for notice in ledger.recovery.notices}
