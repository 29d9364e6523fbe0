"""Examples of each command, for its help, docs/CLI.md and the manual pages."""

from __future__ import annotations

from typing import Final

_EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "": (
        "crabnet work --join 192.0.2.7:9012 --allow echo,sha256sum --min-price 1",
        "crabnet run --max-price 5 -- echo hello",
        "crabnet seed list --needs-me",
    ),
    "run": (
        "crabnet run --max-price 5 -- echo hello",
        "crabnet run --award first --timeout 10m -- python3 -c 'print(6 * 7)'",
        "crabnet run --detach --max-price 5 -- sha256sum /etc/hostname",
    ),
    "attach": ("crabnet attach @last", "crabnet attach 4c00"),
    "work": (
        "crabnet work --join 192.0.2.7:9012 --allow echo,sha256sum --min-price 1",
        'crabnet work --allow python3 --price-per-s 1 --schedule "Mon-Fri 22:00-07:00"',
    ),
    "receipt": ("crabnet receipt @last -o task.receipt", "crabnet receipt verify task.receipt"),
    "receipt make": ("crabnet receipt @last -o task.receipt", "crabnet receipt 4c00 | crabnet receipt verify -"),
    "receipt verify": ("crabnet receipt verify task.receipt",),
    "seed verdict": ("crabnet seed verdict @last", "crabnet seed verdict 4c00 --run-check"),
    "seed": ("crabnet seed list --biddable", "crabnet seed show @last"),
    "seed publish": (
        'crabnet seed publish --title "Say hello" --cmd "echo hello" --timeout 5s --bid-window 10m --reward 10',
    ),
    "seed bid": ('crabnet seed bid 4c00 --price 4 --notes "idle machine"',),
    "seed claim": ("crabnet seed claim 4c00 95c9", "crabnet seed claim @last 95c9"),
    "seed run": ("crabnet seed run 4c00",),
    "seed cancel": ("crabnet seed cancel @last", 'crabnet seed cancel 4c00 --note "not needed any more"'),
    "seed settle": ("crabnet seed settle @last --accepted", 'crabnet seed settle 4c00 --rejected --note "wrong sum"'),
    "seed list": (
        "crabnet seed list --needs-me",
        "crabnet seed list --biddable --text python --since 2h",
        "crabnet seed list --mine --status done -q",
    ),
    "seed show": ("crabnet seed show 4c00", "crabnet seed show @last --follow"),
    "seed wait": ("crabnet seed wait @last", "crabnet seed wait 4c00 --for done --timeout 10m"),
    "seed logs": ("crabnet seed logs @last", "crabnet seed logs 4c00 --stderr", "crabnet seed logs @last --follow"),
    "why": ("crabnet why @last", "crabnet why 4c00"),
    "account": ("crabnet account", "crabnet account 5z8A", "crabnet account --all"),
    "status": ("crabnet status", "crabnet status -o yaml"),
    "history": ("crabnet history", "crabnet history --since 14:30", "crabnet history --seed @last"),
    "peers": ("crabnet peers", "crabnet peers -o wide"),
    "listen": (
        "crabnet listen",
        "crabnet listen --join 192.0.2.7:9012",
        "crabnet listen --network dht --join 192.0.2.7:9301",
    ),
    "topology": ("crabnet topology", "crabnet topology --format dot"),
    "sync": ("crabnet sync",),
    "feeds": ("crabnet feeds", "crabnet feeds --behind"),
    "runs": ("crabnet runs list", "crabnet runs pause"),
    "runs list": ("crabnet runs list", "crabnet runs list -q"),
    "runs pause": ("crabnet runs pause",),
    "runs resume": ("crabnet runs resume",),
    "drain": ("crabnet drain",),
    "stop": ("crabnet stop",),
    "top": ("crabnet top",),
    "doctor": ("crabnet doctor", "crabnet doctor --json"),
    "debug": ("crabnet debug bundle",),
    "debug bundle": ("crabnet debug bundle", "crabnet debug bundle --out - --hash-addresses > bundle.tar.gz"),
    "events": (
        "crabnet events --since 2h",
        "crabnet events --follow --severity alert",
        "crabnet events --kind run_finished",
    ),
    "audit": ("crabnet audit verify",),
    "audit verify": ("crabnet audit verify",),
    "audit log": ("crabnet audit log --since 14:30",),
    "audit proof": ("crabnet audit proof",),
    "fsck": ("crabnet fsck",),
    "state": ("crabnet state vector",),
    "state vector": ("crabnet state vector --json",),
    "state export": ("crabnet state export tasks.crabnet",),
    "state import": ("crabnet state import tasks.crabnet",),
    "state diff": ("crabnet state diff live tasks.crabnet",),
    "config": ("crabnet config show", "crabnet config verify"),
    "config init": ("crabnet config init", "crabnet config init --alias lab --listen-addr 0.0.0.0:9012"),
    "config get": ("crabnet config get listen_addr", "crabnet config get work.price"),
    "config set": (
        "crabnet config set alias lab",
        "crabnet config set work.allow echo,sha256sum",
        "crabnet config set network_key - < network.key",
    ),
    "config show": ("crabnet config show",),
    "config verify": ("crabnet config verify",),
    "token": ("crabnet token new monitoring --scope read",),
    "token new": ("crabnet token new monitoring --scope read --expires 30d",),
    "token list": ("crabnet token list",),
    "token revoke": ("crabnet token revoke monitoring",),
    "web": ("crabnet web open",),
    "web open": ("crabnet web open",),
    "web serve": ("crabnet web serve",),
    "alerts": ("crabnet alerts test",),
    "alerts test": ("crabnet alerts test",),
    "id": ("crabnet id", "crabnet id -q"),
    "completion": ('eval "$(crabnet completion bash)"',),
}


def examples_of(command_path: str) -> tuple[str, ...]:
    """The examples of a command such as ``crabnet seed publish``."""
    return _EXAMPLES.get(command_path.removeprefix("crabnet").strip(), ())
