"""Links over real sockets, which read in bursts and write at once."""

from __future__ import annotations

import socket
from collections.abc import Coroutine
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.task import Clock, deferLater
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from katzentwist import net
from katzentwist.clock import SystemClock
from katzentwist.net.bursts import BurstReader
from katzentwist.net.owner import Context
from katzentwist.randomness import SystemRandom
from katzentwist.testing.wirepair import SMALL, config
from katzentwist.wire import Command
from katzentwist.wire.commands import NoOp

from .test_net_link import Recorder

HOST = "127.0.0.1"


@implementer(IReactorFDSet)
class Watching:
    """A reactor that only keeps a list."""

    def __init__(self) -> None:
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.remove(reader)


class BurstReaderTests(SynchronousTestCase):
    """The epoll set by itself."""

    def setUp(self) -> None:
        self.reactor = Watching()
        self.bursts = BurstReader.of(self.reactor)
        if self.bursts is None:
            self.skipTest("no epoll here")
        self.pairs = [socket.socketpair() for _ in range(3)]
        for pair in self.pairs:
            self.addCleanup(pair[0].close)
            self.addCleanup(pair[1].close)

    def watch(self, number: int, read: Any, failed: Any = None) -> None:
        self.bursts.add(self.pairs[number][0].fileno(), read, failed)

    def test_everyone_reads(self) -> None:
        """One event of the reactor lets all read that can, and nobody else."""
        seen: list[int] = []
        for number in range(3):
            self.watch(number, lambda number=number: seen.append(number))
        self.assertEqual(self.reactor.readers, [self.bursts])
        self.pairs[0][1].send(b"x")
        self.pairs[2][1].send(b"x")
        self.bursts.doRead()
        self.assertEqual(sorted(seen), [0, 2])

    def test_empty(self) -> None:
        """Without sockets the reactor is left alone; it can begin again."""
        self.watch(0, None)
        self.bursts.remove(self.pairs[0][0].fileno())
        self.assertEqual((self.reactor.readers, self.bursts.fileno()), ([], -1))
        self.bursts.remove(self.pairs[0][0].fileno())
        self.bursts.doRead()
        self.watch(0, None)
        self.assertEqual(self.reactor.readers, [self.bursts])

    def test_closed_meanwhile(self) -> None:
        """A reader may take another one away whose turn would come; a closed socket can be removed."""
        seen: list[int] = []

        def read(number: int) -> None:
            seen.append(number)
            self.pairs[1 - number][0].close()
            self.bursts.remove(descriptors[1 - number])

        descriptors = [self.pairs[number][0].fileno() for number in range(2)]
        for number in range(2):
            self.watch(number, lambda number=number: read(number))
            self.pairs[number][1].send(b"x")
        self.bursts.doRead()
        self.assertEqual(len(seen), 1)

    def test_mistake(self) -> None:
        """An error of one is told to it, and the others read."""
        failures: list[Failure] = []
        seen: list[str] = []
        self.watch(0, lambda: 1 / 0, failures.append)
        self.watch(1, lambda: seen.append("read"))
        for number in range(2):
            self.pairs[number][1].send(b"x")
        self.bursts.doRead()
        self.assertEqual(seen, ["read"])
        self.assertEqual([f.type for f in failures], [ZeroDivisionError])

    def test_no_descriptors(self) -> None:
        """A fake clock watches none."""
        self.assertIsNone(BurstReader.of(Clock()))


class BurstLinkTests(TestCase):
    """Two ends of a real connection."""

    def setUp(self) -> None:
        self.server, self.client = Recorder(), Recorder()

    def run_test(self, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        return Deferred.fromCoroutine(work)

    async def until(self, condition: Any) -> None:
        for _ in range(500):
            if condition():
                return
            await deferLater(reactor, 0.01)
        self.fail("it did not come")

    async def connect(self) -> None:
        self.context = Context(
            reactor=reactor, clock=SystemClock(), random=SystemRandom(), workers=net.SynchronousWorkers()
        )
        factory = net.LinkFactory(self.context, config("responder"), self.server)
        port = await TCP4ServerEndpoint(reactor, 0, interface=HOST).listen(factory)
        self.addCleanup(port.stopListening)
        address = net.parse_address(f"tcp://{HOST}:{port.getHost().port}")
        await net.dial(self.context, net.Transports(reactor), address, config("initiator"), self.client)
        await self.until(lambda: self.server.links and self.reading() == 2)
        self.addCleanup(self.end)

    async def end(self) -> None:
        for link in (*self.server.links, *self.client.links):
            link.close()
        await self.until(lambda: self.server.reasons and self.client.reasons)
        self.assertEqual(self.context.bursts._readers, {})

    def reading(self) -> int:
        return len(self.context.bursts._readers)

    def test_traffic(self) -> Deferred[None]:
        """More than any buffer holds arrives whole and in order, in both directions."""

        async def test() -> None:
            await self.connect()
            packets = [number.to_bytes(4, "big").ljust(SMALL.packet_length, b"p") for number in range(4000)]
            self.client.links[0].sendPackets(packets[:1])
            self.client.links[0].sendPackets(packets[1:])
            self.server.links[0].send(NoOp())
            await self.until(lambda: len(self.server.packets) == len(packets))
            self.assertEqual(self.server.packets, packets)
            await self.until(lambda: self.client.commands)
            self.assertFalse([r for r in reactor.getReaders() if isinstance(r, Connection)])

        return self.run_test(test())

    def test_pause(self) -> Deferred[None]:
        """Nothing is read from a paused link; then everything."""

        async def test() -> None:
            await self.connect()
            link = self.server.links[0]
            link.pause()
            link.pause()
            self.assertEqual(self.reading(), 1)
            self.client.links[0].sendPackets([bytes(SMALL.packet_length)])
            await deferLater(reactor, 0.05)
            self.assertEqual(self.server.packets, [])
            link.resume()
            link.resume()
            await self.until(lambda: self.server.packets)

        return self.run_test(test())

    def test_end(self) -> Deferred[None]:
        """The other side hangs up, orderly or not: the link is closed, once."""

        async def test() -> None:
            await self.connect()
            self.client.links[0].transport.loseConnection()
            await self.until(lambda: self.server.reasons)
            self.assertEqual(len(self.server.reasons), 1)
            self.assertEqual(self.server.packets, [])

        return self.run_test(test())

    def test_reset(self) -> Deferred[None]:
        """A reset ends it too, also while it is paused and gets something to send."""

        async def test() -> None:
            await self.connect()
            self.server.links[0].pause()
            self.client.links[0].transport.abortConnection()
            await self.until(lambda: self.client.reasons)
            for _ in range(3):
                self.server.links[0].sendPackets([bytes(SMALL.packet_length)])
            await self.until(lambda: self.server.reasons)

        return self.run_test(test())

    def test_owner_fails(self) -> Deferred[None]:
        """An error of the owner costs this link only."""

        async def test() -> None:
            def fail(link: Any, command: Command) -> None:
                raise RuntimeError("ours")

            await self.connect()
            self.patch(self.server, "commandReceived", fail)
            self.client.links[0].send(NoOp())
            await self.until(lambda: self.server.reasons)
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

        return self.run_test(test())
