"""Few events in one turn of the reactor."""

from __future__ import annotations

import os
import select
import socket

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.selectreactor import SelectReactor
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.net.portions import ACCEPTED, EVENTS, Portions, ServerEndpoint, in_portions


class PortionsTests(SynchronousTestCase):
    """With real descriptors."""

    def setUp(self) -> None:
        """An epoll object."""
        self.epoll = select.epoll()
        self.addCleanup(self.epoll.close)

    def pipe(self) -> int:
        """The reading end of a pipe with something in it."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        os.write(writer, b"x")
        return reader

    def test_fair(self) -> None:
        """A few at a time, and nobody is told twice before all were told once."""
        portions = Portions(self.epoll, 3)
        ready = {self.pipe() for _ in range(6)}
        for descriptor in ready:
            portions.register(descriptor, select.EPOLLIN)
        first, second = (dict(portions.poll(0, len(ready))) for _ in range(2))
        self.assertEqual((len(first), len(second)), (3, 3))
        self.assertEqual(first.keys() | second.keys(), ready)
        self.assertEqual(len(portions.poll(0, 1)), 1)

    def test_timers(self) -> None:
        """A reactor looks at its timers between two portions."""
        reactor = EPollReactor()
        in_portions(reactor)
        in_portions(reactor)
        self.assertNotIsInstance(reactor._poller._epoll, Portions)
        read: list[int] = []

        class Reader:
            def __init__(self, descriptor: int) -> None:
                self._descriptor = descriptor

            def fileno(self) -> int:
                return self._descriptor

            def doRead(self) -> None:
                read.append(self._descriptor)

            def logPrefix(self) -> str:
                return ""

        for _ in range(2 * EVENTS):
            reactor.addReader(Reader(self.pipe()))
        reactor.callLater(0, lambda: read.append(-1))
        reactor.doIteration(0)
        reactor.runUntilCurrent()
        reactor.doIteration(0)
        self.assertEqual((len(read), read.index(-1)), (2 * EVENTS + 1, EVENTS))
        reactor.removeAll()
        reactor._poller.close()

    def test_accepting(self) -> None:
        """Connections are accepted a few at a time, in each family, and all of them."""
        for interface in ("127.0.0.1", "::1"):
            reactor = EPollReactor()
            made: list[Protocol] = []
            factory = Factory()
            factory.buildProtocol = lambda addr, made=made: made.append(Protocol()) or made[-1]
            port = self.successResultOf(ServerEndpoint(reactor, 0, 100, interface).listen(factory))
            address = port.getHost()
            for _ in range(3 * ACCEPTED):
                self.addCleanup(socket.create_connection((address.host, address.port)).close)
            counts = []
            for _ in range(3):
                port.doRead()
                counts.append(len(made))
            self.assertEqual(counts, [ACCEPTED, 2 * ACCEPTED, 3 * ACCEPTED])
            for protocol in made:
                protocol.transport.abortConnection()
            port.stopListening()
            reactor.runUntilCurrent()
            reactor.doIteration(0)
            reactor._poller.close()

    def test_taken(self) -> None:
        """A port that is in use is told as Twisted tells it."""
        reactor = EPollReactor()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            endpoint = ServerEndpoint(reactor, taken.getsockname()[1], 5, "127.0.0.1")
            self.failureResultOf(endpoint.listen(Factory()), CannotListenError)
        reactor._poller.close()

    def test_other_reactors(self) -> None:
        """They have no epoll, and stay as they are."""
        reactor = SelectReactor()
        in_portions(reactor)
        self.assertFalse(hasattr(reactor, "_poller"))
