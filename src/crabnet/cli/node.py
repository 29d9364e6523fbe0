"""``crabnet status``, ``crabnet id`` and ``crabnet listen``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

import click

from crabnet.cli.context import State, object_text, state_of, write_object
from crabnet.cli.join import join_option
from crabnet.cli.listing import Row, is_wide, write_rows
from crabnet.cli.options import Command
from crabnet.cli.output import as_list, as_object, as_text, note, table, write
from crabnet.cli.tables import Cell, Column, Style, short_id
from crabnet.control.client import JsonValue
from crabnet.plain import plain


@click.command("status", cls=Command)
@click.pass_context
def status(context: click.Context) -> None:
    """Show the node: its identity, settings, state and activity. It need not run."""
    result = state_of(context).perform("status", {})
    write(object_text(result) if state_of(context).json else table(result))


_PEERS: Final = (
    Column("NODE", 0),
    Column("ADDRESS", 1, least=16),
    Column("STATE", 2),
    Column("HEARD", 3, right=True),
    Column("FAILURES", 5, right=True),
    Column("REFUSED", 4, least=12),
)


@click.command("peers", cls=Command, prints_ids=True)
@click.pass_context
def peers(context: click.Context) -> None:
    """Show the peers: configured, confirmed, and remembered from earlier runs. The node need not run.

    Lines that begin with "this node:" are the addresses at which libp2p peers reach this node. Others give them as
    --bootstrap-peers.

    "refused" shows when this node last refused a message of the peer, and why. EQUIVOCATOR marks a peer that has
    provably signed two envelopes for one place of its feed; see audit proof.
    """
    state = state_of(context)
    result = state.perform("peers", {})
    if state.json:
        write_object(result)
        return
    own = as_object(result).get("own_addresses")
    for address in own if isinstance(own, list) else []:
        if not state.ids_only:
            write(f"this node: {plain(str(address))}\n")
    rows = [_peer(state, each) for each in as_list(result, "peers")]
    write_rows(state, _PEERS, [row for row in rows if row.id or not state.ids_only], "no peers")


def _peer(state: State, peer: JsonValue) -> Row:
    members = as_object(peer)
    states = [name for name in ("configured", "confirmed") if members.get(name)] or ["remembered"]
    states += ["EQUIVOCATOR"] if members.get("equivocator") else []
    silent_ms = members.get("silent_ms")
    silent = f"heard {silent_ms // 1000} s ago" if isinstance(silent_ms, int) else "not heard"
    node_id = as_text(peer, "node_id") if members.get("node_id") else "-"
    names = members.get("names")
    called = f" ({', '.join(map(str, names))})" if isinstance(names, list) and names else ""
    address, refused = as_text(peer, "address") + plain(called), _refused(members)
    parts = [address, node_id, ",".join(states), silent, f"{as_text(peer, 'failures')} failures", *refused]
    cells = [
        Cell(node_id if is_wide(state) else short_id(node_id)),
        Cell(address),
        Cell(",".join(states), Style.BAD if members.get("equivocator") else Style.NONE),
        Cell(silent.removeprefix("heard ")),
        Cell(str(members.get("failures") or "")),
        Cell(" ".join(refused).removeprefix("refused ")),
    ]
    return Row("" if node_id == "-" else node_id, "  ".join(parts), cells)


def _refused(peer: Mapping[str, JsonValue]) -> list[str]:
    at_ms = peer.get("last_refused_ms")
    if not isinstance(at_ms, int):
        return []
    ago_s = max(0, int(time.time()) - at_ms // 1000)
    return [
        f"refused {ago_s} s ago: {plain(str(peer.get('refused_reason')))}: {plain(str(peer.get('refused_detail')))}"
    ]


@click.command("id", cls=Command, prints_ids=True)
@click.argument("action", type=click.Choice(["renew"]), required=False)
@click.pass_context
def identity(context: click.Context, action: str | None) -> None:
    """Show the identity of this node: node id and public key.

    With "renew", creates a new identity in the same data dir. Use it for a node whose feed has ended because its key
    signed two envelopes for one place. All stored data stays, and the old key is kept. The node must not be running.
    """
    if action is not None:
        _renew(context)
        return
    result = state_of(context).perform("id", {})
    if state_of(context).ids_only and not state_of(context).json:
        write(as_text(result, "node_id") + "\n")
        return
    write(object_text(result) if state_of(context).json else table(result))


def _renew(context: click.Context) -> None:
    from crabnet.control.route import demand_data_dir
    from crabnet.operator.renewal import renew
    from crabnet.storage.files import RealFiles

    state = state_of(context)
    demand_data_dir(state.settings.data_dir)
    done = renew(RealFiles(), state.settings, time.time_ns() // 1_000_000)
    if state.json:
        write_object({"node_id": done.node_id, "former": done.former, "end": done.end, "key_kept": done.key_kept})
        return
    write(f"new identity {done.node_id}\n")
    note(f"the feed of {plain(done.former)} ended before {done.end}; its key is kept in {plain(done.key_kept)}")


@click.command("listen", cls=Command, settings_shown=True, holds_signals=True)
@click.pass_context
def listen(context: click.Context) -> None:
    """Run the node until it is stopped (Ctrl-C, SIGTERM, SIGHUP). Prints: listen started on Udp:ADDR.

    The node owns the data dir and serves the other commands over the control socket in it. It tells on standard error
    what matters: peers that are found and lost, tasks, runs, failures, alerts. See --log-level and --log-format.
    """
    from crabnet.cli.first_process import leave_first_process
    from crabnet.cli.listening import listen_until_ended

    code = leave_first_process()
    if code is not None:
        context.exit(code)

    listen_until_ended(state_of(context))


listen.params.insert(0, join_option())
