"""One QUIC connection as a Twisted transport: its first bidirectional stream is the byte pipe (spec: link 2.4).

aioquic's core holds the rules of the protocol; here are its timer, its datagrams, and what Twisted promises. Memory is
bounded in both directions: what is written waits here until the peer has room, and the peer gets room only for what was
taken from us.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    ConnectionTerminated,
    HandshakeCompleted,
    QuicEvent,
    StreamDataReceived,
    StreamReset,
)
from twisted.internet import error
from twisted.internet.interfaces import IAddress, IConsumer, IDelayedCall, ITransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

STREAM: Final = 0
STREAM_WINDOW: Final = 512 * 1024
CONNECTION_WINDOW: Final = 768 * 1024
HIGH_WATER: Final = 64 * 1024
LOW_WATER: Final = 16 * 1024
"""Bytes written and not acknowledged at which a producer is paused, and at which it goes on."""
HANDSHAKE_IDLE: Final = 5.0
PING_INTERVAL: Final = 12.0
NO_ERROR: Final = 0

Address = tuple[str, int]


class Core(QuicConnection):
    """aioquic's connection, with windows that follow what was taken instead of doubling for ever.

    :ivar held: bytes of the stream that came and were not taken yet.
    """

    held = 0

    def _write_connection_limits(self, builder: Any, space: Any) -> None:
        limit = self._local_max_data
        _raise(limit, "value", limit.used - self.held, CONNECTION_WINDOW)
        used, limit.used = limit.used, 0
        try:
            super()._write_connection_limits(builder, space)
        finally:
            limit.used = used

    def _write_stream_limits(self, builder: Any, space: Any, stream: Any) -> None:
        receiver = stream.receiver
        if stream.stream_id == STREAM:
            _raise(stream, "max_stream_data_local", receiver.starting_offset() - self.held, STREAM_WINDOW)
        highest, receiver.highest_offset = receiver.highest_offset, 0
        try:
            super()._write_stream_limits(builder, space, stream)
        finally:
            receiver.highest_offset = highest

    @property
    def unacknowledged(self) -> int:
        """Bytes of the stream that were written and have not arrived."""
        stream = self._streams.get(STREAM)
        return 0 if stream is None else int(stream.sender._buffer_stop - stream.sender._buffer_start)

    @property
    def closed_by_peer(self) -> ConnectionTerminated | None:
        """Why the connection ends, as soon as it is known; the event comes much later."""
        event: ConnectionTerminated | None = self._close_event
        return event


def _raise(limit: Any, name: str, taken: int, window: int) -> None:
    """Give room for a window beyond *taken*, in steps of half a window."""
    if taken + window - getattr(limit, name) > window // 2:
        setattr(limit, name, taken + window)


@implementer(ITransport, IConsumer)
class Pipe:
    """One connection.

    :param send: sends a datagram.
    :param ready: called once there is a stream: at the dialler after the handshake, else with the first byte.
    :param gone: called once when the connection has ended, whether it was ready or not.
    :param known: tells of connection ids that come (True) and go.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        core: Core,
        host: IAddress,
        peer: IAddress,
        *,
        send: Callable[[bytes, Address], None],
        ready: Callable[[Pipe], None],
        gone: Callable[[Pipe, Exception], None],
        known: Callable[[bytes, bool], None] = lambda cid, there: None,
        pings: bool = False,
    ) -> None:
        self.protocol: Any = None
        self.disconnecting = False
        self.connected = True
        self._reactor, self._core, self._host, self._peer = reactor, core, host, peer
        self._send, self._ready, self._gone, self._known = send, ready, gone, known
        self._pings = pings
        self._last_ping = self._last_heard = reactor.seconds()
        self._handshaken = False
        self._timer: IDelayedCall | None = None
        self._soon: IDelayedCall | None = None
        self._producer: Any = None
        self._producer_paused = False
        self._paused = False
        self._incoming = bytearray()
        self._peer_finished = self._finished = False

    # Datagrams and time --------------------------------------------------------------------------------------------

    def receive(self, data: bytes, address: Address) -> None:
        """A datagram for this connection."""
        if not self.connected:
            return
        now = self._reactor.seconds()
        try:
            self._core.receive_datagram(data, address, now)
        except Exception as e:  # a peer must not end the program through a flaw of the library
            self.log.debug("A QUIC datagram could not be processed: {error}", error=repr(e))
            self._lost(error.ConnectionLost("the datagram could not be processed"))
            return
        self._last_heard = now
        self._happened()
        self.transmit_soon()

    def transmit_soon(self) -> None:
        """Send what there is when the reactor has read everything."""
        if self._soon is None and self.connected:
            self._soon = self._reactor.callLater(0, self._transmit)

    def _transmit(self) -> None:
        self._soon = None
        if not self.connected:
            return
        self._send_all()
        self._flow()
        if self.connected:
            self._arm(self._reactor.seconds())

    def _arm(self, now: float) -> None:
        """Wake up when the core wants it, for the next PING, or to give a handshake up."""
        due = self._core.get_timer()
        own = self._last_ping + PING_INTERVAL if self._handshaken else self._last_heard + HANDSHAKE_IDLE
        if not self._handshaken or self._pings:
            due = own if due is None else min(due, own)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None if due is None else self._reactor.callLater(max(0.0, due - now), self._timed)

    def _timed(self) -> None:
        self._timer = None
        now = self._reactor.seconds()
        if not self._handshaken and now - self._last_heard >= HANDSHAKE_IDLE:
            self._close_core()
            self._lost(error.TimeoutError("the QUIC handshake takes too long"))
            return
        if self._handshaken and self._pings and now - self._last_ping >= PING_INTERVAL:
            self._last_ping = now
            self._core.send_ping(0)
        due = self._core.get_timer()
        if due is not None and now >= due:
            self._core.handle_timer(now)
        self._happened()
        self._transmit()

    def _happened(self) -> None:
        while self.connected and (event := self._core.next_event()) is not None:
            self._event(event)
        ended = self._core.closed_by_peer
        if self.connected and ended is not None:
            self._send_all()  # if it was the core that found a fault, the peer is told
            self._ended(ended)

    def _event(self, event: QuicEvent) -> None:
        match event:
            case ConnectionIdIssued():
                self._known(event.connection_id, True)
            case ConnectionIdRetired():
                self._known(event.connection_id, False)
            case HandshakeCompleted():
                self._handshaken = True
                if self._pings:
                    self._ready(self)
            case StreamDataReceived() if event.stream_id == STREAM:
                self._data(event.data, event.end_stream)
            case StreamReset() if event.stream_id == STREAM:
                self.abortConnection()
            case ConnectionTerminated():
                self._ended(event)

    def _ended(self, event: ConnectionTerminated) -> None:
        if event.error_code == NO_ERROR:
            self._lost(error.ConnectionDone())
        else:
            self._lost(error.ConnectionLost(f"QUIC error {event.error_code:#x}: {event.reason_phrase[:100]}"))

    # What comes ----------------------------------------------------------------------------------------------------

    def _data(self, data: bytes, finished: bool) -> None:
        self._incoming += data
        self._core.held = len(self._incoming)
        self._peer_finished = self._peer_finished or finished
        if self.protocol is None and not self._pings:
            self._ready(self)
        self._deliver()

    def _deliver(self) -> None:
        while self._incoming and not self._paused and self.connected and self.protocol is not None:
            data = bytes(self._incoming)
            self._incoming.clear()
            self._core.held = 0
            self.protocol.dataReceived(data)
        if self._peer_finished and not self._incoming and not self._paused:
            self.loseConnection()

    def pauseProducing(self) -> None:
        """Read no more; the peer soon has no room either."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Read on."""
        self._paused = False
        self._reactor.callLater(0, self._resumed)

    def _resumed(self) -> None:
        if self.connected:
            self._deliver()
            self.transmit_soon()

    def stopProducing(self) -> None:
        """As loseConnection."""
        self.loseConnection()

    # What goes -----------------------------------------------------------------------------------------------------

    def attach(self, protocol: Any) -> None:
        """Connect the protocol."""
        self.protocol = protocol
        protocol.makeConnection(self)

    def write(self, data: bytes) -> None:
        """Bytes for the peer."""
        if self.connected and not self.disconnecting and data:
            self._core.send_stream_data(STREAM, bytes(data))
            self.transmit_soon()
            self._flow()

    def writeSequence(self, data: Any) -> None:
        """As write."""
        self.write(b"".join(data))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """A push producer that is told when to pause."""
        if self._producer is not None:
            raise RuntimeError("there is a producer already")
        self._producer = producer

    def unregisterProducer(self) -> None:
        """No more of it."""
        self._producer = None
        self._producer_paused = False

    def _flow(self) -> None:
        """Pause or resume the producer; end when all that was written has arrived."""
        waiting = self._core.unacknowledged
        if self._producer is not None:
            if waiting > HIGH_WATER and not self._producer_paused:
                self._producer_paused = True
                self._producer.pauseProducing()
            elif waiting <= LOW_WATER and self._producer_paused:
                self._producer_paused = False
                self._producer.resumeProducing()
        if self.disconnecting and not waiting and self.connected:
            self._close_core()
            self._lost(error.ConnectionDone())

    # The end -------------------------------------------------------------------------------------------------------

    def loseConnection(self) -> None:
        """Finish the stream; close the connection once everything has arrived."""
        if not self.connected or self.disconnecting:
            return
        self.disconnecting = True
        if self._core.unacknowledged:
            self._core.send_stream_data(STREAM, b"", end_stream=True)
        self.transmit_soon()

    def abortConnection(self, reason: str = "") -> None:
        """Close now; what is under way is lost."""
        if self.connected:
            self._close_core(reason)
            self._lost(error.ConnectionAborted())

    def _close_core(self, reason: str = "") -> None:
        """Tell the peer."""
        self._core.close(error_code=NO_ERROR, reason_phrase=reason)
        self._send_all()

    def _send_all(self) -> None:
        for data, address in self._core.datagrams_to_send(self._reactor.seconds()):
            self._send(data, address)

    def _lost(self, reason: Exception) -> None:
        if not self.connected:
            return
        self.connected = False
        for timer in (self._timer, self._soon):
            if timer is not None and timer.active():
                timer.cancel()
        self._timer = self._soon = None
        self._incoming.clear()
        self._gone(self, reason)
        if self.protocol is not None:
            self.protocol.connectionLost(Failure(reason))

    def getPeer(self) -> IAddress:
        """The other end."""
        return self._peer

    def getHost(self) -> IAddress:
        """This end."""
        return self._host
