"""Events as sentences for the operator of a node: one row for each kind, with its level and its text.

In a text, ``{name}`` is a payload field, ``{name:id}`` its abbreviation, ``{name:ms}`` a duration. A part in square
brackets is left out if a field in it is absent. Fields may hold text of strangers: it is escaped and cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from crabnet import limits
from crabnet.monitor.events import Event, PayloadValue
from crabnet.monitor.registry import EVENTS, EventKind, Severity
from crabnet.plain import plain


class Level(StrEnum):
    """How much a line matters to the operator. Alerts are errors."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """A number that grows with the level."""
        return _RANKS[self]


_RANKS: Final = {Level.DEBUG: 0, Level.INFO: 1, Level.WARNING: 2, Level.ERROR: 3}
_OF_SEVERITY: Final = {
    Severity.DEBUG: Level.DEBUG,
    Severity.INFO: Level.INFO,
    Severity.NOTICE: Level.INFO,
    Severity.WARNING: Level.WARNING,
    Severity.ALERT: Level.ERROR,
}


class Sentence(NamedTuple):
    """The level and the text of a line. The text is one line without control characters."""

    level: Level
    text: str


Row: TypeAlias = tuple[Level, str] | Callable[[Event], Sentence]

_PART: Final = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)")
FIELD: Final = re.compile(r"\{(\w+)(?::(\w+))?\}")
"""A field in a text: its name, and how it is shown."""
_ID_ENDS: Final = 4
_DEBUG, _INFO, _WARNING, _ALERT = Level.DEBUG, Level.INFO, Level.WARNING, Level.ERROR


def sentence(event: Event) -> Sentence:
    """The sentence about an event. Raises nothing, whatever the payload holds."""
    row = SENTENCES.get(event.kind)
    if row is None:  # an event of another version
        return Sentence(_OF_SEVERITY[event.severity], plain(event.kind[: limits.LOG_FIELD_CHARS_MAX]))
    if not isinstance(row, tuple):
        found = row(event)
        return Sentence(_level(event, found.level), found.text)
    return Sentence(_level(event, row[0]), fill(row[1], event.payload))


def level_of(event: Event) -> Level | None:
    """The level of an event, if that depends only on its kind and severity; None otherwise."""
    row = SENTENCES.get(event.kind)
    return _level(event, row[0]) if isinstance(row, tuple) else None


def _level(event: Event, usual: Level) -> Level:
    """The level of the row, unless the event is more or less severe than others of its kind."""
    spec = EVENTS.get(event.kind)  # type: ignore[call-overload]  # kinds are strings, and hash as such
    if spec is None or event.severity is spec.severity:
        return usual
    return _OF_SEVERITY[event.severity]


def fill(text: str, payload: Mapping[str, PayloadValue]) -> str:
    """A text with the fields of a payload."""
    parts = []
    for optional, always in _PART.findall(text):
        if optional and any(payload.get(name) in {None, ""} for name, _ in FIELD.findall(optional)):
            continue
        parts.append(FIELD.sub(lambda match: _shown(payload.get(match[1]), match[2]), optional or always))
    return "".join(parts)


def _shown(value: PayloadValue, form: str | None) -> str:
    if value is None:
        return "?"
    if form == "ms" and isinstance(value, int):
        return _duration(value)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if form == "id" and len(text) > 4 * _ID_ENDS:
        return plain(f"{text[:_ID_ENDS]}…{text[-_ID_ENDS:]}")
    if len(text) > limits.LOG_FIELD_CHARS_MAX:
        text = f"{text[: limits.LOG_FIELD_CHARS_MAX]}…"
    return plain(text)


def _duration(ms: int) -> str:
    if abs(ms) < 10_000:
        return f"{ms} ms"
    if abs(ms) < 600_000:
        return f"{ms // 1000} s"
    return f"{ms // 60_000} min"


def _result_judged(event: Event) -> Sentence:
    """A result that is accepted without conditions was not judged by any: only that it ran."""
    if event.payload.get("judgement") == "ask" and event.payload.get("status"):
        return Sentence(_DEBUG, fill("the result of task {seed_id} is taken as it is: {detail}", event.payload))
    text = "the result of task {seed_id} by {worker:id} is judged: {judgement} ({reason})[: {detail}]"
    return Sentence(_INFO, fill(text, event.payload))


def _seed_changed(event: Event) -> Sentence:
    payload = event.payload
    own, works = payload.get("author") == event.node_id, payload.get("worker") == event.node_id
    status = payload.get("status")
    level = _INFO if own or works else _DEBUG
    if status == "Open" and payload.get("status_before") is None:
        return Sentence(
            _INFO, fill("task {seed_id} published" + ("" if own else " by {author:id}") + "[: {title}]", payload)
        )
    if status == "Claimed" and works:
        text = "bid {bid_id}[ of {price}] won: task {seed_id} can run now: crabnet seed run {seed_id}"
        if payload.get("auto"):
            text = "bid {bid_id:id}[ of {price}] won: task {seed_id}"
    elif status == "Claimed":
        text = "task {seed_id} claimed for {worker:id}, attempt {attempt}"
    elif status == "Running" and works:
        level, text = _DEBUG, "task {seed_id} runs here"
    elif status == "Done" and works:
        text = "task {seed_id} is done, and {author:id} has to settle it"
    elif status == "Accepted" and works:
        text = "task {seed_id} accepted by {author:id}[: earned {price}]"
    elif status == "Rejected" and works:
        text = "task {seed_id} rejected by {author:id}: nothing earned"
    elif status == "Running":
        text = "task {seed_id} runs at {worker:id}"
    elif status == "Done" and own:
        todo = "" if payload.get("auto") else ": look at it with crabnet seed show, and settle it"
        text = f"task {{seed_id}} has a result of {{worker:id}}{todo}"
    elif status == "Open":
        text = "task {seed_id} is open again, attempt {attempt}"
    else:
        text = "task {seed_id} is {status} now"
    return Sentence(level, fill(text, payload))


def _send_failed(event: Event) -> Sentence:
    """A target that fails is told once. The retries follow only at the level debug."""
    level = _WARNING if event.payload.get("failures") in {None, 1} else _DEBUG
    return Sentence(level, fill("cannot send to {address}[: {detail}]; stored envelopes are sent again", event.payload))


def _peer_lost(event: Event) -> Sentence:
    text = "peer {peer:id} at {address} lost"
    if event.payload.get("reason") == "timeout":
        text += "[: not heard for {duration_ms:ms}]"
    else:
        text += "[: {reason}]"
    return Sentence(_INFO, fill(text, event.payload))


def _run_finished(event: Event) -> Sentence:
    failed = event.payload.get("failed")
    text = "run of task {seed_id} finished"
    if event.payload.get("timed_out") is True:
        text += ": timeout after {duration_ms:ms}"
    elif event.payload.get("exit_code") is not None:
        text += ": exit code {exit_code} in {duration_ms:ms}"
    else:
        text += "[: ended by signal {signal}] in {duration_ms:ms}"
    if failed == "worker":
        text += "; this worker failed, not the task[ ({cause})]"
    return Sentence(_WARNING if failed == "worker" else _INFO, fill(text, event.payload))


def _child_failed(event: Event) -> Sentence:
    again = "it is started again" if event.payload.get("next_try_ms") else "it is not started again before the node is"
    return Sentence(_WARNING, f"{fill('the process {child} does not work: {detail}', event.payload)}; {again}")


def _child_started(event: Event) -> Sentence:
    if event.payload.get("failures"):
        return Sentence(_INFO, fill("the process {child} works again[: {detail}]", event.payload))
    level = _INFO if event.payload.get("detail") else _DEBUG
    return Sentence(level, fill("the process {child} works[: {detail}]", event.payload))


SENTENCES: Final[Mapping[str, Row]] = MappingProxyType(
    {
        EventKind.NODE_STARTED: (_DEBUG, "Crabnet {version} opened {data_dir}, namespace {namespace}"),
        EventKind.NODE_STOPPED: (_INFO, "the node has stopped[ after {duration_ms:ms}][: {detail}]"),
        EventKind.CHILD_STARTED: _child_started,
        EventKind.CHILD_FAILED: _child_failed,
        EventKind.CHILD_ENDED: (_DEBUG, "the process {child} has ended"),
        EventKind.TOKEN_CREATED: (_INFO, "the token {token_name} with scope {scope} was made"),
        EventKind.TOKEN_REVOKED: (_INFO, "the token {token_name} was revoked"),
        EventKind.WEB_LINK_MADE: (_INFO, "a login link for the web page was made; it is good once, for a minute"),
        EventKind.WEB_LOGIN: (_INFO, "a browser has logged in as {token_name}"),
        EventKind.WEB_AUTH_FAILED: (
            _WARNING,
            "{address} tried wrong secrets at the HTTP door[, {count} times]: {reason}",
        ),
        EventKind.WEB_CLIENT_DROPPED: (_DEBUG, "the web process dropped {address}[, {count} times]: {reason}"),
        EventKind.WEB_OVERLOADED: (
            _WARNING,
            "the web process refused requests of {address}[, {count} times]: {reason}",
        ),
        EventKind.WEB_REQUEST_FAILED: (_ALERT, "the web process met an unexpected error[, {count} times]: {reason}"),
        EventKind.ALERT_SENT: (_DEBUG, "{count} alerts sent to {target}[ after {failures} failures]"),
        EventKind.ALERT_UNDELIVERED: (
            _WARNING,
            "{count} alerts from event {event_id} on were not delivered to {target}: {detail}; try crabnet alerts test",
        ),
        EventKind.ALERT_TARGET_UNSERVED: (_WARNING, "alerts are not sent to {target}: {detail}"),
        EventKind.CONFIG_EFFECTIVE: (_DEBUG, "setting {setting} = {value}"),
        EventKind.IDENTITY_CREATED: (_INFO, "no identity was found, so the node has created a new key in {file}"),
        EventKind.JOB_FAILED: (
            _ALERT,
            "the job {job} failed[: {detail}]; look into quarantine/ in the data dir and report it",
        ),
        EventKind.FAULT_CONTAINED: (
            _ALERT,
            "an unexpected error in {part} was contained[: {detail}]; quarantine/ in the data dir holds its traceback",
        ),
        EventKind.REPLICA_FAILED: (
            _ALERT,
            "an unexpected error in {part}[: {detail}]; the node starts again from its journal",
        ),
        EventKind.NODE_RESTARTED: (_DEBUG, "the node was restarted, for the {count}. time[: {detail}]"),
        EventKind.CLOCK_STEPPED: (_ALERT, "the system's clock was changed by {step_ms:ms}[: {detail}]"),
        EventKind.CLOCK_BEHIND: (
            _ALERT,
            "the system's clock is {duration_ms:ms} behind the stored data[: {detail}]; check the clock",
        ),
        EventKind.CLOCK_SUSPECT: (_ALERT, "the clock is wrong, so the node signs nothing[: {detail}]; set the clock"),
        EventKind.CLOCK_CONFIRMED: (_INFO, "the clock is right again, and the node signs again"),
        EventKind.NODE_WAS_AWAY: (_INFO, "the node was away for {duration_ms:ms}, and {count} deadlines have passed"),
        EventKind.ENVELOPE_CREATED: (_DEBUG, "{kind} {envelope_id:id} created[ about task {seed_id}]"),
        EventKind.ENVELOPE_ACCEPTED: (_DEBUG, "{kind} {envelope_id:id} of {author:id} accepted[ about task {seed_id}]"),
        EventKind.ENVELOPE_IGNORED: (_DEBUG, "an envelope[ of {author:id}] from {address} was ignored: {reason}"),
        EventKind.ENVELOPE_REJECTED: (
            _DEBUG,
            "an envelope[ of {author:id}] from {address} was rejected: {reason}[: {detail}]",
        ),
        EventKind.ENVELOPE_PARKED: (_DEBUG, "{kind} {envelope_id:id} of {author:id} waits: {reason}"),
        EventKind.ENVELOPE_DROPPED: (_DEBUG, "an envelope[ of {author:id}] that waited was dropped: {reason}"),
        EventKind.SEED_CHANGED: _seed_changed,
        EventKind.SETTLEMENT_OVERDUE: (
            _ALERT,
            "the result of {worker:id} for task {seed_id} was not settled in time; accept or reject it",
        ),
        EventKind.SETTLEMENT_MISSING: (
            _WARNING,
            "{publisher:id} has not settled the result of this node for task {seed_id} in time",
        ),
        EventKind.BID_DECLINED: (
            _DEBUG,
            "{worker:id} does not bid for task {seed_id}[: {reason}][: {detail}][, it wants {price}]",
        ),
        EventKind.CLAIM_OVERDUE: (
            _ALERT,
            "{worker:id} gave no result of task {seed_id} in time, and its claim is forfeited; claim another bid",
        ),
        EventKind.WORKER_FAILED: (_WARNING, "{worker:id} failed at task {seed_id}, which is open again[: {detail}]"),
        EventKind.SEED_RECLAIMED: (_INFO, "task {seed_id} claimed for {worker:id}, attempt {attempt}"),
        EventKind.BID_AWARDED: (_INFO, "task {seed_id} claimed for {worker:id} at {price}, by the rule {rule}"),
        EventKind.AWARD_WAITS: (_DEBUG, "no bid of task {seed_id} is claimed yet: {reason}[: {detail}]"),
        EventKind.RESULT_JUDGED: _result_judged,
        EventKind.PURCHASE_RETRIED: (_INFO, "task {seed_id} is published again, try {attempt}: {reason}"),
        EventKind.PURCHASE_GIVEN_UP: (_WARNING, "task {seed_id} is given up: {reason}[: {detail}]"),
        EventKind.PURCHASE_ENDED: (_DEBUG, "the purchase of task {seed_id} has ended: {status}[ ({reason})]"),
        EventKind.BID_QUOTED: (_INFO, "bid {price} for task {seed_id} of {author:id}"),
        EventKind.TASK_DECLINED: (_DEBUG, "no bid for task {seed_id} of {author:id}: {reason}[: {detail}]"),
        EventKind.FORK_DETECTED: (
            _ALERT,
            "{author:id} signed two envelopes for place {seq} of its feed, which ends there; see crabnet audit proof",
        ),
        EventKind.FEED_ENDED: (_ALERT, "this node's feed has ended at place {seq}[: {detail}]"),
        EventKind.SEEN_PRUNED: (_DEBUG, "{expired} seen messages expired, {count} remain"),
        EventKind.GAP_DETECTED: (
            _DEBUG,
            "envelopes {first_seq} to {last_seq} of {author:id} are missing, says {address}",
        ),
        EventKind.GAP_REQUESTED: (_DEBUG, "envelopes {first_seq} to {last_seq} of {author:id} asked of {address}"),
        EventKind.GAP_FILLED: (_DEBUG, "envelopes {first_seq} to {last_seq} of {author:id} came in {duration_ms:ms}"),
        EventKind.SYNC_SERVED: (_DEBUG, "{entries} envelopes of {author:id} sent to {address}"),
        EventKind.FEED_ADOPTED: (
            _INFO,
            "envelopes {first_seq} to {last_seq} of this node's own feed fetched from {address}",
        ),
        EventKind.FEED_AT_RISK: (
            _ALERT,
            "the end of this node's feed is in doubt, so it writes nothing[: {detail}]; connect it to a peer",
        ),
        EventKind.FEED_CONFIRMED: (
            _INFO,
            "the end of this node's feed is confirmed[ by {address}], and it writes again",
        ),
        EventKind.FEED_RISK_ACCEPTED: (_ALERT, "the operator accepted the risk to this node's feed at {last_seq}"),
        EventKind.FEED_UNCONFIRMED: (_WARNING, "no peer said how far this node's feed goes; the node {outcome}"),
        EventKind.FEED_MARK_FAILED: (_WARNING, "how far this node's feed goes cannot be noted in state_dir: {detail}"),
        EventKind.LISTENER_STARTED: (_DEBUG, "listening on {transport} {address}[, receive buffer of {bytes} bytes]"),
        EventKind.LISTENER_FAILED: (_DEBUG, "{address} cannot be listened on[: {detail}]"),
        EventKind.DATAGRAM_RECEIVED_BAD: (_DEBUG, "a bad datagram of {bytes} bytes from {address}: {reason}"),
        EventKind.DATAGRAM_DROPPED: (_DEBUG, "{count} datagrams ({direction}) dropped[ of {address}]: {reason}"),
        EventKind.FRAGMENT_DROPPED: (_DEBUG, "{count} fragments from {address} dropped: {reason}"),
        EventKind.SOURCE_BLOCKED: (_WARNING, "{address} is ignored for {duration_ms:ms}: {reason}"),
        EventKind.ANNOUNCE_SENT: (_DEBUG, "{kind} {envelope_id:id} sent to {targets} addresses"),
        EventKind.SEND_FAILED: _send_failed,
        EventKind.SEND_RECOVERED: (_INFO, "sending to {address} works again after {failures} failures"),
        EventKind.PEER_CONFIRMED: (_DEBUG, "peer {peer:id} proved its address {address}"),
        EventKind.PEER_FOUND: (_INFO, "peer {peer:id} found at {address}"),
        EventKind.PEER_LOST: _peer_lost,
        EventKind.PEER_MOVED: (_INFO, "{name} has moved from {address_before} to {address}"),
        EventKind.PEER_REFUSED: (_WARNING, "messages of the peer {address} are refused: {reason}: {detail}"),
        EventKind.PEERS_FILE_BAD: (_WARNING, "the remembered peers in {file} cannot be used: {detail}"),
        EventKind.GOSSIP_UNPUBLISHED: (_DEBUG, "envelope {envelope_id:id} was given to no libp2p peer: {reason}"),
        EventKind.BOOTSTRAP_FAILED: (_WARNING, "cannot reach the peer {address}: {detail}"),
        EventKind.BOOTSTRAP_SET_ASIDE: (_WARNING, "the peer {address} is set aside after {failures} tries: {detail}"),
        EventKind.LISTENER_FALLBACK: (_WARNING, "libp2p does not listen on {address} but on a free port: {detail}"),
        EventKind.TOPIC_UNKNOWN: (_INFO, "peer {peer:id} speaks on the topic {topic}, which this node does not know"),
        EventKind.STRANGERS_REFUSED: (
            _INFO,
            "{count} connections without the key of this network, last {address}: {detail}",
        ),
        EventKind.RUN_STARTED: (_INFO, "run of task {seed_id} started, timeout {timeout_ms:ms}"),
        EventKind.RUN_FINISHED: _run_finished,
        EventKind.RUN_REFUSED: (_WARNING, "run of task {seed_id} refused: {reason}[: {detail}]"),
        EventKind.RUN_INTERRUPTED: (
            _ALERT,
            "run of task {seed_id} was interrupted by the end of the node, and is not repeated",
        ),
        EventKind.RUN_TIMED_OUT: (_WARNING, "run of task {seed_id} was ended by its timeout of {timeout_ms:ms}"),
        EventKind.RUN_QUEUED: (_INFO, "run of task {seed_id} waits for its turn, {count} wait"),
        EventKind.RUN_CANCELLED: (_WARNING, "run of task {seed_id} was cancelled: {reason}"),
        EventKind.RUN_RENEWED: (_DEBUG, "run of task {seed_id} at {worker:id} goes on"),
        EventKind.RUN_SILENT: (
            _ALERT,
            "{worker:id}, which runs task {seed_id}, is silent for {duration_ms:ms}; an overdue claim is forfeited",
        ),
        EventKind.RUN_UNSANDBOXED: (
            _ALERT,
            "run of task {seed_id} has no sandbox: {detail}; set runner_sandbox = auto",
        ),
        EventKind.RUNS_PAUSED: (_INFO, "runs are paused: none starts, {count} wait"),
        EventKind.RUNS_RESUMED: (_INFO, "runs may start again, {count} waited"),
        EventKind.NODE_DRAINING: (_DEBUG, "the node ends when its {count} runs have ended, in {timeout_ms:ms} at most"),
        EventKind.SANDBOX_READY: (_DEBUG, "the sandbox {sandbox} works"),
        EventKind.SANDBOX_OFF: (_DEBUG, "there is no sandbox (runner_sandbox = none)"),
        EventKind.SANDBOX_UNAVAILABLE: (_DEBUG, "no sandbox works here[: {detail}]"),
        EventKind.LEDGER_RECOVERED: (_DEBUG, "the ledger was opened ({outcome})[: {detail}]"),
        EventKind.LEDGER_POISONED: (
            _ALERT,
            "the ledger cannot be written, and the node stops[: {detail}]; check the disk",
        ),
        EventKind.CHECKPOINT_WRITTEN: (_DEBUG, "checkpoint at {lsn} written in {duration_ms:ms}"),
        EventKind.CHECKPOINT_FAILED: (_ALERT, "the checkpoint cannot be written[: {detail}]; check the disk"),
        EventKind.DISK_LOW: (_WARNING, "the disk is nearly full: {free_bytes} bytes are free; make room"),
        EventKind.INDEX_DAMAGED: (_WARNING, "the index {file} is damaged, no data is lost[: {detail}]"),
        EventKind.INDEX_REBUILT: (_INFO, "the index {file} was rebuilt[: {detail}]"),
        EventKind.CONTROL_REFUSED: (
            _WARNING,
            "a request {operation} on the control socket was refused: {reason}[: {detail}]",
        ),
        EventKind.COMMAND_REFUSED: (_INFO, "{operation}[ of task {seed_id}] refused: {reason}[: {detail}]"),
        EventKind.EVENTS_DROPPED: (_WARNING, "{count} events were dropped, {lost} of them alerts"),
        EventKind.EVENTS_LEFT_OUT: (_DEBUG, "{count} events {event} were only counted[ ({reason})]"),
        EventKind.EVENTS_REPAIRED: (_WARNING, "the event log {file} was repaired: {action}[: {detail}]"),
        EventKind.EVENTS_WRITE_FAILED: (_WARNING, "events could not be written {failures} times[: {detail}]"),
        EventKind.EVENTS_LAGGING: (
            _ALERT,
            "the event log is behind: {count} events wait, the oldest for {oldest_ms:ms}[: {detail}]",
        ),
        EventKind.EVENTS_RECOVERED: (_INFO, "the event log is no longer behind; that took {duration_ms:ms}"),
        EventKind.SYNC_LAGGING: (
            _ALERT,
            "this node is behind: it lacks {count} envelopes, one for {oldest_ms:ms}[, see {address}][: {detail}]",
        ),
        EventKind.SYNC_RECOVERED: (_INFO, "this node is no longer behind; that took {duration_ms:ms}"),
        EventKind.SENDING_LAGGING: (
            _ALERT,
            "{count} messages cannot be sent, the oldest for {oldest_ms:ms}, to {targets} addresses[: {detail}]",
        ),
        EventKind.SENDING_RECOVERED: (_INFO, "sending is no longer behind; that took {duration_ms:ms}"),
    }
)
"""Every kind of event, with its usual level and its text."""
