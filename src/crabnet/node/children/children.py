"""The part of a node that keeps its children."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from crabnet.core.effects import FieldValue
from crabnet.errors import Reason
from crabnet.node.children.spec import ChildSpec
from crabnet.node.children.supervision import Child, Surroundings
from crabnet.node.part import Job, Part
from crabnet.operations.children import ChildHealth, ChildState


class Children(Part):
    """All children of a node."""

    def __init__(
        self,
        notify: Callable[[str, dict[str, FieldValue]], None],
        clock_ms: Callable[[], int],
        random: Callable[[], float],
    ) -> None:
        self._around = Surroundings(notify, clock_ms, random)
        self._children: list[Child] = []
        self._kept: list[Child] = []
        self._off: list[ChildHealth] = []
        self._nursery: trio.Nursery | None = None

    def keep(self, spec: ChildSpec) -> Child:
        """A child that runs from now on, or from the start of the node's jobs, until these end."""
        child = self.on_demand(spec)
        child.want()
        self._kept.append(child)
        if self._nursery is not None:
            self._nursery.start_soon(child.run)
        return child

    def on_demand(self, spec: ChildSpec) -> Child:
        """A child whose owner wants and releases it. The owner also does its job, ``Child.run``."""
        child = Child(spec, self._around)
        self._children.append(child)
        return child

    def off(self, name: str, detail: str, reason: Reason | None = None) -> None:
        """Say about a child that the settings leave out why it is not there."""
        now_ms = self._around.clock_ms()
        self._off.append(ChildHealth(name=name, state=ChildState.OFF, since_ms=now_ms, reason=reason, detail=detail))

    def health(self) -> list[ChildHealth]:
        """The state of all children."""
        return [*(child.health() for child in self._children), *self._off]

    def jobs(self) -> Sequence[Job]:
        """The job that keeps the children."""
        return [Job(self._run, "children")]

    async def _run(self) -> None:
        try:
            async with trio.open_nursery() as self._nursery:
                for child in self._kept:
                    self._nursery.start_soon(child.run)
                await trio.sleep_forever()
        finally:
            self._nursery = None
