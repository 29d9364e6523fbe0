"""What ``crabnet work`` shows of a worker and of open tasks."""

from __future__ import annotations

from collections.abc import Mapping

from crabnet.cli.output import as_list, as_object, as_text, note, write
from crabnet.control.client import JsonValue
from crabnet.plain import plain

_COMMAND_CHARS = 60


def write_offers(page: JsonValue) -> None:
    """A line for each open task: its id, the price or the reason against it, and its command."""
    for each in as_list(page, "offers"):
        offer = as_object(each)
        command = plain(as_text(each, "command"))
        shown = command if len(command) <= _COMMAND_CHARS else command[: _COMMAND_CHARS - 1] + "…"
        write(f"{as_text(each, 'seed_id')}  {_quoted(offer)}  {shown}\n")


def _quoted(offer: Mapping[str, JsonValue]) -> str:
    if offer.get("bid"):
        return "has bid"
    if offer.get("reason") is None:
        return f"bid {offer.get('price')}"
    return f"no bid: {plain(str(offer.get('reason')))}: {plain(str(offer.get('detail')))}"


def write_status(status: JsonValue) -> None:
    """What a worker does and has earned, in lines."""
    said, policy = as_object(status), as_object(as_object(status)["policy"])
    session = as_object(said["session"])
    both = said.get("auto_bid") and said.get("auto_run")
    doing = "bids and runs" if both else "bids" if said.get("auto_bid") else "runs" if said.get("auto_run") else ""
    if not doing:
        note("this node does not work by itself; see auto_bid and auto_run in the table [work] of crabnet.toml")
    obstacle = f", but not now: {said['reason']}: {plain(str(said['detail']))}" if said.get("reason") else ""
    rows = [
        ("works", f"{doing or 'no'}{obstacle if doing else ''}"),
        ("price", _price(policy)),
        ("schedule", str(policy.get("schedule") or "always")),
        ("allow", ",".join(_texts(policy, "allow")) or "nothing"),
        ("now", _counts(said, running="running", queued="waiting", claimed="claimed", open_bids="open bids")),
        ("results", _counts(session, results="", accepted="accepted", rejected="rejected", forfeited="forfeited")),
        ("earned", str(session["earned"])),
        ("owed", f"{said['owed']} for {said['owed_results']} results"),
    ]
    for each in as_list(status, "owed_by"):
        owed = f"{as_text(each, 'price')} for {as_text(each, 'results')} results"
        rows.append(("owed by", f"{as_text(each, 'publisher')}: {owed}"))
    for each in as_list(status, "declined"):
        rows.append(("not bid", f"{as_text(each, 'count')} open tasks: {as_text(each, 'reason')}"))
    for name, text in rows:
        write(f"{name}: {plain(text)}\n")


def _counts(members: Mapping[str, JsonValue], **words: str) -> str:
    return ", ".join(f"{members[name]} {word}".rstrip() for name, word in words.items())


def _price(policy: Mapping[str, JsonValue]) -> str:
    parts = [f"{policy['price']} for each task"]
    parts += [f"{policy['price_per_s']} per second"] if policy.get("price_per_s") else []
    parts += [f"{policy['price_per_mib']} per MiB"] if policy.get("price_per_mib") else []
    parts += [f"at least {policy['min_price']}"] if policy.get("min_price") else []
    return ", ".join(parts)


def _texts(members: Mapping[str, JsonValue], name: str) -> list[str]:
    found = members.get(name)
    return [str(each) for each in found] if isinstance(found, list) else []
