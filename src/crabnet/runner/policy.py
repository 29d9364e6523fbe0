"""The policy of a worker's runner, and the check of one command against it. Pure.

The policy guarantees: without ``allow_shell_operators`` no shell ever sees the command. The command is split into words
by the quoting rules of the POSIX shell, and the words are passed to ``execve`` unchanged. So no quoting can start a
second program. A command with text that a shell would treat as an operator or an expansion is refused. Globs, ``~``,
``{}`` and ``#`` are passed on literally.

The policy does not confine arguments. A permitted ``cat`` reads every file that the node's user may read, in any
directory. The allowlist limits *which* programs start, not what they do. Only the sandbox around a run confines them
(see ``runner.sandbox``). An allowlisted program that starts others (``env``, ``xargs``, ``sh``) allows everything.

``allow_shell_operators`` passes the command to ``/bin/sh -c``. Each command word is still checked, and substitutions,
subshells, assignments, ``eval`` and similar commands are refused. These checks catch mistakes, but they do not stop a
hostile publisher: redirections alone can write any file. Use this setting only with publishers that you trust.
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
"""The entry of the allowlist that allows every command."""
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
    """Which commands may run on this worker, and within which bounds. Raises ``UsageError`` for impossible values."""

    allowed_commands: frozenset[str] = ALLOWED_COMMANDS_DEFAULT
    """Command names, matched exactly. ``*`` allows all. A path (``/bin/echo``) must be listed as that path."""
    command_chars_max: int = limits.RUNNER_COMMAND_CHARS_MAX_DEFAULT
    allow_shell_operators: bool = False
    workdir: Path | None = None
    """The directory in which commands start. None: the root if there is one, else a fresh directory, which is removed
    after the run.
    """
    workdir_root: Path | None = None
    """The directory that must contain the real path of the working directory. None: any directory is allowed."""
    output_bytes_max: int = limits.RUNNER_OUTPUT_BYTES_MAX_DEFAULT
    """How many bytes of stdout, and of stderr, are kept as text. Further bytes are only hashed and counted."""
    output_total_bytes_max: int = limits.RUNNER_OUTPUT_TOTAL_BYTES_MAX_DEFAULT
    """The most bytes of both streams together. A command that writes more is terminated."""
    kill_wait_ms: int = limits.RUNNER_KILL_WAIT_MS_DEFAULT
    """The time between SIGTERM and SIGKILL."""
    timeout_ms_max: int = limits.TIMEOUT_MS_MAX
    """The worker's longest timeout. A longer timeout in the seed is shortened to it."""
    search_path: tuple[str, ...] = field(default=SEARCH_PATH_DEFAULT)
    """Absolute directories in which a bare command name is looked up. It is also the command's ``PATH``."""
    files_max: int = limits.RUNNER_FILES_MAX
    """The most output files that a result lists, 0 for none."""
    profiles: tuple[Profile, ...] = (Profile.STRICT,)
    """The profiles that runs may have. The first one is for seeds that request none."""
    limits: RunLimits = RunLimits()  # noqa: RUF009 - immutable
    """The limits of one run."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further environment variables of commands. PATH, LANG, HOME and TMPDIR cannot be set here."""

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
            raise UsageError("runner: there is no profile; set strict", Reason.INVALID_CONFIG)
        for directory in self.search_path:
            if not directory.startswith("/") or ":" in directory or "\0" in directory:
                raise UsageError(
                    f"runner: search_path has {directory!r}; use absolute directories", Reason.INVALID_CONFIG
                )
        if self.output_total_bytes_max < self.output_bytes_max:
            raise UsageError(
                "runner: output_total_bytes_max is less than output_bytes_max; raise the former",
                Reason.INVALID_CONFIG,
            )

    def allows(self, name: str) -> bool:
        """True if a command with exactly this name may run."""
        return name in self.allowed_commands or ANY_COMMAND in self.allowed_commands


@dataclass(frozen=True, slots=True)
class Accepted:
    """The command may run with these arguments. The first is the command's name."""

    argv: tuple[str, ...]
    in_shell: bool = False
    """True if ``argv`` is ``/bin/sh -c <command>``."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The command may not run, with a reason for programs and a message for people."""

    reason: Reason
    message: str


def check_command(policy: RunnerPolicy, command: str) -> Accepted | Refused:
    """Check ``command`` against ``policy``. Hostile text gives ``Refused``, never an exception."""
    if len(command) > policy.command_chars_max:
        return Refused(
            Reason.COMMAND_TOO_LONG,
            f"the command has {len(command)} characters, this worker accepts at most {policy.command_chars_max}",
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
            f"{_shorten(word.text)} cannot be checked: write out the name of each command, without assignments",
        )
    return None if policy.allows(word.text) else _name_refused(word.text)


def _is_descriptor(word: Word, following: list[Token]) -> bool:
    """True for the number of a file descriptor, such as ``2`` in ``2>file``, which is not a word of the command."""
    if word.quoted or not word.text.isascii() or not word.text.isdigit() or not following:
        return False
    operator = following[0]
    return isinstance(operator, Operator) and operator.glued and operator.text in _REDIRECTIONS


def _operator_refused(text: str) -> Refused:
    return Refused(
        Reason.SHELL_OPERATOR,
        f"a shell would interpret {_shorten(text)}, which this worker does not allow; if it is meant literally, "
        "put it in single quotes",
    )


def _name_refused(name: str) -> Refused:
    return Refused(Reason.COMMAND_NOT_ALLOWED, f"this worker does not run {_shorten(name)}")


def _shorten(text: str) -> str:
    return repr(text if len(text) <= limits.RUNNER_NAME_CHARS_SHOWN else text[: limits.RUNNER_NAME_CHARS_SHOWN] + "…")
