"""Converts settings to the configuration of the node's parts."""

from __future__ import annotations

import os

import trio

from crabnet import __version__
from crabnet.core.budgets.authors import AuthorRates
from crabnet.core.budgets.sources import SourceRates
from crabnet.core.config import CoreConfig
from crabnet.domain.state import Caps
from crabnet.market.policies import Accepting, AwardRule
from crabnet.market.work import MICRO, WorkPolicy
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.runner.policy import RunnerPolicy
from crabnet.runner.runner import Runner
from crabnet.runner.sandbox.model import Choice, Profile, RunLimits, SandboxReport
from crabnet.runner.self_test import survey
from crabnet.settings import OFF, Settings
from crabnet.settings.schedule import spans_of
from crabnet.source import Scheme


def core_config(settings: Settings, *, stays: bool = True) -> CoreConfig:
    """The configuration of a core. ``stays`` is true for a node that runs on, false for a one-shot command."""
    return CoreConfig(
        policy=AdmissionPolicy(
            settings.namespace, settings.require_signatures, settings.message_ttl_s, settings.future_skew_s
        ),
        seen_ttl_s=settings.seen_messages_ttl_s,
        seen_capacity=settings.seen_messages_capacity,
        parked_ttl_s=settings.parked_ttl_s,
        request_ids_ttl_s=settings.request_ids_ttl_s,
        request_ids_max=settings.request_ids_max,
        sources=SourceRates(
            threshold_per_s=settings.udp_source_fast_fail_threshold_per_sec,
            rejects_per_s=settings.udp_source_rejects_per_sec,
            block_ms=settings.udp_source_block_ms,
            block_ms_max=settings.udp_source_block_ms_max,
            strangers_per_s=settings.udp_strangers_per_sec,
            peer_per_s=settings.udp_peer_datagrams_per_sec,
            total_per_s=settings.udp_datagrams_per_sec,
        ),
        authors=AuthorRates(
            envelopes_per_s=settings.author_envelopes_per_sec,
            bytes_per_s=settings.author_bytes_per_sec,
            newcomer_envelopes_per_s=settings.newcomer_envelopes_per_sec,
            newcomer_bytes_per_s=settings.newcomer_bytes_per_sec,
            history_envelopes_per_s=settings.history_envelopes_per_sec,
        ),
        caps=Caps(settings.author_open_seeds_max, settings.author_bids_per_seed_max),
        sync_interval_ms=settings.sync_interval_ms,
        sync_fanout=settings.sync_fanout,
        sync_fetch_bytes_per_s=settings.sync_fetch_bytes_per_s,
        peer_silence_ms=settings.peer_silence_ms,
        peers_remembered=settings.peers_remembered,
        accept_feed_risk=settings.accept_feed_risk,
        relay_fanout=settings.relay_fanout,
        refuse_equivocators=settings.refuse_equivocators,
        tell_declines=settings.tell_declines,
        execution_grace_ms=settings.execution_grace_s * 1000,
        auto_reclaim=settings.auto_reclaim,
        reclaim_attempts_max=settings.auto_reclaim_attempts_max,
        auto_award=None if settings.auto_award == OFF else AwardRule(settings.auto_award),
        auto_settle=None if settings.auto_settle == OFF else Accepting(settings.auto_settle),
        archive_after_ms=settings.archive_after_s * 1000,
        clock_check=settings.clock_check,
        stays=stays,
        talk=not settings.legacy_peers,
        alias=settings.alias,
        agent=f"crabnet/{__version__}",
        work=work_policy(settings),
        auto_bid=settings.auto_bid and stays,
        auto_run=settings.auto_run and stays,
    )


def work_policy(settings: Settings) -> WorkPolicy:
    """The policy of a worker."""
    return WorkPolicy(
        price=settings.work_price,
        price_per_s_micro=round(settings.work_price_per_s * MICRO),
        price_per_mib_micro=round(settings.work_price_per_mib * MICRO),
        price_min=settings.work_min_price,
        spans=spans_of(settings.work_schedule),
        schedule=settings.work_schedule,
        only=frozenset(settings.work_only),
        never=frozenset(settings.work_never),
        settled_min_micro=round(settings.work_min_settled * MICRO),
        unsettled_max=settings.work_unsettled_max,
        load_max_percent=round(settings.work_load_max * 100),
        battery_min_percent=settings.work_battery_min,
        timeout_max_ms=settings.work_timeout_max_ms,
        runs_max=settings.runner_runs_max,
        commitments_max=settings.runner_runs_max + settings.runner_queue_max,
    )


def sends_per_s(settings: Settings, scheme: Scheme) -> int:
    """The messages per second that a transport may send. Each has its own limit. 0 means no limit."""
    return settings.udp_broadcasts_per_sec if scheme is Scheme.UDP else settings.dht_broadcasts_per_sec


def sends_datagrams(settings: Settings, *, listen: bool) -> bool:
    """Whether a node sends its envelopes to UDP addresses at once. A command without a running node is not in the dht
    network, so it uses the fallback if there is one.
    """
    return settings.uses_udp or (not listen and bool(settings.dht_udp_fallback))


def runner_of(settings: Settings) -> Runner:
    """The runner of commands. Raises UsageError."""
    return Runner(runner_policy(settings), Choice(settings.runner_sandbox), settings.data_dir)


def sandbox_report(settings: Settings) -> SandboxReport:
    """The sandbox report that a node with these settings would get at its start. Blocks for up to some seconds.

    Raises UsageError.
    """
    return trio.run(survey, runner_policy(settings), Choice(settings.runner_sandbox), settings.data_dir)


def runner_policy(settings: Settings) -> RunnerPolicy:
    """The rules for the commands that may be run. Raises UsageError."""
    return RunnerPolicy(
        allowed_commands=frozenset(settings.runner_allowed_commands),
        command_chars_max=settings.runner_max_command_len,
        allow_shell_operators=settings.runner_allow_shell_operators,
        workdir=settings.runner_workdir,
        workdir_root=settings.runner_workdir_root,
        output_bytes_max=settings.runner_max_output_bytes,
        kill_wait_ms=settings.runner_timeout_kill_wait_ms,
        profiles=tuple(Profile(name) for name in settings.runner_profiles),
        limits=RunLimits(
            memory_bytes=settings.runner_memory_bytes,
            processes=settings.runner_processes,
            cpu_time_s=settings.runner_cpu_time_s,
            cpu_percent=settings.runner_cpu_percent,
            file_bytes=settings.runner_file_bytes,
            open_files=settings.runner_open_files,
            workdir_bytes=settings.runner_workdir_bytes,
            tmp_bytes=settings.runner_tmp_bytes,
        ),
        files_max=settings.runner_files_max,
        environment={name: os.environ[name] for name in settings.runner_environment if name in os.environ},
    )
