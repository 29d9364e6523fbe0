"""What a worker is willing to run: the runner's policy, and the check of one command against it. Pure.

What it guarantees: without ``allow_shell_operators`` no shell ever sees the command. It is split into words
by the quoting rules of the POSIX shell and the words go to ``execve`` as they are, so no quoting trick can
start a second program. What a shell would treat as an operator or an expansion is refused rather than
passed on literally; globs, ``~``, ``{}`` and ``#`` are passed on literally.

What it does not guarantee: arguments are not confined. A permitted ``cat`` reads every file that the
node's user may read, whatever the working directory. The allowlist limits *which* programs start, not
what they do; confining them takes a sandbox around the launch (see ``execute.Wrap``). An allowlisted
program that starts others (``env``, ``xargs``, ``sh``) allows everything.

``allow_shell_operators`` hands the command to ``/bin/sh -c``. Each command word is still checked, and
substitutions, subshells, assignments and ``eval`` with its like are refused. That catches mistakes; it is
no barrier against a hostile publisher, since redirections alone write any file. Use it with publishers
you trust.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from crabnet import limits
from crabnet.errors import Reason, UsageError
from crabnet.runner.sandbox.model import Profile, RunLimits
from crabnet.runner.shell_lexer import LexError, Operator, Token, Word, lex

ANY_COMMAND: Final = "*"
"""In the allowlist: every command is allowed."""
SHELL: Final = "/bin/sh"
ALLOWED_COMMANDS_DEFAULT: Final = frozenset(
    {"echo", "printf", "pwd", "ls", "cat", "sleep", "true", "false", "cd"},
)
SEARCH_PATH_DEFAULT: Final = ("/usr/local/bin", "/usr/bin", "/bin")

_SHELL_EVALUATORS: Final = frozenset(
    {"eval", "exec", "command", "builtin", "source", ".", "trap", "alias", "export", "readonly", "set", "unset"},
)
_CONNECTORS: Final = frozenset({";", "&", "&&", "|", "||", "\n"})
_REDIRECTIONS: Final = frozenset({"<", ">", ">>", ">|", "<>", "<&", ">&"})
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z_0-9]*(\[.*\])?\+?=", re.DOTALL)
_PLAIN_PARAMETER: Final = re.compile(r"\$[A-Za-z_0-9?]")
_FORBIDDEN_CHAR: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class RunnerPolicy:
    """What may run on this worker, and within which bounds. Raises ``UsageError`` for impossible values."""

    allowed_commands: frozenset[str] = ALLOWED_COMMANDS_DEFAULT
    """Command names, matched exactly; ``*`` allows all. A path (``/bin/echo``) must be listed as that path."""
    command_chars_max: int = limits.RUNNER_COMMAND_CHARS_MAX_DEFAULT
    allow_shell_operators: bool = False
    workdir: Path | None = None
    """Where commands start. None: the root when there is one, else a fresh directory, removed after the run."""
    workdir_root: Path | None = None
    """The working directory must lie in here after all symbolic links are followed. None: anywhere."""
    output_bytes_max: int = limits.RUNNER_OUTPUT_BYTES_MAX_DEFAULT
    """Bytes of stdout, and of stderr, that are kept as text; more is hashed and counted only."""
    output_total_bytes_max: int = limits.RUNNER_OUTPUT_TOTAL_BYTES_MAX_DEFAULT
    """Bytes of both streams together; a command that writes more is terminated."""
    kill_wait_ms: int = limits.RUNNER_KILL_WAIT_MS_DEFAULT
    """Time between SIGTERM and SIGKILL."""
    timeout_ms_max: int = limits.TIMEOUT_MS_MAX
    """The worker's own ceiling: a longer timeout in the seed is cut to this."""
    search_path: tuple[str, ...] = field(default=SEARCH_PATH_DEFAULT)
    """Absolute directories in which a bare command name is looked up; also the command's ``PATH``."""
    files_max: int = limits.RUNNER_FILES_MAX
    """Output files that a result lists; 0 for none."""
    profiles: tuple[Profile, ...] = (Profile.STRICT,)
    """Profiles that runs may have; the first is for seeds that ask for none."""
    limits: RunLimits = RunLimits()  # noqa: RUF009 - immutable
    """What one run may use."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further environment of commands. PATH, LANG, HOME and TMPDIR cannot be set here."""

    def __post_init__(self) -> None:
        bounds = (
            ("command_chars_max", self.command_chars_max, 1, limits.COMMAND_CHARS_MAX),
            ("output_bytes_max", self.output_bytes_max, 0, limits.INTEGER_MAX),
            ("output_total_bytes_max", self.output_total_bytes_max, 1, limits.RUNNER_OUTPUT_TOTAL_BYTES_MAX),
            ("kill_wait_ms", self.kill_wait_ms, 0, limits.RUNNER_KILL_WAIT_MS_MAX),
            ("files_max", self.files_max, 0, limits.RUNNER_FILES_MAX),
            ("timeout_ms_max", self.timeout_ms_max, 1, limits.TIMEOUT_MS_MAX),
        )
        for name, value, low, high in bounds:
            if not low <= value <= high:
                raise UsageError(f"runner: {name} is {value}, must be {low} to {high}", Reason.INVALID_CONFIG)
        if not self.profiles:
            raise UsageError("runner: there is no profile; give strict", Reason.INVALID_CONFIG)
        for directory in self.search_path:
            if not directory.startswith("/") or ":" in directory or "\0" in directory:
                raise UsageError(
                    f"runner: search_path has {directory!r}; give absolute directories", Reason.INVALID_CONFIG
                )
        if self.output_total_bytes_max < self.output_bytes_max:
            raise UsageError(
                "runner: output_total_bytes_max is less than output_bytes_max; raise the former",
                Reason.INVALID_CONFIG,
            )

    def allows(self, name: str) -> bool:
        """Whether a command of exactly this name may run."""
        return name in self.allowed_commands or ANY_COMMAND in self.allowed_commands


