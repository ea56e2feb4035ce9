"""From addresses to endpoints: TCP here, others by registration (spec: link 2).

``quic`` is refused by name where its extra is not installed. ``onion`` can be dialled once a SOCKS adapter is
registered.
"""

from __future__ import annotations

import importlib.util
import socket
from typing import Any, Protocol

from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
)
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.tcp import Connection

from katzentwist.errors import ConfigError
from katzentwist.net.address import Address
from katzentwist.net.portions import ServerEndpoint
from katzentwist.randomness import SystemRandom

CONNECT_TIMEOUT = 60.0
BACKLOG = 1024
NODE_KEEPALIVE = 180
CLIENT_KEEPALIVE = 15


class Adapter(Protocol):
    """Makes the endpoints of one or more schemes."""

    def listen(self, reactor: Any, address: Address) -> IStreamServerEndpoint:
        """The endpoint to listen on; ConfigError when the scheme can only be dialled."""

    def dial(self, reactor: Any, address: Address, timeout: float) -> IStreamClientEndpoint:
        """The endpoint to connect to, giving up after *timeout* seconds."""


class TCP:
    """tcp, tcp4 and tcp6."""

    def listen(self, reactor: Any, address: Address) -> IStreamServerEndpoint:
        """Listens on exactly the address, so IPv6 sockets do not take IPv4 connections."""
        literal = address.ip
        if literal is None:
            raise ConfigError(f"{address.url}: can only listen on an IP address")
        return ServerEndpoint(reactor, address.port, BACKLOG, str(literal))

    def dial(self, reactor: Any, address: Address, timeout: float) -> IStreamClientEndpoint:
        """By the family of the literal; names are resolved, and both families tried."""
        literal = address.ip
        if literal is None:
            return HostnameEndpoint(reactor, address.host.encode("ascii"), address.port, timeout=timeout)
        endpoint = TCP6ClientEndpoint if literal.version == 6 else TCP4ClientEndpoint
        return endpoint(reactor, str(literal), address.port, timeout=timeout)


class Missing:
    """Stands in for an adapter that is not there, and says what to do."""

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy

    def listen(self, reactor: Any, address: Address) -> IStreamServerEndpoint:
        """:raises ConfigError: always."""
        raise ConfigError(f"{address.url}: {self._remedy}")

    def dial(self, reactor: Any, address: Address, timeout: float) -> IStreamClientEndpoint:
        """:raises ConfigError: always."""
        raise ConfigError(f"{address.url}: {self._remedy}")


def _quic() -> Adapter:
    """The QUIC adapter, or what to say where its extra is not installed."""
    if importlib.util.find_spec("aioquic") is None:
        return Missing("QUIC needs the quic extra (pip install katzentwist[quic])")
    from katzentwist.net.quic import Quic  # noqa: PLC0415 - needs an extra

    return Quic(SystemRandom())


class Endpoints(Protocol):
    """What links need: :class:`Transports`, or the network in memory of katzentwist.testing."""

    def listen(self, address: Address) -> IStreamServerEndpoint:
        """The server endpoint of an address."""

    def dial(self, address: Address, timeout: float = CONNECT_TIMEOUT) -> IStreamClientEndpoint:
        """The client endpoint of an address."""


class Transports:
    """The adapters of a program, by scheme."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        tcp = TCP()
        self._adapters: dict[str, Adapter] = {
            "tcp": tcp,
            "tcp4": tcp,
            "tcp6": tcp,
            "quic": _quic(),
            "onion": Missing("onion addresses need a SOCKS proxy (UpstreamProxy)"),
        }

    def register(self, scheme: str, adapter: Adapter) -> None:
        """Use *adapter* for *scheme* from now on."""
        self._adapters[scheme] = adapter

    def listen(self, address: Address) -> IStreamServerEndpoint:
        """The server endpoint of an address.

        :raises ConfigError: the scheme can not be listened on.
        """
        if address.scheme == "onion":
            raise ConfigError(f"{address.url}: onion addresses are only advertised; listen on tcp and let Tor forward")
        return self._adapter(address).listen(self._reactor, address)

    def dial(self, address: Address, timeout: float = CONNECT_TIMEOUT) -> IStreamClientEndpoint:
        """The client endpoint of an address.

        :raises ConfigError: the scheme can not be dialled.
        """
        return self._adapter(address).dial(self._reactor, address, timeout)

    def _adapter(self, address: Address) -> Adapter:
        try:
            return self._adapters[address.scheme]
        except KeyError:
            raise ConfigError(f"{address.url}: unsupported scheme") from None


def tune(transport: Any, keepalive: int) -> None:
    """TCP_NODELAY, and keep-alive probes after *keepalive* seconds of silence; does nothing to other transports."""
    if hasattr(transport, "setTcpNoDelay"):
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
        handle = transport.getHandle() if hasattr(transport, "getHandle") else None
        if isinstance(handle, socket.socket) and hasattr(socket, "TCP_KEEPIDLE"):
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, keepalive)
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, keepalive)


def write(transport: Any, data: bytes) -> None:
    """Write *data*, at once if nothing waits before it; other transports than Twisted's of TCP do as they always do.

    By itself Twisted waits until the socket says in the reactor's next turn that it is writable, and adds and removes
    it in epoll for that: twice the cost of the write, for each packet at a node with many peers.
    """
    if isinstance(transport, Connection) and not (transport.dataBuffer or transport._tempDataBuffer):
        try:
            sent = transport.socket.send(data)
        except OSError:  # full, or an error that comes again, and is dealt with, in the reactor's turn
            sent = 0
        if sent == len(data):
            return
        data = data[sent:]
    transport.write(data)
