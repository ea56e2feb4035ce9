"""Small jobs in slices."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.clock import MARK
from katzentwist.net.turns import BUSY_SLICE, SLICE, Turns


class TurnsTests(SynchronousTestCase):
    """On a clock that jobs move."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.turns = Turns(self.clock)
        self.done: list[int] = []

    def job(self, number: int, takes: float = 0.0) -> None:
        self.clock.rightNow += takes
        self.done.append(number)

    def turn(self) -> list[int]:
        """What one turn of the reactor does."""
        self.done = []
        for call in [call for call in self.clock.getDelayedCalls() if call.getTime() <= self.clock.seconds()]:
            job, args = call.func, call.args
            call.cancel()
            job(*args)
        return self.done

    def test_slices(self) -> None:
        """In order, each in its turn; a turn ends with the job that used its time up."""
        for number in range(5):
            self.turns.add(self.job, number, SLICE / 2)
        self.assertEqual(self.done, [])
        self.assertEqual([self.turn() for _ in range(4)], [[0, 1], [2, 3], [4], []])
        self.turns.add(self.job, 5)
        self.assertEqual(self.turn(), [5])

    def test_busy(self) -> None:
        """While packets flow slices are shorter, and a mark apart."""
        busy = [True]
        self.turns = Turns(self.clock, lambda: busy[0])
        for number in range(9):
            self.turns.add(self.job, number, BUSY_SLICE / 2)
        self.assertEqual([self.turn(), self.turn()], [[0, 1], []])
        self.clock.rightNow += MARK
        self.assertEqual([self.turn(), self.turn()], [[2, 3], []])
        busy[0] = False
        self.clock.rightNow += MARK
        self.assertEqual(self.turn(), [4, 5, 6, 7, 8])

    def test_adding(self) -> None:
        """A job may add jobs: they come behind those that wait, and in one slice."""
        self.turns.add(lambda: self.turns.add(self.job, 2))
        self.turns.add(self.job, 1)
        self.assertEqual(self.turn(), [1, 2])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_mistake(self) -> None:
        """What one raises does not stop the others."""
        self.turns.add(lambda: 1 / 0)
        self.turns.add(self.job, 1)
        self.assertRaises(ZeroDivisionError, self.turn)
        self.assertEqual(self.turn(), [1])
