"""QUIC as a byte pipe: both ends in memory, on a bad network, with a fake clock."""

from __future__ import annotations

import gc
import os
import random
from typing import Any

from twisted.internet import error, reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from katzentwist import net
from katzentwist.clock import IClock
from katzentwist.crypto.certificate import self_signed
from katzentwist.errors import ConfigError
from katzentwist.net import quic, quicpipe
from katzentwist.net.owner import Context
from katzentwist.net.quic import QuicClientEndpoint, QuicServerEndpoint
from katzentwist.net.workers import SynchronousWorkers
from katzentwist.randomness import SeededRandom
from katzentwist.testing.wirepair import UNIX_TIME, config
from katzentwist.wire import commands

from .quic_network import UDPNetwork
from .realtime import RealTimeCase


class Recorder(Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: Any = None
        self.flow: list[str] = []

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any) -> None:
        self.lost = reason.value

    def pauseProducing(self) -> None:
        self.flow.append("pause")

    def resumeProducing(self) -> None:
        self.flow.append("resume")

    def stopProducing(self) -> None:
        self.flow.append("stop")


class Recorders(Factory):
    """Makes recorders, or nothing."""

    noisy = False
    ready = True

    def __init__(self) -> None:
        self.made: list[Recorder] = []

    def buildProtocol(self, addr: Any) -> Recorder | None:
        if not self.ready:
            return None
        self.made.append(Recorder())
        return self.made[-1]


class QuicCase(SynchronousTestCase):
    """A listener, and a network to dial it through."""

    host = "127.0.0.1"

    def setUp(self) -> None:
        self.network = UDPNetwork(seed=7)
        self.servers, self.clients = Recorders(), Recorders()
        endpoint = QuicServerEndpoint(self.network, self.host, 443, SeededRandom("certificate"))
        self.port = self.successResultOf(endpoint.listen(self.servers))

    def dial(self, port: int = 443, timeout: float = 60.0) -> Deferred:
        return QuicClientEndpoint(self.network, self.host, port, timeout).connect(self.clients)

    def connect(self) -> tuple[Recorder, Recorder]:
        """Both ends, after the first byte."""
        dialled = self.dial()
        self.network.run(1.0)
        client = self.successResultOf(dialled)
        client.transport.write(b"!")
        self.network.run(0.5)
        server = self.servers.made[-1]
        self.assertEqual(server.received, b"!")
        server.received.clear()
        return client, server

    def pipes(self) -> int:
        """Connections of the listener."""
        return len(self.port._listener._ids)


class PipeTests(QuicCase):
    """Bytes there and back."""

    def test_both_directions(self) -> None:
        """Everything arrives, in order."""
        client, server = self.connect()
        there, back = random.Random(1).randbytes(300_000), random.Random(2).randbytes(200_000)
        client.transport.write(there)
        server.transport.writeSequence([back[:1000], back[1000:]])
        self.network.run(5)
        self.assertEqual((bytes(server.received), bytes(client.received)), (there, back))

    def test_bad_network(self) -> None:
        """Loss, late and double datagrams change nothing."""
        self.network.loss, self.network.jitter, self.network.twice = 0.1, 0.02, 0.1
        dialled = self.dial()
        self.network.run(10)
        client = self.successResultOf(dialled)
        there = random.Random(1).randbytes(60_000)
        client.transport.write(there)
        self.network.run(30, 0.005)
        self.assertEqual(bytes(self.servers.made[0].received), there)

    def test_addresses(self) -> None:
        """Each end knows the other."""
        client, server = self.connect()
        self.assertEqual((client.transport.getPeer().host, client.transport.getPeer().port), (self.host, 443))
        self.assertEqual(server.transport.getPeer(), client.transport.getHost())
        self.assertEqual(server.transport.getHost().port, 443)

    def test_certificate(self) -> None:
        """Serial number 1, no names, year 1, Ed25519, and new each time."""
        certificate, _ = self_signed(SeededRandom("a"))
        self.assertEqual((certificate.serial_number, certificate.not_valid_after_utc.year), (1, 1))
        self.assertEqual((len(certificate.subject), len(certificate.issuer), len(certificate.extensions)), (0, 0, 0))
        certificate.public_key().verify(certificate.signature, certificate.tbs_certificate_bytes)
        self.assertNotEqual(certificate, self_signed(SeededRandom("b"))[0])

    def test_idle(self) -> None:
        """A quiet connection lives on by the dialler's PINGs; when they end it dies after 30 s at both ends."""
        client, server = self.connect()
        self.network.run(100, 0.05)
        self.assertEqual((client.lost, server.lost), (None, None))
        self.network.loss = 1.0
        self.network.run(60, 0.05)
        self.assertIsInstance(client.lost, error.ConnectionLost)
        self.assertIsInstance(server.lost, error.ConnectionLost)
        self.assertEqual(self.pipes(), 0)

    def test_dialler_pings_every_12_seconds(self) -> None:
        """Not more often: one datagram there and one back, more or less."""
        self.connect()
        self.network.run(30, 0.05)
        before = self.network.carried
        self.network.run(120, 0.05)
        self.assertGreater(self.network.carried - before, 15)
        self.assertLess(self.network.carried - before, 45)


