"""What each Reason means to somebody whose request was refused, and what to do. For docs/PROBLEMS.md."""

from __future__ import annotations

from typing import Final

from crabnet.errors import Reason
from crabnet.operations.problems import STATUS, URN

_MEANING: Final[dict[Reason, str]] = {
    Reason.SOURCE_BLOCKED: "The address is blocked for a while. | Wait.",
    Reason.RATE_LIMITED: "More requests, or more failed logins, than are allowed. | Wait as long as `Retry-After` says.",
    Reason.MISUSE: "A message that its sender may not send. | Correct the sender.",
    Reason.RECEIVE_BUFFER_FULL: "The node does not keep up. | Try again.",
    Reason.EMPTY: "There is nothing in the message. | Send something.",
    Reason.TOO_LARGE: "The body, the headers (431) or the message is too long. | Send less; `detail` names the bound.",
    Reason.MALFORMED: "The bytes are not what they should be: HTTP, JSON, a query. | Correct the request; `detail` says where.",
    Reason.MALFORMED_FRAGMENT: "A fragment of a message is broken. | Send it again.",
    Reason.UNSUPPORTED_VERSION: "The node does not know this version of the protocol. | Use programs of the same version.",
    Reason.WRONG_NAMESPACE: "It belongs to another namespace. | Use a node of that namespace.",
    Reason.UNKNOWN_KIND: "The node does not know this kind of message. | Use programs of the same version.",
    Reason.EXPIRED: "It is too old. | Make it anew.",
    Reason.FROM_THE_FUTURE: "Its time is ahead of the node's. | Correct the clock of its author.",
    Reason.DUPLICATE: "It is held already. | Nothing needs to be done.",
    Reason.GAP: "Something before it is missing. | Wait for sync, or import what is before it.",
    Reason.FORK: "Its author has signed two envelopes for one place. | Do not trade with this author.",
    Reason.BROKEN_CHAIN: "It does not follow from what the node holds. | Import what is before it.",
    Reason.FEED_ENDED: "The feed of the author has ended, because of a fork. | If it is this node's own: `crabnet id renew`.",
    Reason.UNKNOWN_PARENT: "What it rests on is not held. | Wait for sync, or import that.",
    Reason.PARKING_FULL: "Too much waits for missing envelopes. | Try again later.",
    Reason.WRONG_ID: "An id does not follow from the content. | The sender is broken, or it lies.",
    Reason.UNKNOWN_ALGORITHM: "The algorithm of a signature is not known. | Use programs of the same version.",
    Reason.UNKNOWN_KEY: "The key of an author is not known, or nothing of its feed is held. | Check the id; wait for sync.",
    Reason.MISSING_SIGNATURE: "There is no signature. | Sign it.",
    Reason.BAD_SIGNATURE: "The signature is wrong. | The sender is broken, or it lies.",
    Reason.UNAUTHORISED: "The rules of tasks give this right to another node. | Do it on the node that has it.",
    Reason.WRONG_PARENT: "It refers to something else than it should. | `crabnet seed show` shows what it may refer to.",
    Reason.WRONG_STATE: "The task is not in a state in which this is possible. | `crabnet why` says what it waits for.",
    Reason.UNKNOWN_SEED: "The node knows no such task. | Check the id (`crabnet seed list`), or wait for sync.",
    Reason.UNKNOWN_BID: "The task has no such bid. | `crabnet seed show` lists its bids.",
    Reason.UNKNOWN_CLAIM: "The task has no such claim. | `crabnet why` says who has to do what.",
    Reason.UNKNOWN_RESULT: "The task has no result. | Wait for the worker.",
    Reason.AMBIGUOUS: "A short id fits several. | Give the whole id.",
    Reason.UNWORKABLE: "No worker could run the task, or bid for it. | Correct the command, the rules or the prices.",
    Reason.PRICE_TOO_LOW: "The price is below the lowest one of the task. | Bid more.",
    Reason.DEADLINE_PASSED: "It is too late. | `crabnet why` shows the deadlines; publish the task again, or choose another one.",
    Reason.TOO_MANY_BIDS: "The task takes no more bids. | Choose another task.",
    Reason.NOT_DUE: "It is too early: the worker still has time. | Wait for the deadline (`crabnet why`), or withdraw the task (`crabnet seed cancel`).",
    Reason.LIMIT_EXCEEDED: "A bound of the node is reached. | Request less, or try again later; `detail` names the bound.",
    Reason.UNSOLICITED: "Nobody asked for it. | Nothing needs to be done.",
    Reason.EQUIVOCATOR: "The other side has provably forked its feed. | Do not trade with it, or set `refuse_equivocators`.",
    Reason.AUTHOR_LIMITED: "More than the node takes from one author. | Wait.",
    Reason.TOO_MANY_OPEN_SEEDS: "This node has as many open tasks as are allowed. | Settle or withdraw some.",
    Reason.TOO_MANY_OWN_BIDS: "This node has bid for the task as often as is allowed. | Choose another task.",
    Reason.TOO_MANY_OWN_STEPS: "This node has stated as much about the task as is allowed. | Settle it.",
    Reason.COMMAND_NOT_ALLOWED: "This worker does not run this command. | Set `runner_allowed_commands`, or bid with `force`.",
    Reason.COMMAND_TOO_LONG: "This worker does not run commands of this length. | Set `runner_max_command_len`.",
    Reason.SHELL_OPERATOR: "This worker does not run commands with shell operators. | Set `runner_allow_shell_operators`.",
    Reason.WORKDIR_OUTSIDE_ROOT: "The working directory is outside of its root. | Set `runner_workdir`.",
    Reason.WORKDIR_MISSING: "The working directory does not exist. | Make it.",
    Reason.SPAWN_FAILED: "A process cannot be started. | Look at the events of the node.",
    Reason.SANDBOX_UNAVAILABLE: "Nothing can confine commands here. | `crabnet config verify` says what is missing.",
    Reason.PROFILE_NOT_ALLOWED: "This worker does not offer the profile. | Set `runner_profiles`.",
    Reason.RUN_INTERRUPTED: "The run was interrupted. | Look at the result of the task.",
    Reason.RUN_IN_PROGRESS: "The task runs already. | Wait.",
    Reason.RUN_CANCELLED: "The run has left the queue. | Request it again if it is still wanted.",
    Reason.CLAIM_OVER: "The claim ended while the task ran. | Nothing can be done.",
    Reason.QUEUE_FULL: "Too many runs wait. | Try again later.",
    Reason.NOT_ALLOWED: "The worker does not run this command. | Publish another command, or allow it at the worker (`--allow`).",
    Reason.PRICE: "The worker wants more than is offered. | Offer more (`--max-price`), or lower the worker's prices.",
    Reason.BUSY: "The worker runs and has queued as much as it may. | Wait, or raise `runner_runs_max` at the worker.",
    Reason.SCHEDULE: "The worker does not work at this time. | Wait, or change `--schedule` at the worker.",
    Reason.TRUST: "The worker does not work for this publisher. | Settle what is due; look at `crabnet account`.",
    Reason.RESOURCES: "The worker cannot offer what the task wants: time, memory, load or power. | Ask for less, or wait.",
    Reason.NO_BIDS: "No worker has bid. | `crabnet why` says what workers say; offer more, or wait longer.",
    Reason.NO_BID_FITS: "No bid fits the terms of the purchase. | Raise `--max-price`, or leave out `--worker`.",
    Reason.ATTEMPTS_EXHAUSTED: "All tries that the terms allow have failed. | Look at the results; raise `--retries`.",
    Reason.CONDITIONS_MET: "The result meets all conditions of the task. | Nothing needs to be done.",
    Reason.NO_CONDITIONS: "The task has no conditions by which to judge. | Settle it yourself, or publish conditions.",
    Reason.EXIT_CODE_DIFFERS: "The command ended with another exit code than the task demands. | Look at its output.",
    Reason.OUTPUT_DIFFERS: "The output is not the one that the task demands. | Look at the output; try another worker.",
    Reason.FILE_DIFFERS: "A file is missing, or is not the one that the task demands. | Try another worker.",
    Reason.TOO_SLOW: "The run took longer than the task allows. | Try another worker, or allow more.",
    Reason.CHECK_FAILED: "The check of the task refused the output. | Look at the output; try another worker.",
    Reason.CHECK_UNAVAILABLE: "The check cannot be run here. | Allow its command (`runner_allowed_commands`), or settle yourself.",
    Reason.OUTPUT_CUT: "The result does not hold the whole output, so it cannot be judged. | Settle it yourself.",
    Reason.INVALID_ARGUMENT: "A field is missing, unknown or has a wrong value. | Correct it; `detail` names it.",
    Reason.INVALID_CONFIG: "A setting is wrong. | Correct it; `crabnet config verify` names it.",
    Reason.UNKNOWN_OPERATION: "The node does not know the operation. | Use a web process of the same version.",
    Reason.REQUEST_CONFLICT: "The request id belongs to a request with another content. | Choose another id.",
    Reason.FILE_EXISTS: "The file exists. | Choose another name.",
    Reason.FILE_DAMAGED: "The file is damaged. | Use another copy.",
    Reason.UNAUTHENTICATED: "There is no token, or it is wrong, expired or revoked. | `crabnet token new` makes one.",
    Reason.FORBIDDEN: "The token has too small a scope. | Use one of the scope that `detail` names.",
    Reason.UNKNOWN_TOKEN: "There is no such token. | `crabnet token list` shows them.",
    Reason.TOKEN_EXISTS: "There is a token with this name or secret. | Choose another one.",
    Reason.REVOKED: "The token is revoked. | Make another one.",
    Reason.HOST_REFUSED: "The `Host` header has a name that this server does not have. | Add it to `web_allowed_hosts`.",
    Reason.ORIGIN_REFUSED: "A page of another server sent the request. | Send it from a page of this server, or without `Origin`.",
    Reason.NOT_FOUND: "There is nothing at this path. | API.md and the OpenAPI document list the paths.",
    Reason.METHOD_NOT_ALLOWED: "The path does not take this method. | Use one of `Allow`.",
    Reason.UNSUPPORTED_MEDIA_TYPE: "The body is not declared as JSON. | Set `Content-Type: application/json`.",
    Reason.NO_DATA_DIR: "There is no data dir. | Name it with `--data-dir`.",
    Reason.WRONG_OWNER: "The data dir belongs to another user. | Use that user.",
    Reason.DATA_DIR_BUSY: "Another process owns the data dir. | Wait.",
    Reason.DATA_DIR_UNWRITABLE: "The data dir cannot be written. | Correct its permissions.",
    Reason.DATA_DIR_DAMAGED: "Stored data is damaged. | `crabnet fsck` shows what can be saved.",
    Reason.DATA_DIR_NEWER: "Stored data is of a newer version. | Use that version.",
    Reason.UNSAFE_PERMISSIONS: "Others can read a secret, or change it. | Correct the permissions; `detail` names the file.",
    Reason.LOCKS_UNSUPPORTED: "The file system has no locks. | Use another one.",
    Reason.FEED_RISK: "The node may have lost the end of its feed, so it signs nothing yet. | Wait until a peer answers.",
    Reason.CLOCK_SUSPECT: "The node's clock differs from those of its peers, so it signs nothing. | Correct the clock.",
    Reason.STORAGE_FAILED: "The disk has failed. | Look at the disk; the node must be started again.",
    Reason.DISK_FULL: "The disk is full. | Make room.",
    Reason.ADDRESS_IN_USE: "Another program uses the address. | End it, or choose another address.",
    Reason.ADDRESS_INVALID: "The address cannot be used. | Correct it.",
    Reason.SEND_FAILED: "It cannot be sent. | Look at the network.",
    Reason.NODE_UNREACHABLE: "No node answers the web process. | Start the node; try again.",
    Reason.NO_PEERS: "No libp2p peer is connected that would take it. | Wait, or give `bootstrap_peers`.",
    Reason.OWN_ADDRESS: "The address is that of this node. | Give the address of another node.",
    Reason.WRONG_NETWORK_KEY: "The peer does not show the key of the private network. | Give all members the same `dht_network_key_file`.",
    Reason.WRONG_PEER: "At the address is a node with another id. | Correct the id in the address, or the address.",
    Reason.NODE_STOPPING: "The node ends. It may have done what was asked. | Repeat it with the same `Idempotency-Key`.",
    Reason.TIMEOUT: "There was no answer in time, or the body did not come in time (408). | Repeat it with the same `Idempotency-Key`.",
    Reason.UNAVAILABLE: "It is not possible at the moment; for `/readyz`: the node is not ready. | `reasons` and `detail` say why.",
    Reason.INTERNAL: "An unexpected error. | Look at the events of the node and the output of the web process.",
    Reason.QUARANTINED: "It has caused an unexpected error before. | Look at `quarantine/` in the data dir.",
    Reason.RESTARTS_EXHAUSTED: "The node has failed too often. | Look at `quarantine/` in the data dir.",
}
_HEAD: Final = f"""\
# Problems

<!-- Written by scripts/write_reference.py from src/crabnet/operations. Change it there. -->

Every refusal of the HTTP API is a problem document ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) with the media type
`application/problem+json`:

```json
{{
  "type": "{URN}unknown_seed",
  "title": "Unknown seed",
  "status": 404,
  "reason": "unknown_seed",
  "detail": "this node knows no task 4711"
}}
```

`type` is `{URN}` and the Reason. It identifies the kind of problem, and is the same on every node. `reason` is the same name alone, as the
control socket, the command line and the events have it. `title` belongs to the type. `detail` is for people, and may change. The problem of
`/readyz` also has `reasons`: all reasons why the node is not ready.

401 has `WWW-Authenticate`, 405 has `Allow`, 429 and 503 have `Retry-After` (seconds). Which Reasons an operation may give is in
[CONTROL.md](CONTROL.md) and in the OpenAPI document.

| Reason | status | meaning | what to do |
|---|---|---|---|
"""


def meaning(reason: Reason) -> str:
    """What a refusal means, in one sentence."""
    return _MEANING[reason].partition(" | ")[0]


def remedy(reason: Reason) -> str:
    """What to do about a refusal, in one sentence."""
    return _MEANING[reason].partition(" | ")[2]


def problems_markdown() -> str:
    """The whole document."""
    rows = []
    for reason in sorted(Reason, key=lambda each: (STATUS[each], each.value)):
        meaning, _, remedy = _MEANING[reason].partition(" | ")
        rows.append(f"| `{reason.value}` | {STATUS[reason]} | {meaning} | {remedy} |\n")
    return _HEAD + "".join(rows)