@dataclass(frozen=True, slots=True)
class Accepted:
    """The command may run with these arguments; the first is the command's name."""

    argv: tuple[str, ...]
    in_shell: bool = False
    """``argv`` is ``/bin/sh -c <command>``."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The command may not run: why, for programs and for people."""

    reason: Reason
    message: str


def check_command(policy: RunnerPolicy, command: str) -> Accepted | Refused:
    """Judge ``command`` by ``policy``. Total: hostile text gives ``Refused``, never an exception."""
    if len(command) > policy.command_chars_max:
        return Refused(
            Reason.COMMAND_TOO_LONG,
            f"the command has {len(command)} characters, this worker takes {policy.command_chars_max}",
        )
    forbidden = _FORBIDDEN_CHAR.search(command)
    if forbidden is not None:
        return Refused(Reason.MALFORMED, f"the command has the character U+{ord(forbidden[0]):04X}; remove it")
    if not command.strip():
        return Refused(Reason.EMPTY, "the command is empty")
    try:
        tokens = lex(command)
    except LexError as error:
        return Refused(Reason.MALFORMED, f"the command cannot be split into words: {error}")
    if policy.allow_shell_operators:
        return _check_shell(policy, command, tokens)
    return _check_plain(policy, tokens)


def _check_plain(policy: RunnerPolicy, tokens: list[Token]) -> Accepted | Refused:
    argv: list[str] = []
    for token in tokens:
        if isinstance(token, Operator):
            return _operator_refused(token.text)
        if token.expansions:
            return _operator_refused(token.expansions[0][0])
        argv.append(token.text)
    if not policy.allows(argv[0]):
        return _name_refused(argv[0])
    return Accepted(tuple(argv))


def _check_shell(policy: RunnerPolicy, command: str, tokens: list[Token]) -> Accepted | Refused:
    accepted = Accepted((SHELL, "-c", command), in_shell=True)
    if ANY_COMMAND in policy.allowed_commands:
        return accepted
    expect_name = True
    expect_target = False
    for index, token in enumerate(tokens):
        if isinstance(token, Operator):
            if token.text in _CONNECTORS and not expect_target:
                expect_name = True
            elif token.text in _REDIRECTIONS and not expect_target:
                expect_target = True
            else:
                return _operator_refused(token.text)
            continue
        refused = _check_shell_word(token)
        if refused is not None:
            return refused
        if expect_target:
            expect_target = False
        elif expect_name and not _is_descriptor(token, tokens[index + 1 : index + 2]):
            refused = _check_shell_name(policy, token)
            if refused is not None:
                return refused
            expect_name = False
    return accepted


def _check_shell_word(word: Word) -> Refused | None:
    if word.comment:
        return _operator_refused("#")
    for expansion in word.expansions:
        if _PLAIN_PARAMETER.fullmatch(expansion) is None:
            return _operator_refused(expansion)
    return None


def _check_shell_name(policy: RunnerPolicy, word: Word) -> Refused | None:
    if word.expansions or _ASSIGNMENT.match(word.text) or word.text in _SHELL_EVALUATORS:
        return Refused(
            Reason.SHELL_OPERATOR,
            f"{_shorten(word.text)} cannot be checked: write each command's name out, without assignments",
        )
    return None if policy.allows(word.text) else _name_refused(word.text)


def _is_descriptor(word: Word, following: list[Token]) -> bool:
    """``2`` in ``2>file``: a file descriptor's number, not a word of the command."""
    if word.quoted or not word.text.isascii() or not word.text.isdigit() or not following:
        return False
    operator = following[0]
    return isinstance(operator, Operator) and operator.glued and operator.text in _REDIRECTIONS


def _operator_refused(text: str) -> Refused:
    return Refused(
        Reason.SHELL_OPERATOR,
        f"{_shorten(text)} would be acted on by a shell, which this worker does not allow; if meant literally, "
        "put it in single quotes",
    )


def _name_refused(name: str) -> Refused:
    return Refused(Reason.COMMAND_NOT_ALLOWED, f"this worker does not run {_shorten(name)}")


def _shorten(text: str) -> str:
    return repr(text if len(text) <= limits.RUNNER_NAME_CHARS_SHOWN else text[: limits.RUNNER_NAME_CHARS_SHOWN] + "…")
