"""``crabnet config init``, ``get`` and ``set``: the configuration file of a node."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from crabnet.cli.context import State, object_text, state_of
from crabnet.cli.options import Command
from crabnet.cli.output import note, write
from crabnet.control.client import JsonValue, NodeNotRunningError, call
from crabnet.errors import CrabnetError, Reason, UsageError
from crabnet.plain import plain
from crabnet.settings import KNOBS, Knob, shown
from crabnet.settings.kinds import BoolKind, ListKind, Wrong
from crabnet.settings.resolve import CONFIG_BYTES_MAX, check_document, config_file, knob_of_key
from crabnet.settings.toml_edit import Value, has_key, literal, with_value
from crabnet.settings.work_table import KEYS, TABLE

_COMMON: Final = ("alias", "namespace", "network", "listen_addr", "bootstrap_peers", "web_addr", "log_level")
"""The settings that a new file shows, before the table of work."""
_STDIN: Final = "-"
_SECRET_BYTES_MAX: Final = 64 * 1024
_WIDTH: Final = 100


@click.command("init", cls=Command)
@click.pass_context
def init(context: click.Context) -> None:
    """Write a configuration file with the common settings as comments. Prints: wrote FILE.

    Settings that are given as options are set in it, as in crabnet config init --alias lab. An existing file stays as
    it is.
    """
    state = state_of(context)
    path = _path(state)
    text = _new_file()
    for name in state.flags:
        knob = next(each for each in KNOBS if each.name == name)
        if knob.toml is not None and name != "data_dir":
            text = with_value(text, *_place(text, knob.toml, knob), _value(knob, _flag_text(state, name)))
    with _locked(path):
        if os.path.lexists(path):
            raise UsageError(f"{path} exists; change it with crabnet config set", Reason.FILE_EXISTS)
        _save(path, text)
    write(object_text({"file": str(path)}) if state.json else f"wrote {plain(str(path))}\n")


@click.command("get", cls=Command)
@click.argument("key")
@click.pass_context
def get(context: click.Context, key: str) -> None:
    """Print the effective value of a setting, such as alias or work.price. Values of secrets are not shown."""
    state = state_of(context)
    knob = knob_of_key(key)
    resolved = state.resolved
    if state.json:
        value = shown(resolved.settings)[knob.name]
        plain_value: JsonValue = list[JsonValue](value) if isinstance(value, list) else value
        write(object_text({"name": knob.name, "value": plain_value, "origin": resolved.origins[knob.name]}))
        return
    write(f"{plain(knob.shown(getattr(resolved.settings, knob.name)))}\n")


@click.command("set", cls=Command)
@click.argument("key")
@click.argument("value")
@click.pass_context
def set_(context: click.Context, key: str, value: str) -> None:
    """Set a setting in the configuration file, such as alias or work.price. Prints: KEY = VALUE.

    Several values are given with commas between them. Comments and the order of the file stay. The value of a secret
    is read from standard input: give - as VALUE. A running node takes up the file at its next start.
    """
    state = state_of(context)
    knob = knob_of_key(key)
    if knob.name == "data_dir":
        raise UsageError("data_dir has no place in the file, which is found through it; use -d", Reason.INVALID_CONFIG)
    text_of_value = _secret(key, value) if knob.secret else value
    given = _value(knob, text_of_value)
    path = _path(state)
    with _locked(path):
        before = _read(path)
        _demand_toml(before, path)
        changed = with_value(before, *_place(before, key, knob), given)
        _check(changed, path, private=knob.secret)
        _save(path, changed, private=knob.secret)
    if state.json:
        write(object_text({"file": str(path), "name": knob.name}))
    else:
        write(f"{key} = {knob.shown(text_of_value) if knob.secret else plain(literal(given))}\n")
    _say_when(state, knob)


def _path(state: State) -> Path:
    path = config_file(state.flags, os.environ, state.config)
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{path} cannot be used: {error}", Reason.INVALID_CONFIG) from None


def _flag_text(state: State, name: str) -> str:
    flag = state.flags[name]
    if isinstance(flag, bool):
        return "true" if flag else "false"
    return flag if isinstance(flag, str) else ",".join(map(str, flag)) if isinstance(flag, list) else str(flag)


def _value(knob: Knob, text: str) -> Value:
    """The value of a setting as the file holds it. Raises UsageError."""
    try:
        read = knob.kind.from_text(text)
        knob.kind.check(read)
    except Wrong as wrong:
        raise UsageError(f"{knob.name} = {knob.shown(text)} {wrong}", Reason.INVALID_CONFIG) from None
    if isinstance(knob.kind, ListKind):
        return [str(item) for item in read] if isinstance(read, tuple) else [text]
    if isinstance(knob.kind, BoolKind) or isinstance(read, int | float):
        return read if isinstance(read, bool | int | float) else text
    return text


def _place(text: str, key: str, knob: Knob) -> tuple[str, str]:
    """The table and the key to set: where the file has the setting, else as it was asked for."""
    short = next((short for short, name in KEYS.items() if name == knob.name), None)
    if has_key(text, "", knob.name):
        return "", knob.name
    if short is not None and (has_key(text, TABLE, short) or key.startswith(f"{TABLE}.")):
        return TABLE, short
    return "", knob.name


def _secret(key: str, value: str) -> str:
    if value != _STDIN:
        raise UsageError(
            f"{key} is a secret, and every user of this machine can read the words of a command; give - and write the"
            " secret to standard input",
            Reason.INVALID_ARGUMENT,
        )
    data = b"" if sys.stdin is None else sys.stdin.buffer.read(_SECRET_BYTES_MAX)
    try:
        return data.decode().strip()
    except UnicodeDecodeError:
        raise UsageError(f"the value of {key} is not UTF-8", Reason.INVALID_ARGUMENT) from None


def _read(path: Path) -> str:
    try:
        data = path.read_bytes() if path.stat().st_size <= CONFIG_BYTES_MAX else b""
        return data.decode()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", Reason.INVALID_CONFIG) from None


def _demand_toml(text: str, path: Path) -> None:
    import tomllib

    try:
        tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}; repair it by hand", Reason.INVALID_CONFIG) from None


def _check(text: str, path: Path, *, private: bool) -> None:
    import tomllib

    if private and path.exists():
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~stat.S_IRWXO)
    elif private:
        path.touch(0o600)
    check_document(tomllib.loads(text), path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """While the block lasts, no other command changes the file. Makes the directory if there is none."""
    from crabnet.storage.files import RealFiles, guarded, make_dir

    with guarded("open the directory of the settings", path.parent):
        make_dir(RealFiles(), path.parent)
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _save(path: Path, text: str, *, private: bool = False) -> None:
    """Replace the file at once or not at all. It keeps its mode, unless it holds a secret."""
    from crabnet.storage.files import RealFiles, guarded, replace_file

    with guarded("write the settings", path):
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
        replace_file(RealFiles(), path, text.encode())
        path.chmod(mode & ~stat.S_IRWXO if private else mode)


def _say_when(state: State, knob: Knob) -> None:
    """Tell what keeps the new value from taking effect now."""
    try:
        resolved = state.resolved
        origin = resolved.origins[knob.name]
        if not origin.startswith("file "):
            note(f"the {origin} comes before the file, so this value has no effect now")
        call(resolved.settings.data_dir, "id", {}, resolved.settings.control_timeout_ms)
    except NodeNotRunningError:
        return
    except CrabnetError:
        return
    note("the running node keeps the settings of its start; it takes up this one when it starts again")


def _new_file() -> str:
    """A configuration file in which every setting is a comment."""
    knobs = {knob.name: knob for knob in KNOBS}
    head = (
        "# Settings of a Crabnet node. Remove the # before a setting to change it, or use crabnet config set.\n"
        "# crabnet config show lists all settings; docs/CONFIGURATION.md explains them.\n"
    )
    parts = [head, *(_entry(name, knobs[name]) for name in _COMMON if name in knobs)]
    parts.append(f"\n# What crabnet work does, and a node with auto_bid and auto_run.\n[{TABLE}]\n")
    parts += [_entry(key, knobs[name]) for key, name in KEYS.items() if name in knobs]
    return "".join(parts)


def _entry(key: str, knob: Knob) -> str:
    doc = "".join(f"# {line}\n" for line in textwrap.wrap(" ".join(knob.doc.split()), _WIDTH))
    default = knob.default
    value: Value = "" if default is None else list(map(str, default)) if isinstance(default, tuple) else str(default)
    if isinstance(default, bool | int | float):
        value = default
    return f"\n{doc}# {key} = {literal(value)}\n"
