"""Requests to authorities, and the workers."""

from __future__ import annotations

import queue

import attrs
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyClass

from katzentwist import net
from katzentwist.crypto import kem
from katzentwist.errors import AuthenticationError, CommandError, ConfigError, WireError
from katzentwist.net import pkilink
from katzentwist.randomness import SeededRandom
from katzentwist.testing.wirepair import config
from katzentwist.wire import SessionKind, commands, legal
from tests.unit.test_net_link import NetTestCase, Recorder

IDENTITY = bytes(range(32))


class Authority(Recorder):
    """Answers every request with what it is told to."""

    reply = commands.Consensus(0, b"document")

    def authenticate(self, link, credentials):
        link.accepts = legal.AUTHORITY_NODE
        return super().authenticate(link, credentials)

    def commandReceived(self, link, command) -> None:
        super().commandReceived(link, command)
        if self.reply is not None:
            link.send(self.reply)
            link.close()


class RequestTests(NetTestCase):
    """One request, one reply."""

    def setUp(self) -> None:
        super().setUp()
        self.server = Authority()
        self.config = config("responder", kind=SessionKind.PKI, additional_data=IDENTITY)
        self.authority = pkilink.Authority(
            addresses=[net.parse_address(f"tcp://127.0.0.1:{port}") for port in (1, 2, 3)],
            identity_hash=IDENTITY,
            link_key=self.config.public,
            kem=kem.by_name("x25519"),
        )

    def listen(self, port: int = 1, **options) -> None:
        factory = net.LinkFactory(self.context(), self.config, self.server, **options)
        address = net.parse_address(f"tcp://127.0.0.1:{port}")
        self.successResultOf(self.network.listen(address).listen(factory))

    def request(self, command=None, authority=None, **options):
        waiting = pkilink.request(
            self.context(),
            self.network,
            authority or self.authority,
            command or commands.GetConsensus(7),
            **options,
        )
        self.clock.advance(0)
        return waiting

    def test_fetch(self) -> None:
        """Anonymous, with a new key each time; everything is closed after the reply."""
        self.listen()
        for _ in range(2):
            self.assertEqual(self.successResultOf(self.request()), commands.Consensus(0, b"document"))
        first, second = self.server.credentials
        self.assertEqual((first.additional_data, second.additional_data), (b"", b""))
        self.assertEqual(self.server.commands, [commands.GetConsensus(7)] * 2)
        self.clock.advance(0)
        self.assert_quiet()

    def test_post(self) -> None:
        """A node posts under its own name and key."""
        self.listen()
        self.server.reply = commands.PostDescriptorStatus(2)
        node = config("node")
        caller = pkilink.Caller(private=node.private, public=node.public, additional_data=b"n" * 32)
        post = commands.PostDescriptor(epoch=5, payload=b"descriptor")
        self.assertEqual(self.successResultOf(self.request(post, caller=caller)), self.server.reply)
        self.assertEqual(self.server.credentials[0].additional_data, b"n" * 32)
        self.assertEqual(self.server.credentials[0].link_key, node.public)
        self.assertEqual(self.server.commands, [post])

    def test_any_address(self) -> None:
        """Whichever address answers will do; no address that answers is the last error."""
        self.listen(port=3)
        self.assertEqual(self.successResultOf(self.request()).payload, b"document")
        nobody = attrs.evolve(self.authority, addresses=self.authority.addresses[:2])
        self.failureResultOf(self.request(authority=nobody), Refused)
        self.failureResultOf(self.request(authority=attrs.evolve(nobody, addresses=[])), ConfigError)
        onion = attrs.evolve(nobody, addresses=[net.Address("onion", "abc.onion", 9)])
        waiting = pkilink.request(self.context(), net.Transports(self.clock), onion, commands.GetConsensus(1))
        self.failureResultOf(waiting, ConfigError)

    def test_impostor(self) -> None:
        """Another identity or link key is refused before we say who we are; a link key that is not configured is not
        compared."""
        self.listen()
        for change in ({"identity_hash": bytes(32)}, {"link_key": bytes(32)}):
            self.failureResultOf(self.request(authority=attrs.evolve(self.authority, **change)), AuthenticationError)
        self.assertEqual(self.server.credentials, [])
        self.successResultOf(self.request(authority=attrs.evolve(self.authority, link_key=None)))
        self.config = attrs.evolve(self.config, additional_data=IDENTITY + b"x")
        self.failureResultOf(
            self.request(authority=attrs.evolve(self.authority, addresses=self.authority.addresses[1:])), Refused
        )

    def test_wrong_reply(self) -> None:
        """A reply that does not fit the request is an error."""
        self.listen()
        self.server.reply = commands.PostDescriptorStatus(0)
        self.failureResultOf(self.request(authority=self.first()), CommandError)

    def first(self) -> pkilink.Authority:
        """Only the address that is listened on."""
        return attrs.evolve(self.authority, addresses=self.authority.addresses[:1])

    def test_silent(self) -> None:
        """An authority that does not answer is left after the response time-out."""
        self.listen()
        self.server.reply = None
        waiting = self.request(authority=self.first())
        self.clock.advance(29)
        self.assertNoResult(waiting)
        self.clock.advance(1)
        self.failureResultOf(waiting, WireError)
        self.clock.advance(0)
        self.assert_quiet()

    def test_cancel(self) -> None:
        """Cancelling closes the connection."""
        self.listen()
        self.server.reply = None
        waiting = self.request(authority=self.first())
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.clock.advance(0)
        self.assertEqual(len(self.server.reasons), 1)
        self.assert_quiet()

    def test_attempts(self) -> None:
        """Transient errors are tried again with a growing delay; a wrong peer is not."""
        waiting = self.request(attempts=20)
        self.clock.advance(1)
        self.assertNoResult(waiting)
        self.listen()
        self.clock.pump([0.5] * 8)
        self.assertEqual(self.successResultOf(waiting).payload, b"document")
        self.failureResultOf(
            self.request(authority=attrs.evolve(self.first(), identity_hash=bytes(32)), attempts=20),
            AuthenticationError,
        )

    def test_delays(self) -> None:
        """10 ms doubling, at most 3 s, 20 % jitter."""
        random = SeededRandom(1)
        for attempt in range(1, 40):
            middle = min(0.01 * 2**attempt, 3.0)
            self.assertTrue(0.8 * middle <= pkilink.retry_delay(attempt, random) <= 1.2 * middle)