class EndTests(QuicCase):
    """How connections end."""

    def test_lose_connection_delivers_first(self) -> None:
        """What was written arrives, then both ends are told; a loss does not matter."""
        client, server = self.connect()
        self.network.loss = 0.2
        client.transport.write(b"x" * 50_000)
        client.transport.loseConnection()
        client.transport.write(b"not this")
        self.network.run(15, 0.005)
        self.assertEqual(len(server.received), 50_000)
        self.assertIsInstance(server.lost, error.ConnectionDone)
        self.network.run(40, 0.05)
        self.assertIsNotNone(client.lost)  # the last datagram may be lost too
        self.assertEqual(self.pipes(), 0)

    def test_listener_closes(self) -> None:
        """The other way round."""
        client, server = self.connect()
        server.transport.write(b"bye")
        server.transport.loseConnection()
        self.network.run(2)
        self.assertEqual(client.received, b"bye")
        self.assertIsInstance(client.lost, error.ConnectionDone)

    def test_abort(self) -> None:
        """At once; the peer hears of it."""
        client, server = self.connect()
        client.transport.write(b"x" * 100_000)
        client.transport.abortConnection()
        client.transport.abortConnection()
        self.assertIsInstance(client.lost, error.ConnectionAborted)
        self.network.run(1)
        self.assertIsInstance(server.lost, error.ConnectionDone)

    def test_not_ready(self) -> None:
        """A listener that builds no protocol closes."""
        self.servers.ready = False
        dialled = self.dial()
        self.network.run(1)
        client = self.successResultOf(dialled)
        client.transport.write(b"hello")
        self.network.run(1)
        self.assertIsInstance(client.lost, error.ConnectionDone)
        self.assertEqual(self.pipes(), 0)

    def test_no_stream(self) -> None:
        """A dialler that opens no stream is closed after 30 s, with the words of the specification."""
        reasons = []
        original = quicpipe.Pipe._ended
        self.patch(quicpipe.Pipe, "_ended", lambda pipe, e: (reasons.append(e.reason_phrase), original(pipe, e)))
        self.dial()
        self.network.run(29, 0.05)
        self.assertEqual(self.pipes(), 1)
        self.network.run(3, 0.05)
        self.assertEqual(self.pipes(), 0)
        self.assertIn("no stream opened", reasons)

    def test_port_closes(self) -> None:
        """Its connections too, after they had a moment to send."""
        client, server = self.connect()
        server.transport.write(b"last words")
        stopped = self.port.stopListening()
        self.network.run(2)
        self.successResultOf(stopped)
        self.assertEqual(client.received, b"last words")
        self.assertIsInstance(client.lost, error.ConnectionDone)
        self.assertEqual(self.network.ports, {})
        self.assertEqual(self.network.getDelayedCalls(), [])

    def test_port_closes_with_a_deaf_peer(self) -> None:
        """Within a second."""
        self.connect()
        self.network.loss = 1.0
        self.servers.made[0].transport.write(b"nobody hears")
        stopped = self.port.stopListening()
        self.network.run(1.1)
        self.successResultOf(stopped)

    def test_nothing_is_left(self) -> None:
        """No timers, no sockets."""
        client, _ = self.connect()
        client.transport.loseConnection()
        self.network.run(1)
        self.assertEqual(list(self.network.ports), [(self.host, 443)])
        self.assertEqual(self.network.getDelayedCalls(), [])


