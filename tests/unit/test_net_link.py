"""Links in memory: handshakes, owners, limits, times, closing."""

from __future__ import annotations

from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyClass, verifyObject

from katzentwist import net
from katzentwist.clock import IClock
from katzentwist.errors import AuthenticationError, CommandError, HandshakeError, WireError
from katzentwist.net.owner import Context
from katzentwist.net.turns import SLICE
from katzentwist.net.workers import SynchronousWorkers
from katzentwist.randomness import SeededRandom
from katzentwist.testing.network import MemoryNetwork
from katzentwist.testing.wirepair import UNIX_TIME, config
from katzentwist.wire import Session, commands, legal
from katzentwist.wire.outbox import PIECE

ADDRESS = net.parse_address("tcp://127.0.0.1:1")


@implementer(IClock)
class FakeClock:
    """Wall time that stands still; monotonic time of the Clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def monotonic(self) -> float:
        return self._clock.seconds()

    def wallclock(self) -> float:
        return UNIX_TIME


class LateWorkers(SynchronousWorkers):
    """Does nothing before it is told."""

    def __init__(self) -> None:
        self.waiting = []

    def run(self, function, *args, **kwargs):
        waiting: Deferred = Deferred()
        waiting.addCallback(lambda _: function(*args, **kwargs))
        self.waiting.append(waiting)
        return waiting

    def work(self) -> None:
        """Do what there is."""
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each.callback(None)


class Recorder(net.LinkOwner):
    """Keeps everything that it is told."""

    def __init__(self, verdict=True) -> None:
        self.verdict = verdict
        self.links, self.packets, self.commands, self.reasons, self.credentials = [], [], [], [], []
        self.writables = 0

    def authenticate(self, link, credentials):
        self.credentials.append(credentials)
        return self.verdict

    def established(self, link) -> None:
        self.links.append(link)

    def packetsReceived(self, link, packets) -> None:
        self.packets += packets

    def commandReceived(self, link, command) -> None:
        self.commands.append(command)

    def writable(self, link) -> None:
        self.writables += 1

    def closed(self, link, reason) -> None:
        self.reasons.append(reason)


class NetTestCase(SynchronousTestCase):
    """One listener and a way to dial it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.workers = SynchronousWorkers()
        self.server, self.client = Recorder(), Recorder()

    def context(self) -> Context:
        return Context(
            reactor=self.clock, clock=FakeClock(self.clock), random=SeededRandom("net"), workers=self.workers
        )

    def listen(self, **options) -> net.LinkFactory:
        factory = net.LinkFactory(self.context(), config("responder"), self.server, **options)
        self.successResultOf(self.network.listen(ADDRESS).listen(factory))
        return factory

    def dial(self, **options) -> Deferred:
        waiting = net.dial(self.context(), self.network, ADDRESS, config("initiator", **options), self.client)
        self.clock.advance(0)
        return waiting

    def stranger(self, host: str = "127.0.0.1") -> Protocol:
        """A raw connection that says nothing by itself."""
        factory = Factory.forProtocol(Silent)
        return self.successResultOf(self.network.connect(ADDRESS, factory, host))

    def assert_quiet(self) -> None:
        """No timer is left once everything is closed."""
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Silent(Protocol):
    """Records what happens to it."""

    data = b""
    lost = False

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason=None) -> None:
        self.lost = True


