"""Generates docs/CLI.md from the commands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click

from crabnet.cli.context import State
from crabnet.cli.examples import examples_of
from crabnet.cli.group import cli
from crabnet.cli.options import LazyGroup, global_options
from crabnet.cli.purchase import RUN_EXITS
from crabnet.errors import ExitCode
from crabnet.settings import KNOBS

EXIT_CODES: Final = {
    ExitCode.OK: "done",
    ExitCode.INTERNAL: "an unexpected error in crabnet itself, or standard output cannot be written",
    ExitCode.USAGE: "a flag, an argument, an environment variable or the TOML file is wrong; nothing was done",
    ExitCode.REFUSED: "a rule refused it: lifecycle, authority, price, deadline, runner policy; nothing was changed",
    ExitCode.BUSY: "another process owns the data dir and did not release it in time",
    ExitCode.DAMAGED: "stored data is damaged, of a newer version, or has unsafe permissions; nothing was changed",
    ExitCode.STORAGE_FAILED: "a write, sync or rename failed: the disk is full, read-only or broken",
    ExitCode.NETWORK: "an address cannot be bound, resolved or sent to; what was stored stays stored",
    ExitCode.TIMEOUT: "no answer in time; it is unknown whether the operation took effect: check `crabnet status`",
    ExitCode.DIFFERENT: "`state diff` found differences",
    ExitCode.FAILING: "`listen` has restarted the node as often as `restarts_max` allows after unexpected errors",
    ExitCode.INTERRUPTED: "Ctrl-C",
}

_JSON: Final = {
    "run": "one object: the last item of the stream `purchase.watch`, and `exit_code`, that of the command, or null if"
    ' no result counts; with `--detach` `{"seed_id"}`',
    "attach": "as for `run`",
    "seed publish": '`{"seed": Seed}`',
    "seed bid": '`{"bid": Bid}`',
    "seed claim": '`{"claim": Claim}`',
    "seed run": '`{"result": Result}`',
    "seed cancel": '`{"cancelled": "seed", "run" or "queued", "seed": Seed}`',
    "seed settle": '`{"seed": Seed}`',
    "history": '`{"acts": [{"event_id", "at_ms", "node_id", "what", "seed_id", "title", "price"}]}`; a `node_id` of'
    " null is this node",
    "why": "the answer of the operation `seed.why`",
    "seed wait": "as for `seed show`",
    "seed verdict": "the answer of the control method `seed.verdict`",
    "seed logs": '`{"seed_id", "stream", "base64"}`',
    "seed list": '`{"seeds": [Seed, …], "next": id or null}`; `next` is the value of `--after` for the next page',
    "seed show": '`{"seed": Seed, "claims": […], "runs": […], "results": […], "settlements": […], "bids": […],'
    ' "acknowledgements": […], "totals": {"bids"}, "next": id or null, "local_run": Run here or null}`;'
    " `next` is the value of `--after` for the next page; with `--follow`, one such object per line for each change",
    "account": "the answer of the control method `account.show`; with `--all`, that of `account.list`",
    "receipt make": "the receipt itself is one object; with `--out`, what it says, as `receipt verify` prints it",
    "receipt verify": (
        '`{"valid": true, "namespace", "seed_id", "title", "command", "acceptance", "publisher", "worker", "price",'
        ' "reward", "attempts", "outcome", "note", "acknowledged", "result": {…} or null, "steps": [{"step", "author",'
        ' "seq", "ts", "at", "envelope_id", "object_id"}, …], "proved": […], "not_proved": […]}`'
    ),
    "audit proof": (
        'one object per line: `{"author", "namespace", "seq", "stands", "does_not_stand", "envelope_ids", "kinds",'
        ' "ts", "proof"}`; `proof` is the document itself'
    ),
    "status": "the answer of the control method `status`",
    "peers": "the answer of the control method `peers`",
    "topology": "the answer of the control method `topology`",
    "sync": "the answer of the control method `sync`",
    "feeds": "the answer of the control method `feed.list`",
    "runs list": "the answer of the control method `run.list`",
    "runs pause": "the answer of the control method `runs.pause`",
    "runs resume": "the answer of the control method `runs.resume`",
    "drain": '`{"finished", "ended", "duration_ms", "process_id", "gone": true, "gone_ms"}`; the first three are those'
    " of the control method `node.drain`, and absent if the node ended before it answered",
    "stop": "as for `drain`",
    "top": "one object with the answers of the control methods `status`, `topology`, `sync` and `run.list`, by name",
    "doctor": '`{"ok", "running", "checks": [Check, …], "node": [Check, …]}`; `node` is empty without a running node',
    "debug bundle": '`{"file", "bytes", "files": [name]}`',
    "listen": '`{"listening": "Udp:ADDR"}` on stdout when the address is bound; everything else goes to stderr',
    "work": "as for `listen`; with `status`, the answer of the control method `work.status`; with `--dry-run`, pages of"
    " `work.offers`, one per line",
    "web serve": '`{"listening": URL}` on stdout for each address when it is bound; everything else goes to stderr',
    "events": 'one object per line: `{"id", "ts", "ts_ms", "node_id", "kind", "source", "severity", "payload"}`',
    "audit verify": '`{"ok", "from", "first_lsn", "last_lsn", "frames", "envelopes", "unsigned", "facts",'
    ' "decided_otherwise", "state_hash", "comparisons": [{"with", "lsn", "expected", "computed"}],'
    ' "feeds": [{"author", "seq", "id", "whole", "end"}],'
    ' "tasks": {"total", "complete", "acknowledged", "disputed", "broken", "left_out", "chains": [{"seed_id", "status",'
    ' "creator", "note", "complete", "acknowledged", "wrong", "chains": [{"wrong", "wrong_id",'
    ' "links": [{"kind", "author", "seq", "envelope_id", "object_id"}]}]}]},'
    ' "findings": [{"file", "offset", "lsn", "envelope_id", "detail"}], "findings_total", "notes"}`',
    "audit log": 'one object per line: `{"lsn", "at_s", "at", "kind", "author", "seed_id", "object_id", "envelope_id",'
    ' "seq", "ts", "via", "signed", "decision", "reason", "status"}`',
    "fsck": '`{"opens", "healthy", "repaired", "conditions": {file: condition}, "recovery", "damages": [text],'
    ' "notices": [text], "obstacle": text or null, "repair": text or null, "kept_lsn", "lost": [[first, last]],'
    ' "seeds_kept", "envelopes_behind", "envelopes_broken": [id],'
    ' "applied": {"entries", "accepted", "ignored", "rejected"} or null}`',
    "state vector": "the answer of the control method `state.vector`",
    "state export": '`{"file", "bytes", "entries", "unsigned", "unsigned_left_out", "full", "lsn",'
    ' "incomplete": [node id]}`',
    "state import": '`{"entries", "accepted", "ignored": {reason: n}, "rejected": {reason: n}, "exporter",'
    ' "problems": [text]}`; `exporter` is null for proofs and for a state of the Rust program',
    "state diff": '`{"same", "a": {"name", "state_hash"}, "b": {…}, "seeds_compared", "feeds": [{"node_id", "a", "b"}],'
    ' "seeds": [{"seed_id", "a", "b"}]}`',
    "config init": '`{"file": path}`',
    "config get": '`{"name", "value", "origin"}`',
    "config set": '`{"file": path, "name"}`',
    "config verify": '`{"ok": bool, "checks": [{"name", "verdict": "ok" | "warn" | "fail", "detail", "remedy",'
    ' "reason"}]}`',
    "config show": '`{"config_file": path or null, "settings": {name: {"value", "origin", "unit"}}}`',
    "token new": '`{"token": TokenInfo, "secret": text or null}`; the secret is null if it was given, or written to a'
    " file",
    "token list": "the answer of the control method `token.list`",
    "token revoke": "the answer of the control method `token.revoke`",
    "alerts test": '`{"targets": [{"number", "name", "reason": Reason or null, "detail"}]}`; a reason means that the'
    " target did not take the message",
    "web open": '`{"link", "expires_at"}`; opens nothing',
    "id": "the answer of the control method `id`",
    "completion": '`{"shell": name, "script": text}`',
}

_HEAD: Final = """\
# The command line

