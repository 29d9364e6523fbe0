"""Generates docs/CONFIGURATION.md from the table of knobs."""

from __future__ import annotations

from typing import Final

from crabnet.settings.knob import Knob
from crabnet.settings.knobs import KNOBS
from crabnet.settings.resolve import RESERVED_ENV, RESERVED_ENV_PREFIXES
from crabnet.settings.work_table import KEYS as WORK_KEYS

_GROUPS: Final = {
    "node": "Node",
    "network": "Network",
    "limits": "Limits for others",
    "protocol": "Protocol",
    "runner": "Running commands",
    "work": "Working for others",
    "storage": "Storage",
    "monitor": "Monitor events",
    "web": "Web",
    "alerts": "Alerts",
}
_HEAD: Final = """\
# Configuration

<!-- Written by scripts/write_reference.py from src/crabnet/settings/knobs.py. Change it there. -->

Almost every setting can be given as a flag, as an environment variable or in a TOML file. The sources have this
precedence: **flag, environment, file, default**. `crabnet config show` prints the effective values and where each
came from.

- The file is the one named by `--config FILE`, else by `CRABNET_CONFIG`, else `crabnet.toml` in the data dir if it
  exists. Its keys are the names below, all at the top level. A file that was found in the data dir cannot set
  `data_dir`.
- A relative path is relative to the current directory. In a file, it is relative to the directory of that file. `~` is
  the home directory.
- Lists are comma-separated in flags and environment variables, and arrays of strings in TOML. Flags may also be
  repeated. An empty text is the empty list.
- Booleans are `true`/`false` (also `1`/`0`, `yes`/`no`, `on`/`off`). Their flags have a `--no-` form.
- Addresses are `host:port` or `[IPv6]:port`.
- The command ends with exit code 2 if a flag, a key or a `CRABNET_*` name is unknown, if a value has the wrong type
  or is out of range, or if values contradict each other. One line names the value and where it came from.

Example:

```toml
listen_addr = "0.0.0.0:9012"
announce_addrs = ["192.0.2.255:9012"]
bootstrap_peers = ["[2001:db8::7]:9012"]
message_ttl_s = 3600
seen_messages_ttl_s = 7200
runner_allowed_commands = ["echo", "sha256sum"]
```

## The table `[work]`

What concerns [work for others](#working-for-others) may stand in a table of its own, under the names of the flags of
`crabnet work`:

```toml
[work]
auto_bid = true
auto_run = true
allow = ["echo", "sha256sum"]
min_price = 1
price_per_s = 0.05
max_running = 2
schedule = "Mon-Fri 22:00-07:00; Sat,Sun"
min_settled = 0.9
max_load = 0.8
```

`crabnet work` bids and runs in any case. `crabnet listen` does so with `auto_bid` and `auto_run`. A setting must not
stand both in the table and under its own name.

| key in `[work]` | setting |
|---|---|
"""


def configuration_markdown() -> str:
    """The whole document."""
    parts = [_HEAD, *(f"| `{key}` | `{name}` |\n" for key, name in WORK_KEYS.items())]
    for group, title in _GROUPS.items():
        parts.append(f"\n## {title}\n")
        parts += [_entry(knob) for knob in KNOBS if knob.group == group]
    parts.append("\n## Other environment variables\n\n")
    parts += [f"- `{name}`: {doc}.\n" for name, doc in RESERVED_ENV.items()]
    prefixes = ", ".join(f"`{prefix}*`" for prefix in RESERVED_ENV_PREFIXES)
    parts.append(f"- {prefixes}: used by the tests of crabnet. The program itself never reads them.\n")
    return "".join(parts)


def _environment(knob: Knob) -> str | None:
    return _code(knob.env) if knob.former_env is None else f"{_code(knob.env)}, or the older name `{knob.former_env}`"


def _entry(knob: Knob) -> str:
    flag = knob.flag
    if flag is not None and isinstance(knob.default, bool):
        flag = f"{flag}`, `--no-{flag.removeprefix('--')}"
    rows = [
        ("Default", _code(knob.shown(knob.default))),
        ("Values", ", ".join(part for part in (knob.kind.name, knob.kind.range_text()) if part)),
        ("Unit", knob.unit),
        ("Flag", _code(flag)),
        ("Environment", _environment(knob)),
        ("TOML key", _code(knob.toml)),
    ]
    lines = [f"- {label}: {text}\n" for label, text in rows if text]
    return f"\n### {knob.name}\n\n{knob.doc}\n\n{''.join(lines)}"


def _code(text: str | None) -> str:
    if text is None:
        return "none"
    return f"`{text}`" if text else "empty"