class ConversationTests(NetTestCase):
    """Two ends that like each other."""

    def test_interfaces(self) -> None:
        """Links and owners are what they say."""
        verifyClass(net.ILink, net.LinkProtocol)
        verifyObject(net.ILinkOwner, net.LinkOwner())
        self.listen()
        verifyObject(net.ILink, self.successResultOf(self.dial()))

    def test_established(self) -> None:
        """dial() gives the link; both owners have seen the other's credentials."""
        self.listen()
        link = self.successResultOf(self.dial())
        self.assertEqual(self.client.links, [link])
        self.assertTrue(link.established and link.initiator and link.writable)
        self.assertEqual(self.server.credentials[0].additional_data, b"initiator")
        self.assertEqual(self.client.credentials[0].additional_data, b"responder")
        self.assertEqual(self.server.links[0].remote_address, "127.0.0.1")

    def test_traffic(self) -> None:
        """Packets and commands both ways; one write for many packets."""
        self.listen()
        link = self.successResultOf(self.dial())
        packets = [bytes([i]) * 904 for i in range(7)]
        self.assertTrue(link.sendPackets(packets))
        self.assertTrue(link.send(commands.NoOp()))
        self.assertTrue(self.server.links[0].send(commands.MessageDelivered(5)))
        self.clock.advance(0)
        self.assertEqual(self.server.packets, packets)
        self.assertEqual(self.server.commands, [commands.NoOp()])
        self.assertEqual(self.client.commands, [commands.MessageDelivered(5)])

    def test_close(self) -> None:
        """What was queued before close() arrives; both owners hear of the end once; no timer is left."""
        self.listen()
        link = self.successResultOf(self.dial())
        link.send(commands.NoOp())
        link.close()
        link.close()
        self.assertFalse(link.send(commands.NoOp()))
        self.assertFalse(link.sendPackets([bytes(904)]))
        self.clock.advance(0)
        self.assertEqual(self.server.commands, [commands.NoOp()])
        self.assertEqual([type(r) for r in self.server.reasons], [ConnectionDone])
        self.assertEqual([type(r) for r in self.client.reasons], [WireError])
        self.assert_quiet()

    def test_close_in_callback(self) -> None:
        """An owner that closes in the middle of a batch hears no more of it."""
        self.listen()
        link = self.successResultOf(self.dial())
        closing = self.server.links[0]
        self.server.commandReceived = lambda link, command: (self.server.commands.append(command), link.close())
        for _ in range(3):
            link.send(commands.NoOp())
        self.clock.advance(0)
        self.assertEqual(self.server.commands, [commands.NoOp()])
        self.assertFalse(closing.send(commands.NoOp()))
        self.assert_quiet()

    def test_workers(self) -> None:
        """Steps may take their time; what arrives meanwhile waits, what is closed meanwhile stays closed."""
        self.workers = LateWorkers()
        self.listen()
        waiting = self.dial()
        for _ in range(20):
            self.assertNoResult(waiting) if not self.client.links else None
            self.workers.work()
            self.clock.advance(0)
        self.successResultOf(waiting).close()
        self.clock.advance(0)
        waiting = self.dial()
        self.clock.advance(10)
        self.failureResultOf(waiting, WireError)
        self.workers.work()
        self.clock.advance(10)
        self.assert_quiet()


