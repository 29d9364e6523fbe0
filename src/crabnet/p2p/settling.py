"""Which of several connections with one peer stays: both ends must agree without a word. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from crabnet import limits


class Place(Struct, frozen=True):
    """A connection: when it was made here, whether this node has dialled it, and whether it goes through a relay."""

    made_s: float
    is_outbound: bool
    is_relayed: bool = False


def surplus(places: Sequence[Place], *, is_first: bool) -> list[int]:
    """The numbers of the connections to close. ``is_first``: this node's id is the smaller of the two.

    A direct connection is better than one through a relay. If an old connection and a new one exist, the other end has
    probably lost the old one. If both are of the same time, both ends have dialled at once. Then the one that the node
    with the smaller id has dialled stays, and that node closes the others: if both closed some, none might be left.
    """
    direct = [at for at, each in enumerate(places) if not each.is_relayed]
    good = direct or list(range(len(places)))
    newest_s = max((places[at].made_s for at in good), default=0.0)
    new = [at for at in good if newest_s - places[at].made_s <= limits.P2P_AT_ONCE_MS / 1000]
    if is_first and len(new) > 1:
        new = [max(new, key=lambda at: (places[at].is_outbound, places[at].made_s))]
    return [at for at in range(len(places)) if at not in new]
