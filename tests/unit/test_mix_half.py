"""One half as a whole: the delay queue's clock, replies, documents, the end (spec: node 4.6, 7.4)."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from katzentwist.errors import PKIError
from katzentwist.mix.ends import IReplier
from katzentwist.sphinx import delay_cap

from ..network.clientnet import GEOMETRY
from ..network.nodenet import FakeClient, NodeNet

PACKET = bytes(GEOMETRY.packet_length)


class HalfCase(SynchronousTestCase):
    """The gateway of a network that is up."""

    def setUp(self) -> None:
        self.net = NodeNet(Path(self.mktemp()), self.id())
        self.net.start()
        self.net.run(20)
        self.addCleanup(self.net.stop)
        self.half = self.net.gateway.half
        [self.hop] = [link.descriptor.id for link in self.half.connector]
        self.sent: list[float] = []
        self.patch(self.half.connector, "send", self._send)

    def _send(self, due: dict[bytes, list[bytes]], now: float) -> None:
        self.sent += [self.net.reactor.seconds()] * sum(map(len, due.values()))

    @property
    def now(self) -> float:
        return self.net.reactor.seconds()

    def push(self, delay: float, hop: bytes | None = None) -> None:
        self.half.scheduler.enqueue(delay, hop or self.hop, PACKET, self.now)
        self.half._arm()


class SchedulerClockTests(HalfCase):
    """One wake-up, at the right time."""

    def test_exact(self) -> None:
        """Each packet leaves when it is due, in whatever order they came."""
        begin = self.now
        for delay in (0.3, 0.1, 0.2, 0.1, 0.7):
            self.push(delay)
        self.net.run(0.05)
        self.push(0.01)
        self.net.run(1)
        expected = [0.06, 0.1, 0.1, 0.2, 0.3, 0.7]
        for got, due in zip(self.sent, expected, strict=True):
            self.assertAlmostEqual(got - begin, due)

    def test_burst(self) -> None:
        """More than a burst at once goes on in the next turn, at the same time."""
        burst = self.half.scheduler.burst
        for _ in range(3 * burst + 1):
            self.push(0.1)
        self.net.run(0.1)
        self.assertEqual(len(self.sent), 3 * burst + 1)

    def test_late(self) -> None:
        """After the reactor stood still for longer than the slack, what is late is dropped, never sent."""
        self.push(0.1)
        self.push(0.9)
        self.net.reactor.advance(1.0)
        self.net.run(0)
        self.assertEqual(len(self.sent), 1)
        self.assertEqual(self.net.gateway.drops(), {"scheduler_deadline_blown": 1})

    def test_limits(self) -> None:
        """The longest delay follows Mu of the current document."""
        cap = delay_cap(self.net.document().mu) / 1000
        self.assertEqual(self.half.scheduler.max_delay, cap)
        self.push(cap + 0.001)
        self.push(0.1, b"x" * 32)
        self.assertEqual(self.net.gateway.drops(), {"scheduler_delay_exceeds_max": 1, "scheduler_next_hop_invalid": 1})
        self.assertEqual(self.net.gateway.metrics.value("kaetzchen_mix_packets_dropped_total"), 2)


class ReplyTests(HalfCase):
    """Packets made here."""

    def test_interface(self) -> None:
        """It is a replier."""
        self.assertTrue(verifyObject(IReplier, self.half))

    def test_bad_surb(self) -> None:
        """A SURB that is none, or a reply that is too long, is counted and harmless."""
        self.half.reply(b"short", b"", 0.0)
        self.half.reply(bytes(GEOMETRY.surb_length), bytes(GEOMETRY.forward_payload_length + 1), 0.0)
        self.half.reply(bytes(GEOMETRY.surb_length), b"", 0.0)
        self.assertEqual(self.net.gateway.drops(), {"invalid_packet": 2, "scheduler_next_hop_invalid": 1})


class DocumentTests(HalfCase):
    """What a half thinks of documents."""

    def test_not_in_it(self) -> None:
        """Such a document is refused, and counts as failed for its epoch."""
        signed = self.net.authority.core.document(self.net.epoch)
        stranger = NodeNet(Path(self.mktemp()), "another")
        stranger.start()
        with self.assertRaises(PKIError):
            stranger.gateway.half.take_document(signed)
        epoch = str(self.net.epoch)
        metrics = stranger.gateway.metrics
        self.assertEqual(metrics.value("failed_pki_cache_generation_per_epoch_total", epoch=epoch), 1)
        stranger.stop()


class StopTests(SynchronousTestCase):
    """The end."""

    def test_in_flight(self) -> None:
        """Packets that are under way when everything stops are counted, or arrived."""
        net = NodeNet(Path(self.mktemp()), self.id())
        net.start()
        net.run(20)
        client = FakeClient(net)
        client.connect()
        for _ in range(10):
            net.run(0.2)
            client.ping()
        net.run(0.0005)  # nothing is on the wire: what is lost there is nobody's to count
        for node in net.nodes:
            node.stop()
        net.run(10)
        lost = 10 - len(client.back)
        self.assertGreater(lost, 0)
        self.assertEqual(sum(net.drops().values()), lost)
