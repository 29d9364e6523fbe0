"""Generates the manual pages from the commands, in the man(7) macros of roff."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import click

from crabnet._version import __version__
from crabnet.cli.context import State
from crabnet.cli.document import EXIT_CODES, commands
from crabnet.cli.examples import examples_of
from crabnet.cli.group import cli

_CODE: Final = re.compile(r"`([^`]*)`")
_FILES: Final = (
    ("~/.crabnet", "The data dir, unless `--data-dir` or `CRABNET_DATA_DIR` names another."),
    ("crabnet.toml", "In the data dir: the settings, unless `--config` or `CRABNET_CONFIG` names another file."),
)


def pages() -> dict[str, str]:
    """Return the name of the file of each page, and its text: ``crabnet.1`` and one for each command.

    They depend on nothing but the program, so that two builds give the same bytes.
    """
    leaves = dict(commands(cli, ""))
    context = click.Context(cli, info_name="crabnet", obj=State([]))
    found = {"crabnet.1": "".join(_overview(context, leaves))}
    for name, command in leaves.items():
        own = click.Context(command, info_name=name, parent=context, obj=State([]))
        found[f"{_title(name)}.1"] = "".join(_page(own, name))
    return found


def _overview(context: click.Context, leaves: dict[str, click.Command]) -> Iterator[str]:
    yield _head("crabnet", _first_sentence(context.command))
    yield f".SH SYNOPSIS\n\\fBcrabnet\\fP [OPTIONS] COMMAND {_escaped('…')}\n"
    yield f".SH DESCRIPTION\n{_paragraphs(context.command.help or '')}"
    yield ".SH COMMANDS\n"
    for title, names in cli.sections.items():
        yield f".SS {_escaped(title)}\n"
        for name, command in leaves.items():
            if name.split()[0] in names:
                yield f".TP\n\\fB{_escaped(_title(name))}\\fP(1)\n{_text(_first_sentence(command))}\n"
    yield ".SH OPTIONS\nEvery command takes these options.\n"
    yield from _options(context)
    yield ".SH ENVIRONMENT\n"
    yield _text("Almost every setting can be given as a variable, too. `crabnet config show` lists them.") + "\n"
    yield ".SH FILES\n"
    for path, text in _FILES:
        yield f".TP\n\\fI{_escaped(path)}\\fP\n{_text(text)}\n"
    yield ".SH EXIT STATUS\n"
    for code, text in EXIT_CODES.items():
        yield f".TP\n{int(code)}\n{_text(text)}\n"


def _page(context: click.Context, name: str) -> Iterator[str]:
    command = context.command
    yield _head(_title(name), _first_sentence(command))
    arguments = [item.make_metavar(context) for item in command.params if isinstance(item, click.Argument)]
    yield f".SH SYNOPSIS\n\\fBcrabnet {_escaped(name)}\\fP {_escaped(' '.join([*arguments, '[OPTIONS]']))}\n"
    yield f".SH DESCRIPTION\n{_paragraphs(command.help or '')}"
    yield ".SH OPTIONS\n"
    yield from _options(context)
    examples = examples_of(name)
    if examples:
        yield ".SH EXAMPLES\n"
        yield from (f".PP\n.EX\n{_escaped(example)}\n.EE\n" for example in examples)
    yield ".SH EXIT STATUS\n\\fBcrabnet\\fP(1) lists the exit codes.\n.SH SEE ALSO\n\\fBcrabnet\\fP(1)\n"


def _title(name: str) -> str:
    """The title of the page of a command: ``crabnet-seed-publish``."""
    return "-".join(["crabnet", *name.split()])


def _head(title: str, summary: str) -> str:
    version = f'"crabnet {__version__}"'
    return f'.TH {_escaped(title.upper())} 1 "" {version} "Crabnet"\n.SH NAME\n{_escaped(title)} \\- {_text(summary)}\n'


def _options(context: click.Context) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            yield f".TP\n\\fB{_escaped(record[0])}\\fP\n{_text(record[1])}\n"


def _first_sentence(command: click.Command) -> str:
    """The first sentence of the help, without its full stop."""
    text = " ".join((command.help or "").split("\n\n")[0].split())
    return re.split(r"(?<=[^.]\.) |\.$", text)[0].removesuffix(".")


def _paragraphs(text: str) -> str:
    return ".PP\n".join(f"{_text(' '.join(part.split()))}\n" for part in text.strip().split("\n\n"))


def _text(text: str) -> str:
    """Text of one paragraph: what stands between backticks is bold."""
    return _CODE.sub(r"\\fB\1\\fP", _escaped(text))


def _escaped(text: str) -> str:
    """Text without a meaning for roff: groff_char(7)."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    ascii_only = "".join(mark if mark.isascii() else f"\\[u{ord(mark):04X}]" for mark in escaped)
    return f"\\&{ascii_only}" if ascii_only.startswith((".", "'")) else ascii_only
