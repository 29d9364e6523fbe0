"""Writes docs/EVENTS.md from the registry: ``python -m crabnet.monitor.document > docs/EVENTS.md``."""

from __future__ import annotations

import sys

from crabnet.limits import (
    EVENT_FILE_AGE_MS_MAX_DEFAULT,
    EVENT_FILE_BYTES_MAX_DEFAULT,
    EVENT_FILES_KEPT_DEFAULT,
    EVENT_QUEUE_MAX,
    EVENT_STRING_CHARS_MAX,
)
from crabnet.monitor.registry import EVENTS, FIELDS, EventKind, Severity

_SEVERITIES = {
    Severity.DEBUG: "for finding faults; may be written for every message",
    Severity.INFO: "normal work",
    Severity.NOTICE: "normal, and worth knowing",
    Severity.WARNING: "something was refused or dropped, or has failed, and the node handles it",
    Severity.ALERT: "an operator should look at it; written and made durable at once, dropped last",
}


_MIB = EVENT_FILE_BYTES_MAX_DEFAULT // (1024 * 1024)
_HOURS = EVENT_FILE_AGE_MS_MAX_DEFAULT // 3_600_000


def events_document() -> str:
    """The text of docs/EVENTS.md."""
    parts = [_head()]
    parts.append("## Severities\n\n" + "\n".join(f"- `{name}`: {text}." for name, text in _SEVERITIES.items()))
    parts.append(
        "## Kinds\n\nThe severity is the default. A single event may have another one if the description says so.\n\n"
        "| kind | severity | source | meaning | payload |\n|---|---|---|---|---|\n"
        + "\n".join(_row(kind) for kind in EventKind)
    )
    parts.append(
        "## Payload fields\n\nA field has the same meaning in every kind. An event contains only fields whose values"
        " are known.\n\n"
        "| field | meaning |\n|---|---|\n"
        + "\n".join(f"| `{name}` | {text} |" for name, text in sorted(FIELDS.items()))
    )
    parts.append(
        "## Names in the baseline\n\n| baseline | here |\n|---|---|\n"
        + "\n".join(f"| `{old}` | `{kind}` |" for kind in EventKind for old in EVENTS[kind].baseline)
    )
    return "\n\n".join(parts) + "\n"


def _head() -> str:
    return f"""# Events

<!-- Generated from the registry: python -m crabnet.monitor.document > docs/EVENTS.md -->

A node reports what it does as events. It writes them to `events.ndjson` in its data dir, one JSON object per line.
`crabnet events` prints them. `crabnet events --follow` continues with new ones.

```json
{{"id":17,"ts":1795429130,"ts_ms":1795429130123,"node_id":"12D3KooW…","kind":"envelope_rejected","source":"core",
 "severity":"warning","payload":{{"reason":"bad_signature","author":"12D3KooW…","address":"192.0.2.7:9012"}}}}
```

- `id` increases by one from event to event, also across restarts and rotations. It can be used as a cursor.
- `ts` is the time in whole seconds since the epoch. `ts_ms` is the same time in milliseconds.
- `source` is the part of the node that the event comes from. `severity` and `kind` are explained below.
- `payload` holds strings, integers, booleans and null. Strings are cut at {EVENT_STRING_CHARS_MAX} characters.
  Keys, tokens, commands and the output of commands are never in an event, because the node writes only fields that are
  declared for the kind.

**Files.** If `events.ndjson` would grow beyond {_MIB} MiB, or if its first event is older than {_HOURS} hours, the node
renames it to `events-<first id>.ndjson` and begins a new one, also while no event comes. It keeps the last
{EVENT_FILES_KEPT_DEFAULT} such files. These are the defaults. `events_keep_age_s` also deletes files by their age.
The one process that writes holds `events.lock`, which is never deleted. Only
their owner can read the files. Reading needs no lock.

**Loss.** Events never block the node. At most {EVENT_QUEUE_MAX} wait in the queue. Beyond that the node drops the
oldest events that are not alerts, and `events_dropped` reports how many. If the files cannot be written, the node
reports this on standard error and in its status, continues, and tries again. Alerts are made durable at once. Other
events reach the disk when the system writes them back. So the events of the last seconds may be missing after a power
cut. Their ids are used again only if `events.last`, which has the last id, was not written back either. Otherwise, and
after somebody cut or removed the files, ids continue behind the lost ones, in a new file.

**Damage.** When the log is opened, a torn last line is cut. Any other bytes after the last event are kept in
`events-aside-<time>.ndjson`. So is a file that contains no event of this format, such as a file of the baseline.
`events_repaired` reports both. Readers skip lines that are not events.

**Index.** A node that listens keeps an index of the files in `events.sqlite`, so that pages and filters cost the same
however many events there are ([STORAGE.md](STORAGE.md#index-of-the-events))."""


def _row(kind: EventKind) -> str:
    spec = EVENTS[kind]
    fields = ", ".join(f"`{name}`" for name in sorted(spec.fields))
    return f"| `{kind}` | {spec.severity} | {spec.source} | {spec.description} | {fields} |"


if __name__ == "__main__":
    sys.stdout.write(events_document())
