"""Links to the next layer: dial loop, send queue, checks, the end (spec: node 4.7)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import attrs
from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.mix.outgoing import KEEP_ALIVE, QUEUE, OutgoingLink
from katzentwist.net.direct import Direct
from katzentwist.wire.commands import NoOp

from ..network.nodenet import EPOCHS, NodeNet


class Pending:
    """An endpoint that connects when a test says so, or never."""

    def __init__(self) -> None:
        self.cancelled = 0

    def connect(self, factory: object) -> Deferred:
        """As a TCP endpoint, cancelling included."""

        def cancel(deferred: Deferred) -> None:
            self.cancelled += 1
            deferred.errback(error.ConnectingCancelledError("192.0.2.1"))

        self.connecting: Deferred = Deferred(cancel)
        return self.connecting


@attrs.define
class Sender:
    """Like the native core's, which is not there without a socket."""

    open: bool = True
    sent: float = 0.0

    def of(self, link: object) -> Sender:
        """Let it be that of this link."""
        bursts = SimpleNamespace(heard=lambda fd: 0.0)
        link._direct = Direct(bursts, -1, self, link._session, link)
        return self


class OutgoingCase(SynchronousTestCase):
    """The links of mix0's layer, in a network of nodes."""

    def setUp(self) -> None:
        """A network that is up."""
        self.net = NodeNet(Path(self.mktemp()), self.id())
        self.net.start()
        self.net.run(20)
        self.addCleanup(self.net.stop)

    def link_to(self, name: str) -> tuple[OutgoingLink, object]:
        """(the link to this node, the node it starts from)."""
        for node in self.net.nodes:
            for link in node.half.connector:
                if link.descriptor.name == name:
                    return link, node
        raise AssertionError(name)

    @property
    def now(self) -> float:
        """Monotonic."""
        return self.net.reactor.seconds()

    def packet(self) -> bytes:
        """As long as a packet."""
        return bytes(self.net.gateway.runtime.sizes.packet_length)


class DialTests(OutgoingCase):
    """The loop."""

    def test_stop_while_dialling(self) -> None:
        """A dial that is under way ends silently, and the object with it."""
        link, node = self.link_to("gateway")
        endpoint = Pending()
        self.patch(self.net.wire, "dial", lambda address, timeout=0.0: endpoint)
        self.net.gateway.stop()
        self.net.run(30)
        link.stop()
        self.assertEqual((endpoint.cancelled, link.ended), (1, True))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_unknown_name(self) -> None:
        """A name that does not resolve is a failed dial like others: counted, and tried again."""
        link, node = self.link_to("gateway")
        endpoint = Pending()
        self.patch(self.net.wire, "dial", lambda address, timeout=0.0: endpoint)
        self.net.gateway.stop()
        self.net.run(10)
        before, endpoint.connecting = endpoint.connecting, None
        before.errback(error.DNSLookupError("no such host"))
        self.net.run(10)
        self.assertEqual(node.metrics.value("outgoing_dial_failures_total", reason="dns"), 1)
        self.assertIsNotNone(endpoint.connecting)
        self.assertFalse(link.ended)

    def test_back_off(self) -> None:
        """P/64 more after each failure, at most P/8, each time with a factor of 0.5 to 1.5."""
        self.net.gateway.stop()
        times = []
        dial = self.net.wire.dial

        def spy(address: object, timeout: float = 0.0) -> object:
            if address == self.net.gateway.config.addresses[0]:
                times.append(self.now)
            return dial(address, timeout)

        self.patch(self.net.wire, "dial", spy)
        self.net.run(60)
        step, most = EPOCHS.fraction(1, 64), EPOCHS.fraction(1, 8)
        pauses = [b - a for a, b in zip(times, times[1:], strict=False)]
        for number, pause in enumerate(pauses, 1):
            nominal = min(number * step, most)
            self.assertTrue(0.5 * nominal <= pause <= 1.5 * nominal, pauses)
        self.assertGreater(len(pauses), 4)

    def test_short_life(self) -> None:
        """A link that lived less than P/64 is dialled again after P/64, a longer one at once."""
        link, node = self.link_to("gateway")
        opened = []
        established = link.established

        def spy(made: object) -> None:
            opened.append(self.now)
            established(made)

        self.patch(link, "established", spy)
        link._link.close()
        self.net.run(0.1)
        self.assertEqual(len(opened), 1)
        link._link.close()
        self.net.run(5)
        self.assertEqual(len(opened), 2)
        self.assertGreaterEqual(opened[1] - opened[0], 0.5 * EPOCHS.fraction(1, 64))

    def test_gone_destination(self) -> None:
        """A node that no document lists any more: its link is closed, dialled no more, and what waits is counted."""
        link, node = self.link_to("gateway")
        self.net.gateway.stop()
        self.net.run(1)
        link.send([self.packet()], self.now)
        node.half.neighbours.views.clear()
        self.net.run(20)
        self.assertTrue(link.ended)
        self.assertEqual(sum(node.drops().values()), 1)
        self.assertNotIn(link, list(node.half.connector))


class OtherLink:
    """Takes packets."""

    ended = False

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, packets: list[bytes], now: float) -> None:
        self.sent += packets