class RefusalTests(NetTestCase):
    """Ends that do not."""

    def test_owner_says_no(self) -> None:
        """Either owner can refuse, at once or later; the other just sees the connection end."""
        self.listen()
        self.client.verdict = False
        self.failureResultOf(self.dial(), AuthenticationError)
        self.assertEqual(self.server.credentials, [])
        self.client.verdict = True
        self.server.verdict = Deferred()
        waiting = self.dial()
        self.assertNoResult(waiting)
        self.server.verdict.callback(False)
        self.clock.advance(0)
        self.failureResultOf(waiting, ConnectionDone)
        self.assertIsInstance(self.server.reasons[-1], AuthenticationError)
        self.assertEqual(self.server.links, [])
        self.assert_quiet()

    def test_verdict_comes_late(self) -> None:
        """A yes after the time-out changes nothing; a yes in time goes on."""
        self.listen()
        self.server.verdict = Deferred()
        waiting = self.dial()
        self.clock.advance(2.5)
        self.server.verdict.callback(True)
        self.clock.advance(0)
        self.successResultOf(waiting).close()
        self.clock.advance(0)
        self.server.verdict = Deferred()
        waiting = self.dial()
        self.clock.advance(3)
        self.failureResultOf(waiting, WireError)
        self.server.verdict.callback(True)
        self.clock.advance(10)
        self.assert_quiet()

    def test_owner_fails(self) -> None:
        """An exception of the owner ends the link and is logged."""
        self.listen()
        self.server.verdict = Deferred()
        waiting = self.dial()
        self.server.verdict.errback(ZeroDivisionError())
        self.clock.advance(0)
        self.failureResultOf(waiting, ConnectionDone)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_illegal(self) -> None:
        """A command that the owner did not allow for ends the link without a word or a log entry."""
        self.listen()
        link = self.successResultOf(self.dial())
        self.server.links[0].accepts = legal.NODE_LISTENER
        link.send(commands.MessageDelivered(1))
        self.clock.advance(0)
        self.assertIsInstance(self.server.reasons[0], CommandError)
        self.assertIsInstance(self.client.reasons[0], ConnectionDone)
        self.assert_quiet()

    def test_garbage(self) -> None:
        """A stranger who talks nonsense is cut off without an answer."""
        self.listen()
        stranger = self.stranger()
        stranger.transport.write(b"GET / HTTP/1.1\r\n\r\n")
        self.clock.advance(0)
        self.assertTrue(stranger.lost)
        self.assertEqual(stranger.data, b"")
        self.assertIsInstance(self.server.reasons[0], HandshakeError)
        self.assert_quiet()

    def test_not_ready(self) -> None:
        """A listener that is not ready closes at once."""
        ready = []
        self.listen(ready=lambda: bool(ready))
        stranger = self.stranger()
        self.clock.advance(0)
        self.assertTrue(stranger.lost)
        self.failureResultOf(self.dial(), ConnectionDone)
        ready.append(True)
        self.successResultOf(self.dial())

    def test_dial_fails(self) -> None:
        """Nobody there: Twisted's error; the owner hears nothing."""
        self.failureResultOf(self.dial(), error.ConnectionRefusedError)
        self.assertEqual(self.client.reasons, [])

    def test_dial_cancelled(self) -> None:
        """Cancelling in the middle of the handshake closes the connection."""
        self.listen()
        self.server.verdict = Deferred()
        waiting = self.dial()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.clock.advance(0)
        self.assertEqual(len(self.client.reasons), 1)
        self.clock.advance(3)
        self.clock.advance(0)
        self.assertEqual(len(self.server.reasons), 1)
        self.assert_quiet()


class TimeTests(NetTestCase):
    """Time-outs."""

    def test_silent_stranger(self) -> None:
        """After 3 s a silent stranger is gone, even if he drips bytes."""
        self.listen()
        silent, dripping = self.stranger(), self.stranger()
        for _ in range(29):
            self.clock.advance(0.1)
            dripping.transport.write(b"\x03")
        self.assertFalse(silent.lost or dripping.lost)
        self.clock.advance(0.2)
        self.clock.advance(0)
        self.assertTrue(silent.lost and dripping.lost)
        self.assert_quiet()

    def test_read(self) -> None:
        """Without a command for 120 s a link ends; with heartbeats it stays, on one timer."""
        self.listen()
        link = self.successResultOf(self.dial(read_timeout=None))
        for _ in range(20):
            self.clock.advance(60)
            link.send(commands.NoOp())
            self.clock.advance(0)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.assertEqual(self.server.reasons, [])
        self.clock.advance(119)
        self.assertEqual(self.server.reasons, [])
        self.clock.advance(2)
        self.clock.advance(0)
        self.assertIsInstance(self.server.reasons[0], WireError)
        self.assert_quiet()

    def turn(self) -> None:
        """One turn of the reactor: what is due when it begins, and nothing that comes up meanwhile."""
        now = self.clock.seconds()
        for call in [call for call in self.clock.getDelayedCalls() if call.getTime() <= now]:
            if call.active():
                what, args, kwargs = call.func, call.args, call.kw
                call.cancel()
                what(*args, **kwargs)

    def test_many(self) -> None:
        """Links whose time-outs are in the same moment are looked at a slice at a time; the dead ones are closed."""
        looks = []

        def slow(session, now, really=Session.handle_deadline):
            looks.append(session)
            self.clock.rightNow += SLICE / 2
            return really(session, now)

        self.patch(Session, "handle_deadline", slow)
        self.listen()
        links = [self.successResultOf(self.dial(read_timeout=None)) for _ in range(20)]
        self.clock.advance(60)
        for link in links[::2]:
            link.send(commands.NoOp())
        self.clock.advance(0)
        self.clock.advance(59)
        looks.clear()  # those at the end of the handshake's time
        self.clock.rightNow += 1
        self.turn()
        counts = [len(looks)]
        while len(looks) < len(links) and len(counts) < 2 * len(links):
            self.turn()
            counts.append(len(looks))
        self.assertEqual(counts, list(range(0, 21, 2)))
        self.assertEqual(len(set(looks)), 20)
        self.clock.advance(0)
        self.assertEqual([str(reason) for reason in self.server.reasons], ["no command for 120 s"] * 10)
        self.assertEqual([link.established and not link._closing for link in links], [True, False] * 10)
        self.clock.advance(60)
        self.clock.advance(0)
        self.assertEqual(len(self.server.reasons), 20)
        self.assert_quiet()

    def test_write(self) -> None:
        """A peer that does not read: writable says so; after 60 s the link is cut, hard."""
        self.listen()
        link = self.successResultOf(self.dial())
        self.server.links[0].transport.pauseProducing()
        self.assertTrue(link.writable)
        while link.writable:
            link.sendPackets([bytes(904)] * 10)
        self.clock.advance(59)
        self.assertEqual(self.client.reasons, [])
        self.clock.advance(1)
        self.assertEqual(len(self.client.reasons), 1)
        self.assertIn("does not read", str(self.client.reasons[0]))

    def test_writable_again(self) -> None:
        """When the peer reads on, the owner hears of it and the time-out is off."""
        self.listen()
        link = self.successResultOf(self.dial())
        reader = self.server.links[0].transport
        reader.pauseProducing()
        while link.writable:
            link.sendPackets([bytes(904)] * 10)
        reader.resumeProducing()
        self.clock.advance(0)
        self.assertTrue(link.writable)
        self.assertEqual(self.client.writables, 1)
        link.close()
        self.clock.advance(0)
        self.assert_quiet()

    def test_close_does_not_hang(self) -> None:
        """A closed link whose peer does not read is cut after the grace."""
        self.listen()
        link = self.successResultOf(self.dial())
        self.server.links[0].transport.pauseProducing()
        link.send(commands.NoOp())
        link.close()
        self.clock.advance(4.9)
        self.assertEqual(self.client.reasons, [])
        self.clock.advance(0.1)
        self.assertEqual(len(self.client.reasons), 1)


