"""Makes ``Settings`` from flags, environment and TOML, and keeps the origin of every value.

Precedence: flag, then ``CRABNET_*`` environment, then the TOML file, then the default.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from crabnet.errors import Reason, UsageError
from crabnet.settings.kinds import ListKind, PathKind, Wrong, expand_home
from crabnet.settings.knob import Knob
from crabnet.settings.knobs import KNOBS, ConflictError, Settings
from crabnet.settings.work_table import KEYS as WORK_KEYS
from crabnet.settings.work_table import TABLE as WORK

CONFIG_FILE_NAME: Final = "crabnet.toml"
CONFIG_BYTES_MAX: Final = 1024 * 1024
ENV_PREFIX: Final = "CRABNET_"
DEFAULT_ORIGIN: Final = "default"
RESERVED_ENV: Final[dict[str, str]] = {
    "CRABNET_CONFIG": "path of the TOML file, like `--config`",
    "CRABNET_DEBUG": "`1`: print a traceback after the message of an unexpected error",
    "CRABNET_TOKEN_SECRET": "a secret of your own for `crabnet token new`",
}
"""Names that are not knobs but are not mistakes either."""
RESERVED_ENV_PREFIXES: Final = ("CRABNET_TEST_", "CRABNET_HYPOTHESIS_")
"""Names with these prefixes belong to the test suite and are never read by crabnet."""

FlagValue = str | int | bool | Sequence[str] | None


@dataclass(frozen=True)
class Resolved:
    """Settings, and for each knob the origin of its value.

    An origin is ``flag --x``, ``environment X``, ``file PATH`` or ``default``.
    """

    settings: Settings
    origins: Mapping[str, str]
    config_path: Path | None


def resolve(flags: Mapping[str, FlagValue], environ: Mapping[str, str], toml_path: Path | None) -> Resolved:
    """Make the effective settings.

    ``flags`` maps knob names to the words of the command line. None means that the flag was not given; a sequence
    stands for a repeated flag. ``toml_path`` is the value of ``--config``. At most one file is read. Raises UsageError
    (INVALID_CONFIG), whose message names the origin and the value.
    """
    _refuse_unknown(flags, (knob.name for knob in KNOBS), "flag")
    _refuse_unknown_env(environ)
    values: dict[str, object] = {}
    origins = {knob.name: DEFAULT_ORIGIN for knob in KNOBS}
    for knob in KNOBS:
        flag = flags.get(knob.name)
        if flag is not None:
            values[knob.name] = _read_flag(knob, flag)
            origins[knob.name] = f"flag {knob.flag}"
        else:
            name = next((name for name in (knob.env, knob.former_env) if name is not None and name in environ), None)
            if name is not None:
                origins[knob.name] = f"environment {name}"
                values[knob.name] = _read_text(knob, environ[name], origins[knob.name])
    config_path, in_data_dir = _config_path(values, environ, toml_path)
    if config_path is not None:
        _take_toml(_load_toml(config_path), config_path, in_data_dir, values, origins)
    return Resolved(_build(values, origins), origins, config_path)


def config_file(flags: Mapping[str, FlagValue], environ: Mapping[str, str], toml_path: Path | None) -> Path:
    """The configuration file that ``resolve`` reads, or would read if it existed. Raises UsageError."""
    knob = KNOBS[0]
    values: dict[str, object] = {}
    flag, name = flags.get(knob.name), str(knob.env)
    if flag is not None:
        values[knob.name] = _read_flag(knob, flag)
    elif name in environ:
        values[knob.name] = _read_text(knob, environ[name], f"environment {name}")
    found, _ = _config_path(values, environ, toml_path)
    return found or expand_home(Path(str(values.get(knob.name, knob.default)))) / CONFIG_FILE_NAME


def check_document(document: Mapping[str, object], path: Path) -> None:
    """Raises UsageError (INVALID_CONFIG) if these are no settings for a file at ``path`` in a data dir."""
    values: dict[str, object] = {}
    origins = {knob.name: DEFAULT_ORIGIN for knob in KNOBS}
    _take_toml(document, path, True, values, origins)
    _build(values, origins)


def knob_of_key(name: str) -> Knob:
    """The knob that a key of the file means, such as ``alias`` or ``work.price``. Raises UsageError with a near one."""
    keys = {f"{WORK}.{short}": long for short, long in WORK_KEYS.items()}
    known = {knob.toml: knob for knob in KNOBS if knob.toml is not None}
    _refuse_unknown([name], [*known, *keys], "the command line")
    return known[keys.get(name, name)]


def _build(values: Mapping[str, object], origins: Mapping[str, str]) -> Settings:
    make = cast(Callable[..., Settings], Settings)
    try:
        return make(**values)
    except ConflictError as conflict:
        where = ", ".join(f"{name}: {origins[name]}" for name in conflict.knobs)
        raise UsageError(f"{conflict.message} ({where})", conflict.reason) from None


def _read_flag(knob: Knob, value: str | int | bool | Sequence[str]) -> object:
    origin = f"flag {knob.flag}"
    if isinstance(value, str):
        return _read_text(knob, value, origin)
    if isinstance(value, int):
        return _checked(knob, value, value, origin)
    if not isinstance(knob.kind, ListKind):
        raise _invalid(knob, ",".join(value), origin, "was given more than once")
    try:
        return _checked(knob, knob.kind.from_texts(value), ",".join(value), origin)
    except Wrong as wrong:
        raise _invalid(knob, ",".join(value), origin, str(wrong)) from None


def _read_text(knob: Knob, text: str, origin: str) -> object:
    try:
        return _checked(knob, knob.kind.from_text(text), text, origin)
    except Wrong as wrong:
        raise _invalid(knob, text, origin, str(wrong)) from None


def _checked(knob: Knob, value: object, raw: object, origin: str, base: Path | None = None) -> object:
    try:
        knob.kind.check(value)
    except Wrong as wrong:
        raise _invalid(knob, raw, origin, str(wrong)) from None
    return (base or _here()) / value if isinstance(value, Path) else value


def _invalid(knob: Knob, raw: object, origin: str, problem: str) -> UsageError:
    shown = knob.shown(raw) if knob.secret or not isinstance(raw, str) else repr(raw)
    if len(shown) > 200:
        shown = shown[:200] + "…"
    return UsageError(f"{knob.name} = {shown} {problem} (from {origin})", Reason.INVALID_CONFIG)


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/")


def _config_path(
    values: Mapping[str, object], environ: Mapping[str, str], toml_path: Path | None
) -> tuple[Path | None, bool]:
    if toml_path is not None:
        return _chosen(str(toml_path), "flag --config"), False
    if "CRABNET_CONFIG" in environ:
        return _chosen(environ["CRABNET_CONFIG"], "environment CRABNET_CONFIG"), False
    data_dir = values.get("data_dir", KNOBS[0].default)
    try:
        path = expand_home(Path(str(data_dir))) / CONFIG_FILE_NAME
    except Wrong:
        return None, True
    return (path, True) if os.path.lexists(path) else (None, True)


def _chosen(text: str, origin: str) -> Path:
    try:
        return _here() / PathKind().from_text(text)
    except Wrong as wrong:
        raise UsageError(f"the configuration file {text!r} {wrong} (from {origin})", Reason.INVALID_CONFIG) from None


def _load_toml(path: Path) -> dict[str, object]:
    import tomllib  # noqa: PLC0415 - only with a file

    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"the configuration file {path} is not a regular file", Reason.INVALID_CONFIG)
        with path.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(
            f"the configuration file {path} cannot be read: {error.strerror}", Reason.INVALID_CONFIG
        ) from None
    if len(data) > CONFIG_BYTES_MAX:
        raise UsageError(f"the configuration file {path} has more than {CONFIG_BYTES_MAX} bytes", Reason.INVALID_CONFIG)
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = " ".join(str(error).split()) or "nested too deeply"
        raise UsageError(f"the configuration file {path} is not valid TOML: {problem}", Reason.INVALID_CONFIG) from None


def _take_toml(
    document: Mapping[str, object], path: Path, in_data_dir: bool, values: dict[str, object], origins: dict[str, str]
) -> None:
    origin = f"file {path}"
    document = _without_work_table(document, origin)
    _refuse_unknown(document, (knob.toml for knob in KNOBS if knob.toml is not None), origin)
    if in_data_dir and "data_dir" in document:
        raise UsageError(
            f"data_dir cannot be set in {path}, because crabnet finds this file through the data dir;"
            " use --data-dir or CRABNET_DATA_DIR",
            Reason.INVALID_CONFIG,
        )
    for knob in KNOBS:
        if knob.toml is None or knob.toml not in document:
            continue
        raw = document[knob.toml]
        if knob.secret:
            _demand_hidden(knob, path)
        try:
            value = _checked(knob, knob.kind.from_toml(raw), raw, origin, _here() / path.parent)
        except Wrong as wrong:
            raise _invalid(knob, raw, origin, str(wrong)) from None
        if knob.name not in values:
            values[knob.name] = value
            origins[knob.name] = origin


def _without_work_table(document: Mapping[str, object], origin: str) -> Mapping[str, object]:
    """The document with the settings of its table ``[work]`` under their own names. Raises UsageError."""
    table = document.get(WORK)
    if not isinstance(table, dict):
        return document
    _refuse_unknown(table, WORK_KEYS, f"{origin}, table [{WORK}]")
    for key in table:
        if WORK_KEYS[key] in document:
            raise UsageError(
                f"{WORK_KEYS[key]} is set twice in {origin}, once as {key} in the table [{WORK}]; remove one",
                Reason.INVALID_CONFIG,
            )
    rest = {name: value for name, value in document.items() if name != WORK}
    return {**rest, **{WORK_KEYS[key]: value for key, value in table.items()}}


def _demand_hidden(knob: Knob, path: Path) -> None:
    if path.stat().st_mode & stat.S_IRWXO:
        raise UsageError(
            f"{path} contains the secret {knob.name}, but every user can access it; run chmod 600 on it, and replace"
            " the secret",
            Reason.UNSAFE_PERMISSIONS,
        )


def _refuse_unknown_env(environ: Mapping[str, str]) -> None:
    names = [name for name in environ if name.startswith(ENV_PREFIX) and not name.startswith(RESERVED_ENV_PREFIXES)]
    known = [name for knob in KNOBS for name in (knob.env, knob.former_env) if name is not None]
    _refuse_unknown(names, [*known, *RESERVED_ENV], "environment")


def _refuse_unknown(given: Iterable[str], known: Iterable[str], origin: str) -> None:
    names = list(known)
    known_names = set(names)
    for name in sorted(given):
        if name not in known_names:
            import difflib  # noqa: PLC0415 - only for an error

            near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]}?" if near else "; `crabnet config show` lists the settings"
            raise UsageError(f"there is no setting {name!r} (from {origin}){hint}", Reason.INVALID_CONFIG)
