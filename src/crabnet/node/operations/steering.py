"""Performs the operations that steer the node: pausing runs, and ending the node."""

from __future__ import annotations

from crabnet import limits
from crabnet.errors import Reason, RefusedError
from crabnet.node.ending import Asked
from crabnet.node.node import Node
from crabnet.node.operations.performing import writes
from crabnet.node.operations.requests import Ticket
from crabnet.operations import steering


@writes(steering.PAUSE)
async def pause(node: Node, _given: steering.SwitchRequest, _ticket: Ticket) -> steering.RunsState:
    """Start no further run. To repeat it changes nothing."""
    if not node.run_manager.turns.paused:
        node.run_manager.pause()
        node.reporter.notify("runs_paused", {"count": node.run_manager.turns.queued})
    return _state(node)


@writes(steering.RESUME)
async def resume(node: Node, _given: steering.SwitchRequest, _ticket: Ticket) -> steering.RunsState:
    """Let runs start again. To repeat it changes nothing."""
    if node.run_manager.turns.paused:
        node.reporter.notify("runs_resumed", {"count": node.run_manager.turns.queued})
        node.run_manager.resume()
    return _state(node)


@writes(steering.DRAIN)
async def drain(node: Node, given: steering.DrainRequest, _ticket: Ticket) -> steering.Drained:
    """Let the runs end, then end the node. Answers in between."""
    _asked(node).end(node.settings.runner_drain_ms if given.timeout_ms is None else given.timeout_ms)
    return await _drained(node)


@writes(steering.STOP)
async def stop(node: Node, _given: steering.SwitchRequest, _ticket: Ticket) -> steering.Drained:
    """End the node soon. Answers when the runs have ended."""
    asked = _asked(node)
    if not asked.end(limits.STOP_DRAIN_MS):
        asked.at_once.set()
    return await _drained(node)


def _asked(node: Node) -> Asked:
    if node.asked is None:
        raise RefusedError("this node is part of another program, which ends it", Reason.UNAVAILABLE)
    return node.asked


async def _drained(node: Node) -> steering.Drained:
    node.run_manager.take_no_more()
    await node.drained.done.wait()
    runs = node.drained.runs
    return steering.Drained(
        finished=0 if runs is None else runs.finished,
        ended=0 if runs is None else runs.ended,
        duration_ms=node.drained.duration_ms,
    )


def _state(node: Node) -> steering.RunsState:
    turns = node.run_manager.turns
    return steering.RunsState(
        paused=turns.paused, draining=node.run_manager.stopping, running=turns.running, queued=turns.queued
    )
