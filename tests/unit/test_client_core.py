"""The client core: gateways, back-off, documents, sessions (spec: client 4, 5; link 9.3, 10.1)."""

from __future__ import annotations

import hashlib
from collections import Counter

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.client import events, replies
from katzentwist.client._core import ClientCore, Phase
from katzentwist.client.compose import Composed, ComposeError, Outgoing
from katzentwist.client.core import Client, Listener, proxied_transports, tor_login
from katzentwist.client.documents import Documents
from katzentwist.client.gateways import Backoff, Credentials, listed_target
from katzentwist.client.replies import Awaited, ReplyTable
from katzentwist.config.client import Proxy
from katzentwist.errors import ConfigError
from katzentwist.net import parse_address
from katzentwist.randomness import SeededRandom
from katzentwist.wire import PeerCredentials
from katzentwist.wire.commands import Consensus2, Message, MessageDelivered, NoOp
from tests.network.clientnet import BEGIN, EPOCHS, GEOMETRY, SIZES, WIRE, FakeNetwork


class Recorder(Listener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def connected(self, gateway: str) -> None:
        self.told.append(True)

    def disconnected(self, reason: str) -> None:
        self.told.append(reason)

    def replied(self, reply: events.Replied) -> None:
        self.told.append(reply.payload.rstrip(b"\0"))

    def plain(self, message: events.Plain) -> None:
        self.told.append(message)


class BackoffTests(SynchronousTestCase):
    """Client 4.2."""

    def test_pauses(self) -> None:
        """0, 15, 30, ... 120, 120; after a session that worked 2, 17, ...; each times 0.5 to 1.5."""
        backoff, random = Backoff(), SeededRandom(1)

        def check(means: list[float]) -> None:
            for mean in means:
                pause = backoff.next(random)
                self.assertTrue(0.5 * mean <= pause <= 1.5 * mean, (mean, pause))

        check([0, 15, 30, 45, 60, 75, 90, 105, 120, 120, 120])
        backoff.received()
        check([2, 17, 32])


class GatewayTests(SynchronousTestCase):
    """Client 4.1 and 4.3."""

    def setUp(self) -> None:
        self.reactor = Clock()
        self.network = FakeNetwork(self.reactor, 2, gateways=3)

    def test_choice(self) -> None:
        """All gateways of the document, or the pinned ones, uniformly; one only if asked."""
        random = SeededRandom(3)
        document = self.network.core().gateways
        self.network.gateways.pop()  # the document lists three, pinned are two
        core = self.network.core()
        from katzentwist.pki.document import Document

        signed = Document.parse(self.network.document(4_000_000), 4_000_000)
        chosen = Counter(core.gateways.choose(signed, random).name for _ in range(3000))  # type: ignore[union-attr]
        self.assertEqual(set(chosen), {"gateway0", "gateway1", "gateway2"})
        self.assertGreater(min(chosen.values()), 850)
        pinned = {core.gateways.choose(None, random).name for _ in range(100)}  # type: ignore[union-attr]
        self.assertEqual(pinned, {"gateway0", "gateway1"})
        only = attrs.evolve(document, only="gateway2")
        self.assertEqual(only.choose(None, random).name, "gateway2")  # type: ignore[union-attr]
        self.network._documents.clear()
        fewer = Document.parse(self.network.document(4_000_000), 4_000_000)
        self.assertEqual(only.choose(fewer, random).name, "gateway2")  # type: ignore[union-attr]
        self.assertEqual(only.choose(signed, random).name, "gateway2")  # type: ignore[union-attr]
        self.assertIsNone(attrs.evolve(only, only="nobody").choose(signed, random))

    def test_addresses(self) -> None:
        """In the order of transports; the map's key names the transport; what can not be dialled is left out."""
        descriptor = attrs.evolve(
            self.network.gateways[0].descriptor(1, "gateway"),
            addresses={
                "onion": ["onion://abc.onion:1"],
                "tcp4": ["tcp://192.0.2.1:2", "nonsense"],
                "quic": ["quic://192.0.2.1:3"],
                "ws": ["ws://192.0.2.1:4"],
            },
        )
        found = listed_target(descriptor, ("quic", "tcp4", "ws", "onion"), "x25519").addresses
        self.assertEqual([a.port for a in found], [3, 2, 1])

    def test_credentials(self) -> None:
        """Fresh: 32 hex digits and a new key each time. Fixed: the name as given, padded for the queue."""
        random = SeededRandom(4)
        one, two = Credentials.fresh(WIRE, random), Credentials.fresh(WIRE, random)
        self.assertEqual(len(one.additional_data), 32)
        self.assertEqual(one.additional_data, one.additional_data.lower())
        int(one.additional_data, 16)
        self.assertNotEqual((one.private, one.additional_data), (two.private, two.additional_data))
        fixed = Credentials.fixed(WIRE, "alice", one.private)
        self.assertEqual((fixed.additional_data, fixed.public), (b"alice", one.public))
        self.assertEqual(fixed.queue_id, b"alice" + bytes(27))
        for name in ("", "x" * 33):
            self.assertRaises(ConfigError, Credentials.fixed, WIRE, name, one.private)
        self.assertNotIn("alice", repr(fixed))

    def test_wrong_peer(self) -> None:
        """Another key or another identity: refused, in the handshake and at every later command."""
        core = self.network.core(only="gateway0")
        [dial] = core.start()
        assert isinstance(dial, events.Dial)
        good = PeerCredentials(additional_data=dial.target.id, link_key=dial.target.link_key)
        self.assertTrue(core.accepts(good))
        self.assertFalse(core.accepts(attrs.evolve(good, link_key=bytes(32))))
        self.assertFalse(core.accepts(attrs.evolve(good, additional_data=bytes(32))))


class CoreTests(SynchronousTestCase):
    """The core alone, fed by hand."""

    def setUp(self) -> None:
        self.reactor = Clock()
        self.network = FakeNetwork(self.reactor, 5)

    def connected(self, **options: object) -> ClientCore:
        """A core with a session."""
        core = self.network.core(**options)
        [dial] = core.start()
        assert isinstance(dial, events.Dial)
        core.established(PeerCredentials(additional_data=dial.target.id, link_key=dial.target.link_key, clock_skew=7))
        self.assertIs(core.phase, Phase.CONNECTED)
        return core

    def test_messages(self) -> None:
        """Every Message is acknowledged, those that nobody waits for are counted."""
        core = self.connected()
        message = Message(sequence=9, surb_id=b"?" * 16, payload=bytes(SIZES.payload_length))
        self.assertEqual(core.received(message), [events.Send(command=MessageDelivered(9))])
        self.assertEqual(core.replies.unknown, 1)
        plain = attrs.evolve(message, surb_id=bytes(16))
        self.assertEqual(core.received(plain), [events.Send(command=MessageDelivered(9))])
        self.assertEqual(core.plain_dropped, 1)

    def test_plain_messages(self) -> None:
        """Where they are wanted the acknowledgement waits, and does not go to another session."""
        core = self.connected(keep_plain=True)
        message = Message(sequence=1, surb_id=bytes(16), payload=b"x" * SIZES.payload_length)
        [plain] = core.received(message)
        assert isinstance(plain, events.Plain)
        self.assertEqual(len(plain.payload), GEOMETRY.user_forward_payload_length)
        self.assertEqual(core.taken(plain.session, 1), [events.Send(command=MessageDelivered(1))])
        self.assertEqual(core.taken(plain.session + 1, 1), [])

    def test_unasked_consensus(self) -> None:
        """A Consensus2 that was not asked for, or out of order, closes the session."""
        core = self.connected()
        wrong = Consensus2(error_code=0, chunk_num=1, chunk_total=2, payload=b"x")
        [close] = core.received(wrong)
        self.assertIsInstance(close, events.Close)
        core = self.connected()
        core.received(Consensus2(error_code=1, chunk_num=0, chunk_total=1))
        [close] = core.received(attrs.evolve(wrong, chunk_num=0, payload=b"no gzip"))
        self.assertIsInstance(close, events.Close)

    def test_no_answer(self) -> None:
        """A request for a document that is not answered within 30 s ends the session."""
        core = self.connected()
        done: list[events.Event] = []
        for _ in range(40):
            self.reactor.advance(1)
            done += core.handle_deadline()
        self.assertIsInstance(done[-1], events.Close)
        self.assertEqual(len([e for e in done if isinstance(e, events.Close)]), 1)
        self.assertIsInstance(core.closed("gone")[0], events.Disconnected)

    def test_quiet(self) -> None:
        """A NoOp after 30 to 60 s without anything sent."""
        core = self.connected()
        core.received(Consensus2(error_code=2, chunk_num=0, chunk_total=1))
        core.received(Consensus2(error_code=2, chunk_num=0, chunk_total=1))
        sent = []
        for second in range(125):
            self.reactor.advance(1)
            sent += [second for e in core.handle_deadline() if e == events.Send(command=NoOp())]
        self.assertTrue(2 <= len(sent) <= 4 and sent[0] >= 29, sent)

    def test_time_sync(self) -> None:
        """With it the gateway's clock counts, without it ours (spec: client 4.5, with the right sign)."""
        core = self.connected()
        self.assertEqual(core.unix_time(), self.network.clock.wallclock())
        core = self.connected(config=self.network.config(time_sync=True))
        self.assertEqual(core.unix_time(), self.network.clock.wallclock() - 7)

    def test_gateway_before_the_epochs(self) -> None:
        """A gateway whose clock stands before epoch 0 ends no client that believes it: the next one is dialled."""
        core = self.network.core(config=self.network.config(time_sync=True))
        [dial] = core.start()
        assert isinstance(dial, events.Dial)
        peer = PeerCredentials(additional_data=dial.target.id, link_key=dial.target.link_key)
        core.established(attrs.evolve(peer, clock_skew=int(self.network.clock.wallclock())))
        self.assertEqual(core.epochs.number(core.unix_time()), 0)
        core.handle_deadline()
        core.closed("gone")
        self.reactor.advance(30)
        self.assertIsInstance(core.handle_deadline()[0], events.Dial)

    def test_packet_of_another_session(self) -> None:
        """What was made for a session that is gone is not sent in the next: its SURB leads to the old queue."""
        core = self.connected()
        message = Outgoing(destination=b"n" * 32, recipient=b"+echo", payload=b"", surb_id=b"s" * 16)
        made = Composed(packet=b"", surb_keys=b"", reply_eta=2.0)
        old = attrs.evolve(core.origin(), session=core.origin().session - 1)
        error = self.assertRaises(ComposeError, core.sent, old, message, made)
        self.assertEqual((error.reply_eta, len(core.replies)), (2.0, 0))
        core.sent(core.origin(), message, made)
        self.assertEqual(len(core.replies), 1)

    def test_nothing_after_stop(self) -> None:
        """A stopped core asks for nothing."""
        core = self.connected()
        self.assertIsInstance(core.stop()[0], events.Close)
        self.assertEqual(core.closed("gone"), [])
        self.assertEqual(core.handle_deadline(), [])
        self.assertRaises(ComposeError, core.origin)


class DocumentTests(SynchronousTestCase):
    """Client 5."""

    def test_schedule(self) -> None:
        """Current first, then the previous one; the next from 5P/16 before its epoch on; gone is not asked again."""
        documents = Documents(EPOCHS, SeededRandom(1))
        start = EPOCHS.start(100)
        self.assertEqual(documents.wanted(start, 0.0), 100)
        documents.not_yet(100, 0.0)
        self.assertEqual(documents.wanted(start, 0.0), 99)
        documents.gone(99)
        self.assertIsNone(documents.wanted(start, 5.9))
        self.assertEqual(documents.wanted(start, 9.1), 100)
        signed = type("Signed", (), {"document": type("Document", (), {"epoch": 100})})()
        documents.add(signed, start)
        self.assertIsNone(documents.wanted(start + 82, 9.0))
        self.assertEqual(documents.wanted(start + 83, 9.0), 101)
        self.assertIs(documents.current(start + 130), signed)
        self.assertIsNone(documents.current(start + 250))

    def test_insisting(self) -> None:
        """Five tries, one second apart."""
        documents = Documents(EPOCHS, SeededRandom(1))
        documents.insist()
        for i in range(5):
            documents.not_yet(7, float(i))
            self.assertLess(documents._next_try[7], i + 1.3)
        documents.not_yet(7, 5.0)
        self.assertGreater(documents._next_try[7], 10)


class ReplyTests(SynchronousTestCase):
    """Client 7.4."""

    def test_expiry(self) -> None:
        """A descriptor is used once, and forgotten in time."""
        table = ReplyTable(GEOMETRY)
        for i in range(5000):
            table.add(Awaited(surb_id=i.to_bytes(16, "big"), keys=b"", owner=i % 2, tag=i, deadline=float(i)))
            table.expire(i - 100.0)
        self.assertEqual(len(table), 100)
        self.assertLess(len(table._deadlines), 1300)
        self.assertIsNone(table.take((4999).to_bytes(16, "big"), b""))
        self.assertIsNone(table.take((4999).to_bytes(16, "big"), b""))
        self.assertEqual((table.damaged, table.unknown), (1, 1))
        owner = 0
        table.forget_owner(owner)
        self.assertEqual(len(table), 49)

    def test_id_used_again(self) -> None:
        """The time of the first use does not end the second."""
        table = ReplyTable(GEOMETRY)
        for deadline in (10.0, 20.0):
            table.forget(bytes(16))
            table.add(Awaited(surb_id=bytes(16), keys=b"", owner=None, tag=deadline, deadline=deadline))
        self.assertEqual(table.expire(15.0), [])
        self.assertEqual([awaited.tag for awaited in table.expire(20.0)], [20.0])


class SessionTests(SynchronousTestCase):
    """The client on a network in memory."""

    def setUp(self) -> None:
        self.reactor = Clock()
        self.network = FakeNetwork(self.reactor, 7)
        self.listener = Recorder()

    def client(self, **options: object) -> Client:
        """Connected, with a document."""
        client = Client(self.network.context(), self.network.wire, self.network.core(**options), self.listener)
        client.start()
        self.network.run(1)
        return client

    def send(self, client: Client, number: int = 1) -> Deferred[object]:
        """An echo."""
        node = self.network.services[0].descriptor(1, "service").id
        message = Outgoing(destination=node, recipient=b"+echo", payload=b"hello", surb_id=bytes([number]) * 16)
        return Deferred.fromCoroutine(client.send(message))

    def test_echo(self) -> None:
        """There and back, in the time that the packet was given."""
        client = self.client()
        sent = self.successResultOf(self.send(client))
        self.network.run(sent.reply_eta + 0.01)  # type: ignore[attr-defined]
        self.assertEqual(self.listener.told, [True, b"hello"])

    def test_id_in_use(self) -> None:
        """Of two messages with one SURB id that are made at once the second is not sent: its reply would be lost."""
        client = self.client()
        sent, refused = self.send(client), self.send(client)
        self.successResultOf(sent)
        self.assertEqual(str(self.failureResultOf(refused, ComposeError).value), "SURB ID already in use")
        self.network.run(60)
        self.assertEqual(self.listener.told.count(b"hello"), 1)

    def test_too_many(self) -> None:
        """Replies are awaited up to a bound."""
        self.patch(replies, "MOST", 2)
        client = self.client()
        for number in (1, 2):
            self.successResultOf(self.send(client, number))
        too_many = self.failureResultOf(self.send(client, 3), ComposeError)
        self.assertEqual(str(too_many.value), "too many replies are awaited")
        self.network.run(60)
        self.successResultOf(self.send(client, 4))

    def test_no_authority_is_dialled(self) -> None:
        """Documents come from the gateway."""
        self.client()
        ports = {server.getHost().port for _, server in self.network.wire.transports}
        self.assertEqual(ports, {100})

    def test_gateway_leaves_the_document(self) -> None:
        """When the current document lists it no more, the session ends."""
        client = self.client()
        self.network.document(4_000_001)
        self.network.gateways[0].link = WIRE.generate(SeededRandom(8))
        self.network._documents.clear()
        self.network.run(120)
        self.assertIn("closed by us", [t for t in self.listener.told if isinstance(t, str)][0])
        self.assertNotEqual(client.core.phase, Phase.STOPPED)

    def without_its_gateway(self, client: Client) -> str:
        """The next epoch begins, and its document does not list the client's gateway; the gateway's name."""
        assert client.core.target is not None
        name = client.core.target.name
        self.network.gateways = [g for g in self.network.gateways if g.name != name]
        # Heartbeats come 5 s before and after the boundary.
        self.network.run(BEGIN + 111.1 - self.network.clock.wallclock())
        self.assertEqual(client.core.document().epoch, 4_000_001)  # type: ignore[union-attr]
        return name

    def test_unlisted_gateway(self) -> None:
        """It is left when the epoch begins, not with its next command: messages would fail until then."""
        self.network = FakeNetwork(self.reactor, 8, gateways=2)
        self.network.run(5)
        client = self.client()
        left = self.without_its_gateway(client)
        self.assertFalse(client.core.connected)
        self.network.run(3)
        assert client.core.target is not None
        self.assertNotEqual(client.core.target.name, left)
        sent = self.successResultOf(self.send(client))
        self.network.run(sent.reply_eta + 0.01)  # type: ignore[attr-defined]
        self.assertEqual(self.listener.told[-1], b"hello")

    def test_unlisted_only_gateway(self) -> None:
        """The only one is not left: what waits there for a user can be had nowhere else."""
        self.network = FakeNetwork(self.reactor, 8, gateways=2)
        self.network.run(5)
        client = self.client(only="gateway1")
        self.assertEqual(self.without_its_gateway(client), "gateway1")
        self.network.run(30)
        self.assertTrue(client.core.connected)
        self.assertEqual(self.listener.told, [True])
        self.failureResultOf(self.send(client), ComposeError)

    def test_old_documents(self) -> None:
        """Their nodes are freed bit by bit when a new document takes their place."""
        client = self.client()
        first = client.core.document()
        assert first is not None
        freed: list[object] = []
        self.patch(client._bin, "add", freed.extend)
        while client.core.documents.held.keys() & {first.epoch}:
            self.assertEqual(freed, [])
            self.network.run(10)
        self.assertEqual(freed, list(first.nodes()))
        self.assertGreater(len(freed), 3)

    def test_old_replies_are_lost(self) -> None:
        """A new session has a new queue."""
        client = self.client()
        queue = client.core.origin().queue_id
        self.send(client)
        self.network.die()
        self.network.run(1)
        self.network.listen()
        self.network.run(30)
        self.assertNotEqual(client.core.origin().queue_id, queue)
        self.assertNotIn(b"hello", self.listener.told)

    def test_user(self) -> None:
        """A fixed name and key: replies to SURBs of an earlier session arrive (spec: client 4.7)."""
        private, _ = WIRE.generate(SeededRandom(9))
        client = self.client(credentials=lambda scheme: Credentials.fixed(scheme, "alice", private), keep_plain=True)
        self.assertEqual(client.core.origin().queue_id, b"alice".ljust(32, b"\0"))
        self.network.deliver(b"alice".ljust(32, b"\0"), bytes(16), b"mail".ljust(SIZES.payload_length, b"\0"))
        self.network.run(0.1)
        plain = self.listener.told[-1]
        assert isinstance(plain, events.Plain)
        self.assertEqual(plain.payload.rstrip(b"\0"), b"mail")
        [peer] = self.network._peers.values()
        self.assertTrue(peer.waiting)
        client.taken(plain)
        self.network.run(0.1)
        self.assertFalse(peer.waiting)

    def test_offline(self) -> None:
        """Nothing is sent without a session."""
        client = self.client()
        self.network.die()
        self.network.run(1)
        self.failureResultOf(self.send(client), ComposeError)

    def test_stop(self) -> None:
        """The session ends, and with it all timers."""
        client = self.client()
        stopped = client.stop()
        self.network.run(0.1)
        self.successResultOf(stopped)
        self.assertEqual(self.network.sessions, [])


class ProxyTests(SynchronousTestCase):
    """Client 2.6."""

    def test_tor(self) -> None:
        """The login that keeps sessions apart."""

        def half(data: bytes, size: int) -> str:
            return hashlib.new("sha512_256", data).digest()[:size].hex()

        login = tor_login("session 5", bytes(16))
        expected = f"katzenpost/client:{half(bytes(16), 8)}:{half(b'session 5', 16)}"
        self.assertEqual((login.user, login.password), (expected.encode(), b"\0"))

    def test_schemes(self) -> None:
        """TCP and onion go through the proxy; QUIC is refused."""
        proxy = Proxy(type="socks5", network="tcp", address="127.0.0.1:9050")
        transports = proxied_transports(None, proxy, "session 1", bytes(16))
        for url in ("tcp://192.0.2.1:1", "onion://abc.onion:1"):
            self.assertIn("Proxied", type(transports.dial(parse_address(url))).__name__)
        self.assertRaises(ConfigError, transports.dial, parse_address("quic://192.0.2.1:1"))
        self.assertTrue(fail(ConfigError("")).addErrback(lambda _: True))
