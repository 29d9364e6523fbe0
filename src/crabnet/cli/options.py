"""Options that every command takes, before or after the subcommand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from typing import Final

import click

from crabnet.cli.context import state_of
from crabnet.cli.output import write
from crabnet.errors import ExitCode, Reason, UsageError
from crabnet.limits import INTEGER_MAX
from crabnet.settings import KNOBS, Knob
from crabnet.settings.kinds import BoolKind, ListKind
from crabnet.signals import HELD

_WHOLE_NUMBER: Final = re.compile(r"-?[0-9]{1,40}", re.ASCII)
FORMS: Final = ("table", "wide", "json", "yaml", "plain")
"""The forms of output."""
_HELP_COLUMNS_MAX: Final = 120
_SHORT: Final = {"data_dir": ("-d",)}
"""Settings with a short flag, too."""
_MAIN: Final = frozenset({"data_dir"})
"""Settings shown in the help of every command. ``crabnet listen --help`` shows the others too."""


class WholeNumber(click.IntRange):
    """A whole number within bounds, in decimal ASCII digits. Other forms that Python accepts are probably typos."""

    name = "integer"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip()
        if not _WHOLE_NUMBER.fullmatch(text):
            self.fail(f"{value!r} is not a whole number.", param, ctx)
        return super().convert(int(text), param, ctx)

    def _describe_range(self) -> str:
        """No bound is shown in the help if it is only that of all numbers."""
        return "" if self.max == INTEGER_MAX else super()._describe_range()


class _Help(click.HelpFormatter):
    """Help as wide as the terminal, up to ``_HELP_COLUMNS_MAX``."""

    def __init__(self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None) -> None:  # noqa: ARG002
        from crabnet.cli.tables import columns_of_terminal

        super().__init__(indent_increment, width or max(20, min(columns_of_terminal(), _HELP_COLUMNS_MAX) - 1))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        fitting = [(self._broken(term), text) for term, text in rows]
        super().write_dl(fitting, min(col_max, self.width // 3), col_spacing)

    def _broken(self, term: str) -> str:
        """An option with its values, on several lines if it is wider than the terminal."""
        room = self.width - self.current_indent
        if len(term) <= room:
            return term
        indent = " " * (self.current_indent + 4)
        parts = re.split(r"(?<=[ |])", term)
        lines = [parts[0]]
        for part in parts[1:]:
            if len(lines[-1]) + len(part.rstrip()) > room - (4 if len(lines) > 1 else 0):
                lines.append(part)
            else:
                lines[-1] += part
        return f"\n{indent}".join(map(str.rstrip, lines))


class _Context(click.Context):
    formatter_class = _Help


class _HelpWritten(click.Command):
    """Writes its help like all other output, so that a full disk behind stdout is an ordinary error."""

    context_class = _Context

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from crabnet.cli.examples import examples_of

        examples = examples_of(ctx.command_path)
        if examples:
            with formatter.section("Examples"):
                for example in examples:
                    formatter.write(_wrapped(example, formatter.width, formatter.current_indent))

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _show_help
        return option


def _wrapped(example: str, width: int, indent: int) -> str:
    """A command line that fits: a shell joins lines that end with a backslash."""
    lines, line = [], ""
    for word in example.split(" "):
        if line and indent + len(line) + len(word) + 3 > width:
            lines.append(f"{line} \\")
            line = f"  {word}"
        else:
            line = f"{line} {word}" if line else word
    return "".join(f"{'':>{indent}}{each}\n" for each in [*lines, line])


def _show_help(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        write(context.get_help() + "\n")
        context.exit()


class Command(_HelpWritten):
    """A command that also takes the global options. ``settings_shown`` lists every setting in its help.

    ``holds_signals``: the command itself handles the signals that came while the program loaded (``until_signal``).
    ``prints_ids``: it can print ids alone (``State.ids_only``). An option of its own takes the place of a global one.
    """

    def __init__(
        self,
        *args: object,
        settings_shown: bool = False,
        holds_signals: bool = False,
        prints_ids: bool = False,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.params += _others(global_options(settings_shown=settings_shown), self.params)
        self._holds_signals = holds_signals
        self._prints_ids = prints_ids

    def invoke(self, ctx: click.Context) -> object:
        state = state_of(ctx)
        if not self._holds_signals or state.verify_config or state.dump_topology:
            HELD.release()
        if state.ids_only and not self._prints_ids:
            raise UsageError(f"{ctx.command_path} prints no ids, so -q is not for it", Reason.INVALID_ARGUMENT)
        return _verified(ctx) or super().invoke(ctx)


def _unlikeness(word: str, other: str) -> float:
    """Less for a word that is more like the other one."""
    return -SequenceMatcher(None, word, other).ratio()


def said_by_click(error: click.ClickException, command: str) -> str:
    """The message of the error on one line, and the command whose help explains more."""
    message = " ".join(error.format_message().split())
    if isinstance(error, click.NoSuchOption):
        likely = sorted(error.possibilities or (), key=partial(_unlikeness, error.option_name))[:2]
        near = " or ".join(f"'{name}'" for name in likely)
        message = f"No such option '{error.option_name}'.{f' Did you mean {near}?' if near else ''}"
    return f"{message}{'' if message.endswith(('.', '?')) else '.'} See {command} --help."


def _others(options: list[click.Parameter], own: list[click.Parameter]) -> list[click.Parameter]:
    """The options without the names that a command uses for its own."""
    taken = {name for option in own for name in option.opts}
    for option in options:
        option.opts = [name for name in option.opts if name not in taken]
    return [option for option in options if option.opts]


def _verified(context: click.Context) -> bool:
    """With ``--verify-config`` or ``--dump-topology``, do that instead of the command. Raises CrabnetError."""
    state = state_of(context)
    if state.dump_topology and not state.verify_config:
        from crabnet.cli.topology_view import show_topology

        show_topology(state)
        return True
    if not state.verify_config:
        return False
    from crabnet.cli.checking import check_config

    check_config(state)
    return True


def _without_subcommand() -> None:
    context = click.get_current_context()
    group = context.command
    if context.invoked_subcommand is None:
        HELD.release()
        if isinstance(group, LazyGroup) and group.default is not None:
            command = group.get_command(context, group.default)
            if command is not None:
                context.invoke(command)
            return
        if not _verified(context):
            if context.parent is not None or state_of(context).json:
                context.fail("Missing command.")
            write(context.get_help() + "\n")
            context.exit(ExitCode.USAGE)


class LazyGroup(_HelpWritten, click.Group):
    """A group that imports a subcommand when it is used. ``lazy`` maps names to ``module:attribute``.

    ``default`` is the subcommand that a call without one means. ``sections`` are the titles under which the help shows
    the subcommands.
    """

    def __init__(
        self,
        name: str,
        help_text: str,
        lazy: Mapping[str, str],
        default: str | None = None,
        sections: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        self.default = default
        self.sections = sections or {"Commands": tuple(lazy)}
        super().__init__(
            name, help=help_text, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False,
            invoke_without_command=True, callback=_without_subcommand,
        )  # fmt: skip
        self.lazy = lazy
        self.params += global_options(settings_shown=False)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        from importlib import import_module

        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name].partition(":")
        command: object = getattr(import_module(module), attribute)
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.lazy and not args[0].startswith("-"):
            near = self._near(ctx, args[0])
            hint = f" Did you mean {near}?" if near else ""
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def _near(self, ctx: click.Context, word: str) -> str | None:
        """The command that was probably meant: one of this group with a similar name, or one of a group in it."""
        from difflib import get_close_matches

        near = get_close_matches(word, self.lazy, n=1)
        if near:
            return near[0]
        for name in self.lazy:
            group = self.get_command(ctx, name)
            inner = get_close_matches(word, group.lazy, n=1, cutoff=0.8) if isinstance(group, LazyGroup) else []
            if inner:
                return f"{name} {inner[0]}"
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        longest = max(map(len, self.lazy))
        for title, names in self.sections.items():
            commands = [(name, command) for name in names if (command := self.get_command(ctx, name)) is not None]
            room = max(20, formatter.width - 6 - longest)
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{longest}}", each.get_short_help_str(room)) for name, each in commands])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)


def global_options(*, settings_shown: bool) -> list[click.Parameter]:
    """The options of every command, and one option per setting."""
    options: list[click.Parameter] = [
        setting_option(knob, str(knob.flag), hidden=knob.name not in _MAIN and not settings_shown)
        for knob in KNOBS
        if knob.flag is not None
    ]
    config = click.Option(
        ["--config"], metavar="FILE", expose_value=False, callback=_store_config,
        help="TOML file with settings; default: crabnet.toml in the data dir, if it exists.",
    )  # fmt: skip
    form = click.Option(
        ["--output", "-o"], type=click.Choice(FORMS), expose_value=False, callback=_store_form,
        help="Form of the output. Default: table for lists on a terminal, else plain. wide: a table with whole ids.",
    )  # fmt: skip
    as_json = click.Option(
        ["--json"], is_flag=True, default=False, expose_value=False, callback=_store_json,
        help="Print one JSON object, also for errors. The same as -o json.",
    )  # fmt: skip
    ids_only = click.Option(
        ["--quiet", "-q"], is_flag=True, default=False, expose_value=False, callback=_store_ids_only,
        help="Print only ids, one per line.",
    )  # fmt: skip
    verify = click.Option(
        ["--verify-config"], is_flag=True, default=False, expose_value=False, callback=_store_verify,
        help="Only check the settings, like crabnet config verify.",
    )  # fmt: skip
    dump = click.Option(
        ["--dump-topology"], is_flag=True, default=False, expose_value=False, callback=_store_dump,
        help="Only show the topology, like crabnet topology.",
    )  # fmt: skip
    return [*options, config, form, as_json, ids_only, verify, dump]


def setting_option(knob: Knob, flag: str, *, hidden: bool = False) -> click.Option:
    """An option that gives a setting."""
    default = "" if knob.default is None else f" [default: {knob.shown(knob.default)}]"
    text = knob.doc.replace("`", "") + default
    if isinstance(knob.kind, BoolKind):
        declaration = flag if knob.env is None else f"{flag}/--no-{flag.removeprefix('--')}"
        return click.Option(
            [knob.name, declaration], is_flag=True, default=None, help=text, hidden=hidden, expose_value=False,
            callback=_store,
        )  # fmt: skip
    names = [knob.name, flag, *_SHORT.get(knob.name, ())]
    return click.Option(
        names, metavar=_metavar(knob), multiple=isinstance(knob.kind, ListKind), help=text, hidden=hidden,
        expose_value=False, callback=_store,
    )  # fmt: skip


def _metavar(knob: Knob) -> str:
    names = {"integer": "N", "path": "PATH", "address": "ADDR", "string": "TEXT", "number": "X", "schedule": "TEXT"}
    kind = knob.kind.item if isinstance(knob.kind, ListKind) else knob.kind
    return names[kind.name] + (",…" if isinstance(knob.kind, ListKind) else "")


def _store(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value is None or value == () or parameter.name is None:
        return
    if isinstance(value, bool | str):
        state_of(context).flags[parameter.name] = value
    elif isinstance(value, tuple):
        state_of(context).flags[parameter.name] = [str(item) for item in value]


def _store_config(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        if not value:
            raise UsageError("--config needs the path of a file", Reason.INVALID_CONFIG)
        state_of(context).config = Path(value)


def _store_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        state_of(context).take_form("json")


def _store_form(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        state_of(context).take_form(value)


def _store_ids_only(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        state_of(context).ids_only = True


def _store_verify(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        state_of(context).verify_config = True


def _store_dump(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        state_of(context).dump_topology = True
