"""Addresses, and the endpoints that they become."""

from __future__ import annotations

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.errors import ConfigError
from katzentwist.net import Address, Transports, parse_address, tcp


class ParseTests(SynchronousTestCase):
    """URLs."""

    def test_good(self) -> None:
        """Schemes in any case, both families, onion names."""
        for text, want in {
            "tcp://192.0.2.1:3219": Address("tcp", "192.0.2.1", 3219),
            "TCP://192.0.2.1:1": Address("tcp", "192.0.2.1", 1),
            "tcp://[2001:db8::1]:65535": Address("tcp", "2001:db8::1", 65535),
            "tcp6://[::1]:5": Address("tcp6", "::1", 5),
            "tcp4://127.0.0.1:5": Address("tcp4", "127.0.0.1", 5),
            "quic://192.0.2.1:99": Address("quic", "192.0.2.1", 99),
            "onion://abcdefghij.onion:80": Address("onion", "abcdefghij.onion", 80),
        }.items():
            address = parse_address(text)
            self.assertEqual(address, want)
            self.assertEqual(address.url.lower(), text.lower())

    def test_bad(self) -> None:
        """What is not an address says why, under its key."""
        for text, why in {
            "192.0.2.1:3219": "not a URL",
            "tcp://192.0.2.1": "Port",
            "tcp://192.0.2.1:": "not a URL",
            "tcp://192.0.2.1:0": "port",
            "tcp://192.0.2.1:65536": "port",
            "tcp://192.0.2.1:1234567890123": "port",
            "tcp://:3219": "no host",
            "tcp://2001:db8::1:3219": "not a URL",
            "tcp://[192.0.2.1]:3219": "brackets",
            "tcp://[]:3219": "no host",
            "tcp4://[::1]:5": "scheme wants",
            "tcp6://127.0.0.1:5": "scheme wants",
            "ws://192.0.2.1:3219": "unrecognised scheme",
            "http://192.0.2.1:3219": "unrecognised scheme",
            "tcp://user@192.0.2.1:3219": "not a URL",
            "tcp://192.0.2.1:3219/path": "not a URL",
            "onion://192.0.2.1:1": "onion name",
            "": "Port",
        }.items():
            error = self.assertRaises(ConfigError, parse_address, text, key="Server.Addresses")
            self.assertIn(why, str(error), text)
            self.assertEqual(error.path, "Server.Addresses")

    def test_names(self) -> None:
        """A host name needs AllowHostnameAddresses."""
        self.assertIn("AllowHostname", str(self.assertRaises(ConfigError, parse_address, "tcp://mix.example.org:1")))
        address = parse_address("tcp://mix.example.org:1", allow_hostnames=True)
        self.assertEqual(address.host, "mix.example.org")
        self.assertIsNone(address.ip)
        for bad in ("tcp://-a:1", "tcp://a..b:1", "tcp://a b:1"):
            self.assertRaises(ConfigError, parse_address, bad, allow_hostnames=True)


class EndpointTests(SynchronousTestCase):
    """What is listened on and dialled."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.transports = Transports(self.reactor)
        self.factory = Factory.forProtocol(Protocol)

    def test_listen(self) -> None:
        """Exactly the address, of the right family."""
        for text in ("tcp://127.0.0.1:5", "tcp6://[::1]:6"):
            self.successResultOf(self.transports.listen(parse_address(text)).listen(self.factory))
        self.assertEqual([(s[0], s[3]) for s in self.reactor.tcpServers], [(5, "127.0.0.1"), (6, "::1")])

    def test_dial(self) -> None:
        """Host, port and time-out go through."""
        for text in ("tcp://127.0.0.1:5", "tcp6://[::1]:6"):
            self.transports.dial(parse_address(text), timeout=7).connect(self.factory)
        self.assertEqual([c[:2] + (c[3],) for c in self.reactor.tcpClients], [("127.0.0.1", 5, 7), ("::1", 6, 7)])
        name = self.transports.dial(parse_address("tcp://mix.example.org:1", allow_hostnames=True))
        self.assertIn("mix.example.org", repr(name))

    def test_refused(self) -> None:
        """What can not be done says what would help."""
        quic, onion = parse_address("quic://127.0.0.1:1"), parse_address("onion://abc.onion:1")
        self.patch(tcp.importlib.util, "find_spec", lambda name: None)
        without = tcp.Transports(self.reactor)
        self.assertIn("quic extra", str(self.assertRaises(ConfigError, without.listen, quic)))
        self.assertIn("quic extra", str(self.assertRaises(ConfigError, without.dial, quic)))
        self.assertIn("advertised", str(self.assertRaises(ConfigError, self.transports.listen, onion)))
        self.assertIn("SOCKS", str(self.assertRaises(ConfigError, self.transports.dial, onion)))
        self.assertRaises(ConfigError, self.transports.dial, Address("ws", "127.0.0.1", 1))
        named = parse_address("tcp://mix.example.org:1", allow_hostnames=True)
        self.assertRaises(ConfigError, self.transports.listen, named)

    def test_register(self) -> None:
        """A registered adapter takes over its scheme."""
        self.transports.register("quic", tcp.TCP())
        self.successResultOf(self.transports.listen(parse_address("quic://127.0.0.1:1")).listen(self.factory))
        self.assertEqual(len(self.reactor.tcpServers), 1)

    def test_tune(self) -> None:
        """Sockets get TCP_NODELAY; transports that have none are left alone."""
        calls = []

        class Tunable(StringTransport):
            setTcpNoDelay = calls.append
            setTcpKeepAlive = calls.append

        tcp.tune(Tunable(), 180)
        self.assertEqual(calls, [True, True])
        tcp.tune(object(), 180)
