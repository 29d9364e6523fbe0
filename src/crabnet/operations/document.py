"""Generates docs/CONTROL.md from the table of operations."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from crabnet import limits
from crabnet.operations.describe import Field, fields, structs_of
from crabnet.operations.model import COMMON, Alone, Empty, Operation
from crabnet.operations.table import MODULES, OPERATIONS

_HEAD: Final = f"""\
# The control socket

<!-- Written by scripts/write_reference.py from src/crabnet/operations. Change it there. -->

A running node serves the Unix socket `control.sock` in its data dir. The `crabnet` commands and the web process use it. Any program
of the same user may use it, too. This page describes it completely. The operations are the same through every door
([ADR 32](adr/0032-one-table-of-operations.md)).

## Protocol

This is version 1. A client connects (`SOCK_STREAM`), sends one request per line and reads the answers in the order of the
requests. A line is one JSON object in UTF-8, ended by a line feed.

```
{{"v": 1, "id": 7, "method": "seed.show", "params": {{"seed_id": "…"}}}}
{{"id": 7, "result": {{…}}}}
{{"id": 8, "error": {{"reason": "unknown_seed", "message": "…", "exit_code": 3}}}}
```

- `v` is 1. `id` is any JSON value. The answer repeats it (null when the node could not read the request). `params` may be left out
  when there are none. Other keys are refused. JSON is strict: no duplicate keys, no numbers with a fraction, bounded depth.
