"""SOCKS5."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from katzentwist import net
from katzentwist.errors import ConfigError
from katzentwist.net import proxy
from katzentwist.testing.network import MemoryNetwork

PROXY = net.Address("tcp", "127.0.0.1", 9050)
ONION = net.parse_address("onion://abc.onion:80")
GRANTED = b"\x05\x00\x00\x01" + bytes(6)


class Recorder(Protocol):
    """Keeps what it gets."""

    data = b""
    lost = False

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason=None) -> None:
        self.lost = True


class NegotiationTests(SynchronousTestCase):
    """The dialogue."""

    def test_plain(self) -> None:
        """Without a login; what follows the reply belongs to the peer."""
        dialogue = proxy.Negotiation(ONION, None)
        self.assertEqual(dialogue.start(), b"\x05\x01\x00")
        self.assertEqual(dialogue.receive(b"\x05"), (b"", b""))
        request = b"\x05\x01\x00\x03\x09abc.onion\x00\x50"
        self.assertEqual(dialogue.receive(b"\x00"), (request, b""))
        self.assertEqual(dialogue.receive(GRANTED + b"hello"), (b"", b"hello"))
        self.assertTrue(dialogue.done)

    def test_login(self) -> None:
        """With user and password."""
        dialogue = proxy.Negotiation(net.Address("tcp", "192.0.2.1", 258), proxy.Login(b"me", b"\0"))
        self.assertEqual(dialogue.start(), b"\x05\x01\x02")
        self.assertEqual(dialogue.receive(b"\x05\x02")[0], b"\x01\x02me\x01\x00")
        self.assertEqual(dialogue.receive(b"\x01\x00")[0], b"\x05\x01\x00\x01\xc0\x00\x02\x01\x01\x02")
        self.assertEqual(dialogue.receive(b"\x05\x00\x00\x03\x04name\x00\x01")[1], b"")
        self.assertTrue(dialogue.done)
        self.assertRaises(ConfigError, proxy.Login, b"", b"x")
        self.assertRaises(ConfigError, proxy.Login, b"x", bytes(256))

    def test_ipv6(self) -> None:
        """IPv6 in request and reply."""
        request = proxy.connect_request(net.Address("tcp", "::1", 1))
        self.assertEqual(request, b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x01")
        dialogue = proxy.Negotiation(ONION, None)
        dialogue.receive(b"\x05\x00\x05\x00\x00\x04" + bytes(18))
        self.assertTrue(dialogue.done)

    def test_refused(self) -> None:
        """Refusals are ProxyErrors that say why."""
        for login, data, why in (
            (None, b"\x05\xff", "login method"),
            (None, b"HTTP/1.1", "not a SOCKS5"),
            (proxy.Login(b"a", b"b"), b"\x05\x02\x01\x01", "password"),
            (None, b"\x05\x00\x05\x05\x00\x01", "connection refused"),
            (None, b"\x05\x00\x05\x63\x00\x01", "reply 99"),
            (None, b"\x05\x00\x05\x00\x00\x02", "address type"),
        ):
            error = self.assertRaises(proxy.ProxyError, proxy.Negotiation(ONION, login).receive, data)
            self.assertIn(why, str(error))

    def test_any_bytes(self) -> None:
        """Any bytes: ProxyError, or it waits, or it is done."""

        @given(st.lists(st.binary(max_size=30)), st.booleans())
        def check(pieces: list[bytes], begin: bool) -> None:
            dialogue = proxy.Negotiation(ONION, None)
            with contextlib.suppress(proxy.ProxyError):
                for piece in ([b"\x05\x00"] if begin else []) + pieces:
                    if not dialogue.done:
                        dialogue.receive(piece)

        check()


class EndpointTests(SynchronousTestCase):
    """Through a proxy in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.successResultOf(self.network.listen(PROXY).listen(Factory.forProtocol(Recorder)))
        self.transports = net.Transports(self.clock)
        self.transports.register("onion", proxy.Socks5(lambda timeout: self.network.dial(PROXY, timeout)))

    def dial(self):
        """(Deferred of the protocol, the proxy's end)."""
        waiting = self.transports.dial(ONION, timeout=60).connect(Factory.forProtocol(Recorder))
        self.clock.advance(0)
        return waiting, self.network.transports[-1][1]

    def test_connects(self) -> None:
        """The inner protocol gets the transport and its data, and hears of the end."""
        waiting, server = self.dial()
        for reply in (b"\x05\x00", GRANTED + b"early"):
            self.assertNoResult(waiting)
            server.write(reply)
            self.clock.advance(0)
        inner = self.successResultOf(waiting)
        server.write(b" late")
        self.clock.advance(0)
        self.assertEqual(inner.data, b"early late")
        inner.transport.write(b"ours")
        self.clock.advance(0)
        self.assertTrue(server.protocol.data.endswith(b"ours"))
        server.loseConnection()
        self.clock.advance(0)
        self.assertTrue(inner.lost)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_fails(self) -> None:
        """Refusal, close, silence and cancelling end the connection to the proxy."""
        waiting, server = self.dial()
        server.write(b"\x05\xff")
        self.clock.advance(0)
        self.failureResultOf(waiting, proxy.ProxyError)
        waiting, server = self.dial()
        server.loseConnection()
        self.clock.advance(0)
        self.failureResultOf(waiting, proxy.ProxyError)
        waiting, server = self.dial()
        self.clock.advance(60)
        self.failureResultOf(waiting, proxy.ProxyError)
        waiting, server = self.dial()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.clock.advance(0)
        self.assertTrue(all(not server.connected for _, server in self.network.transports))
        self.assertEqual(self.clock.getDelayedCalls(), [])