<!-- Written by scripts/write_reference.py from src/crabnet/cli. Change it there. -->

`crabnet [OPTIONS] COMMAND …`. Data goes to stdout, messages and errors go to stderr. If a node runs on the data dir,
commands use its control socket. If none runs, they open the data dir themselves, do their work, send, and close it.

An error is one line on stderr, `error: REASON: MESSAGE`, and an exit code. With `--json` the line is
`{"error": {"reason", "message", "exit_code"}}`. Text that comes from other nodes is printed with control characters,
escape sequences and bidirectional overrides written as escapes such as `\\x1b`. JSON is plain ASCII.

## Exit codes

`crabnet listen` shuts down in order on SIGTERM and SIGHUP (exit code 0) and on Ctrl-C (130), whatever it is doing.
Further signals change nothing. Any other command that works on the data dir itself also closes it in order. Then the
signal ends the command, unless the command is already done.

| code | meaning |
|---|---|
"""

_RUN_EXITS_HEAD: Final = """
### Exit codes of `crabnet run` and `crabnet attach`

Their exit code is that of the command that was bought. Their own failures have these codes, and one line on stderr,
`crabnet: REASON: MESSAGE`. A command that ends with a code from 240 to 250 itself is reported as 250. So a code from
240 to 249 is always one of these, and any other code but 250 is always the command's. With `--json` both are apart,
too.

| code | meaning |
|---|---|
"""

_GLOBAL: Final = """
## Options of every command

These options may be given before or after the subcommand. If an option is given in both places, the one after the
subcommand wins. The same holds for the flags of all settings in [CONFIGURATION.md](CONFIGURATION.md). `-h`, `--help`
shows help.