- `reason` is one of the names in `crabnet.errors.Reason`. `exit_code` is the kind of error, as in the table of
  [CLI.md](CLI.md#exit-codes). `message` is for people.
- A **stream** answers with any number of lines `{{"id": 7, "item": {{…}}}}`. At its end comes `{{"id": 7, "result": {{}}}}`, or an error.
  The client ends a stream by closing the connection or its sending side.
- A request has at most {limits.CONTROL_LINE_BYTES_MAX // 1024**2} MiB with its line feed. The answer to a longer one is `too_large`, and
  the connection ends. An answer, and an item of a stream, has at most {limits.CONTROL_RESPONSE_BYTES_MAX // 1024**2} MiB. In place of a
  longer one the node sends `limit_exceeded`.
- The node serves at most {limits.CONTROL_CONNECTIONS_MAX} connections at a time. More connections wait. A connection does not count
  while a request waits that may take long; the operations say which. Of each of these {limits.CONTROL_WAITING_MAX} requests may wait;
  the node refuses one more with `limit_exceeded`. So a short request never waits behind a long one. The node closes a connection that
  has not sent a whole request for {limits.CONTROL_IDLE_MS // 1000} s, or has not taken its answer for {limits.CONTROL_SEND_MS // 1000} s.
  Programs should therefore connect again for each request, or shortly before.
- The node finishes a request that has begun, even when its client goes away. When the connection ends without an answer, the client
  does not know whether the request took effect. A `request_id` makes it safe to send the request again.
- The socket has mode 0600. The node also asks the kernel for the user of the peer (`SO_PEERCRED`), which must be the node's user or
  root. It disconnects others without an answer.
- If the path is longer than the {limits.SOCKET_PATH_BYTES_MAX} bytes that fit a socket address, a client reaches it through a
  descriptor of its directory: `/proc/self/fd/<N>/control.sock`.
- A socket file that refuses connections means that no node runs. If the file is removed while the node runs, the node makes it again
  within a second.

## Requests that are repeated

Each operation that writes takes a `request_id`: 1 to {limits.REQUEST_ID_CHARS_MAX} visible ASCII characters that the caller chooses. A
request with the same id and the same content is done once. A repetition gets the first answer and makes no second envelope, also
through another door, after a restart, and after a crash at any moment. Fields that are left out count as their defaults. With
other content the id is refused: `request_conflict`. While the first request is under way, a repetition waits for it. A request that
was refused leaves no trace, so a repetition tries it again. The node remembers ids for `request_ids_ttl_s` and at most
`request_ids_max` of them ([CONFIGURATION.md](CONFIGURATION.md)).

The node makes the answer again from what the request stated, with the task's present state, in two cases: the node crashed before it
had given the first answer, or the first answer had more than {limits.REQUEST_ANSWER_BYTES_MAX // 1024} KiB (the node also forgets the
oldest answers when all of them together exceed {limits.REQUEST_ANSWERS_BYTES_MAX // 1024**2} MiB).

## Operations

A change is durable when its answer arrives. Fields of a request without a default are required. Unknown operations are refused with
`unknown_operation`, unknown fields with `invalid_argument`. The scope says which token may do it over HTTP; the control socket has all
rights. Every operation may also give these Reasons: {{common}}.

"""

_OBJECTS: Final = """\
## Objects

Names that end in `_ts` and `_at` are whole seconds since 1970 (UTC), except where a field says otherwise. `_ms` are milliseconds. Prices
and rewards are whole numbers without a unit. A field that is unset is null or absent. A reader treats both alike. Later versions may
add fields. Existing fields keep their name, type and meaning.

"""

_ALONE: Final = {
    Alone.READS: "the command reads the files of the data dir, without a lock",
    Alone.OPENS: "the command opens the data dir, does it, sends and closes",
    Alone.FAILS: "the command fails",
}


def control_markdown() -> str:
    """The whole document."""
    common = ", ".join(f"`{reason.value}`" for reason in sorted(COMMON))
    parts = [_HEAD.replace("{common}", common)]
    for operation in OPERATIONS:
        parts += _operation(operation)
    parts.append(_OBJECTS)
    for struct in structs_of(OPERATIONS):
        parts += _object(struct)
    return "".join(parts).rstrip() + "\n"


def python_table() -> str:
    """The operations for Python programs, for docs/PYTHON.md."""
    homes = {
        id(value): f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in MODULES
        for name, value in vars(module).items()
    }
    rows = ["| operation | constant | request | answer | does |\n|---|---|---|---|---|\n"]
    for operation in OPERATIONS:
        answer = f"{'items: ' if operation.streams else ''}`{operation.response.__name__}`"
        constant, request = homes[id(operation)], operation.request.__name__
        rows.append(f"| `{operation.name}` | `{constant}` | `{request}` | {answer} | {operation.summary} |\n")
    return "".join(rows)


def _operation(operation: Operation[Any, Any]) -> list[str]:
    facts = [f"scope `{operation.scope.value}`", f"{operation.kind.value}"]
    facts += ["may take long"] if operation.waits else []
    facts.append(f"HTTP: `{operation.route.method} /api/v1{operation.route.path}`")
    what = "Each item" if operation.streams else "Answer"
    reasons = ", ".join(f"`{reason.value}`" for reason in sorted(operation.reasons))
    parts = [
        f"### {operation.name}\n\n{operation.summary} {operation.description}\n\n",
        f"{'; '.join(facts)}. Without a running node {_ALONE[operation.alone]}.\n\n",
    ]
    if operation.request is not Empty:
        parts += _table(fields(operation.request))
    parts.append(f"{what}: **{operation.response.__name__}**.")
    parts.append(f" Further Reasons: {reasons}.\n\n" if reasons else "\n\n")
    return parts


def _object(struct: type[Struct]) -> list[str]:
    text = " ".join((struct.__doc__ or "").split()).replace("``", "`")
    return [f"### {struct.__name__}\n\n{text}\n\n", *_table(fields(struct))]


def _table(rows: list[Field]) -> list[str]:
    parts = ["| field | type | meaning |\n|---|---|---|\n"]
    for row in rows:
        default = "" if row.required or not row.default else f" (default {row.default})"
        text = row.text.replace("``", "`").replace("|", "\\|")
        parts.append(f"| `{row.name}` | {row.type.replace('|', chr(92) + '|')}{default} | {text} |\n")
    parts.append("\n")
    return parts
