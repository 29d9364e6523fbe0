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
    Severity.DEBUG: "for finding faults; comes with every message",
    Severity.INFO: "normal work",
    Severity.NOTICE: "normal, and worth knowing",
    Severity.WARNING: "something was refused, dropped or failed, and the node deals with it",
    Severity.ALERT: "somebody should look; written and made durable at once, dropped last",
}


_MIB = EVENT_FILE_BYTES_MAX_DEFAULT // (1024 * 1024)
_HOURS = EVENT_FILE_AGE_MS_MAX_DEFAULT // 3_600_000


def events_document() -> str:
    """The text of docs/EVENTS.md."""
    parts = [_head()]
    parts.append("## Severities\n\n" + "\n".join(f"- `{name}`: {text}." for name, text in _SEVERITIES.items()))
    parts.append(
        "## Kinds\n\nThe severity is the default; a single event may differ where the description says so.\n\n"
        "| kind | severity | source | meaning | payload |\n|---|---|---|---|---|\n"
        + "\n".join(_row(kind) for kind in EventKind)
    )
    parts.append(
        "## Payload fields\n\nA field means the same in every kind. An event has those that are known.\n\n"
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

A node tells what it does by events, one JSON object a line, in `events.ndjson` in its data dir. `crabnet events`
reads them, `crabnet events --follow` goes on reading.

```json
{{"id":17,"ts":1795429130,"ts_ms":1795429130123,"node_id":"12D3KooW…","kind":"envelope_rejected","source":"core",
 "severity":"warning","payload":{{"reason":"bad_signature","author":"12D3KooW…","address":"192.0.2.7:9012"}}}}
```

- `id` increases by one from event to event, over restarts and rotations. It can be used as a cursor.
- `ts` is the time in whole seconds since the epoch, `ts_ms` the same moment in milliseconds.
- `source` is the part of the node the event comes from; `severity` and `kind` are explained below.
- `payload` holds strings, integers, booleans and null. Strings are cut at {EVENT_STRING_CHARS_MAX} characters.
  Keys, tokens, commands and the output of commands are never in an event: only fields declared for a kind are written.

**Files.** When `events.ndjson` would grow over {_MIB} MiB, or its first event is older than {_HOURS} hours, it is
renamed to `events-<first id>.ndjson` and a new one begins; the last {EVENT_FILES_KEPT_DEFAULT} such files are kept
(these are the defaults). `events.lock` is held by the one process that writes and is never deleted. Files are
readable by their owner only. Reading needs no lock.

**Loss.** Events never hold up the node. At most {EVENT_QUEUE_MAX} wait in the queue; beyond that the oldest that
are no alerts are dropped, and `events_dropped` tells how many. When the files cannot be written the node says
so on standard error and in its status, goes on, and tries again. Alerts are made durable at once, other events
reach the disk when the system writes them back: after a power cut the last seconds may be missing and their
ids are used again.

**Damage.** A torn last line is cut when the log is opened. Anything else behind the last event is kept in
`events-aside-<time>.ndjson`, and so is a file that holds no event of this format (such as a baseline's).
`events_repaired` tells about both. Readers pass over lines that are no events and count them."""


def _row(kind: EventKind) -> str:
    spec = EVENTS[kind]
    fields = ", ".join(f"`{name}`" for name in sorted(spec.fields))
    return f"| `{kind}` | {spec.severity} | {spec.source} | {spec.description} | {fields} |"


if __name__ == "__main__":
    sys.stdout.write(events_document())