class SendTests(OutgoingCase):
    """The queue."""

    def test_slack(self) -> None:
        """Without a connection packets wait for SendSlack and no longer."""
        link, node = self.link_to("gateway")
        self.net.gateway.stop()
        self.net.run(1)
        link.send([self.packet()] * 3, self.now)
        self.assertEqual(node.drops(), {})
        self.net.run(1.1)
        self.assertEqual(node.drops(), {"outgoing_send_deadline_blown": 3})
        self.assertEqual(node.metrics.value("dropped_deadline_blown_packets_total"), 3)
        self.assertEqual(node.metrics.value("dropped_outgoing_packets_total"), 3)

    def test_full(self) -> None:
        """The newest packets of a full queue are dropped."""
        link, node = self.link_to("gateway")
        self.net.gateway.stop()
        self.net.run(1)
        link.send([self.packet()] * (QUEUE + 2), self.now)
        link.send([self.packet()], self.now)
        self.assertEqual(node.drops(), {"outgoing_queue_full": 3})

    def test_must_not_send(self) -> None:
        """While the peer's epoch has not begun nothing is sent."""
        link, node = self.link_to("gateway")
        link.can_send = False
        link.send([self.packet()], self.now)
        self.assertEqual(node.drops(), {"outgoing_peer_not_connected": 1})

    def test_broken(self) -> None:
        """A link that is being closed takes nothing; the packet is counted."""
        link, node = self.link_to("gateway")
        link._link.close()
        link.send([self.packet()], self.now)
        self.assertEqual(node.drops(), {"outgoing_send_command_failed": 1})

    def test_error_of_ours(self) -> None:
        """An error at one link is counted and logged, and the packets of others leave."""
        link, node = self.link_to("gateway")
        other = OtherLink()
        connector = node.half.connector
        connector._links[b"other"] = other

        def fail(packets: list[bytes]) -> bool:
            raise ValueError("ours")

        self.patch(link._link, "sendPackets", fail)
        connector.send({link.descriptor.id: [self.packet()], b"other": [b"theirs"]}, self.now)
        del connector._links[b"other"]
        self.assertEqual(node.drops(), {"outgoing_send_command_failed": 1})
        self.assertEqual(other.sent, [b"theirs"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_stop(self) -> None:
        """What waits at the stop is counted."""
        link, node = self.link_to("gateway")
        self.net.gateway.stop()
        self.net.run(1)
        link.send([self.packet()], self.now)
        link.stop()
        self.assertEqual(node.drops(), {"shutdown": 1})

    def test_offered(self) -> None:
        """Packets may go to the link without asking while its peer may be sent to, and it stands."""
        link, node = self.link_to("gateway")
        sender = Sender().of(link._link)
        offered = node.half.connector.senders._senders
        link.recheck()
        self.assertEqual(offered, {link.descriptor.id: sender})
        judge = link._judge
        self.patch(link, "_judge", lambda peer: attrs.evolve(judge(peer), can_send=False))
        link.recheck()
        self.assertEqual(offered, {})
        self.patch(link, "_judge", judge)
        link.recheck()
        self.assertEqual(offered, {link.descriptor.id: sender})
        self.net.gateway.stop()
        self.net.run(1)
        self.assertEqual(offered, {})

    def test_keep_alive_not_asked(self) -> None:
        """Packets that went to the link without asking keep it alive too."""
        link, node = self.link_to("gateway")
        sender = Sender().of(link._link)
        sent = []
        self.patch(link._link, "send", lambda command: sent.append(command) or True)
        for _ in range(4):
            sender.sent = self.now
            self.net.run(KEEP_ALIVE - 5)
        self.assertEqual(sent, [])

    def test_keep_alive(self) -> None:
        """A quiet link gets a NoOp now and then, so that v0.0.99 listeners do not close it after 120 s."""
        link, node = self.link_to("gateway")
        sent = []
        self.patch(link._link, "send", lambda command: sent.append((self.now, command)) or True)
        began = self.now
        self.net.run(100)
        self.assertEqual([c for _, c in sent], [NoOp()] * 2)
        self.assertLessEqual(sent[1][0] - began, 2 * KEEP_ALIVE + 4)


class CheckTests(OutgoingCase):
    """Peers that are not who they should be."""

    def test_wrong_key(self) -> None:
        """The responder shows another link key than its descriptor: the handshake ends before message 3."""
        link, node = self.link_to("gateway")
        good = link.descriptor
        peer = link._link.peer
        self.assertTrue(link.authenticate(link._link, peer))
        self.assertFalse(link.authenticate(link._link, attrs.evolve(peer, link_key=bytes(32))))
        self.assertFalse(link.authenticate(link._link, attrs.evolve(peer, additional_data=good.id[::-1])))

    def test_recheck(self) -> None:
        """A peer that left all documents is cut off at the next reauthentication."""
        link, node = self.link_to("gateway")
        self.assertTrue(link.connected)
        node.half.neighbours.views.clear()
        self.net.run(31)
        self.assertFalse(link.connected)

    def test_talking_responder(self) -> None:
        """A responder that sends anything is dropped: node links go one way."""
        link, node = self.link_to("gateway")
        accepted = next(i for i in self.net.gateway.half.incoming._peers if i.peer.additional_data == node.identity.id)
        before = link._link
        accepted.send(NoOp())
        self.net.run(0)
        self.assertIsNot(link._link, before)
