"""The file of tokens: whole after every fault, refused when it cannot be trusted, read again when it has changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crabnet import limits
from crabnet.access.file import TOKENS_FILE, TokenFile, TokenReader, token_reader
from crabnet.access.tokens import Token, Tokens
from crabnet.errors import DataDirDamagedError, Reason, StorageFailedError
from crabnet.operations.model import Scope
from crabnet.storage.files import RealFiles
from tests.faults.seam import Fault, FaultyFiles, KilledError, applies

BEFORE: Tokens = (Token(name="before", scope=Scope.READ, sha256="a" * 64, created_at=1),)
AFTER: Tokens = (
    *BEFORE,
    Token(name="after", scope=Scope.ADMIN, sha256="b" * 64, created_at=2, expires_at=9, namespaces=("x", "y")),
)


def file_in(data_dir: Path) -> TokenFile:
    return TokenFile(RealFiles(), data_dir)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = file_in(tmp_path)
    assert file.read() == ()
    file.write(AFTER)
    assert file.read() == AFTER
    assert (tmp_path / TOKENS_FILE).stat().st_mode & 0o7777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == [TOKENS_FILE]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_no_umask_opens_the_file_to_others(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        file_in(tmp_path).write(BEFORE)
    finally:
        os.umask(before)
    assert (tmp_path / TOKENS_FILE).stat().st_mode & 0o077 == 0


def test_the_old_tokens_or_the_new_ones_are_there_after_every_fault(tmp_path: Path) -> None:
    plain = FaultyFiles()
    TokenFile(plain, tmp_path).write(BEFORE)
    names = [name for name, _ in plain.calls]
    assert {"open", "pwrite", "fsync", "close", "rename", "fsync_dir"} <= set(names)
    cases = [(fault, number) for fault in Fault for number, name in enumerate(names, start=1) if applies(fault, name)]
    assert {fault for fault, _ in cases} == set(Fault)
    for fault, number in cases:
        data_dir = tmp_path / f"{fault.name}-{number}"
        data_dir.mkdir()
        file_in(data_dir).write(BEFORE)
        files = FaultyFiles({number: fault})
        acknowledged = False
        try:
            TokenFile(files, data_dir).write(AFTER)
            acknowledged = True
        except (StorageFailedError, KilledError):
            pass
        files.abandon()
        assert files.injected, (fault, number)
        found = file_in(data_dir).read()
        assert found in (BEFORE, AFTER), (fault, number)
        assert not acknowledged, (fault, number)
        file_in(data_dir).write(AFTER)
        assert file_in(data_dir).read() == AFTER


def test_a_file_that_cannot_be_read_grants_nothing(tmp_path: Path) -> None:
    file_in(tmp_path).write(AFTER)
    for number in (1, 2):
        with pytest.raises(StorageFailedError):
            TokenFile(FaultyFiles({number: Fault.EIO}), tmp_path).read()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o644, 0o666, 0o610])
def test_wider_permissions_are_refused(tmp_path: Path, mode: int) -> None:
    file_in(tmp_path).write(AFTER)
    (tmp_path / TOKENS_FILE).chmod(mode)
    with pytest.raises(DataDirDamagedError, match="chmod 600") as caught:
        file_in(tmp_path).read()
    assert caught.value.reason is Reason.UNSAFE_PERMISSIONS


def entry(**changes: object) -> str:
    fields: dict[str, object] = {"name": "n", "scope": "read", "sha256": "a" * 64, "created_at": 1, **changes}
    shown = ",".join(f'"{name}":{_json(value)}' for name, value in fields.items())
    return f'{{"format":"crabnet-tokens-1","tokens":[{{{shown}}}]}}'


def _json(value: object) -> str:
    return "null" if value is None else str(value) if isinstance(value, int | list) else f'"{value}"'


GOOD = entry()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", Reason.DATA_DIR_DAMAGED),
        ("{}", Reason.DATA_DIR_DAMAGED),
        (GOOD[:-1], Reason.DATA_DIR_DAMAGED),
        (GOOD + "x", Reason.DATA_DIR_DAMAGED),
        ("\xff" * 50, Reason.DATA_DIR_DAMAGED),
        ("[" * 5000, Reason.DATA_DIR_DAMAGED),
        ('{"format":"crabnet-tokens-2","tokens":[],"more":1}', Reason.DATA_DIR_NEWER),
        ('{"format":"other","tokens":[]}', Reason.DATA_DIR_DAMAGED),
        ('{"format":"crabnet-tokens-1"}', Reason.DATA_DIR_DAMAGED),
        (entry(scope="root"), Reason.DATA_DIR_DAMAGED),
        (entry(sha256="A" * 64), Reason.DATA_DIR_DAMAGED),
        (entry(sha256="a" * 63), Reason.DATA_DIR_DAMAGED),
        (entry(name="-x"), Reason.DATA_DIR_DAMAGED),
        (entry(name="a b"), Reason.DATA_DIR_DAMAGED),
        (entry(expires_at="never"), Reason.DATA_DIR_DAMAGED),
        (entry(unknown=1), Reason.DATA_DIR_DAMAGED),
        (GOOD.replace("]", "," + GOOD[GOOD.index("[") + 1 : GOOD.index("]")] + "]"), Reason.DATA_DIR_DAMAGED),
        (GOOD + " " * limits.TOKENS_FILE_BYTES_MAX, Reason.DATA_DIR_DAMAGED),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: str, reason: Reason) -> None:
    path = tmp_path / TOKENS_FILE
    path.write_text(content, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(DataDirDamagedError) as caught:
        file_in(tmp_path).read()
    assert caught.value.reason is reason
    assert str(path) in caught.value.message


def test_a_good_file_written_by_hand_is_read(tmp_path: Path) -> None:
    path = tmp_path / TOKENS_FILE
    path.write_text(GOOD)
    path.chmod(0o600)
    assert [each.name for each in file_in(tmp_path).read()] == ["n"]


def test_something_else_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(GOOD)
    elsewhere.chmod(0o600)
    path = tmp_path / TOKENS_FILE
    path.symlink_to(elsewhere)
    with pytest.raises(StorageFailedError):
        file_in(tmp_path).read()
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(DataDirDamagedError):
        file_in(tmp_path).read()


def test_the_largest_file_fits(tmp_path: Path) -> None:
    spaces = tuple(f"{number:02d}" + "x" * (limits.NAMESPACE_CHARS_MAX - 2) for number in range(16))
    many = tuple(
        Token(
            name=f"{number:03d}" + "n" * (limits.TOKEN_NAME_CHARS_MAX - 3),
            scope=Scope.OPERATE,
            sha256=f"{number:064x}",
            created_at=2**40,
            expires_at=2**40,
            revoked_at=2**40,
            namespaces=spaces,
        )
        for number in range(limits.TOKENS_MAX + limits.TOKENS_OVER_MAX)
    )
    file_in(tmp_path).write(many)
    assert file_in(tmp_path).read() == many


class Counting(RealFiles):
    """Counts how often files are opened."""

    def __init__(self) -> None:
        self.opened = 0

    def open(self, path: Path, mode: object) -> int:
        self.opened += 1
        return super().open(path, mode)  # type: ignore[arg-type]


def test_the_reader_sees_every_change_at_once_and_reads_only_then(tmp_path: Path) -> None:
    files = Counting()
    reader = TokenReader(TokenFile(files, tmp_path))
    file = file_in(tmp_path)
    assert reader.tokens() == ()
    for tokens in (BEFORE, AFTER, BEFORE, (), AFTER):
        file.write(tokens)
        assert reader.tokens() == tokens
    assert reader.tokens() == AFTER
    assert files.opened == 5
    (tmp_path / TOKENS_FILE).chmod(0o640)
    for _ in range(2):
        with pytest.raises(DataDirDamagedError):
            reader.tokens()
    assert files.opened == 6
    (tmp_path / TOKENS_FILE).chmod(0o600)
    assert reader.tokens() == AFTER
    (tmp_path / TOKENS_FILE).unlink()
    assert reader.tokens() == ()
    assert token_reader(tmp_path).tokens() == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_the_file_of_another_user_is_refused(tmp_path: Path) -> None:
    file_in(tmp_path).write(AFTER)
    os.chown(tmp_path / TOKENS_FILE, 65_534, 65_534)
    with pytest.raises(DataDirDamagedError) as caught:
        file_in(tmp_path).read()
    assert caught.value.reason is Reason.UNSAFE_PERMISSIONS
