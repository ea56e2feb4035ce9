"""QUIC endpoints: listeners and diallers on UDP sockets (spec: link 2.4, node 11)."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from typing import Any, Final

from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import (
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from twisted.internet import error
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from katzentwist.crypto.certificate import self_signed
from katzentwist.errors import ConfigError
from katzentwist.net.address import Address
from katzentwist.net.quicpipe import CONNECTION_WINDOW, STREAM_WINDOW, Core, Pipe
from katzentwist.randomness import IRandom

ALPN: Final = "h3"
IDLE_TIMEOUT: Final = 30.0
STREAM_WAIT: Final = 30.0
"""Seconds that a listener waits for the stream of a connection."""
MAX_CONNECTIONS: Final = 4096
"""Connections of one listener. More are refused by silence; each costs up to two windows of memory."""
MAX_HALF_OPEN: Final = 512
"""Connections of one listener that have no stream yet; beyond it the oldest goes, as honest ones take milliseconds."""
CLOSE_WAIT: Final = 1.0
"""Seconds that connections get to send what they have when their listener is closed."""
INITIAL_SIZE: Final = 1200
CID_SIZE: Final = 8
VERSIONS: Final = (QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2)

# aioquic tells of every strange datagram; the program's log is no place for what strangers send.
logging.getLogger("quic").setLevel(logging.CRITICAL)


def _configuration(is_client: bool) -> QuicConfiguration:
    configuration = QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[ALPN],
        idle_timeout=IDLE_TIMEOUT,
        max_data=CONNECTION_WINDOW,
        max_stream_data=STREAM_WINDOW,
        connection_id_length=CID_SIZE,
        supported_versions=list(VERSIONS),
    )
    configuration.verify_mode = ssl.CERT_NONE
    return configuration


def _address(address: tuple[str, int]) -> IAddress:
    kind = IPv6Address if ":" in address[0] else IPv4Address
    made: IAddress = kind("UDP", address[0], address[1])
    return made


class _Sender(DatagramProtocol):
    """What both sides have in common. UDP may always lose a datagram, so errors are losses."""

    noisy = False
    transport: Any

    def send(self, data: bytes, address: tuple[str, int]) -> None:
        """Send one datagram."""
        if self.transport is not None:
            with contextlib.suppress(OSError, error.MessageLengthError):
                self.transport.write(data, address)


class _Listener(_Sender):
    """All connections of one UDP socket."""

    def __init__(self, reactor: Any, factory: IProtocolFactory, random: IRandom) -> None:
        self._reactor, self._factory = reactor, factory
        self._configuration = _configuration(is_client=False)
        self._configuration.certificate, self._configuration.private_key = self_signed(random)
        self._pipes: dict[bytes, Pipe] = {}
        self._ids: dict[Pipe, set[bytes]] = {}
        self._half_open: dict[Pipe, IDelayedCall] = {}
        self._closing: Deferred[None] | None = None

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """Find the connection, or make one."""
        address = (addr[0], addr[1])
        try:
            header = pull_quic_header(Buffer(data=datagram), host_cid_length=CID_SIZE)
        except ValueError:
            return
        pipe = self._pipes.get(header.destination_cid)
        if pipe is None:
            if len(datagram) < INITIAL_SIZE or header.packet_type == QuicPacketType.VERSION_NEGOTIATION:
                return
            if header.version is not None and header.version not in VERSIONS:
                self.send(
                    encode_quic_version_negotiation(
                        source_cid=header.destination_cid,
                        destination_cid=header.source_cid,
                        supported_versions=list(VERSIONS),
                    ),
                    address,
                )
                return
            if header.packet_type != QuicPacketType.INITIAL:
                return
            pipe = self._accept(header.destination_cid, address)
        if pipe is not None:
            pipe.receive(datagram, address)

    def _accept(self, destination: bytes, address: tuple[str, int]) -> Pipe | None:
        if self._closing is not None or len(self._ids) >= MAX_CONNECTIONS:
            return None
        if len(self._half_open) >= MAX_HALF_OPEN:
            next(iter(self._half_open)).abortConnection()
        core = Core(configuration=self._configuration, original_destination_connection_id=destination)

        def known(cid: bytes, there: bool) -> None:
            if there and pipe in self._ids:
                self._pipes[cid] = pipe
                self._ids[pipe].add(cid)
            else:
                self._pipes.pop(cid, None)

        host = self.transport.getHost()
        pipe = Pipe(
            self._reactor,
            core,
            _address((host.host, host.port)),
            _address(address),
            send=self.send,
            ready=self._opened,
            gone=self._gone,
            known=known,
        )
        self._ids[pipe] = set()
        known(destination, True)
        known(core.host_cid, True)
        self._half_open[pipe] = self._reactor.callLater(STREAM_WAIT, pipe.abortConnection, "no stream opened")
        return pipe

    def _opened(self, pipe: Pipe) -> None:
        """The first byte of the stream is there."""
        self._whole(pipe)
        protocol = self._factory.buildProtocol(pipe.getPeer())
        if protocol is None:
            pipe.abortConnection()
        else:
            pipe.attach(protocol)

    def _whole(self, pipe: Pipe) -> None:
        timer = self._half_open.pop(pipe, None)
        if timer is not None and timer.active():
            timer.cancel()

    def _gone(self, pipe: Pipe, reason: Exception) -> None:
        self._whole(pipe)
        for cid in self._ids.pop(pipe, ()):
            self._pipes.pop(cid, None)
        if self._closing is not None and not self._ids and not self._closing.called:
            self._closing.callback(None)

    def close(self) -> Deferred[None]:
        """Close all connections, in order if they are quick."""
        closing: Deferred[None] = Deferred()
        self._closing = closing
        for pipe in list(self._half_open):
            pipe.abortConnection()
        for pipe in list(self._ids):
            pipe.loseConnection()
        if not self._ids:
            return succeed(None)
        timer = self._reactor.callLater(CLOSE_WAIT, self._abort)

        def done(_: object) -> None:
            if timer.active():
                timer.cancel()

        return closing.addCallback(done)

    def _abort(self) -> None:
        for pipe in list(self._ids):
            pipe.abortConnection()


@implementer(IListeningPort)
class QuicPort:
    """A listening UDP socket."""

    def __init__(self, port: IListeningPort, listener: _Listener) -> None:
        self._port, self._listener = port, listener

    def startListening(self) -> None:
        """It listens already."""

    def stopListening(self) -> Deferred[None]:
        """Close the socket, and with it the connections that live on it."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._listener.close()
        stopped = self._port.stopListening()
        if isinstance(stopped, Deferred):
            await stopped

    def getHost(self) -> IAddress:
        """The address of the socket."""
        return self._port.getHost()


