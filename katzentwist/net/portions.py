"""Few events in one turn of the reactor.

Twisted asks epoll for all that has happened, and looks at its timers when it has dealt with that. When a thousand nodes
come in the same second, that is a thousand sockets at 50 us each; what is due meanwhile would wait for all of them. So
it would for the hundred connections that a listening socket accepts at once.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.tcp import Port
from zope.interface import implementer

EVENTS: Final = 32
"""Descriptors that a turn deals with: some 2 ms. The kernel tells of the others in the next turn, in their order."""
ACCEPTED: Final = 16
"""Connections that a listening socket accepts in one turn."""


class Portions:
    """An epoll object that tells of at most so many events at a time."""

    def __init__(self, epoll: Any, most: int = EVENTS) -> None:
        self._epoll, self._most = epoll, most

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        """(descriptor, events) of those that have something."""
        events: list[tuple[int, int]] = self._epoll.poll(timeout, min(most, self._most))
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


def in_portions(reactor: Any) -> None:
    """Let this reactor take its events in portions; does nothing to one without epoll."""
    epoll = getattr(reactor, "_poller", None)
    if hasattr(epoll, "poll") and not isinstance(epoll, Portions):
        reactor._poller = Portions(epoll)


class AcceptingPort(Port):
    """A listening socket that accepts in portions, however many Twisted would like."""

    @property
    def numberAccepts(self) -> int:
        """How many connections to accept at once."""
        return self._accepts

    @numberAccepts.setter
    def numberAccepts(self, number: int) -> None:
        self._accepts = min(number, ACCEPTED)


@implementer(IStreamServerEndpoint)
class ServerEndpoint:
    """Listens on a TCP port and accepts in portions.

    :param interface: an IPv4 or IPv6 address.
    """

    def __init__(self, reactor: Any, port: int, backlog: int, interface: str) -> None:
        self._reactor, self._port, self._backlog, self._interface = reactor, port, backlog, interface

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """A Deferred of the port, or of CannotListenError."""
        return execute(self._listen, protocolFactory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        if not isinstance(self._reactor, PosixReactorBase):  # it has ports of its own kind
            other: IListeningPort = self._reactor.listenTCP(self._port, factory, self._backlog, self._interface)
            return other
        port = AcceptingPort(self._port, factory, self._backlog, self._interface, self._reactor)
        port.startListening()
        return port
