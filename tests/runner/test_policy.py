"""Which commands a worker takes, and into which words they are split."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.errors import Reason, UsageError
from crabnet.runner.policy import ALLOWED_COMMANDS_DEFAULT, Accepted, Refused, RunnerPolicy, check_command

PLAIN = RunnerPolicy()
ANY = RunnerPolicy(allowed_commands=frozenset({"*"}))
SHELL = RunnerPolicy(allow_shell_operators=True)
SHELL_ANY = RunnerPolicy(allow_shell_operators=True, allowed_commands=frozenset({"*"}))


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("echo", ("echo",)),
        ("  echo \t hi  ", ("echo", "hi")),
        ("echo a  b", ("echo", "a", "b")),
        ("echo 'a  b'", ("echo", "a  b")),
        ('echo "a  b"', ("echo", "a  b")),
        ("echo a'b'\"c\"d", ("echo", "abcd")),
        ("echo ''", ("echo", "")),
        ("'echo' hi", ("echo", "hi")),
        ("ec''ho hi", ("echo", "hi")),
        ("\\echo hi", ("echo", "hi")),
        ("echo 'a; b & c | d > e < f ( ) $x `y`'", ("echo", "a; b & c | d > e < f ( ) $x `y`")),
        ('echo "a; b & c | d > e < f ( )"', ("echo", "a; b & c | d > e < f ( )")),
        ("echo a\\;b \\& \\| \\> \\< \\( \\) \\$x \\`", ("echo", "a;b", "&", "|", ">", "<", "(", ")", "$x", "`")),
        ('echo "\\$x \\` \\" \\\\ \\n"', ("echo", '$x ` " \\ \\n')),
        ("echo 'it'\\''s'", ("echo", "it's")),
        ("echo 'two\nlines'", ("echo", "two\nlines")),
        ('echo "tab\there"', ("echo", "tab\there")),
        ("ls *.txt ?a [b] ~ {c,d} #e !", ("ls", "*.txt", "?a", "[b]", "~", "{c,d}", "#e", "!")),
        ("echo é 漢 🦀", ("echo", "é", "漢", "🦀")),
        ("cat /etc/hostname", ("cat", "/etc/hostname")),
        ("cd some/where", ("cd", "some/where")),
    ],
)
def test_accepted_commands_are_split_like_a_shell_would(command: str, argv: tuple[str, ...]) -> None:
    assert check_command(PLAIN, command) == Accepted(argv)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("", Reason.EMPTY),
        ("   \t ", Reason.EMPTY),
        ("\n", Reason.EMPTY),
        ("echo a; ls", Reason.SHELL_OPERATOR),
        ("echo a;ls", Reason.SHELL_OPERATOR),
        ("echo a & ls", Reason.SHELL_OPERATOR),
        ("echo a && ls", Reason.SHELL_OPERATOR),
        ("echo a || ls", Reason.SHELL_OPERATOR),
        ("echo a | cat", Reason.SHELL_OPERATOR),
        ("echo a > f", Reason.SHELL_OPERATOR),
        ("echo a >> f", Reason.SHELL_OPERATOR),
        ("echo a 2>&1", Reason.SHELL_OPERATOR),
        ("cat < f", Reason.SHELL_OPERATOR),
        ("cat << f", Reason.SHELL_OPERATOR),
        ("(ls)", Reason.SHELL_OPERATOR),
        ("echo <(ls)", Reason.SHELL_OPERATOR),
        ("echo $HOME", Reason.SHELL_OPERATOR),
        ("echo $(ls)", Reason.SHELL_OPERATOR),
        ("echo `ls`", Reason.SHELL_OPERATOR),
        ('echo "$(ls)"', Reason.SHELL_OPERATOR),
        ('echo "`ls`"', Reason.SHELL_OPERATOR),
        ('echo "$HOME"', Reason.SHELL_OPERATOR),
        ("echo 'a'$HOME'b'", Reason.SHELL_OPERATOR),
        ("echo 'a';ls", Reason.SHELL_OPERATOR),
        ('echo "a";ls', Reason.SHELL_OPERATOR),
        ("echo \\\\;ls", Reason.SHELL_OPERATOR),
        ("echo a\nls", Reason.SHELL_OPERATOR),
        ("echo a\n", Reason.SHELL_OPERATOR),
        ("; echo", Reason.SHELL_OPERATOR),
        ("rm -rf /", Reason.COMMAND_NOT_ALLOWED),
        ("/bin/echo hi", Reason.COMMAND_NOT_ALLOWED),
        ("./echo hi", Reason.COMMAND_NOT_ALLOWED),
        ("../echo", Reason.COMMAND_NOT_ALLOWED),
        ("echo/ hi", Reason.COMMAND_NOT_ALLOWED),
        ("Echo hi", Reason.COMMAND_NOT_ALLOWED),
        ("echoo", Reason.COMMAND_NOT_ALLOWED),
        ("'echo hi'", Reason.COMMAND_NOT_ALLOWED),
        ("'' echo", Reason.COMMAND_NOT_ALLOWED),
        ("echo\u00a0hi", Reason.COMMAND_NOT_ALLOWED),
        ("A=b echo", Reason.COMMAND_NOT_ALLOWED),
        ("* echo", Reason.COMMAND_NOT_ALLOWED),
        ("sh -c ls", Reason.COMMAND_NOT_ALLOWED),
        ("echo 'a", Reason.MALFORMED),
        ('echo "a', Reason.MALFORMED),
        ('echo "a\\', Reason.MALFORMED),
        ("echo a\\", Reason.MALFORMED),
        ("echo a\\\nb", Reason.MALFORMED),
        ('echo "a\\\nb"', Reason.MALFORMED),
        ("echo a\0b", Reason.MALFORMED),
        ("echo 'a\0b'", Reason.MALFORMED),
        ("echo a\rls", Reason.MALFORMED),
        ("echo '\x1b[2J'", Reason.MALFORMED),
        ("echo '\x7f'", Reason.MALFORMED),
        ("echo '\x85'", Reason.MALFORMED),
        ("echo '\ud800'", Reason.MALFORMED),
        ("echo " + "a" * 4_092, Reason.COMMAND_TOO_LONG),
    ],
)
def test_refused_commands(command: str, reason: Reason) -> None:
    verdict = check_command(PLAIN, command)

    assert isinstance(verdict, Refused)
    assert verdict.reason is reason
    assert verdict.message
    assert len(verdict.message) < 300


def test_length_is_counted_in_characters_up_to_the_bound() -> None:
    policy = RunnerPolicy(command_chars_max=10)

    assert check_command(policy, "echo 漢漢漢漢漢") == Accepted(("echo", "漢漢漢漢漢"))
    assert isinstance(check_command(policy, "echo 漢漢漢漢漢漢"), Refused)


def test_a_path_is_allowed_only_when_that_path_is_listed() -> None:
    policy = RunnerPolicy(allowed_commands=frozenset({"/opt/tool"}))

    assert check_command(policy, "/opt/tool x") == Accepted(("/opt/tool", "x"))
    for other in ("tool x", "/opt//tool", "/opt/../opt/tool", "./tool"):
        assert isinstance(check_command(policy, other), Refused)


def test_star_allows_any_name_but_no_operators() -> None:
    assert check_command(ANY, "anything at all") == Accepted(("anything", "at", "all"))
    assert isinstance(check_command(ANY, "anything; at all"), Refused)


def test_an_empty_allowlist_allows_nothing() -> None:
    assert isinstance(check_command(RunnerPolicy(allowed_commands=frozenset()), "true"), Refused)


def test_the_default_allowlist_is_the_baselines() -> None:
    expected = {"echo", "printf", "pwd", "ls", "cat", "sleep", "true", "false", "cd"}

    assert expected == ALLOWED_COMMANDS_DEFAULT == PLAIN.allowed_commands


@pytest.mark.parametrize(
    "command",
    [
        "echo a",
        "echo a | cat",
        "echo a; ls",
        "echo a && ls || false",
        "true\necho b\n",
        "echo a > out 2>&1",
        "2>err ls > out",
        "cat < in >> out",
        'sleep 1 & echo $HOME $? "$LANG"',
        "cd sub && pwd",
        "echo '$(rm) `rm` ; rm'",
        "echo a#b '#' \\#",
        "echo *",
    ],
)
def test_shell_mode_takes_operators_between_allowed_commands(command: str) -> None:
    assert check_command(SHELL, command) == Accepted(("/bin/sh", "-c", command), in_shell=True)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo a | rm", Reason.COMMAND_NOT_ALLOWED),
        ("echo a; rm", Reason.COMMAND_NOT_ALLOWED),
        ("echo a\nrm", Reason.COMMAND_NOT_ALLOWED),
        ("echo a&rm", Reason.COMMAND_NOT_ALLOWED),
        ("> out rm", Reason.COMMAND_NOT_ALLOWED),
        ("2>out rm", Reason.COMMAND_NOT_ALLOWED),
        ("2 >out", Reason.COMMAND_NOT_ALLOWED),
        ("! rm", Reason.COMMAND_NOT_ALLOWED),
        ("if rm; then echo; fi", Reason.COMMAND_NOT_ALLOWED),
        ("{ rm; }", Reason.COMMAND_NOT_ALLOWED),
        ("e* a", Reason.COMMAND_NOT_ALLOWED),
        ("(echo)", Reason.SHELL_OPERATOR),
        ("echo() { rm; }", Reason.SHELL_OPERATOR),
        ("echo $(rm)", Reason.SHELL_OPERATOR),
        ('echo "$(rm)"', Reason.SHELL_OPERATOR),
        ("echo `rm`", Reason.SHELL_OPERATOR),
        ('echo "`rm`"', Reason.SHELL_OPERATOR),
        ("echo <(rm)", Reason.SHELL_OPERATOR),
        ("echo ${x:-y}", Reason.SHELL_OPERATOR),
        ("echo $'\\'' ; rm '", Reason.SHELL_OPERATOR),
        ("echo # '\nrm\n'", Reason.SHELL_OPERATOR),
        ("cat << '\nrm\n'", Reason.SHELL_OPERATOR),
        ("$x", Reason.SHELL_OPERATOR),
        ("$HOME/rm", Reason.SHELL_OPERATOR),
        ("PATH=. echo", Reason.SHELL_OPERATOR),
        ("LD_PRELOAD=./x.so ls", Reason.SHELL_OPERATOR),
        ("eval 'rm'", Reason.SHELL_OPERATOR),
        ("exec rm", Reason.SHELL_OPERATOR),
        (". ./file", Reason.SHELL_OPERATOR),
        ("echo 'a", Reason.MALFORMED),
        ("echo a\\\nb", Reason.MALFORMED),
        ("echo a\rrm", Reason.MALFORMED),
        ("", Reason.EMPTY),
    ],
)
def test_shell_mode_checks_every_command_word(command: str, reason: Reason) -> None:
    verdict = check_command(SHELL, command)

    assert isinstance(verdict, Refused)
    assert verdict.reason is reason


def test_evaluators_are_refused_in_shell_mode_even_when_listed() -> None:
    policy = RunnerPolicy(allow_shell_operators=True, allowed_commands=frozenset({"eval", "echo"}))

    assert isinstance(check_command(policy, "eval 'echo'"), Refused)


def test_shell_mode_with_star_is_full_trust() -> None:
    command = 'for i in 1 2; do eval "$(date)"; done'

    assert check_command(SHELL_ANY, command) == Accepted(("/bin/sh", "-c", command), in_shell=True)


COMMANDS = st.one_of(
    st.text(),
    st.text(alphabet="ab '\"\\;&|<>()$`\n\t#=*{}2\0"),
    st.lists(
        st.sampled_from(["echo", "ls", "rm", "'", '"', "\\", " ", ";", "&&", "|", ">", "$(", "`", "\n", "2>", "#"])
    ).map("".join),
)


@given(COMMANDS, st.booleans())
@example("echo \ud800", False)
def test_no_text_raises_and_nothing_unlisted_is_accepted(command: str, allow_shell_operators: bool) -> None:
    policy = RunnerPolicy(allowed_commands=frozenset({"echo", "ls", "a"}), allow_shell_operators=allow_shell_operators)

    verdict = check_command(policy, command)

    if isinstance(verdict, Accepted):
        assert verdict.in_shell is allow_shell_operators
        assert verdict.argv[0] in ({"/bin/sh"} if verdict.in_shell else policy.allowed_commands)
        assert not any("\0" in word for word in verdict.argv)
        for word in verdict.argv:
            word.encode("utf-8")


@given(COMMANDS)
def test_words_agree_with_shlex(command: str) -> None:
    verdict = check_command(ANY, command)

    # Inside double quotes shlex, unlike the shell, keeps the backslash of \$ and \`.
    if isinstance(verdict, Accepted) and "\\$" not in command and "\\`" not in command:
        assert list(verdict.argv) == shlex.split(command)


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs"])), min_size=1))
def test_quoted_words_come_through_unchanged(words: list[str]) -> None:
    command = shlex.join(words)

    if len(command) <= ANY.command_chars_max:
        assert check_command(ANY, command) == Accepted(tuple(words))


@pytest.mark.parametrize(
    "make",
    [
        lambda: RunnerPolicy(command_chars_max=0),
        lambda: RunnerPolicy(command_chars_max=limits.COMMAND_CHARS_MAX + 1),
        lambda: RunnerPolicy(output_bytes_max=-1),
        lambda: RunnerPolicy(output_total_bytes_max=0),
        lambda: RunnerPolicy(output_bytes_max=10, output_total_bytes_max=9),
        lambda: RunnerPolicy(kill_wait_ms=-1),
        lambda: RunnerPolicy(kill_wait_ms=limits.RUNNER_KILL_WAIT_MS_MAX + 1),
        lambda: RunnerPolicy(timeout_ms_max=0),
        lambda: RunnerPolicy(search_path=("bin",)),
        lambda: RunnerPolicy(search_path=("/bin:/tmp",)),
    ],
)
def test_impossible_policies_are_usage_errors(make: Callable[[], RunnerPolicy]) -> None:
    with pytest.raises(UsageError) as caught:
        make()

    assert caught.value.reason is Reason.INVALID_CONFIG


def test_a_policy_is_immutable() -> None:
    with pytest.raises(AttributeError):
        PLAIN.workdir = Path("/")  # type: ignore[misc]