class DialTests(QuicCase):
    """What diallers see."""

    def test_nobody_listens(self) -> None:
        """As silence: what ICMP says may come from anybody."""
        dialled = self.dial(port=444)
        self.network.run(5.2)
        self.failureResultOf(dialled, error.TimeoutError)
        self.assertEqual(self.network.getDelayedCalls(), [])

    def test_silence(self) -> None:
        """5 s without a datagram, or the given time if that is less."""
        self.network.loss = 1.0
        for timeout, least, most in ((60.0, 4.9, 5.2), (2.0, 1.9, 2.1)):
            dialled = self.dial(timeout=timeout)
            self.network.run(least)
            self.assertNoResult(dialled)
            self.network.run(most - least)
            self.failureResultOf(dialled, error.TimeoutError)
        self.assertEqual(self.network.getDelayedCalls(), [])

    def test_cancel(self) -> None:
        """At once."""
        dialled = self.dial()
        self.network.run(0.003)
        dialled.cancel()
        self.failureResultOf(dialled)
        self.network.run(1)
        self.assertEqual(list(self.network.ports), [(self.host, 443)])

    def test_other_application(self) -> None:
        """Another ALPN protocol: the handshake fails."""
        self.patch(quic, "ALPN", "h2")
        dialled = self.dial()
        self.network.run(2)
        self.failureResultOf(dialled, error.ConnectError)