class DocumentTests(NetTestCase):
    """A document of many pieces, from the server to the client that asked for it."""

    def setUp(self) -> None:
        """One link."""
        super().setUp()
        self.listen()
        self.link = self.successResultOf(self.dial(max_command=1 << 21))
        self.sender = self.server.links[0]
        self.document = commands.Consensus(error_code=0, payload=bytes(range(256)) * 4000)

    def largest(self) -> int:
        """Bytes that wait in the transport, at most, while the client reads again and again."""
        most = 0
        while not self.client.commands and self.sender.transport.connected:
            most = max(most, len(self.sender.transport._out))
            self.clock.advance(0)
        return most

    def test_whole(self) -> None:
        """It comes whole, a little at a time; the owner may send again when it is out."""
        self.assertTrue(self.sender.send(self.document))
        self.assertFalse(self.sender.writable)
        self.assertLess(self.largest(), 3 * PIECE)
        self.assertEqual(self.client.commands, [self.document])
        self.assertTrue(self.sender.writable)
        self.assertEqual(self.server.writables, 1)

    def test_behind(self) -> None:
        """What is sent behind it comes behind it, in order."""
        behind = [commands.NoOp(), commands.Consensus(error_code=2), commands.NoOp()]
        for command in (self.document, behind[0], behind[1], self.document, behind[2]):
            self.sender.send(command)
        self.clock.pump([0] * 60)
        self.assertEqual(self.client.commands, [self.document, *behind[:2], self.document, behind[2]])

    def test_close(self) -> None:
        """A link that is closed sends it to the end, takes nothing more, and says nothing to its owner but the end."""
        self.sender.send(self.document)
        self.sender.close()
        self.assertFalse(self.sender.send(commands.NoOp()))
        self.link.send(commands.NoOp())
        self.clock.pump([0] * 60)
        self.assertEqual(self.client.commands, [self.document])
        self.assertEqual((self.server.commands, self.server.writables), ([], 0))
        self.assertEqual(len(self.server.reasons), 1)
        self.assert_quiet()

    def test_close_is_not_waited_for(self) -> None:
        """The peer does not read: the grace of a closed link holds for documents too."""
        self.link.transport.pauseProducing()
        self.sender.send(self.document)
        self.clock.pump([0] * 10)
        self.assertFalse(self.sender.writable)
        self.sender.close()
        self.clock.advance(4.9)
        self.assertEqual(self.server.reasons, [])
        self.clock.advance(0.1)
        self.assertEqual(len(self.server.reasons), 1)

    def test_slow_reader(self) -> None:
        """Little is sealed for who does not read; then the write time-out ends it."""
        self.link.transport.pauseProducing()
        self.sender.send(self.document)
        self.clock.pump([0] * 100)
        self.assertLess(len(self.sender.transport._out), 3 * PIECE)
        self.clock.advance(60)
        self.assertIn("does not read", str(self.server.reasons[0]))

    def test_lost(self) -> None:
        """The connection ends in the middle: nothing is left behind."""
        self.sender.send(self.document)
        self.link.transport.abortConnection()
        self.clock.pump([0] * 10)
        self.assertEqual(len(self.server.reasons), 1)
        self.assert_quiet()


