"""A network in memory, on a fake clock: whole programs can talk to each other without sockets or real time.

:class:`MemoryNetwork` stands in for :class:`katzentwist.net.Transports`. Bytes written at one end arrive at the other
when the clock is advanced past the latency; ``clock.advance(0)`` suffices when that is 0. Back-pressure, paused
readers, orderly and hard closes behave as on TCP.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import (
    IConsumer,
    IListeningPort,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from katzentwist.net.address import Address
from katzentwist.net.tcp import CONNECT_TIMEOUT

BUFFER = 1 << 16
"""Unread bytes at which a transport asks its producer to pause."""


@implementer(ITransport, IConsumer)
class MemoryTransport:
    """One end of a connection."""

    def __init__(self, reactor: IReactorTime, latency: float, host: IPv4Address, peer: IPv4Address) -> None:
        self.other: MemoryTransport
        self.protocol: Any = None
        self.disconnecting = False
        self.connected = True
        self._reactor = reactor
        self._latency = latency
        self._host = host
        self._peer = peer
        self._out = bytearray()
        self._paused = False
        self._ended = False
        self._producer: Any = None
        self._producer_paused = False

    def write(self, data: bytes) -> None:
        """Bytes for the other end."""
        if self.connected and not self.disconnecting and data:
            self._out += data
            self._schedule()
            if self._producer is not None and len(self._out) > BUFFER and not self._producer_paused:
                self._producer_paused = True
                self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        """As write."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close when everything is delivered."""
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self._schedule()

    def abortConnection(self) -> None:
        """Close now; what is under way is lost."""
        if self.connected:
            self._lose(error.ConnectionAborted())
            self._reactor.callLater(self._latency, self.other._lose, error.ConnectionLost())

    def getPeer(self) -> IPv4Address:
        """The other end."""
        return self._peer

    def getHost(self) -> IPv4Address:
        """This end."""
        return self._host

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """A push producer that is told when to pause."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """No more of it."""
        self._producer = None
        self._producer_paused = False

    def pauseProducing(self) -> None:
        """Read no more."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Read on."""
        self._paused = False
        self.other._schedule()
        if self._ended:
            self._reactor.callLater(self._latency, self._end)

    def stopProducing(self) -> None:
        """As loseConnection."""
        self.loseConnection()

    def _schedule(self) -> None:
        self._reactor.callLater(self._latency, self._deliver)

    def _deliver(self) -> None:
        if not self.connected:
            return
        if self._out and not self.other._paused:
            data = bytes(self._out)
            self._out.clear()
            if self._producer_paused and self._producer is not None:
                self._producer_paused = False
                self._producer.resumeProducing()
            if self.other.connected:
                self.other.protocol.dataReceived(data)
        if self.disconnecting and not self._out and self.connected:
            self._lose(error.ConnectionDone())
            self.other._end()

    def _end(self) -> None:
        """The other end closed; who does not read does not see it."""
        self._ended = True
        if not self._paused:
            self._lose(error.ConnectionDone())

    def _lose(self, reason: Exception) -> None:
        if self.connected:
            self.connected = False
            self._out.clear()
            self.protocol.connectionLost(Failure(reason))


class MemoryNetwork:
    """Listeners by address, and connections to them.

    :param reactor: a Clock.
    :param latency: seconds that bytes take.
    :ivar transports: (client end, server end) of every connection that was made.
    """

    def __init__(self, reactor: IReactorTime, latency: float = 0.0) -> None:
        self.transports: list[tuple[MemoryTransport, MemoryTransport]] = []
        self._reactor = reactor
        self._latency = latency
        self._listeners: dict[tuple[str, int], IProtocolFactory] = {}
        self._next_port = 40000

    def listen(self, address: Address) -> IStreamServerEndpoint:
        """See Transports."""
        return _ServerEndpoint(self, address)

    def dial(self, address: Address, timeout: float = CONNECT_TIMEOUT) -> IStreamClientEndpoint:
        """See Transports."""
        return _ClientEndpoint(self, address)

    def connect(self, address: Address, factory: IProtocolFactory, host: str = "127.0.0.1") -> Deferred[Any]:
        """Connect a client's factory from *host* to the listener at *address*."""
        listener = self._listeners.get((address.host, address.port))
        if listener is None:
            return fail(error.ConnectionRefusedError())
        self._next_port += 1
        near, far = IPv4Address("TCP", host, self._next_port), IPv4Address("TCP", address.host, address.port)
        client = MemoryTransport(self._reactor, self._latency, near, far)
        server = MemoryTransport(self._reactor, self._latency, far, near)
        client.other, server.other = server, client
        client.protocol = factory.buildProtocol(far)
        server.protocol = listener.buildProtocol(near)
        self.transports.append((client, server))
        client.protocol.makeConnection(client)
        if server.protocol is None:
            server.connected = False
            self._reactor.callLater(self._latency, client._lose, error.ConnectionDone())
        else:
            server.protocol.makeConnection(server)
        return succeed(client.protocol)


@implementer(IStreamClientEndpoint)
class _ClientEndpoint:
    def __init__(self, network: MemoryNetwork, address: Address) -> None:
        self._network = network
        self._address = address

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        return self._network.connect(self._address, protocolFactory)


@implementer(IStreamServerEndpoint)
class _ServerEndpoint:
    def __init__(self, network: MemoryNetwork, address: Address) -> None:
        self._network = network
        self._key = (address.host, address.port)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        if self._key in self._network._listeners:
            return fail(error.CannotListenError(*self._key, OSError("address in use")))
        self._network._listeners[self._key] = protocolFactory
        return succeed(_Port(self._network, self._key))


@implementer(IListeningPort)
class _Port:
    def __init__(self, network: MemoryNetwork, key: tuple[str, int]) -> None:
        self._network = network
        self._key = key

    def startListening(self) -> None:
        """It listens already."""

    def stopListening(self) -> Deferred[None]:
        """New connections are refused from now on."""
        self._network._listeners.pop(self._key, None)
        return succeed(None)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", *self._key)
