"""``crabnet listen``: runs a node with its control socket until a signal."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from crabnet import limits
from crabnet.core.effects import FieldValue
from crabnet.errors import CrabnetError
from crabnet.monitor.operator_log import OperatorLog
from crabnet.monitor.sentences import Level
from crabnet.node.alerts import demand_kinds, keep_alerts
from crabnet.node.descriptors import take_descriptors
from crabnet.node.ending import Asked, until_signal
from crabnet.node.network.dht_network import DhtNetwork
from crabnet.node.node import Node
from crabnet.node.operations.control_server import serve_control
from crabnet.node.operations.doors import dispatch, dispatch_stream
from crabnet.node.operations.places import Places
from crabnet.node.service_manager import ServiceManager
from crabnet.node.supervising import Life, supervised
from crabnet.node.web import keep_web
from crabnet.runner.sandbox.cgroups import enter_leaf
from crabnet.runner.sandbox.model import Mode
from crabnet.settings import MIB, Settings
from crabnet.storage.layout import CONTROL_SOCKET

_LAST_ANSWERS: Final = ("seed.run", "node.drain", "node.stop")
"""Operations whose answers come when the runs of a node that ends have ended."""


def run_node(settings: Settings, log: OperatorLog, listening: Callable[[str], None]) -> None:
    """Run a node until SIGTERM, SIGINT, or SIGHUP unless that is ignored (nohup).

    ``listening`` is called with each address, ``Udp:HOST:PORT``, once the node and its control socket are ready.
    Restarts the node after an unexpected error, as ``supervised`` describes. Raises what entering a Node raises,
    UsageError, NodeFailingError, and KeyboardInterrupt after SIGINT.
    """
    demand_kinds(settings)
    take_descriptors()
    enter_leaf()
    manager = ServiceManager.taken_from(os.environ, partial(log.say, kind="service_manager", level=Level.WARNING))

    async def live(asked: Asked) -> None:
        restarting = partial(log.say, kind="restarting", level=Level.WARNING)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.keep_informed)
            await supervised(partial(_serve, log, listening, manager, asked), settings, restarting, asked.to_end)
            nursery.cancel_scope.cancel()

    if trio.run(until_signal, live) == signal.SIGINT:
        raise KeyboardInterrupt


async def _serve(
    log: OperatorLog, listening: Callable[[str], None], manager: ServiceManager, asked: Asked, life: Life
) -> None:
    """Run a node and its control socket until it is ``asked`` to end and its runs have ended. It opens first in any
    case.
    """
    settings = life.settings
    await manager.status(f"opening {settings.data_dir}" + (f" after: {life.cause}" if life.restarts else ""))
    async with Node(settings, told=log) as node, trio.open_nursery() as nursery:
        life.address = node.listen_address or ",".join(settings.dht_listen_addrs)
        node.asked = asked
        if life.paused:
            node.run_manager.pause()
        if life.restarts:
            node.reporter.notify("node_restarted", {"detail": life.cause, "count": life.restarts})

        def failed(method: str, error: Exception) -> None:
            if isinstance(error, CrabnetError):
                refused: dict[str, FieldValue] = {
                    "operation": method[: limits.EVENT_DETAIL_CHARS],
                    "reason": error.reason.value,
                    "detail": error.message[: limits.EVENT_DETAIL_CHARS],
                }
                node.reporter.notify("control_refused", refused)
                return
            detail = f"{method}: {type(error).__name__}"
            node.reporter.notify("job_failed", {"job": "control", "reason": "internal", "detail": detail})

        places = Places()
        await nursery.start(
            partial(
                serve_control,
                settings.data_dir / CONTROL_SOCKET,
                partial(dispatch, node),
                stream=partial(dispatch_stream, node),
                on_failure=failed,
                places=places,
            )
        )
        for line in _greeting(node):
            log.say(line, "greeting")
        if node.unserved:
            log.say(node.unserved, "greeting", Level.WARNING)
        keep_alerts(node.children, settings, node.node_id, node.reporting.begin_after)
        for address in filter(None, (node.listen_address or "").split(",")):
            listening(f"Udp:{address}")
        if node.dht is not None:
            nursery.start_soon(_tell_dht, node.dht, listening)
        obstacle = keep_web(node.children, settings)
        if obstacle is not None:
            log.say(obstacle, "web", Level.WARNING)
        nursery.start_soon(_tell_sandbox, node, log)
        await manager.ready(f"node {node.node_id} listens on {life.address}")
        try:
            await asked.to_end.wait()
        finally:
            life.paused = node.run_manager.turns.paused
        drain_ms = settings.runner_drain_ms if asked.drain_ms is None else asked.drain_ms
        running = node.run_manager.turns.running
        if running and drain_ms:
            within = f"within {drain_ms} ms"
            log.say(f"stopping: {running} run(s) may end {within}; a second signal ends them now", "stopping")
        await manager.stopping(f"{running} run(s) may end", _drain_ms_max(drain_ms))
        await node.drain(asked.at_once, drain_ms)
        _tell_work(node, log)
        with trio.move_on_after(limits.CONTROL_LAST_ANSWERS_MS / 1000):
            for method in _LAST_ANSWERS:
                await places.answered(method)
        await manager.stopping("closing the data dir", limits.SERVICE_CLOSE_MS)
        nursery.cancel_scope.cancel()


def _drain_ms_max(drain_ms: int) -> int:
    """The most time that ``Node.drain`` and the last answers take, and some more."""
    answers_ms = limits.RUN_END_WAIT_MS + limits.CONTROL_LAST_ANSWERS_MS
    return drain_ms + answers_ms + limits.SERVICE_ALIVE_MS


async def _tell_dht(network: DhtNetwork, listening: Callable[[str], None]) -> None:
    """Tell the addresses of the libp2p process once it is there, which takes a second."""
    await network.child.running()
    for address in network.child.health().addresses:
        listening(f"Dht:{address}")


async def _tell_sandbox(node: Node, log: OperatorLog) -> None:
    """Log the result of the self-test. The self-test takes a while, so its result comes after the greeting."""
    report = await node.runner.prepare()
    if report.fence is None:
        log.say(f"no command will be run here: {report.summary}", "sandbox", Level.WARNING)
    elif report.fence.mode is Mode.NONE:
        what = "no sandbox (runner_sandbox = none): commands of strangers run with the rights of this user"
        log.say(what, "sandbox", Level.WARNING)
    else:
        log.say(f"runs confined by {report.summary}", "sandbox")


def _tell_work(node: Node, log: OperatorLog) -> None:
    """Log what the node has earned, if it works by itself."""
    if node.settings.auto_bid or node.settings.auto_run:
        log.say(node.working.summary(), "work_summary")


def _reclaim(settings: Settings) -> str:
    if not settings.auto_reclaim:
        return "off"
    return f"up to attempt {settings.auto_reclaim_attempts_max}"


def _per_s(rate: int) -> str:
    return str(rate) if rate else "any number"


def _offer(settings: Settings) -> str:
    """What a worker sells, in one line."""
    prices = [f"price {settings.work_price} for each task"]
    prices += [f"{settings.work_price_per_s} per second"] if settings.work_price_per_s else []
    prices += [f"{settings.work_price_per_mib} per MiB"] if settings.work_price_per_mib else []
    prices += [f"at least {settings.work_min_price}"] if settings.work_min_price else []
    when = f"; bids {settings.work_schedule}" if settings.work_schedule else ""
    return f"sells runs of {','.join(settings.runner_allowed_commands) or 'nothing'}; {', '.join(prices)}{when}"


def _greeting(node: Node) -> list[str]:
    settings = node.settings
    return [
        f"node {node.node_id}",
        (
            f"message ttl {settings.message_ttl_s} s, future skew {settings.future_skew_s} s,"
            f" seen window {settings.seen_messages_ttl_s} s / {settings.seen_messages_capacity} messages,"
            f" signatures {'required' if settings.require_signatures else 'not required'}"
        ),
        (
            f"runs {settings.runner_runs_max} at once, {settings.runner_queue_max} waiting,"
            f" lease {settings.runner_lease_ms} ms, execution grace {settings.execution_grace_s} s,"
            f" auto-reclaim {_reclaim(settings)}, clock steps followed up to {settings.clock_follow_ms} ms"
        ),
        (
            f"datagrams per second: {_per_s(settings.udp_datagrams_per_sec)} in all,"
            f" {_per_s(settings.udp_peer_datagrams_per_sec)} of a peer,"
            f" {_per_s(settings.udp_strangers_per_sec)} of strangers,"
            f" {_per_s(settings.udp_source_fast_fail_threshold_per_sec)} of one address;"
            f" {_per_s(settings.udp_broadcasts_per_sec)} sent"
        ),
        *([f"libp2p messages published per second: {_per_s(settings.dht_broadcasts_per_sec)}"] if node.dht else []),
        (
            f"new envelopes per second: {_per_s(settings.author_envelopes_per_sec)} of an author,"
            f" {_per_s(settings.newcomer_envelopes_per_sec)} of all newcomers;"
            f" trade with equivocators {'refused' if settings.refuse_equivocators else 'allowed'}"
        ),
        (
            f"sandbox {settings.runner_sandbox}, profiles {','.join(settings.runner_profiles)},"
            f" memory {settings.runner_memory_bytes // MIB} MiB, {settings.runner_processes} processes,"
            f" {settings.runner_cpu_time_s} s of processor time, disk {settings.runner_workdir_bytes // MIB} MiB"
        ),
        *([_offer(settings)] if settings.auto_bid else []),
    ]
