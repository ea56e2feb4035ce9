"""SOCKS5 (RFC 1928, RFC 1929): how tcp and onion addresses are dialled behind a proxy (spec: client 2.6).

Names go to the proxy unresolved, so that nothing leaks to the local resolver. Register :class:`Socks5` with
:class:`~katzentwist.net.tcp.Transports` under ``tcp``, ``tcp4``, ``tcp6`` and ``onion``; ``quic`` is never proxied.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NoReturn

import attrs
from twisted.internet.address import HostnameAddress
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from katzentwist.errors import ConfigError
from katzentwist.net.address import Address
from katzentwist.net.tcp import TCP

_VERSION = b"\x05"
_NO_LOGIN, _LOGIN = 0, 2
_ADDRESS_SIZES = {1: 4, 4: 16}
_REPLIES = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "time to live expired",
    7: "command not supported",
    8: "address type not supported",
}


class ProxyError(ConnectError):
    """The proxy refused, or does not speak SOCKS5."""

    def __init__(self, reason: str) -> None:
        super().__init__(None, f"SOCKS5 proxy: {reason}")  # type: ignore[no-untyped-call]


@attrs.frozen
class Login:
    """User name and password, 1 to 255 bytes each."""

    user: bytes = attrs.field(repr=False)
    password: bytes = attrs.field(repr=False)

    def __attrs_post_init__(self) -> None:
        if not (0 < len(self.user) < 256 and 0 < len(self.password) < 256):
            raise ConfigError("proxy user and password must have 1 to 255 bytes each")


def connect_request(address: Address) -> bytes:
    """The CONNECT request for an address."""
    port = address.port.to_bytes(2, "big")
    if address.ip is not None:
        kind = b"\x01" if address.ip.version == 4 else b"\x04"
        return _VERSION + b"\x01\x00" + kind + address.ip.packed + port
    name = address.host.encode("ascii")
    return _VERSION + b"\x01\x00\x03" + bytes([len(name)]) + name + port


class Negotiation:
    """The dialogue with the proxy, without a socket.

    ``receive`` takes what came and says what to send; when :attr:`done` is set, what is left is the peer's.
    """

    def __init__(self, address: Address, login: Login | None) -> None:
        self.done = False
        self._buffer = b""
        self._steps = self._dialogue(address, login)
        self._need, self._first = next(self._steps)

    def start(self) -> bytes:
        """The greeting."""
        return self._first

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """(bytes for the proxy, bytes of the peer behind it).

        :raises ProxyError: the proxy refused or talks nonsense.
        """
        self._buffer += data
        out = b""
        while not self.done and len(self._buffer) >= self._need:
            part, self._buffer = self._buffer[: self._need], self._buffer[self._need :]
            try:
                self._need, reply = self._steps.send(part)
                out += reply
            except StopIteration:
                self.done = True
        if not self.done:
            return out, b""
        rest, self._buffer = self._buffer, b""
        return out, rest

    @staticmethod
    def _dialogue(address: Address, login: Login | None) -> Generator[tuple[int, bytes], bytes, None]:
        """Yields (bytes needed next, bytes to send); is sent what was needed."""
        method = _NO_LOGIN if login is None else _LOGIN
        chosen = yield 2, _VERSION + bytes([1, method])
        if chosen != _VERSION + bytes([method]):
            _refuse("does not accept our login method" if chosen[:1] == _VERSION else "is not a SOCKS5 server")
        if login is not None:
            user, password = login.user, login.password
            status = yield 2, b"\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password
            if status[1]:
                _refuse("user or password is wrong")
        head = yield 4, connect_request(address)
        if head[:1] != _VERSION or head[1]:
            _refuse(_REPLIES.get(head[1], f"reply {head[1]}"))
        if head[3] == 3:
            size = (yield 1, b"")[0]
        elif head[3] in _ADDRESS_SIZES:
            size = _ADDRESS_SIZES[head[3]]
        else:
            _refuse("unknown address type in its reply")
        yield size + 2, b""


def _refuse(reason: str) -> NoReturn:
    raise ProxyError(reason)


class _Negotiating(Protocol):
    """Speaks with the proxy, then hands the transport to the protocol that wanted it."""

    transport: Any

    def __init__(self, negotiation: Negotiation, connected: Deferred[Any], build: Callable[[], Any]) -> None:
        self._negotiation = negotiation
        self._connected: Deferred[Any] | None = connected
        self._build = build
        self._inner: Any = None

    def connectionMade(self) -> None:
        self.transport.write(self._negotiation.start())

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        try:
            out, rest = self._negotiation.receive(data)
        except ProxyError as error:
            self._end(error)
            self.transport.abortConnection()
            return
        if out:
            self.transport.write(out)
        if self._negotiation.done:
            self._inner = self._build()
            self._inner.makeConnection(self.transport)
            connected, self._connected = self._connected, None
            if connected is not None:
                connected.callback(self._inner)
            if rest:
                self._inner.dataReceived(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        self._end(ProxyError("closed the connection"))

    def _end(self, error: Exception) -> None:
        connected, self._connected = self._connected, None
        if connected is not None and not connected.called:
            connected.errback(error)


@implementer(IStreamClientEndpoint)
class _ProxiedEndpoint:
    def __init__(
        self, reactor: Any, proxy: IStreamClientEndpoint, address: Address, timeout: float, login: Any
    ) -> None:
        self._reactor = reactor
        self._proxy = proxy
        self._address = address
        self._timeout = timeout
        self._login = login

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        async def connect() -> Any:
            connected: Deferred[Any] = Deferred()
            origin = HostnameAddress(self._address.host.encode("ascii"), self._address.port)
            negotiating = _Negotiating(
                Negotiation(self._address, self._login), connected, lambda: protocolFactory.buildProtocol(origin)
            )
            await connectProtocol(self._proxy, negotiating)
            connected.addTimeout(self._timeout, self._reactor, lambda *_: fail(ProxyError("took too long")))
            try:
                return await connected
            except BaseException:
                negotiating.transport.abortConnection()
                raise

        return Deferred.fromCoroutine(connect())


class Socks5:
    """Dials through a SOCKS5 proxy.

    :param proxy: makes the endpoint of the proxy itself, given a time-out.
    :param login: None for a proxy without authentication.
    """

    def __init__(self, proxy: Callable[[float], IStreamClientEndpoint], login: Login | None = None) -> None:
        self._proxy = proxy
        self._login = login

    def listen(self, reactor: Any, address: Address) -> IStreamServerEndpoint:
        """Listening is never proxied."""
        return TCP().listen(reactor, address)

    def dial(self, reactor: Any, address: Address, timeout: float) -> IStreamClientEndpoint:
        """See Adapter."""
        return _ProxiedEndpoint(reactor, self._proxy(timeout), address, timeout, self._login)
