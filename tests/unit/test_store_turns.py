"""One at a time per name, in order, however many wait and however they end."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.errors import StoreError
from katzentwist.store.turns import Turns


class TurnsTests(SynchronousTestCase):
    """Turns."""

    def setUp(self) -> None:
        self.turns = Turns()
        self.order: list[int] = []

    def work(self, number: int, waits_for: Deferred | None = None, fails: bool = False):
        async def run() -> int:
            if waits_for is not None:
                await waits_for
            self.order.append(number)
            if fails:
                raise StoreError("no")
            return number

        return run

    def test_order(self) -> None:
        """Within a name; other names do not wait."""
        gate: Deferred = Deferred()
        first = self.turns.run(b"a", self.work(1, gate))
        second = self.turns.run(b"a", self.work(2))
        self.assertEqual(self.successResultOf(self.turns.run(b"b", self.work(3))), 3)
        self.assertNoResult(second)
        gate.callback(None)
        self.assertEqual((self.successResultOf(first), self.successResultOf(second)), (1, 2))
        self.assertEqual((self.order, len(self.turns)), ([3, 1, 2], 0))

    def test_thousands_fail_at_once(self) -> None:
        """Without a deep stack: all that waited hear of it."""
        gate: Deferred = Deferred()
        self.turns.run(b"a", self.work(0, gate))
        waiting = [self.turns.run(b"a", self.work(n, fails=True)) for n in range(1, 5000)]
        gate.callback(None)
        for each in waiting:
            self.failureResultOf(each, StoreError)
        self.assertEqual((self.order, len(self.turns)), (list(range(5000)), 0))

    def test_cancelled(self) -> None:
        """The work is done all the same, in its turn."""
        gate: Deferred = Deferred()
        first = self.turns.run(b"a", self.work(1, gate))
        second = self.turns.run(b"a", self.work(2))
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertNoResult(second)
        gate.callback(None)
        self.assertEqual((self.successResultOf(second), self.order), (2, [1, 2]))

    def test_more_work_from_a_result(self) -> None:
        """Is done after what waits."""
        gate: Deferred = Deferred()
        more: list[Deferred] = []
        first = self.turns.run(b"a", self.work(1, gate))
        first.addCallback(lambda _: more.append(self.turns.run(b"a", self.work(3))))
        self.turns.run(b"a", self.work(2))
        gate.callback(None)
        self.assertEqual(self.successResultOf(more[0]), 3)
        self.assertEqual((self.order, len(self.turns)), ([1, 2, 3], 0))