class LimitTests(NetTestCase):
    """Strangers by the hundred."""

    def test_silent_crowd(self) -> None:
        """Hundreds of silent strangers are bounded, the oldest go, and an honest peer gets in among them."""
        limits = net.HandshakeLimits(total=100, per_address=60)
        self.listen(limits=limits)
        strangers = [self.stranger(f"10.0.0.{i % 4}") for i in range(400)]
        self.clock.advance(0)
        self.assertEqual(len(limits), 100)
        self.assertEqual(limits.evicted, 300)
        self.assertEqual(sum(s.lost for s in strangers), 300)
        self.assertFalse(strangers[-1].lost)
        self.successResultOf(self.dial())
        self.assertEqual(len(limits), 99)
        self.clock.advance(3)
        self.clock.advance(0)
        self.assertEqual(len(limits), 0)
        self.assertTrue(all(s.lost for s in strangers))

    def test_one_address(self) -> None:
        """One address can not push out the others."""
        limits = net.HandshakeLimits(total=100, per_address=10)
        self.listen(limits=limits)
        other = self.stranger("10.0.0.2")
        crowd = [self.stranger("10.0.0.1") for _ in range(50)]
        self.clock.advance(0)
        self.assertFalse(other.lost)
        self.assertEqual(sum(s.lost for s in crowd), 40)

    def test_memory(self) -> None:
        """A thousand strangers with all but one byte of message 1 hold less than their message each."""
        self.listen(limits=net.HandshakeLimits(total=1000, per_address=1000))
        strangers = [self.stranger() for _ in range(1000)]
        for stranger in strangers:
            stranger.transport.write(b"\x03" + bytes(31))
        self.clock.advance(0)
        held = sum(len(server.protocol._session._buffer) for _, server in self.network.transports)
        self.assertEqual(held, 32 * 1000)


class RegistryTests(NetTestCase):
    """Newest wins."""

    def test_duplicates(self) -> None:
        """A second link with the same AD and key replaces the first; another key with that AD does not."""
        registry = net.LinkRegistry()
        self.server.established = registry.add
        self.server.closed = lambda link, reason: registry.remove(link)
        self.listen()
        first = self.successResultOf(self.dial())
        second = self.successResultOf(self.dial())
        self.clock.advance(0)
        self.assertEqual(len(registry), 1)
        self.assertEqual(len(self.client.reasons), 1)
        self.assertFalse(first.send(commands.NoOp()))
        other = net.dial(
            self.context(), self.network, ADDRESS, config("other", additional_data=b"initiator"), self.client
        )
        self.clock.advance(0)
        third = self.successResultOf(other)
        self.assertEqual(len(registry), 2)
        self.assertEqual(registry.newest(b"initiator").peer.link_key, config("other").public)
        self.assertIsNone(registry.newest(b"nobody"))
        for link in (second, third):
            link.close()
        self.clock.advance(0)
        self.assertEqual((len(registry), list(registry)), (0, []))