class TurnTests(NetTestCase):
    """One address after the other."""

    def test_order(self) -> None:
        """The first that answers is taken; the last error counts when none does."""
        self.listen()
        addresses = [net.parse_address(f"tcp://127.0.0.1:{port}") for port in (9, 1, 8)]
        arguments = (self.context(), self.network)
        link = net.dial_in_turn(*arguments, addresses, config("initiator"), self.client)
        self.clock.advance(0)
        self.assertTrue(self.successResultOf(link).established)
        nobody = net.dial_in_turn(*arguments, addresses[::2], config("initiator"), self.client)
        self.failureResultOf(nobody, Refused)
        self.failureResultOf(net.dial_in_turn(*arguments, [], config("initiator"), self.client), ConfigError)


class WorkersTests(SynchronousTestCase):
    """Threads, and none."""

    def test_interface(self) -> None:
        """Both kinds are workers."""
        verifyClass(net.IWorkers, net.ThreadWorkers)
        verifyClass(net.IWorkers, net.SynchronousWorkers)

    def test_synchronous(self) -> None:
        """Results and errors are there at once."""
        workers = net.SynchronousWorkers()
        self.assertEqual(self.successResultOf(workers.run(divmod, 7, 2)), (3, 1))
        self.failureResultOf(workers.run(divmod, 7, 0), ZeroDivisionError)

    def test_threads(self) -> None:
        """Results and errors come back through the reactor."""
        calls: queue.Queue = queue.Queue()

        class FakeReactor:
            def callFromThread(self, function, *args) -> None:
                calls.put((function, args))

        workers = net.ThreadWorkers(FakeReactor(), size=2)
        workers.start()
        self.addCleanup(workers.stop)
        good, bad = workers.run(divmod, 7, 2), workers.run(divmod, 7, 0)
        for _ in range(2):
            function, args = calls.get(timeout=10)
            function(*args)
        self.assertEqual(self.successResultOf(good), (3, 1))
        self.failureResultOf(bad, ZeroDivisionError)