class FlowTests(QuicCase):
    """Memory is bounded in both directions."""

    def test_producer(self) -> None:
        """Is paused while the peer does not take its data, and goes on when it does."""
        client, server = self.connect()
        client.transport.registerProducer(client, True)
        server.transport.pauseProducing()
        for _ in range(20):
            client.transport.write(b"x" * 10_000)
        self.assertEqual(client.flow, ["pause"])
        self.network.run(5)
        self.assertEqual(client.flow, ["pause", "resume"])
        client.transport.unregisterProducer()

    def test_reader_that_pauses(self) -> None:
        """Holds at most a window, then the sender's data waits at the sender; nothing is lost in the end."""
        client, server = self.connect()
        client.transport.registerProducer(client, True)
        server.transport.pauseProducing()
        data = random.Random(3).randbytes(3_000_000)
        client.transport.write(data)
        self.network.run(20, 0.005)
        held = len(server.transport._incoming)
        self.assertEqual(server.received, b"")
        self.assertLessEqual(held, quicpipe.CONNECTION_WINDOW)
        self.assertGreater(held, quicpipe.STREAM_WINDOW // 2)
        self.assertEqual(client.flow, ["pause"])
        server.transport.resumeProducing()
        self.network.run(20, 0.005)
        self.assertEqual(bytes(server.received), data)
        self.assertEqual(client.flow, ["pause", "resume"])

    def test_windows_stay(self) -> None:
        """Room is always a window beyond what was taken; the library alone would double it for ever."""
        client, server = self.connect()
        for _ in range(8):
            client.transport.write(bytes(500_000))
            self.network.run(4, 0.005)
        self.assertEqual(len(server.received), 4_000_000)
        core = server.transport._core
        self.assertLessEqual(core._local_max_data.value, 4_000_001 + quicpipe.CONNECTION_WINDOW)
        self.assertLessEqual(core._streams[0].max_stream_data_local, 4_000_001 + quicpipe.STREAM_WINDOW)

    def test_other_streams(self) -> None:
        """Are read by nobody and get no room."""
        client, server = self.connect()
        core = client.transport._core
        for _ in range(3):
            core.send_stream_data(core.get_next_available_stream_id(), bytes(2_000_000))
        client.transport.transmit_soon()
        self.network.run(10, 0.005)
        self.assertEqual(server.received, b"")
        client.transport.write(b"still here")
        self.network.run(1)
        self.assertLess(server.transport._core._local_max_data.used, 3 * quicpipe.STREAM_WINDOW + 100)


class HostileTests(QuicCase):
    """Strangers."""

    def test_noise(self) -> None:
        """Random, cut and mutated datagrams raise nothing and disturb nobody."""
        client, server = self.connect()
        seed = int.from_bytes(os.urandom(4), "big")
        print("seed", seed)
        noise = random.Random(seed)
        seen: list[bytes] = []
        original = self.network.carry

        def tap(data: bytes, source: tuple[str, int], target: tuple[str, int]) -> None:
            seen.append(data)
            original(data, source, target)

        self.patch(self.network, "carry", tap)
        self.dial()
        self.network.run(0.2)
        client.transport.write(bytes(5000))
        self.network.run(0.2)
        listener = self.port._listener
        stranger = ("10.0.0.1", 5)
        peer = (client.transport.getHost().host, client.transport.getHost().port)
        for number in range(3000):
            data = bytearray(noise.choice(seen) if number % 3 else noise.randbytes(noise.randrange(1500)))
            for _ in range(noise.randrange(4)):
                if data:
                    data[noise.randrange(len(data))] = noise.randrange(256)
            listener.datagramReceived(bytes(data[: noise.randrange(1, 2000)]), stranger if number % 2 else peer)
        self.network.run(0.5)
        server.received.clear()
        client.transport.write(b"still here")
        self.network.run(1)
        self.assertEqual(server.received, b"still here")
        self.network.run(40, 0.05)
        self.assertLessEqual(self.pipes(), 2)

    def test_other_versions(self) -> None:
        """Are answered with the versions we know."""
        answers = []
        self.patch(self.network, "carry", lambda data, source, target: answers.append(data))
        listener = self.port._listener
        header = bytes([0xC0]) + b"\x1a\x2a\x3a\x4a" + b"\x08" + bytes(8) + b"\x08" + bytes(range(8))
        listener.datagramReceived(header.ljust(1200, b"\0"), ("10.0.0.1", 5))
        self.assertEqual(len(answers), 1)
        self.assertEqual(answers[0][1:5], bytes(4))
        listener.datagramReceived(header, ("10.0.0.1", 5))
        self.assertEqual(len(answers), 1)

    def test_many_half_open(self) -> None:
        """The oldest ones go; a new dialler gets in; after their time-out nothing is left."""
        self.patch(quic, "MAX_HALF_OPEN", 20)
        diallers = [self.dial() for _ in range(40)]
        self.network.run(0.02)
        self.assertLessEqual(self.pipes(), 20)
        client, server = self.connect()
        self.assertIsNone(server.lost)
        for each in diallers:
            each.addErrback(lambda _: None)
        self.network.run(40, 0.05)
        self.assertLessEqual(self.pipes(), 21)

    def test_too_many(self) -> None:
        """Are not answered."""
        self.connect()
        self.patch(quic, "MAX_CONNECTIONS", 1)
        dialled = self.dial()
        self.network.run(6, 0.01)
        self.failureResultOf(dialled, error.TimeoutError)


class IPv6Tests(PipeTests):
    """The same on IPv6."""

    host = "::1"


class LinkTests(QuicCase):
    """The link protocol on top."""

    def test_packets_both_ways(self) -> None:
        """Handshake, commands, close."""
        from .test_net_link import Recorder as Owner

        network = self.network

        class FakeClock:
            monotonic = staticmethod(network.seconds)
            wallclock = staticmethod(lambda: UNIX_TIME)

        from zope.interface import directlyProvides

        clock = FakeClock()
        directlyProvides(clock, IClock)
        context = Context(reactor=network, clock=clock, random=SeededRandom("link"), workers=SynchronousWorkers())
        here, there = Owner(), Owner()
        factory = net.LinkFactory(context, config("responder"), there)
        endpoint = QuicServerEndpoint(network, "127.0.0.1", 444, SeededRandom("c"))
        self.successResultOf(endpoint.listen(factory))

        class Endpoints:
            def dial(self, address: Any, timeout: float = 1.0) -> Any:
                return quic.Quic(SeededRandom("d")).dial(network, address, timeout)

        address = net.parse_address("quic://127.0.0.1:444")
        dialled = net.dial(context, Endpoints(), address, config("initiator"), here)
        network.run(1)
        link = self.successResultOf(dialled)
        self.assertEqual(len(there.links), 1)
        packets = [bytes([n]) * 904 for n in range(200)]
        link.sendPackets(packets)
        there.links[0].send(commands.NoOp())
        network.run(2)
        self.assertEqual(there.packets, packets)
        link.close()
        network.run(1)
        self.assertEqual(len(there.reasons), 1)
        self.assertEqual(len(here.reasons), 1)

    def test_names_can_not_be_listened_on(self) -> None:
        """Only addresses."""
        address = net.parse_address("quic://example.org:1", allow_hostnames=True)
        self.assertRaises(ConfigError, quic.Quic(SeededRandom("x")).listen, self.network, address)
        gc.collect()


class Relay(DatagramProtocol):
    """Carries the datagrams of one dialler to a listener and back; its port can be closed and opened again."""

    noisy = False

    def __init__(self, target: int) -> None:
        self.target, self.peer = ("127.0.0.1", target), ("", 0)
        self.port = reactor.listenUDP(0, self, interface="127.0.0.1")
        self.number = self.port.getHost().port
        relay = self

        class Behind(DatagramProtocol):
            noisy = False

            def datagramReceived(self, datagram: bytes, addr: Any) -> None:
                if relay.transport is not None:
                    relay.transport.write(datagram, relay.peer)

        self.behind = reactor.listenUDP(0, Behind(), interface="127.0.0.1")

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.peer = addr
        self.behind.write(datagram, self.target)

    def open(self) -> None:
        self.port = reactor.listenUDP(self.number, self, interface="127.0.0.1")

    async def stop(self) -> None:
        await self.behind.stopListening()
        if self.transport is not None:
            await self.port.stopListening()


class RealSocketTests(RealTimeCase):
    """What the reactor makes of UDP sockets."""

    timeout = 20

    async def test_outage(self) -> None:
        """While the peer's port is closed its host says so by ICMP; that ends no connection, and nothing is lost."""
        servers = Recorders()
        listening = await QuicServerEndpoint(reactor, "127.0.0.1", 0, SeededRandom("c")).listen(servers)
        self.addCleanup(listening.stopListening)
        relay = Relay(listening.getHost().port)
        self.addCleanup(relay.stop)
        client = await QuicClientEndpoint(reactor, "127.0.0.1", relay.number, 5.0).connect(Recorders())
        self.addCleanup(client.transport.abortConnection)
        client.transport.write(b"one")
        await self.until(lambda: servers.made and servers.made[0].received == b"one")
        await relay.port.stopListening()
        client.transport.write(b"two")
        await deferLater(reactor, 0.3)
        relay.open()
        await self.until(lambda: servers.made[0].received == b"onetwo")

    async def test_no_answer(self) -> None:
        """A dial that takes too long, or is cancelled, closes its socket once and logs nothing."""
        silent = reactor.listenUDP(0, DatagramProtocol(), interface="127.0.0.1")
        self.addCleanup(silent.stopListening)
        endpoint = QuicClientEndpoint(reactor, "127.0.0.1", silent.getHost().port, 0.2)
        with self.assertRaises(error.TimeoutError):
            await endpoint.connect(Recorders())
        dialled = endpoint.connect(Recorders())
        await deferLater(reactor, 0.05)
        dialled.cancel()
        with self.assertRaises(error.ConnectingCancelledError):
            await dialled
        await deferLater(reactor, 0.05)
