"""``crabnet state``: transfer the envelopes of a node to another one, and compare nodes."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import click

from crabnet.cli.context import object_text, state_of, write_object
from crabnet.cli.options import Command, LazyGroup
from crabnet.cli.output import note, note_line, write
from crabnet.control.client import JsonValue
from crabnet.errors import ExitCode, Reason, UsageError
from crabnet.plain import plain

state = LazyGroup(
    "state",
    "Transfer the envelopes of a node to another one in a file, and compare two nodes.",
    {name: f"crabnet.cli.state:{name}_" for name in ("vector", "export", "import", "diff")},
)


@click.command("vector", cls=Command)
@click.pass_context
def vector_(context: click.Context) -> None:
    """Show this node's version vector: how far it holds each feed. Use it for another node's export --vector."""
    run = state_of(context)
    answer = run.perform("state.vector", {})
    if run.json:
        write_object(answer)
        return
    heads = answer.get("heads") if isinstance(answer, dict) else None
    for author, head in sorted((heads if isinstance(heads, dict) else {}).items()):
        words = head if isinstance(head, list) else ["?"]
        write(" ".join(plain(str(word) or "-") for word in (author, *words)) + "\n")


@click.command("export", cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--vector", type=click.Path(path_type=Path), help="Only envelopes that the version vector in this file lacks."
)
@click.option("--for-vector", "for_vector", metavar="JSON", help="The same as --vector, with the vector itself.")
@click.option("--unsigned", "with_unsigned", is_flag=True, help="Include unsigned envelopes and imported facts.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.pass_context
def export_(
    context: click.Context, file: Path, vector: Path | None, for_vector: str | None, with_unsigned: bool, force: bool
) -> None:
    """Write all signed envelopes, or those that a version vector lacks, to one signed file.

    FILE may be - for standard output. The file of --vector may be - for standard input. Prints: exported N envelopes
    to FILE. If the envelopes go to standard output, this line goes to stderr. Also works while a node runs.
    """
    run = state_of(context)
    if vector is not None and for_vector is not None:
        raise UsageError("give --vector or --for-vector, not both", Reason.INVALID_ARGUMENT)
    settings = run.settings
    from crabnet.cli.streams import is_stream, reading, writing
    from crabnet.operator.exchange import Vector, parse_vector, read_vector
    from crabnet.operator.export import Wanted, export_state
    from crabnet.operator.source import key_seed_of, source_of
    from crabnet.storage.files import RealFiles

    files = RealFiles()
    base: Vector = {}
    if vector is not None:
        with reading(vector) as path:
            base = read_vector(files, path)
    elif for_vector is not None:
        base = parse_vector(for_vector)
    with writing(file) as path:
        source = source_of(run.perform("state.vector", {}))
        result = export_state(
            files,
            settings.data_dir,
            path,
            source=source,
            wanted=Wanted(base, with_unsigned),
            key_seed=key_seed_of(files, settings.data_dir),
            now_s=int(time.time()),
            overwrite=force,
        )
    report = note_line if is_stream(file) else write
    header = result.header
    if run.json:
        fields: dict[str, JsonValue] = {
            "file": str(file),
            "bytes": result.bytes,
            "entries": header.entries,
            "unsigned": header.unsigned,
            "unsigned_left_out": result.unsigned_left_out,
            "full": header.is_full,
            "lsn": source.lsn,
            "incomplete": [*header.incomplete],
        }
        report(object_text(fields))
    else:
        report(f"exported {header.entries} envelopes to {plain(str(file))}\n")
    if result.unsigned_left_out and not run.json:
        note(f"{result.unsigned_left_out} unsigned envelopes or facts were left out; --unsigned includes them")
    if header.incomplete and not run.json:
        note(f"{len(header.incomplete)} feeds are not complete, because parts of them are not in the journal any more")


@click.command("import", cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_context
def import_(context: click.Context, file: Path) -> None:
    """Import an export of another node, proofs of forks, or a state.json of the Rust program.

    FILE may be - for standard input. Prints: imported N of M envelopes. The whole file is read and verified before
    anything is applied. Every envelope is verified as if it came from the network, but it may be old. Importing a file
    twice changes nothing. Proofs are files that `audit proof --out` writes. Each proof ends the feed of its author.
    """
    from crabnet.cli.streams import reading

    with reading(file) as path:
        _take_in(context, path)


def _take_in(context: click.Context, path: Path) -> None:
    run = state_of(context)
    settings = run.settings
    from crabnet.operator.exchange import check_export, looks_like_baseline, read_entries
    from crabnet.operator.proofs import check_file, describe, looks_like_proofs
    from crabnet.operator.transfer import Proof, import_entries
    from crabnet.storage.files import RealFiles

    files = RealFiles()
    problems: list[str] = []
    exporter: str | None = None
    what = "envelopes"
    if looks_like_proofs(files, path):
        found_proofs = check_file(files, path)
        what = "proofs of forks"
        totals = import_entries(settings, [Proof(each.document) for each in found_proofs])
        problems = [describe(each.row) for each in found_proofs]
    elif looks_like_baseline(files, path):
        from crabnet.operator.baseline import read_importable, seeds_apart

        found = read_importable(files, path, run.perform("config", {}))
        what = "unsigned facts"
        totals = import_entries(settings, found.facts, found.statuses)
        problems = [*found.problems, *seeds_apart(found, totals.statuses)]
    else:
        export = check_export(files, path, settings.namespace)
        exporter = export.header.node_id
        totals = import_entries(settings, read_entries(files, export))
    ignored: dict[str, JsonValue] = {**totals.ignored}
    rejected: dict[str, JsonValue] = {**totals.rejected}
    if run.json:
        fields: dict[str, JsonValue] = {
            "entries": totals.entries,
            "accepted": totals.accepted,
            "ignored": ignored,
            "rejected": rejected,
            "exporter": exporter,
            "problems": [*problems],
        }
        write_object(fields)
        return
    write(f"imported {totals.accepted} of {totals.entries} {what}\n")
    for word, counts in (("ignored", totals.ignored), ("rejected", totals.rejected)):
        for reason, count in sorted(counts.items()):
            write(f"{word} {count}: {plain(reason)}\n")
    for problem in problems:
        note(plain(problem))
    if totals.ignored["gap"] or totals.ignored["unknown_parent"]:
        note(
            "envelopes before those with the reason gap are neither here nor in the file; those with unknown_parent "
            "rest on missing envelopes; export again with the vector that `crabnet state vector --json` prints here"
        )


@click.command("diff", cls=Command)
@click.argument("a")
@click.argument("b")
@click.pass_context
def diff_(context: click.Context, a: str, b: str) -> None:
    """Show which feeds and tasks differ. A and B are exports, data dirs, or the word live for the node's data dir.

    One of them may be - for an export on standard input.

    The exit code is 0 if both hold the same, else 9. Needs no lock.
    """
    run = state_of(context)
    settings = run.settings
    if a == b == "-":
        raise UsageError("A and B cannot both be standard input", Reason.INVALID_ARGUMENT)
    import msgspec

    from crabnet.cli.streams import is_stream, reading
    from crabnet.operator.compare import Side, compare, describe_difference, load_side
    from crabnet.operator.live import durable_lsn
    from crabnet.storage.files import RealFiles

    files = RealFiles()

    def load(word: str) -> Side:
        with reading(Path(word)) if is_stream(Path(word)) else nullcontext(word) as place:
            side = load_side(
                files,
                str(place),
                data_dir=settings.data_dir,
                namespace=settings.namespace,
                durable_lsn=lambda path: durable_lsn(path, settings.control_timeout_ms),
            )
        return replace(side, name=word)

    left, right = load(a), load(b)
    difference = compare(left, right)
    if run.json:
        fields: dict[str, JsonValue] = {
            "same": difference.same,
            "a": {"name": left.name, "state_hash": left.state_hash or None},
            "b": {"name": right.name, "state_hash": right.state_hash or None},
            "seeds_compared": difference.compared_seeds,
            "feeds": msgspec.to_builtins(difference.feeds),
            "seeds": msgspec.to_builtins(difference.seeds),
        }
        write_object(fields)
    else:
        for line in describe_difference(difference, left.name, right.name):
            write(plain(line) + "\n")
        if not difference.compared_seeds:
            note("tasks were not compared, because an export that was made for a vector does not contain all of them")
        if difference.same:
            write(f"the same: {len(left.heads)} feeds, {len(left.seeds)} tasks\n")
    if not difference.same:
        context.exit(int(ExitCode.DIFFERENT))
