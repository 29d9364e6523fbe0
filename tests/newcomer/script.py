"""What a newcomer types and sees in a real terminal. ``python -m tests.newcomer`` writes the screens anew."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

from tests.support.nodes import CRABNET, DEADLINE_S, earned_by, environment, wait_for
from tests.support.terminal import Terminal, screen

SCREENS: Final = Path(__file__).parent / "screens"
_ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_SHORT_ID = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8}\b")
_NODE = re.compile(r"\b12D3KooW\w{44}\b")
_SHORT_NODE = re.compile(r"\b12D3(…|\.\.)\w{4}")
_NUMBERS: Final = (
    (re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b"), "2026-01-01 00:00:00"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "00:00:00"),
    (re.compile(r"\b\d+ m?s\b"), "N s"),
    (re.compile(r"\b\d+ (h|min)\b"), r"N \1"),
    (re.compile(r"(?: \d|\d\d)s(?=  you$)"), " Ns"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "2026-01-01T00:00:00Z"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "HASH"),
    (re.compile(r"(?<=place )\d+"), "N"),
    (re.compile(r"(?<=127\.0\.0\.1:)\d+"), "PORT"),
)


class Newcomer:
    """Somebody with an empty home, who types commands into a terminal. ``told`` is what the terminal has shown."""

    def __init__(self, home: Path, join: str = "") -> None:
        self.home = home
        home.mkdir(exist_ok=True)
        self.environment = environment(
            HOME=str(home), CRABNET_LISTEN_ADDR="127.0.0.1:0", CRABNET_ANNOUNCE_ADDRS="", CRABNET_WEB_ADDR="off",
            CRABNET_BOOTSTRAP_PEERS=join, LANG="C.UTF-8",
        )  # fmt: skip
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            self.environment.pop(name, None)
        self.told: list[str] = []
        self._names: dict[str, str] = {}

    def open(self, *words: str, columns: int = 80, changes: dict[str, str] | None = None) -> Terminal:
        """A terminal in which a command runs."""
        return Terminal(words, columns=columns, env={**self.environment, **(changes or {})}, cwd=self.home)

    def types(
        self, *words: str, columns: int = 80, until: tuple[str | None, ...] = (), changes: dict[str, str] | None = None
    ) -> Terminal:
        """Type a command and see it to its end. ``until``: texts to wait for; None is Ctrl-C."""
        with self.open(*words, columns=columns, changes=changes) as terminal:
            for text in until:
                if text is None:
                    terminal.press_ctrl_c()
                else:
                    terminal.await_text(text)
            code = terminal.end()
        marks = [f"{columns} columns"] if columns != 80 else []
        marks += [f"{name}={value}" for name, value in (changes or {}).items()]
        stages = [at for at, then in pairwise(until) if then is None and at]
        marks += [f"Ctrl-C at: {', '.join(stages)}"] if stages else []
        self.tell(" ".join(words), terminal.lines, code, f"  [{'; '.join(marks)}]" if marks else "")
        return terminal

    def pipes(self, line: str) -> None:
        """Type a line for a shell, in which `crabnet` writes to a pipe, and not to the terminal."""
        shell = f'crabnet() {{ {shlex.join(CRABNET)} "$@"; }}\n{line}'
        done = subprocess.run(
            ["/bin/sh", "-c", shell], capture_output=True, text=True, check=False, cwd=self.home,
            env=self.environment, timeout=DEADLINE_S,
        )  # fmt: skip
        shown = (done.stdout + done.stderr).splitlines()
        self.tell(line.removeprefix("crabnet "), shown, done.returncode)

    def tell(self, typed: str, lines: list[str], code: int, marks: str = "") -> None:
        """Write down what was typed and seen."""
        self.told += [f"$ crabnet {typed}{marks}", *(self.plainly(line) for line in lines), f"[exit code {code}]", ""]

    def plainly(self, line: str) -> str:
        """A line without what differs from run to run."""
        line = line.replace(str(self.home), "HOME")
        for pattern, prefix in ((_ID, "task"), (_NODE, "node"), (_SHORT_NODE, "node"), (_SHORT_ID, "task")):
            line = pattern.sub(partial(self._name, prefix), line)
        for pattern, shown in _NUMBERS:
            line = pattern.sub(shown, line)
        return line.rstrip()

    def _name(self, prefix: str, match: re.Match[str]) -> str:
        """A name for an id, the same for its short forms. It is as long as a short id, so that tables stay in order."""
        value = match[0]
        key = value[-4:] if prefix == "node" else value[:8]
        count = sum(1 for name in self._names.values() if name.startswith(prefix))
        return self._names.setdefault(key, f"{prefix}-{count + 1:03}")


def help_(home: Path) -> list[str]:
    """The help, wide and narrow."""
    somebody = Newcomer(home)
    somebody.types("--help")
    somebody.types("run", "--help", columns=40)
    return somebody.told


def typos(home: Path) -> list[str]:
    """Slips of a first day. Nothing of them makes a data dir."""
    somebody = Newcomer(home)
    somebody.types("rnu", "--", "echo", "hello")
    somebody.types("run")
    somebody.types("run", "--max-prise", "5", "--", "echo", "hello")
    somebody.types("run", "echo", "hello", "--max-price", "5")
    somebody.types("attach", "@last")
    if (home / ".crabnet").exists():
        raise AssertionError("a slip has made a data dir")
    return somebody.told


def without_colour(home: Path) -> list[str]:
    """An error on a terminal, and where colours are not wanted."""
    somebody = Newcomer(home)
    for name, value in (("TERM", "xterm"), ("NO_COLOR", "1"), ("TERM", "dumb")):
        terminal = somebody.types("seed", "lst", changes={name: value})
        somebody.told[-1:] = [f"[{'colours' if terminal.colours else 'no colours'}]", ""]
    return somebody.told


class Market:
    """A worker in a terminal of its own, and the environment for buyers that know it."""

    def __init__(self, directory: Path) -> None:
        self._worker = Newcomer(directory / "worker")
        words = ("work", "--allow", "echo,sleep,false", "--min-price", "1")
        self._terminal = self._worker.open(*words)
        self._terminal.await_text("runs confined by")
        found = re.search(r"listen started on Udp:(\S+)", self._terminal.written)
        if found is None:
            raise AssertionError(self._terminal.written)
        self.address = found[1]

    def await_earned(self, price: int) -> None:
        """Wait until the worker has heard of its settlements. Ctrl-C would end it before."""
        data_dir = self._worker.home / ".crabnet"
        wait_for("the worker hears of its settlements", lambda: earned_by(data_dir) == price)

    def close(self) -> list[str]:
        """Ctrl-C for the worker; what it has shown since it listens, without the lines of each task."""
        self._terminal.press_ctrl_c()
        code = self._terminal.end()
        lines = screen(self._terminal.written)
        end = [line for line in lines if "this session" in line or "has stopped" in line]
        self._worker.tell("work --allow echo,sleep,false --min-price 1  [Ctrl-C]", end, code)
        self._terminal.__exit__(None, None, None)
        return self._worker.told


def _at_the_market(directory: Path, play: Callable[[Newcomer], None], earned: int) -> list[str]:
    directory.mkdir(exist_ok=True)
    market = Market(directory)
    try:
        buyer = Newcomer(directory / "buyer", market.address)
        play(buyer)
        market.await_earned(earned)
    finally:
        worker = market.close()
    return buyer.told + worker


def first_day(directory: Path) -> list[str]:
    """The tutorial, on a terminal: buying, looking, lists of any width, an account, a receipt, a pipe."""

    def play(buyer: Newcomer) -> None:
        buyer.types("run", "--max-price", "5", "--", "echo", "hello")
        buyer.types("receipt", "@last", "-o", "hello.receipt")
        buyer.types("receipt", "verify", "hello.receipt")
        buyer.types("run", "--max-price", "5", "--", "false")
        buyer.types("run", "--max-price", "5", "--bid-window", "8s", "--", "python3", "-c", "print(1)")
        buyer.types("run", "--max-price", "5", "--accept", "never", "--", "echo", "judge me")
        buyer.types("seed", "list")
        buyer.types("seed", "list", columns=40)
        buyer.types("seed", "list", "--needs-me", "-q")
        buyer.types("why", "@last")
        buyer.types("why", "@last", columns=40)
        buyer.types("seed", "settle", "@last", "--accepted")
        buyer.types("account")
        buyer.types("history")
        buyer.types("seed", "logs", "@last")
        buyer.pipes("crabnet seed list | cat")
        buyer.pipes("crabnet seed list -q | head -1")
        buyer.pipes("crabnet seed logs @last | sha256sum")
        buyer.pipes("crabnet run --max-price 5 -- echo piped | tr a-z A-Z")

    return _at_the_market(directory, play, earned=4)


def interrupts(directory: Path) -> list[str]:
    """Ctrl-C in each stage of a purchase, once and twice; and leaving it to the node."""

    def play(buyer: Newcomer) -> None:
        slow = ("run", "--max-price", "5")
        buyer.types(*slow, "--", "python3", until=("no bid yet", None))
        buyer.types(*slow, "--bid-wait", "30s", "--", "sleep", "20", until=("choosing", None))
        buyer.types(*slow, "--award", "first", "--", "sleep", "20", until=("running", None))
        buyer.types(*slow, "--", "python3", until=("no bid yet", None, "withdrawn", None))
        buyer.types(*slow, "--award", "first", "--", "sleep", "20", columns=40, until=("running", None))
        buyer.types(*slow, "--detach", "--", "echo", "later")
        buyer.types("attach", "@last")

    return _at_the_market(directory, play, earned=1)


QUICK: Final = {"help": help_, "typos": typos, "colour": without_colour}
SLOW: Final = {"first_day": first_day, "interrupts": interrupts}


def write_all(directory: Path) -> None:
    """Write all screens anew."""
    SCREENS.mkdir(exist_ok=True)
    for name, play in {**QUICK, **SLOW}.items():
        told = play(directory / name)
        (SCREENS / f"{name}.txt").write_text("\n".join(told), encoding="utf-8")
        print(f"wrote {name}: read it as a stranger would", file=sys.stderr)
