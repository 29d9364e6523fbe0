"""What the libp2p process gets to know: the key, the addresses, the topics and the limits, from the settings."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from crabnet.errors import DataDirDamagedError, Reason, UsageError
from crabnet.protocol.topics import topic_of
from crabnet.settings import Settings
from crabnet.transport.p2p_wire import Given

_KEY_FILE: Final = re.compile(r"\s*/key/swarm/psk/1\.0\.0/\s+/base16/\s+([0-9a-fA-F]{64})\s*", re.ASCII)
_KEY_FILE_BYTES_MAX: Final = 4_096


def given_of(settings: Settings, seed: bytes) -> Given:
    """What to give to the process. ``seed`` is that of the node's key.

    Raises UsageError (INVALID_CONFIG) and DataDirDamagedError (UNSAFE_PERMISSIONS) for the file of the network's key.
    """
    namespace = settings.namespace
    return Given(
        seed=seed,
        namespace=namespace,
        listen=settings.dht_listen_addrs,
        listen_fallback=settings.dht_listen_fallback,
        announce=[each for each in settings.announce_addrs if each.startswith("/")],
        bootstrap=list(settings.bootstrap_peers),
        publish=[topic_of(each, namespace) for each in settings.dht_publish],
        subscribe=[topic_of(each, namespace) for each in settings.dht_subscribe],
        network_key=b"" if settings.dht_network_key_file is None else network_key(settings.dht_network_key_file),
        rendezvous=settings.dht_rendezvous,
        mdns=settings.dht_mdns,
        relay=settings.dht_relay,
        require_signatures=settings.require_signatures,
        message_ttl_s=settings.message_ttl_s,
        future_skew_s=settings.future_skew_s,
        messages_per_s=settings.udp_peer_datagrams_per_sec,
    )


def network_key(path: Path) -> bytes:
    """The 32 bytes of the key of a private network. Raises what ``given_of`` raises."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_KEY_FILE_BYTES_MAX)
    except OSError as error:
        raise UsageError(f"dht_network_key_file: cannot read {path}: {error.strerror}", Reason.INVALID_CONFIG) from None
    if mode & 0o077:
        raise DataDirDamagedError(
            f"{path} may be read or written by others (mode {mode:04o}); run chmod 600 on it", Reason.UNSAFE_PERMISSIONS
        )
    match = _KEY_FILE.fullmatch(content.decode("ascii", "replace"))
    if match is None:
        raise UsageError(
            f"dht_network_key_file: {path} is not the key of a network: it must have the lines /key/swarm/psk/1.0.0/,"
            " /base16/ and 64 hexadecimal digits",
            Reason.INVALID_CONFIG,
        )
    return bytes.fromhex(match[1])
