"""What the parts of a node share."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.node.runtime import BREATH, SLICE, Gradual


class GradualTests(SynchronousTestCase):
    """Long work in slices. Each thing takes some time of the clock."""

    def setUp(self) -> None:
        """Work that takes half a slice each."""
        self.clock = Clock()
        self.done: list[int] = []

    def work(self, thing: int) -> None:
        """Takes half a slice."""
        self.clock.rightNow += SLICE / 2 + 1e-9
        self.done.append(thing)

    def test_slices(self) -> None:
        """Two things at once, then a breath, until all are done."""
        gradual = Gradual(self.clock, self.work)
        gradual.start(range(5))
        self.assertEqual(self.done, [0, 1])
        self.clock.advance(BREATH - 1e-6)
        self.assertEqual(self.done, [0, 1])
        self.clock.advance(1e-6)
        self.assertEqual(self.done, [0, 1, 2, 3])
        self.clock.advance(BREATH)
        self.assertEqual(self.done, [0, 1, 2, 3, 4])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_quick(self) -> None:
        """What takes no time is done at once."""
        Gradual(self.clock, self.done.append).start(range(1000))
        self.assertEqual(len(self.done), 1000)

    def test_new_round(self) -> None:
        """A new round ends the one before."""
        gradual = Gradual(self.clock, self.work)
        gradual.start(range(5))
        gradual.start([10, 11, 12])
        self.clock.advance(BREATH)
        self.assertEqual(self.done, [0, 1, 10, 11, 12])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop(self) -> None:
        """What is left is left."""
        gradual = Gradual(self.clock, self.work)
        gradual.start(range(5))
        gradual.stop()
        self.clock.advance(1)
        self.assertEqual(self.done, [0, 1])
