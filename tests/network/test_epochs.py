"""A network of real nodes over many epochs on a fake clock: what arrives, when, and what becomes of the rest."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.wire import PeerCredentials

from .clientnet import EPOCHS
from .nodenet import FakeClient, NodeNet


class EpochCase(SynchronousTestCase):
    """A network, and a client at its gateway."""

    mixes = 3

    def setUp(self) -> None:
        """Up, with a document."""
        self.net = NodeNet(Path(self.mktemp()), self.id(), mixes=self.mixes)
        self.net.run(0.3)
        self.net.start()
        self.net.run(20)
        self.client = FakeClient(self.net)
        self.client.connect()
        self.assertIsNotNone(self.client.link)
        self.addCleanup(self.net.stop)

    def ping(self, seconds: float, pause: float = 1.0) -> list[bytes]:
        """Pings for so long; the ids of all."""
        out = []
        end = self.net.reactor.seconds() + seconds
        while self.net.reactor.seconds() < end:
            if self.client.link is None:
                self.client.connect()
            if self.client.link is not None:
                out.append(self.client.ping())
            self.net.run(pause)
        return out

    def settle(self) -> None:
        """Let everything that is under way arrive."""
        self.net.run(10)

    def assertComesBack(self, seconds: float) -> None:
        """Pings for so long are all answered, and there are some."""
        sent = self.ping(seconds)
        self.settle()
        self.assertTrue(sent)
        self.assertLessEqual(set(sent), set(self.client.back))

    def assertNoErrors(self) -> None:
        """Nobody logged an error of ours."""
        self.assertEqual([str(f) for f in self.flushLoggedErrors()], [])


class CalmTests(EpochCase):
    """Nothing goes wrong."""

    def test_epochs(self) -> None:
        """Over five epochs everything comes back, exactly when its delays are over, and nothing is dropped."""
        first = self.net.epoch
        sent = self.ping(5 * EPOCHS.period)
        self.settle()
        self.assertGreaterEqual(self.net.epoch, first + 5)
        self.assertEqual(self.net.drops(), {})
        self.assertEqual(set(self.client.back), set(sent))
        for surb_id in sent:
            self.assertAlmostEqual(self.client.back[surb_id], self.client.due[surb_id], delta=0.002)
            self.assertEqual(self.client.payloads[surb_id][:64], surb_id * 4)
        self.assertNoErrors()

    def test_boundary(self) -> None:
        """Packets on their way while an epoch ends, and those made with the first moment of the next, arrive too."""
        epoch = self.net.epoch + 1
        self.net.run_to(epoch, -3.0)
        sent = self.ping(6.0, 0.15)
        self.settle()
        self.assertEqual(set(self.client.back), set(sent))
        self.assertEqual(self.net.drops(), {})

    def test_memory(self) -> None:
        """What belongs to an epoch is forgotten with it."""
        self.net.run(8 * EPOCHS.period)
        now = self.net.epoch
        for node in self.net.nodes:
            self.assertLessEqual(set(node.half.keys._keys), set(range(now - 1, now + 4)))
            self.assertLessEqual(set(node.half.neighbours.views), set(range(now - 2, now + 2)))
            self.assertLessEqual(set(node.pki.core.documents), set(range(now - 2, now + 2)))
            self.assertLessEqual(len(node.pki.core._uploads), 4)
            self.assertEqual(len(node.pki._under_way), 0)
            self.assertLess(len(node.half.connector._links), 6)

    def test_replay(self) -> None:
        """A packet that is sent twice arrives once; the second is counted as a replay at the first hop."""
        packet, surb_id = self.client.packet()
        self.client.link.sendPackets([packet])
        self.net.run(1)
        self.client.link.sendPackets([packet, packet])
        self.settle()
        self.assertIn(surb_id, self.client.back)
        self.assertEqual(self.net.gateway.drops(), {"unwrap_failed": 2})
        self.assertEqual(self.net.gateway.metrics.value("replayed_packets_total"), 2)
        self.assertEqual(self.net.gateway.metrics.value("sphinx_unwraps_total"), 2)


class TroubleTests(EpochCase):
    """Something does."""

    mixes = 6

    def test_killed_mix(self) -> None:
        """Each ping that a dead mix costs is found under a drop reason; after two epochs with it nothing is lost."""
        victim = self.net.mixes[0]
        victim.stop()
        sent = self.ping(60)
        victim.start()
        self.net.run_to(self.net.epoch + 2, 5)
        self.settle()
        lost = len(sent) - len(self.client.back)
        self.assertGreater(lost, 0)
        self.assertEqual(sum(self.net.drops().values()), lost)
        later = self.ping(30)
        self.settle()
        self.assertLessEqual(set(later), set(self.client.back))
        self.assertNoErrors()

    def test_new_neighbours(self) -> None:
        """Links that are new with an epoch carry packets from its first moment on."""
        for _ in range(3):
            epoch = self.net.epoch + 1
            self.net.run_to(epoch, 0.002)
            sent = self.ping(1.0, 0.1)
            self.settle()
            self.assertEqual(self.net.drops(), {})
            self.assertLessEqual(set(sent), set(self.client.back))

    def test_late_document(self) -> None:
        """Until the document of an epoch that has begun is there, links that stand are kept (node 4.9)."""
        epoch = self.net.epoch + 1
        self.net.authority.hidden.add(epoch)
        for node in self.net.nodes:
            node.pki.core.documents.pop(epoch, None)
            node.half.neighbours.views.pop(epoch, None)
        self.net.run_to(epoch, -1)
        before = [node.links() for node in self.net.nodes]
        self.net.run_to(epoch, 3)
        self.assertTrue(all(epoch not in node.half.neighbours.views for node in self.net.nodes))
        self.assertEqual([node.links() for node in self.net.nodes], before)
        self.net.authority.hidden.clear()
        self.net.run(15)
        sent = self.ping(10)
        self.settle()
        self.assertEqual(set(sent), set(self.client.back))

    def test_authority_away(self) -> None:
        """With the document of the next epoch at hand the authority is not needed over the change."""
        epoch = self.net.epoch + 1
        self.net.run_to(epoch, -20)
        self.net.authority.go_away()
        sent = self.ping(40)
        self.net.authority.listen()
        self.settle()
        self.assertEqual(set(sent), set(self.client.back))
        self.net.run_to(epoch + 2, 1)
        sent = self.ping(5)
        self.settle()
        self.assertLessEqual(set(sent), set(self.client.back))

    def test_stranger(self) -> None:
        """A mix takes nobody but its neighbours; a node id with a wrong key is no client of the gateway."""
        gateway, mix = self.net.gateway.half.incoming, self.net.mixes[0].half.incoming
        self.assertFalse(mix.authenticate(None, PeerCredentials(additional_data=bytes(32), link_key=bytes(32))))
        known = PeerCredentials(additional_data=self.net.mixes[1].identity.id, link_key=bytes(32))
        self.assertFalse(gateway.authenticate(None, known))
        self.assertEqual(
            self.net.gateway.metrics.value("incoming_peer_validation_failures_total", reason="unknown_mix"), 1
        )

    def test_clock_steps(self) -> None:
        """A wall clock that is set forward by an hour and back again costs epochs, and no error."""
        self.ping(5)
        for step in (3600.0, 0.0, -3600.0, 0.0):
            for node in self.net.nodes:
                node.clock.step = step
            self.net.clock.step = step
            self.net.run(7)
        self.net.run_to(self.net.epoch + 3, 5)
        self.assertComesBack(10)
        self.assertNoErrors()

    def test_suspend(self) -> None:
        """After a sleep of three epochs, in which the monotonic clock stood still, the network comes back by itself."""
        for node in self.net.nodes:
            node.clock.step += 3 * EPOCHS.period
        self.net.clock.step += 3 * EPOCHS.period
        self.net.run_to(self.net.epoch + 2, 5)
        self.assertComesBack(10)
        self.assertNoErrors()

    def test_no_time(self) -> None:
        """A clock that says 1970 is an error in the log each minute, not a traceback each second."""
        for node in self.net.nodes:
            node.clock.step = -1.8e9
        self.net.run(30)
        self.assertNoErrors()
        for node in self.net.nodes:
            node.clock.step = 0.0
        self.net.run_to(self.net.epoch + 2, 5)
        self.assertComesBack(5)
