"""What the libp2p process gets to know: the key, the addresses, the topics and the limits, from the settings."""

from __future__ import annotations

from crabnet.protocol.topics import topic_of
from crabnet.settings import Settings
from crabnet.settings.network_key import read_network_key
from crabnet.transport.p2p_wire import Given


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
        network_key=b"" if settings.dht_network_key_file is None else read_network_key(settings.dht_network_key_file),
        rendezvous=settings.dht_rendezvous,
        mdns=settings.dht_mdns,
        relay=settings.dht_relay,
        require_signatures=settings.require_signatures,
        message_ttl_s=settings.message_ttl_s,
        future_skew_s=settings.future_skew_s,
        messages_per_s=settings.udp_peer_datagrams_per_sec,
    )
