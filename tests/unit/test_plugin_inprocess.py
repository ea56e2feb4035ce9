"""Built-in services: the queue, the workers, failures (spec: node 7.2)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from katzentwist.interfaces import IKaetzchen
from katzentwist.mix.drops import DropReason
from katzentwist.plugins.inprocess import QUEUE, InProcess
from katzentwist.plugins.registry import IService, Request
from katzentwist.status.metrics import Metrics


@implementer(IKaetzchen)
class Slow:
    """Answers when a test says so, or at once."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[bytes]] = []
        self.at_once = False

    def handle(self, payload: bytes, has_surb: bool) -> Any:
        if self.at_once:
            return payload
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def parameters(self) -> dict[str, Any]:
        return {}


class Replies(list):
    """A list whose append a test may replace."""


class InProcessTests(SynchronousTestCase):
    """One service with two workers."""

    def setUp(self) -> None:
        self.clock, self.metrics, self.slow = Clock(), Metrics(), Slow()
        self.service = InProcess(self.slow, self.metrics, 2, 0.75, self.clock.seconds)
        self.replies: list[bytes] = Replies()
        self.drops: list[DropReason] = []

    def ask(self, surb: bytes | None = b"s") -> None:
        self.service.handle(
            Request(
                payload=b"hello",
                surb=surb,
                arrived=self.clock.seconds(),
                began=self.clock.seconds(),
                delay=0.0,
                reply=self.replies.append,
                dropped=self.drops.append,
            )
        )

    def test_interface(self) -> None:
        """It is a service."""
        self.assertTrue(verifyObject(IService, self.service))

    def test_workers(self) -> None:
        """So many at once, the others wait for their turn."""
        for _ in range(3):
            self.ask()
        self.assertEqual(len(self.slow.waiting), 2)
        self.slow.waiting[0].callback(b"a")
        self.assertEqual((len(self.slow.waiting), self.replies), (3, [b"a"]))

    def test_backlog(self) -> None:
        """A long queue that is answered at once is no recursion error."""
        for _ in range(2 + QUEUE):
            self.ask()
        self.slow.at_once = True
        self.slow.waiting[0].callback(b"a")
        self.assertEqual((len(self.replies), self.drops), (QUEUE + 1, []))

    def test_full(self) -> None:
        """The queue has an end."""
        for _ in range(2 + QUEUE + 1):
            self.ask()
        self.assertEqual(self.drops, [DropReason.KAETZCHEN_DWELL_EXCEEDED])

    def test_waited(self) -> None:
        """Longer than KaetzchenDelay since unwrapping began."""
        for _ in range(3):
            self.ask()
        self.clock.advance(0.76)
        self.slow.waiting[0].callback(b"a")
        self.assertEqual(self.drops, [DropReason.KAETZCHEN_DWELL_EXCEEDED])

    def test_failure(self) -> None:
        """Of one request costs only that."""
        self.ask()
        self.slow.waiting[0].errback(ValueError("no"))
        self.assertEqual(self.drops, [DropReason.KAETZCHEN_HANDLER_FAILED])
        self.slow.at_once = True
        self.ask()
        self.assertEqual(self.replies, [b"hello"])

    def test_unusable_reply(self) -> None:
        """A reply that can not be sent is a failure of the service, counted and logged."""

        def reply(payload: bytes) -> None:
            raise TypeError("not bytes")

        self.slow.at_once = True
        self.replies.append = reply  # type: ignore[method-assign]
        self.ask()
        self.assertEqual(self.drops, [DropReason.KAETZCHEN_HANDLER_FAILED])

    def test_without_surb(self) -> None:
        """No reply, whatever the service says."""
        self.slow.at_once = True
        self.ask(surb=None)
        self.assertEqual((self.replies, self.drops), ([], []))
        self.assertEqual(self.metrics.value("kaetzchen_requests_total"), 1)

    def test_stop(self) -> None:
        """What waits is counted."""
        for _ in range(3):
            self.ask()
        self.service.stop()
        self.assertEqual(self.drops, [DropReason.KAETZCHEN_UNKNOWN_RECIPIENT])