| option | meaning |
|---|---|
"""

_VALUES: Final = """
## Values

- **Ids** may be shortened to their beginning of at least four characters. If several ids of tasks or bids fit, the
  error `ambiguous` lists them, and nothing is done. The id of a node may be its beginning, its beginning without the
  `12D3KooW` that all have, its end, or both ends with `…` between them, as tables and the log show it. `@last` is the
  task that this node has published last. Where a node runs, the shell completes ids ([Completion](#completion)).
- **Durations** have units: `500ms`, `5s`, `10m`, `2h`, `1d`, `1h30m`, `1.5h`. A bare number is seconds. Options that
  end in `-ms` take milliseconds.
- **Times** without a zone are local: `14:30` (the last one that was), `2026-11-30`, `2026-11-30T14:30`. With a zone:
  `2026-11-30T14:30Z`. Where a time is taken, a duration means so long ago.

## Forms of output

Without `-o`, lists are tables on a terminal, as wide as it is, and lines for programs elsewhere. These lines do not
change. `-o table` and `-o plain` choose one of the two, `-o wide` is a table with whole ids and more columns, `-o json`
and `-o yaml` are for programs. `-q` prints only ids. Tables show of a task what its reader needs: `to claim`, `to run`
and `to settle` mean that it is your turn; `Closed` takes no bids any more; `overdue` was not settled in time.

Colours are used on terminals, unless `NO_COLOR` is set or `TERM` is `dumb`. Output of strangers is cut for display;
`seed logs` and `run` write it whole, byte for byte.
"""

_TAIL: Final = """
## JSON

With `--json` each command prints one JSON object on one line. `events`, `audit log` and `audit proof` print one
object per line. [CONTROL.md](CONTROL.md) describes the fields of `Seed`, `Bid`, `Claim`, `Result` and the other
objects; they are the same on the control socket. Later versions may add fields. Existing fields keep their name, type
and meaning.

## Completion

`eval "$(crabnet completion bash)"` in `~/.bashrc`, `eval "$(crabnet completion zsh)"` in `~/.zshrc`, or
`crabnet completion fish > ~/.config/fish/completions/crabnet.fish`.
"""


def cli_markdown() -> str:
    """The whole document."""
    parts = [_HEAD]
    parts += [f"| {int(code)} | {text} |\n" for code, text in EXIT_CODES.items()]
    parts.append("| 141 | no process reads stdout any more, as in `crabnet … | head` |\n")
    parts.append(_RUN_EXITS_HEAD)
    parts += [f"| {int(code)} | {text} |\n" for code, text in RUN_EXITS.items()]
    parts.append(_GLOBAL)
    shown = [option for option in global_options(settings_shown=False) if isinstance(option, click.Option)]
    parts += [_row(option) for option in shown if not option.hidden]
    parts.append("| `--version`, `-V` | Print the version. |\n")
    parts.append(_VALUES)
    found = dict(commands(cli, ""))
    for title, names in cli.sections.items():
        parts.append(f"\n## {title}\n")
        for name, command in found.items():
            if name.split()[0] in names:
                parts += _command(name, command)
    parts.append(_TAIL)
    return "".join(parts)


def commands(group: LazyGroup, prefix: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command that is no group, with its name, such as ``seed publish``, after ``prefix``."""
    context = click.Context(group, obj=State([]))
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, LazyGroup):
            yield from commands(command, f"{prefix}{name} ")
        elif command is not None:
            yield f"{prefix}{name}", command


def _command(name: str, command: click.Command) -> list[str]:
    arguments = [
        item.make_metavar(click.Context(command)) for item in command.params if isinstance(item, click.Argument)
    ]
    usage = " ".join(["crabnet", name, *arguments, "[OPTIONS]"])
    paragraphs = (command.help or "").strip().split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    examples = "".join(f"{example}\n" for example in examples_of(name))
    parts = [f"\n### {name}\n\n`{usage}`\n\n{text}\n\n```sh\n{examples}```\n\nJSON: {_JSON[name]}.\n"]
    everywhere = {option.name for option in global_options(settings_shown=False)}
    options = [item for item in command.params if isinstance(item, click.Option) and item.name not in everywhere]
    if options:
        parts.append("\n| option | meaning |\n|---|---|\n")
        parts += [_row(option) for option in options]
    return parts


def _row(option: click.Option) -> str:
    settings = {knob.name for knob in KNOBS}
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    text = option.help or ""
    if option.required:
        text += " Required."
    if option.multiple and option.name not in settings:
        text = text.replace("; repeatable", "") + " Repeatable."
    if isinstance(option.type, click.Choice):
        text += f" One of: {', '.join(map(str, option.type.choices))}."
    if option.show_default:
        default = option.default
        shown = ("yes" if default else "no") if isinstance(default, bool) else str(default)
        text += f" Default: {shown}."
    return f"| {names} | {text} |\n"
