"""Every `crabnet` command that a page names exists, with the flags named there."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from crabnet.cli.group import cli
from tests.docs.pages import blocks, inline, page, pages, steps

LINE = re.compile(r"(?:^|\| |&& |sudo -u \w+ |^\w+\$ +)(?:\S*/)?crabnet (.+)")


def named(text: str) -> list[str]:
    """The words behind `crabnet` in code of a page."""
    lines = [step.command for step in steps(text)]
    lines += [line for block in blocks(text, "sh") for line in block.splitlines()]
    lines += inline(text)
    return [match[1] for line in lines if (match := LINE.match(line.strip()))]


def fault(words: list[str]) -> str:
    """What is wrong with the words of a command, empty if nothing."""
    command: click.Command = cli
    context = click.Context(cli, info_name="crabnet")
    flags = {option for parameter in cli.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word in {"|", "&", "&&", ">", "--"}:
            break
        if word.startswith("-") and word != "-":
            known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
            if word.partition("=")[0] not in known | flags | {"--help", "-h"}:
                return f"{command.name} has no {word}"
        elif isinstance(command, click.Group) and re.fullmatch(r"[a-z]+", word):
            child = command.get_command(context, word)
            if child is None:
                return f"there is no command {word}"
            command = child
    return ""


@pytest.mark.parametrize("name", pages())
def test_commands_exist_with_their_flags(name: str) -> None:
    faults = []
    for line in named(page(name)):
        words = re.sub(r"[…\[\]{}]|\S*\|\S+", " ", line)
        wrong = fault(shlex.split(words, comments=True))
        if wrong:
            faults.append(f"crabnet {line}: {wrong}")
    assert faults == []


def test_the_check_finds_faults() -> None:
    assert named("`crabnet seed show ID`\n\n```sh\ncrabnet listen &\n```\n") == ["listen &", "seed show ID"]
    assert fault(["seed", "publish", "--title", "x"]) == ""
    assert fault(["seed", "publish", "--price", "1"]) != ""
    assert fault(["seeds"]) != ""
    assert fault(["--verison"]) != ""