@implementer(IStreamServerEndpoint)
class QuicServerEndpoint:
    """Listens on one address."""

    def __init__(self, reactor: Any, host: str, port: int, random: IRandom) -> None:
        self._reactor, self._host, self._port, self._random = reactor, host, port, random

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Bind the UDP port."""
        return Deferred.fromCoroutine(self._listen(protocolFactory))

    async def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        factory.doStart()
        listener = _Listener(self._reactor, factory, self._random)
        return QuicPort(self._reactor.listenUDP(self._port, listener, interface=self._host), listener)


class _Dialler(_Sender):
    """One connection on a UDP socket of its own.

    The socket is not connected to the peer: the reactor closes connected ones for any ICMP message, which may come in
    the middle of a connection while the peer's host or a router has a weak moment, or from a stranger.
    """

    def __init__(self, reactor: Any, factory: IProtocolFactory, peer: tuple[str, int], timeout: float) -> None:
        self._reactor, self._factory, self._peer = reactor, factory, peer
        self._timer = reactor.callLater(timeout, self._too_late)
        self._pipe: Pipe | None = None
        self.result: Deferred[Any] = Deferred(lambda _: self._give_up())

    def startProtocol(self) -> None:
        """Send the first datagram."""
        host = self.transport.getHost()
        core = Core(configuration=_configuration(is_client=True))
        self._pipe = Pipe(
            self._reactor,
            core,
            _address((host.host, host.port)),
            _address(self._peer),
            send=self.send,
            ready=self._opened,
            gone=self._gone,
            pings=True,
        )
        core.connect(self._peer, self._reactor.seconds())
        self._pipe.transmit_soon()

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """From the peer; what is from somebody else is no datagram of this connection."""
        if self._pipe is not None:
            self._pipe.receive(datagram, self._peer)

    def _opened(self, pipe: Pipe) -> None:
        if self._timer.active():
            self._timer.cancel()
        protocol = self._factory.buildProtocol(pipe.getPeer())
        if protocol is None:
            self._fail(error.NoProtocol())
            return
        pipe.attach(protocol)
        self.result.callback(protocol)

    def _gone(self, pipe: Pipe, reason: Exception) -> None:
        if not self.result.called:
            self._fail(reason if isinstance(reason, error.ConnectError) else error.ConnectError(string=str(reason)))
        # What the closing connection still has to say is in the socket's buffer by now.
        self._close_socket()

    def _too_late(self) -> None:
        self._fail(error.TimeoutError())

    def _give_up(self) -> None:
        self._fail(error.ConnectingCancelledError(_address(self._peer)))

    def _fail(self, reason: Exception) -> None:
        if self._timer.active():
            self._timer.cancel()
        result, self.result = self.result, succeed(None)
        if self._pipe is not None:
            self._pipe.abortConnection()
        self._close_socket()
        if not result.called:
            result.errback(reason)

    def _close_socket(self) -> None:
        if self._timer.active():
            self._timer.cancel()
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.stopListening()


@implementer(IStreamClientEndpoint)
class QuicClientEndpoint:
    """Dials one address."""

    def __init__(self, reactor: Any, host: str, port: int, timeout: float) -> None:
        self._reactor, self._host, self._port, self._timeout = reactor, host, port, timeout

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Shake hands and open the stream; cancelling gives up at once."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> Any:
        host = await self._resolve()
        dialler = _Dialler(self._reactor, factory, (host, self._port), self._timeout)
        result = dialler.result
        try:
            self._reactor.listenUDP(0, dialler, interface="::" if ":" in host else "")
        except (error.CannotListenError, OSError) as e:
            result.addErrback(lambda _: None)
            result.cancel()
            raise error.ConnectError(string=str(e)) from e
        return await result

    async def _resolve(self) -> str:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                socket.inet_pton(family, self._host)
            except OSError:
                continue
            return self._host
        pool = self._reactor.getThreadPool()
        try:
            found = await deferToThreadPool(
                self._reactor, pool, socket.getaddrinfo, self._host, None, 0, socket.SOCK_DGRAM
            )
        except OSError as e:
            raise error.DNSLookupError(str(e)) from e
        return str(found[0][4][0])


class Quic:
    """The adapter of the scheme ``quic``."""

    def __init__(self, random: IRandom) -> None:
        self._random = random

    def listen(self, reactor: Any, address: Address) -> IStreamServerEndpoint:
        """Listens on exactly the address."""
        if address.ip is None:
            raise ConfigError(f"{address.url}: can only listen on an IP address")
        return QuicServerEndpoint(reactor, str(address.ip), address.port, self._random)

    def dial(self, reactor: Any, address: Address, timeout: float) -> IStreamClientEndpoint:
        """Never through a proxy."""
        host = address.host if address.ip is None else str(address.ip)
        return QuicClientEndpoint(reactor, host, address.port, timeout)
