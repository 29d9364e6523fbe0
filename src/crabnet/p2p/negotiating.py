"""multistream-select with bounds: the library reads a message of any length, and any number of them."""

from __future__ import annotations

from collections.abc import Sequence

from libp2p.abc import IMultiselectCommunicator
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.exceptions import ParseError
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import IOException
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError, MultiselectError
from libp2p.protocol_muxer.multiselect import DEFAULT_NEGOTIATE_TIMEOUT, Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.security_multistream import SecurityMultistream
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from crabnet import limits


class Communicator(MultiselectCommunicator):
    """Reads short messages, and not many."""

    def __init__(self, read_writer: ReadWriteCloser) -> None:
        super().__init__(read_writer)
        self._left = limits.P2P_NEGOTIATION_MESSAGES_MAX

    async def read(self) -> str:
        """The next message. Raises MultiselectCommunicatorError."""
        if not self._left:
            raise MultiselectCommunicatorError("no protocol was agreed on after many messages")
        self._left -= 1
        try:
            content = await read_varint_prefixed_bytes_limited(self.read_writer, limits.P2P_NEGOTIATION_BYTES_MAX)
            if not content.endswith(b"\n"):
                raise MultiselectCommunicatorError("a message without an end of line")
            return content[:-1].decode()
        except (ParseError, IOException, ValueError) as error:
            raise MultiselectCommunicatorError(f"cannot read a message: {error}") from error


class Answering(Multiselect):
    """The side that says which of the proposed protocols it speaks."""

    async def negotiate(
        self, communicator: IMultiselectCommunicator, negotiate_timeout: int = DEFAULT_NEGOTIATE_TIMEOUT
    ) -> tuple[TProtocol | None, StreamHandlerFn | None]:
        """See ``Multiselect``. Raises MultiselectError."""
        return await super().negotiate(_bounded(communicator), negotiate_timeout)


class Asking(MultiselectClient):
    """The side that proposes protocols."""

    async def select_one_of(
        self,
        protocols: Sequence[TProtocol],
        communicator: IMultiselectCommunicator,
        negotiate_timeout: int = DEFAULT_NEGOTIATE_TIMEOUT,
    ) -> TProtocol:
        """See ``MultiselectClient``. Raises MultiselectClientError."""
        return await super().select_one_of(protocols, _bounded(communicator), negotiate_timeout)


def bound(multistream: SecurityMultistream | MuxerMultistream) -> None:
    """Have a negotiator of connections read with bounds."""
    selector = multistream._selector
    selector.multiselect = Answering(selector.multiselect.handlers)
    selector.multiselect_client = Asking()


def _bounded(communicator: IMultiselectCommunicator) -> Communicator:
    if not isinstance(communicator, MultiselectCommunicator):
        raise MultiselectError("an unknown kind of connection")
    return Communicator(communicator.read_writer)
