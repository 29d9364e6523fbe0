"""``crabnet debug bundle``: what helps to find a fault, in an archive of text files that a person can read first."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import re
import sqlite3
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from crabnet import __version__, limits
from crabnet.control.client import JsonValue
from crabnet.errors import CrabnetError
from crabnet.monitor.reader import read_events
from crabnet.monitor.redaction import Redaction
from crabnet.node.quarantine import DIRECTORY as QUARANTINE
from crabnet.operations.health import REPORTED
from crabnet.operator.check import row_of
from crabnet.operator.doctor import Report
from crabnet.settings import KNOBS, Resolved, shown

Ask = Callable[[str, dict[str, JsonValue]], JsonValue]
"""Performs a reading operation by its name, in the running node or from the files. Raises CrabnetError."""

_EXCEPTION: Final = re.compile(r"(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?=:|\Z)")
"""The name of an exception at the start of the last line of a traceback."""
_PACKAGES: Final = ("crabnet", "base58", "click", "cryptography", "google-crc32c", "msgspec", "pynacl", "trio")


class Bundle(NamedTuple):
    """The files of a bundle by name, as text."""

    files: dict[str, str]


def make_bundle(resolved: Resolved, ask: Ask, report: Report, redaction: Redaction, now_s: int) -> Bundle:
    """Collect and redact everything. What cannot be had is said in its file. Raises nothing."""
    data_dir = resolved.settings.data_dir
    parts: dict[str, JsonValue] = {
        "versions": _versions(),
        "config": _config(resolved),
        "doctor": [msgspec.to_builtins(row_of(each)) for each in report.checks]
        + [msgspec.to_builtins(each) for each in report.live],
        "limits": {name: value for name, value in vars(limits).items() if name.isupper() and isinstance(value, int)},
        "files": [*_sizes(data_dir)],
    }
    for name, method, params in REPORTED:
        parts[name] = _answer(ask, method, params)
    for name, fault in _faults(data_dir):
        parts[f"quarantine/{name}"] = fault
    files = {f"{name}.json": _bounded(redaction.value(value, name)) for name, value in parts.items()}
    files["events.ndjson"] = "".join(_events(resolved.settings.monitor_events.parent, redaction))
    return Bundle({"README.txt": _readme(sorted(files), now_s), **dict(sorted(files.items()))})


def _bounded(value: JsonValue) -> str:
    text = json.dumps(value, indent=1, ensure_ascii=True) + "\n"
    if len(text) > limits.BUNDLE_FILE_BYTES_MAX:
        return json.dumps({"left_out": f"{len(text)} bytes are too many for a bundle"}) + "\n"
    return text


def _answer(ask: Ask, method: str, params: dict[str, JsonValue]) -> JsonValue:
    try:
        return ask(method, params)
    except CrabnetError as error:
        return {"error": {"reason": error.reason.value, "message": error.message}}


def _versions() -> dict[str, JsonValue]:
    packages: dict[str, JsonValue] = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "crabnet": __version__,
        "python": sys.version,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "sqlite": sqlite3.sqlite_version,
        "processors": os.cpu_count(),
        "packages": packages,
    }


def _config(resolved: Resolved) -> dict[str, JsonValue]:
    """The effective settings and where they come from. Secrets are masked by ``shown`` already."""
    values = shown(resolved.settings)
    found: dict[str, JsonValue] = {}
    for knob in KNOBS:
        value = values[knob.name]
        item: JsonValue = list[JsonValue](value) if isinstance(value, list) else value
        found[knob.name] = {"value": item, "origin": resolved.origins[knob.name]}
    return found


def _sizes(data_dir: Path) -> Iterator[JsonValue]:
    """Names, sizes and times of the files of a data dir, without their content."""
    found = 0
    for path in sorted(data_dir.rglob("*")):
        found += 1
        if found > limits.BUNDLE_FILES_LISTED_MAX:
            yield {"left_out": "further files"}
            return
        try:
            state = path.lstat()
        except OSError:
            continue
        name = str(path.relative_to(data_dir))
        yield {"name": name, "mode": oct(state.st_mode), "bytes": state.st_size, "changed_s": int(state.st_mtime)}


def _faults(data_dir: Path) -> Iterator[tuple[str, JsonValue]]:
    """The newest kept faults. The message of a stranger that caused one is left out, its hash is not."""
    try:
        names = sorted(path.name for path in (data_dir / QUARANTINE).iterdir() if path.suffix == ".json")
    except OSError:
        return
    for name in names[-limits.BUNDLE_FAULTS_MAX :]:
        try:
            fault = json.loads((data_dir / QUARANTINE / name).read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(fault, dict):
            fault.pop("message", None)
            fault["traceback"] = _places(str(fault.get("traceback", "")))
            yield name.removesuffix(".json"), fault


def _places(traceback: str) -> str:
    """A traceback without the texts of its exceptions, which may quote a stranger's message."""
    lines = []
    for line in traceback.splitlines():
        is_place = (
            line.startswith((" ", "\t", "Traceback", "During handling", "The above exception")) or not line.strip()
        )
        kind = _EXCEPTION.match(line)
        lines += [line] if is_place else [kind[0]] if kind is not None else []
    return "\n".join(lines)


def _events(directory: Path, redaction: Redaction) -> Iterator[str]:
    """The last events, oldest first."""
    try:
        page = read_events(directory, limit=limits.BUNDLE_EVENTS_MAX, newest=True)
    except OSError as error:
        yield json.dumps({"error": f"the events cannot be read: {error.strerror}"}) + "\n"
        return
    for event in page.events:
        fields: Mapping[str, JsonValue] = msgspec.to_builtins(event)
        yield json.dumps(redaction.fields(fields), ensure_ascii=True, separators=(",", ":")) + "\n"


def archive_of(bundle: Bundle, name: str, now_s: int) -> bytes:
    """The bundle as a tar.gz archive, all files below the directory ``name``."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for path, text in bundle.files.items():
            content = text.encode()
            info = tarfile.TarInfo(f"{name}/{path}")
            info.size, info.mode, info.mtime = len(content), 0o600, now_s
            archive.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def _readme(names: list[str], now_s: int) -> str:
    listed = "\n".join(f"  {name}" for name in names)
    return f"""\
Debug bundle of Crabnet {__version__}, made at {now_s} s since 1970 (UTC).

Read these files before you send them. They are text (JSON).

{listed}

Not in here: keys, tokens and other secrets; the journal; the content of messages; and, unless the bundle was made with
--with-tasks, what people have put into tasks (title, description, command, rules, notes, output). The home directory is
written as ~. With --hash-addresses, each network address is replaced by a word that means nothing outside of this
bundle. Ids of nodes and tasks are public in the network, and are kept.
"""
