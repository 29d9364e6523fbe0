"""Every ``raise`` of the packages that a peer's bytes or mere growth can reach, and why it does not stop a node.

A node must never stop because of what others send, or because it has run for long. So whoever writes a ``raise`` says
here who catches it, or why nothing of that kind reaches it.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import crabnet

PACKAGES: Final = ("core", "domain", "protocol", "node", "storage", "p2p", "transport", "settings/multiaddr.py")
SOURCE: Final = Path(crabnet.__file__).parent
HINT: Final = (
    "tests/core/test_raises.py does not fit the code any more. For each raise that is new: who catches it, if a peer's"
    " bytes or growth reach it? If nobody does, return a refusal with a Reason instead, before anything is changed, or"
    " bound what grows. Then put it under its reason in TABLE."
)


class Raise(NamedTuple):
    """A place that raises: "-" stands for the error that is passing."""

    module: str
    function: str
    error: str


TABLE: Final[dict[str, str]] = {
    "Refusals of what a peer sent. Caught by those who judge it: Admission._parse, Replica._accept, ._unsigned and"
    " .import_fact, records.stated_by, Receiving._proof_received, Neighbours.talk, fork_proof.choose_pair; they answer"
    " with the Reason.": """
        protocol.canonical  _refuse_float        JsonRefusedError
        protocol.canonical  _whole               JsonRefusedError
        protocol.canonical  parse_object         JsonRefusedError*3
        protocol.canonical  _check_depth         JsonRefusedError
        protocol.canonical  _check_duplicates    JsonRefusedError
        protocol.envelope   shape                msgspec.ValidationError
        protocol.fork_proof envelopes_of         ProofRefusedError*4
        protocol.fork_proof place_of             ProofRefusedError
        protocol.fork_proof verify_proof         ProofRefusedError*4
        protocol.fork_proof _paired              ProofRefusedError*3
        protocol.legacy     legacy_fact          PayloadRefusedError*2
        protocol.legacy     check_unsigned       PayloadRefusedError*2
        protocol.legacy     _linked              PayloadRefusedError*3
        protocol.legacy     _settlement          PayloadRefusedError*2
        protocol.payloads   fact_of              PayloadRefusedError*5
        protocol.payloads   _check_rests_on      PayloadRefusedError*2
        protocol.payloads   settlement_fact      PayloadRefusedError
        protocol.sync       talk_of              PayloadRefusedError*6
    """,
    "Receipts: made and verified only when somebody asks, and no peer's bytes come there by themselves. Caught by"
    " node.operations.receipts._receipt and operator.receipts.read_receipt, which tell whoever asked.": """
        protocol.receipt    compose_receipt      ReceiptRefusedError*5
        protocol.receipt    verify_receipt       ReceiptRefusedError*2
        protocol.receipt    _read                ReceiptRefusedError*5
        protocol.receipt    _stated              ReceiptRefusedError*4
        protocol.receipt    _check_places        ReceiptRefusedError*3
        protocol.receipt    _check_feeds         ReceiptRefusedError
        protocol.receipt    _check_chain         ReceiptRefusedError*4
        protocol.receipt    _folded              ReceiptRefusedError
        protocol.receipt    _check_end           ReceiptRefusedError
        node.operations.receipts _receipt        RefusedError
    """,
    "Operations: told to the operator or program that asked, nothing was changed. What the core wishes by itself goes"
    " through Core._try, which makes an event of a refusal; what a run says by itself is told to whoever asked"
    " for the run.": """
        core.build          _checked             UsageError*3
        core.build          build_seed           UsageError
        core.build          build_claim          RefusedError
        core.build          own_claim            RefusedError*2
        core.build          build_run            RefusedError
        core.build          build_renewal        RefusedError
        core.build          build_settlement     UsageError
        core.build          build_acknowledgement RefusedError
        core.core           Core.record          RefusedError
        core.operating      Operating.operate    RefusedError*2
        core.operating      Operating._state     RefusedError
        core.operating      Operating._demand_room RefusedError
        core.operating      Operating._change_terms RefusedError*2
        core.operating      Operating._stated    RefusedError
        core.replica.holdings       Holdings.check_open   RefusedError
        core.replica.replica        Replica.propose      RefusedError UsageError
        core.mending        Containment.__exit__ RefusedError
        node.operations.control_server _Connection._answer  -*3 error
        node.operations.control_server _bounded             RefusedError
        node.operations.places         Place.during         RefusedError
        node.operations.performing     _checked             UsageError
        node.operations.performing     perform              UsageError
        node.operations.performing     _streamer            UsageError
        node.operations.performing     known                UsageError
        node.operations.performing     request_of           UsageError
        node.operations.requests       _demand_same         RefusedError
        node.operations.requests       stated_body          RefusedError
        node.operations.tasks          _result_of_run       RefusedError
        node.operations.events         _read                StorageFailedError
        node.operations.bids           _rows                UsageError*2
        node.operations.bids           _after               UsageError
        node.operations.networks       feed                 RefusedError
        node.operations.purchases      list_purchases       RefusedError
        node.trading.purchasing        own_task             RefusedError
        node.trading.purchasing        bought               RefusedError
        node.operations.steering       _asked               RefusedError
        node.operations.trail          frames_after         UsageError DataDirDamagedError*2
        node.node           Node.bid             RefusedError
        node.node           Node.bought          UsageError
        node.operations.access         token_new            UsageError
        node.operations.access         web_redeem           RefusedError
        node.operations.control_server _parse               UsageError*2
        node.operations.control_server _checked             UsageError*3
        node.node           Node.perform         RefusedError -
        node.execution.prechecks demand_publishable UsageError*2
        node.execution.prechecks _demand_command UsageError*2
        node.execution.prechecks _demand_acceptable UsageError*3
        node.operations.judging _result          RefusedError
        node.trading.checks Checks.check         RefusedError
        node.execution.prechecks demand_own_work RefusedError
        node.operations.views          _place_behind        UsageError
        node.execution.runs     RunManager.cancel      RefusedError*2
        node.execution.runs     RunManager.run         RefusedError*3
        node.execution.runs     RunManager._run        self._given_up*2
        node.execution.runs     RunManager._finish     - self._given_up
        node.execution.task     task_of              RefusedError*2
        storage.archive.index ArchiveIndex.page  RefusedError
    """,
    "Types: the object belongs to the kind of fact, by payloads.BODIES and SETTLE_KINDS, and the reply to the wish."
    " Only seeds with a definition are shown: Core.record and views.find_seeds see to that. EnvelopeMeta was taken from"
    " an object. A settlement is stated of a seed that LOCAL_RULES found. An envelope that states no fact has its"
    " decision already.": """
        core.replica.replica        Replica._accept      RefusedError
        domain.decision     _decide_seed         TypeError
        domain.record       as_seed              TypeError
        domain.lifecycle    _bid                 TypeError
        domain.lifecycle    claim_in             TypeError
        domain.lifecycle    _settlement          TypeError
        domain.lifecycle    _run                 TypeError
        protocol.envelope   content_of           TypeError
        protocol.payloads   payload_of           ValueError
        node.node           Node.publish         TypeError
        node.node           Node.bid             TypeError
        node.node           Node.claim           TypeError
        node.seeds          seed_state           ValueError
        node.operations.views          _seed_fields         ValueError
        node.operations.performing     perform              TypeError
        node.operations.performing     stream.pass_on       TypeError
        node.operations.tasks          _result_of_run       TypeError
        node.operations.control_server _Connection._stream_out TypeError
        node.execution.runs     RunManager._run        TypeError
        node.execution.runs     RunManager._finish     TypeError
    """,
    "Bounds of what is stored, which whoever makes it keeps. Frames: node.framing divides effects, and"
    " records.event_rows what is folded anew. Rows: core.snapshot divides what grows. Segments: node.archiving leaves"
    " out what does not fit, and the agenda gives each seed once. The header of a checkpoint holds settings only.": """
        storage.journal.segment     encode_frame         RefusedError*2
        storage.checkpoint.writing  check_row            RefusedError*2
        storage.checkpoint.writing  CheckpointFile.__init__ RefusedError
        storage.archive.segment validate_rows    RefusedError*6
    """,
    "Messages that a node makes or passes on: envelopes and proofs keep the bounds of Admission and seal. A destination"
    " that takes only one datagram is a baseline peer; Outbox makes an event of it.": """
        protocol.fragment_wire check_message     RefusedError*3
        node.network.outbox         Outbox._transmit     NetworkError
    """,
    "Sending and receiving datagrams: Outbox and UdpCarrier handle what cannot be sent; only one task receives, and it"
    " is cancelled before the transport is closed.": """
        transport.resolver  Resolver.endpoints   NetworkError
        transport.udp       UdpTransport.receive trio.BusyResourceError
        transport.udp       UdpTransport.send    NetworkError
        transport.udp       UdpTransport._check_open trio.ClosedResourceError
        transport.udp       UdpTransport._send_by TimeoutError
        transport.udp       _send_now            -
    """,
    "The process of libp2p and the node talk: whoever reads a bad frame gives the other up, and the process is started"
    " again.": """
        transport.dht       DhtTransport.receive trio.BrokenResourceError
        transport.dht       DhtTransport._ask    trio.BrokenResourceError*2
        transport.p2p_wire  Frames.add           ValueError
    """,
    "Bytes of a libp2p peer on its connection: Muxer.handle_incoming ends the connection, and Service._guarded, Streams"
    " and Gossip the stream": """
        p2p.muxing          Channel.read         MuxedStreamEOF MuxedStreamReset
        p2p.muxing          Muxer._take_frame    FramingError trio.ClosedResourceError
        p2p.muxing          Muxer._body          FramingError
        p2p.muxing          Muxer._take          FramingError
        p2p.muxing          Muxer._opened        FramingError
        p2p.muxing          Muxer.open_stream    MuxedStreamError*2
        p2p.muxing          Muxer._write_frame   -
    """,
    "What a stranger says before it has proved who it is, and what a peer says of itself: the library gives the"
    " negotiation or the handshake up for these; Host catches its own.": """
        p2p.negotiating     Communicator.read    MultiselectCommunicatorError*3
        p2p.negotiating     _bounded             MultiselectError
        p2p.handshaking     Bounded.read         MessageTooLarge
        p2p.identity        Host._learn          IdentityError
        p2p.identity        _message             IdentityError*3 -
    """,
    "Bytes of a libp2p peer: Streams._read and Gossip.continuously_read_stream end the stream, and the refusal counts"
    " against the peer.": """
        p2p.prefixed        Prefixed._length     MalformedStreamError*3
        p2p.streams         some_bytes           MalformedStreamError StreamEOF
    """,
    "Connections: Peers._dial counts a failed try and tries again later. The listener of the library catches what comes"
    " of an inbound connection, such as that of a blocked peer.": """
        p2p.network         Network.dial         - NetworkError*2
        p2p.network         Network._dial        - NetworkError*3
        p2p.network         Network._reach       NetworkError*2
        p2p.relaying        RelayClient.dial     - NetworkError
        p2p.network         Network.add_conn     NetworkError
        p2p.network         Network.probe        NetworkError
        p2p.network         Network.replace_relayed NetworkError
        p2p.circuit         Circuit.read         ConnectionClosedError
        p2p.circuit         Circuit.write        ConnectionClosedError
        p2p.private         PrivateConnection._hear -
        p2p.private         PrivateConnection._refuse NotAMemberError
        p2p.private         PrivateSecurity.secure_inbound SecurityUpgradeFailure
        p2p.private         PrivateSecurity.secure_outbound - NetworkError
        p2p.network         Network.dial_peer    SwarmException
        p2p.resolving       Names.addresses      NetworkError*2
        p2p.resolving       Names._hosts         NetworkError*2
        p2p.resolving       Names._named         NetworkError
        p2p.resolving       txt_records          OSError
    """,
    "Messages of the DHT: KadNode._handle ends the stream, and the refusal counts against the peer; KadNode.ask takes"
    " the peer for no server.": """
        p2p.kad             KadNode._exchange    MalformedKadError -
        p2p.kad_messages    kad_of               MalformedKadError*3
    """,
    "Places and circuits at relays: Relay._requested answers with the status, RelayClient._reserve counts the failure,"
    " and Puncher goes on over the relay. Service._guarded takes bytes that are no message for misuse.": """
        p2p.circuit         contained.handled    -
        p2p.relay           Relay._requested     Refused
        p2p.relay           Relay._check         Refused*2
        p2p.relay           Relay._reserve       Refused
        p2p.relay           Relay._connect       Refused*2
        p2p.relay           Relay._call          Refused*3
        p2p.relaying        RelayClient._reserve NetworkError
        p2p.relaying        _exchange            NetworkError
        p2p.punching        _connected           -
    """,
    "What libp2p expects, and what never happens: the pubsub of this process has a router, and no peer has a key of the"
    " kind P-256.": """
        p2p.router          _attached            NoPubsubAttached
        p2p.stand_in        _Unused.__init__     NotImplementedError
    """,
    "Multiaddrs: settings tell the operator, p2p_book gives a damaged file up, and addresses from the network are left"
    " out.": """
        settings.multiaddr  PeerAddressKind.check Wrong*3
        settings.multiaddr  _check_literal       Wrong*2
        settings.multiaddr  _check_name          Wrong
        settings.multiaddr  _direct              Wrong*3
        settings.multiaddr  _peer                Wrong*2
        settings.multiaddr  _port                Wrong
        settings.multiaddr  _relayed             Wrong*2
    """,
    "Checkpoints are made by one job at a time, and each writer is given up by who began it.": """
        storage.ledger      Ledger.begin_checkpoint RefusedError
        storage.ledger      CheckpointWriter._check RefusedError
    """,
    "Opening or examining a data dir, before the node takes part: damage, another version or namespace, another"
    " process.": """
        core.replica.records        record_fact          DataDirDamagedError
        core.replica.snapshot       restore              other_version
        core.replica.snapshot       _demand_namespace    DataDirDamagedError*2
        protocol.keys       seed_of_pem          ValueError*2
        node.durable.baseline       import_baseline      DataDirDamagedError _unsigned
        node.durable.baseline       demand_importable    _unsigned
        node.operations.control_socket _bind                DataDirDamagedError _socket_failed*2
        node.operations.control_socket listening            -
        node.durable.store          open_store           -
        node.durable.store          _signer              key_lost
        node.durable.store          signer_of            DataDirDamagedError
        node.durable.store          _replay              other_version
        node.durable.reading        _read                key_lost UsageError
        node.descriptors            demand_descriptors   UsageError
        node.network.dht_network    demand_libp2p        UsageError
        protocol.topics             topic_of             ValueError
        transport.udp               UdpTransport.open    _bind_error -
        transport.sockets           Sockets._made        -
        node.network.dht_network    DhtNetwork._check_listeners -
        node.network.dht_network    DhtNetwork._check_listener -
        transport.p2p_addresses     check_bootstrap      NetworkError*3
        transport.p2p_addresses     check_listener       NetworkError*2
        p2p.peers                   Peers.listening_addresses -
        p2p.service                 Service.run          NetworkError
        p2p.main                    serve.run            -
        node.alerts                 demand_kinds         UsageError
        storage.lock                demand_owner         UsageError
        node.durable.store          _demand_namespace    UsageError
        storage.archive.archive     Archive.open         -
        storage.archive.archive     _chained             DataDirDamagedError
        storage.archive.segment check_segment    DataDirDamagedError damaged*2
        storage.archive.segment refuse_newer     DataDirDamagedError
        storage.checkpoint.reading  examine_checkpoint   -
        storage.checkpoint.reading  read_rows            DataDirDamagedError*2
        storage.checkpoint.reading  read_baseline        DataDirDamagedError
        storage.journal.segment     SegmentWriter.reopen OSError
        storage.keyfile     load_key_file        DataDirDamagedError*2
        storage.layout      read_seal            ValueError
        storage.ledger      Ledger.open          -
        storage.lock        DirLock.acquire      DataDirBusyError _unsupported -
        storage.lock        _locked              _unsupported -
        storage.lock        acquire_with_wait    -*2
        storage.opening.opening     iter_frames          DataDirDamagedError
        storage.opening.opening     refuse_if_told       _newer*2 DataDirDamagedError*4
        storage.opening.shape       _demand              DataDirDamagedError StorageFailedError
        storage.opening.opening     repair               -
        storage.opening.salvage     _plan                DataDirDamagedError*2
        storage.journal.reading    frames_of            _frame_damaged
    """,
    "What was stored reads back otherwise. node.serving makes an event of it, Replica._contained refuses what it"
    " would judge, Core.learn_fork says so, Neighbours._told goes on; a row of the archive that"
    " a late fact needs stops the node, which is what damage is to do.": """
        protocol.feed       Feeds.last_before    RefusedError
        core.replica.records        decode_frame         other_version
        core.replica.records        envelopes_of_frame   other_version
        core.replica.rows           decode_seed_row      other_version
        storage.archive.archive     Archive._placed_rows damaged
        storage.journal.reading    read_frame_at        _frame_damaged
    """,
    "The disk fails, or did: the ledger is poisoned, those who wait are told, the node stops. Indexes are built again,"
    " once, and their words are bounded by the domain.": """
        node.durable.checkpoints    Checkpointer.make    -
        node.durable.checkpoints    Checkpointer.make_now -
        node.durable.committer      Committer.submit     StorageFailedError
        storage.archive.archive     Archive._check       StorageFailedError*2
        storage.archive.archive     Archive._fatal       -
        storage.archive.archive     Archive._ask         StorageFailedError self._unusable
        storage.archive.archive     Archive._open_index  -
        storage.archive.archive     Archive._build_index self._unusable
        storage.archive.archive     Archive._read        IndexDamagedError
        storage.archive.index _Connection.use    StorageFailedError IndexDamagedError
        storage.archive.index ArchiveIndex.__init__ -
        storage.archive.index ArchiveIndex.open  IndexDamagedError
        storage.archive.index ArchiveIndex.build IndexDamagedError -
        storage.archive.index ArchiveIndex._connect IndexDamagedError
        storage.archive.index ArchiveIndex._insert -
        storage.archive.segment scan_segment     -
        storage.archive.segment write_segment    OSError
        storage.checkpoint.writing  CheckpointFile._descriptor OSError
        storage.checkpoint.writing  CheckpointFile.finish OSError
        storage.feed_index  FeedIndex._demand_whole RefusedError
        storage.feed_index  FeedIndex._guarded   RefusedError _failed
        storage.feed_index  FeedIndex._write     -
        storage.feed_index  FeedIndex._select    _DamagedError
        storage.feed_index  FeedIndex.damaged    _DamagedError
        storage.feed_index  FeedIndex.look_at_some _DamagedError
        storage.feed_index  FeedIndex._connect   _failed
        storage.feed_index  _connected           -
        node.durable.indexing       History.flush -
        storage.files       guarded              storage_failed
        storage.overlay     OverlayFiles.open    _error*2
        storage.overlay     OverlayFiles.rename  _error
        storage.overlay     OverlayFiles.unlink  _error
        storage.overlay     OverlayFiles.mkdir   _error
        storage.files       write_all            OSError
        storage.journal.segment     SegmentWriter.create -
        storage.ledger      Ledger._check        StorageFailedError*2
        storage.ledger      Ledger._fatal        self._failure -*2
    """,
    "An unexpected error while applying or committing: node.supervising starts the node again, and it refuses then what"
    " it has failed on; so many times, and the process ends.": """
        core.mending        Mending.handling     self.broken
        core.mending        Containment.__exit__ failed
        node.durable.committer      Committer.run        broken
        node.durable.committer      Committer._write     - _commit_failed
        node.supervising    supervised           failure NodeFailingError
    """,
    "What is held cannot be read now: Replica._contained has the envelope come again, Receiving.learn_fork the proof,"
    " and Core.settle_ends tries again; nothing was changed. Damage passes, and so does what came after a change: both"
    " end the node. Settling.resume raises while the node starts.": """
        core.receiving      Receiving.learn_fork -
        core.core           Core.settle_ends     -
        core.replica.replica        Replica.receive      -
        core.replica.replica        Replica._contained   -
        core.replica.judge          Judge.judge          -
        core.replica.settling       Settling.settle_some -*2
        core.replica.settling       Settling.resume      -
        core.replica.settling       Settling.fold        -
        node.durable.indexing       History.envelope     RefusedError
    """,
    "Errors that pass: cleared up after, told, or told apart, and raised on.": """
        node.faults         Faults.contained     -
        node.trading.checks Checks._do           -
        node.supervising    _lived               -
        node.durable.call_thread    CallThread.run_sync  error
        node.durable.committer      Committer._commit    -
        node.operations.control_socket accept              -
        node.ending         until_signal         principal
        node.node           Node.__aenter__      -
        node.node           Node.__aexit__       first -
        node.assembly       Disk.open            -
        node.network.udp_network UdpNetwork.open - -
        node.part           _watched             -
        node.operations.dry_run        offers_around        KeyboardInterrupt
        node.operations.oneshot        call_locally         KeyboardInterrupt -
        node.passing        PassingNode.__enter__ - self._failure
        node.passing        PassingNode.__exit__ self._failure
        node.run            run_node             KeyboardInterrupt
    """,
}


def in_table() -> Iterator[Raise]:
    for block in TABLE.values():
        for line in block.strip().splitlines():
            module, function, *errors = line.split()
            for error in errors:
                name, _, times = error.partition("*")
                for _ in range(int(times or 1)):
                    yield Raise(module, function, name)


def in_code() -> Iterator[Raise]:
    for package in PACKAGES:
        place = SOURCE / package
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
            yield from _raises(ast.parse(path.read_text(encoding="utf-8")), module, ())


def _raises(node: ast.AST, module: str, scope: tuple[str, ...]) -> Iterator[Raise]:
    for child in ast.iter_child_nodes(node):
        inner = scope
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = (*scope, child.name)
        elif isinstance(child, ast.Raise):
            error = child.exc.func if isinstance(child.exc, ast.Call) else child.exc
            yield Raise(module, ".".join(scope), "-" if error is None else ast.unparse(error))
        yield from _raises(child, module, inner)


def test_every_raise_has_its_reason() -> None:
    code, table = Counter(in_code()), Counter(in_table())
    assert not code - table, f"in the code, but not in the table: {list((code - table).elements())}. {HINT}"
    assert not table - code, f"in the table, but not in the code: {list((table - code).elements())}. {HINT}"
