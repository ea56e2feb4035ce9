"""The worker that sends at each tick, alone (spec: client 6)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.client.sender import TICKS, Sender
from katzentwist.randomness import SeededRandom


class SenderTests(SynchronousTestCase):
    """A client that only counts."""

    def setUp(self) -> None:
        self.reactor = Clock()
        self.served = 0
        document: Any = SimpleNamespace(lambda_p=0.01, lambda_l=0.0, service_nodes=())
        client: Any = SimpleNamespace(core=SimpleNamespace(connected=True, document=lambda: document))
        clock: Any = SimpleNamespace(monotonic=self.reactor.seconds)
        self.sender = Sender(self.reactor, SeededRandom(3), clock, client, self.serve, decoys_off=False)
        self.document = document

    async def serve(self) -> bool:
        """An application has always something to send."""
        self.served += 1
        return True

    def test_no_ticks_without_a_session(self) -> None:
        """New rates alone start nothing, and the end of a session ends all."""
        self.sender.use_rates(self.document)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.sender.link_up()
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)
        self.sender.link_down()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_no_message_without_a_token(self) -> None:
        """What the gateway would drop is not taken out of an application's queue, however fast the ticks come."""
        self.sender.use_rates(self.document)
        self.sender._pacer.interval = 2.0
        self.sender.link_up()
        for _ in range(10_000):
            self.reactor.advance(0.01)
        self.assertTrue(1 <= self.served <= 51, self.served)
        self.sender.link_down()

    def test_slow_packets(self) -> None:
        """While a packet is being built so many ticks wait, and then the ticker, until one of them is taken."""
        building: list[Deferred[bool]] = []

        async def serve() -> bool:
            building.append(Deferred())
            return await building[-1]

        self.sender._serve = serve
        self.sender.use_rates(self.document)
        self.sender.link_up()
        for _ in range(10_000):
            self.reactor.advance(0.01)
        self.assertEqual((len(building), len(self.sender._ticks)), (1, TICKS))
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        building[0].callback(True)
        self.assertEqual((len(building), len(self.sender._ticks)), (2, TICKS))
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)
        self.sender.link_down()
