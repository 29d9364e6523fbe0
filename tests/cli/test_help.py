"""Help: every command has examples that work, and slips are told with what was probably meant."""

from __future__ import annotations

import shlex

import click
import pytest

from crabnet.cli.context import State
from crabnet.cli.document import commands
from crabnet.cli.examples import examples_of
from crabnet.cli.group import cli
from crabnet.cli.main import main
from crabnet.cli.options import LazyGroup
from crabnet.cli.reachable import OwnAddress, join_line

NAMES = sorted(name for name, _ in commands(cli, ""))


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_examples_with_existing_options(name: str) -> None:
    examples = examples_of(f"crabnet {name}")
    assert examples
    for example in examples:
        for part in example.removeprefix('eval "$(').removesuffix(')"').split("|"):
            words = shlex.split(part.split("<")[0].split(">")[0])
            assert words[0] == "crabnet"
            parse(cli, "crabnet", words[1:], None)


def parse(command: click.Command, name: str, words: list[str], parent: click.Context | None) -> None:
    """Parse a command line without doing anything. Raises click's errors for what it does not understand."""
    context = command.make_context(name, list(words), parent=parent, obj=State(words))
    if isinstance(command, LazyGroup):
        rest = [*context._protected_args, *context.args]
        if rest:
            inner, found, further = command.resolve_command(context, rest)
            assert found is not None
            parse(found, str(inner), further, context)


@pytest.mark.parametrize("words", [[], ["run"], ["seed", "list"]])
def test_help_is_a_word_too(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(["help", *words]) == main([*words, "--help"]) == 0
    one, other = capsys.readouterr().out.split("Usage: ")[1:]
    assert one == other


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["publish"], "There is no command 'publish'. Did you mean seed publish?"),
        (["verdict"], "Did you mean seed verdict?"),
        (["seed", "lst"], "There is no command 'lst'. Did you mean list?"),
        (["config", "verfy"], "Did you mean verify?"),
        (["wrok"], "Did you mean work?"),
        (["seed", "list", "--biddabel"], "Did you mean '--biddable'?"),
        (["config", "get", "alais"], "did you mean alias?"),
    ],
)
def test_what_was_probably_meant(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert main([*words, "-d", "/nonexistent"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("listening", "told"),
    [
        ("Udp:0.0.0.0:9012", "others join with: crabnet work --join 10.0.0.1:9012"),
        ("Udp:[::]:9012", "others join with: crabnet work --join 10.0.0.1:9012"),
        ("Udp:192.0.2.9:9013", "others join with: crabnet work --join 192.0.2.9:9013"),
        ("Udp:[2001:db8::7]:9012", "others join with: crabnet work --join [2001:db8::7]:9012"),
        ("Udp:127.0.0.1:9101", "programs on this machine join with: crabnet work --join 127.0.0.1:9101"),
        ("Dht:/ip4/0.0.0.0/tcp/9301/p2p/12D3", "others join with: crabnet work --join /ip4/10.0.0.1/tcp/9301/p2p/12D3"),
        ("Dht:/dns4/h.example/tcp/1/p2p/12", "others join with: crabnet work --join /dns4/h.example/tcp/1/p2p/12"),
    ],
)
def test_the_line_with_which_others_join(listening: str, told: str) -> None:
    assert join_line(listening, lambda: [OwnAddress("10.0.0.1", "eth0")]) == told


def test_with_several_interfaces_the_line_says_which() -> None:
    own = [OwnAddress("10.0.0.1", "eth0"), OwnAddress("192.168.7.2", "wlan0")]
    assert join_line("Udp:0.0.0.0:9012", lambda: own) == (
        "others join with: crabnet work --join 10.0.0.1:9012  (on eth0; on wlan0: --join 192.168.7.2:9012)"
    )
    assert join_line("Udp:0.0.0.0:9012", list) == ""
