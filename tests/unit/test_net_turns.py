"""Small jobs in slices."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.clock import MARK
from katzentwist.net.turns import BUSY_SLICE, PIECE, SLICE, Bin, Gradual, Turns


class TurnsTestCase(SynchronousTestCase):
    """A clock that jobs move."""

    def setUp(self) -> None:
        """Nothing is done yet."""
        self.clock = Clock()
        self.turns = Turns(self.clock)
        self.done: list[int] = []

    def job(self, number: int, takes: float = 0.0) -> None:
        """One that takes so many seconds."""
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


class TurnsTests(TurnsTestCase):
    """Small jobs."""

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


class GradualTests(TurnsTestCase):
    """Something with each of many things; three of them are a piece."""

    def setUp(self) -> None:
        """No round yet."""
        super().setUp()
        self.gradual = Gradual(self.turns, lambda number: self.job(number, PIECE / 2.5))

    def test_pieces(self) -> None:
        """Pieces of several things, with the pieces of others between them, until the turn is used up."""
        self.gradual.start(range(5))
        other = Gradual(self.turns, lambda number: self.job(number, PIECE / 2.5))
        other.start(range(10, 15))
        self.assertEqual(self.done, [])
        self.assertEqual([self.turn() for _ in range(2)], [[0, 1, 2, 10, 11, 12, 3, 4, 13, 14], []])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_shared(self) -> None:
        """However many rounds begin at once, they share one slice."""
        for _ in range(9):
            Gradual(self.turns, lambda number: self.job(number, PIECE)).start(range(3))
        turns = [len(self.turn()) for _ in range(8)]
        self.assertEqual(turns, [4, 4, 4, 4, 4, 4, 3, 0])

    def test_quick(self) -> None:
        """What takes no time is done in one turn."""
        Gradual(self.turns, self.job).start(range(1000))
        self.assertEqual(len(self.turn()), 1000)

    def test_breath(self) -> None:
        """A pause after each piece."""
        self.gradual = Gradual(self.turns, lambda number: self.job(number, PIECE), breath=1)
        self.gradual.start(range(3))
        self.assertEqual([self.turn(), self.turn()], [[0], []])
        self.clock.rightNow += 1
        self.assertEqual([self.turn(), self.turn(), self.turn()], [[], [1], []])
        self.gradual.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_new_round(self) -> None:
        """A new round ends the one before, and takes over its turn."""
        self.gradual.start(range(5))
        self.gradual.start([10, 11])
        self.assertEqual([self.turn(), self.turn()], [[10, 11], []])

    def test_stop(self) -> None:
        """What is left is left; another round may follow."""
        self.gradual.start(range(5))
        self.gradual.stop()
        self.assertEqual([self.turn(), self.turn()], [[], []])
        self.gradual.start(range(2))
        self.assertEqual(self.turn(), [0, 1])

    def test_mistake(self) -> None:
        """It ends the round; the next one goes on."""
        gradual = Gradual(self.turns, lambda number: self.done.append(1 // number))
        gradual.start([1, 0, 1])
        self.assertRaises(ZeroDivisionError, self.turn)
        self.assertEqual([self.done, self.turn()], [[1], []])
        gradual.start([1])
        self.assertEqual(self.turn(), [1])


class BinTests(TurnsTestCase):
    """What takes time to free."""

    class Thing:
        """Takes a whole slice to free."""

        def __init__(self, test: BinTests, number: int) -> None:
            self._test, self._number = test, number

        def __del__(self) -> None:
            self._test.job(self._number, SLICE)

    def test_freed(self) -> None:
        """In turns, together with what comes meanwhile; not what others have."""
        bin_, kept = Bin(self.turns), self.Thing(self, 9)
        bin_.add([self.Thing(self, 0), kept, self.Thing(self, 1)])
        self.assertEqual([self.done, self.turn()], [[], [1]])
        bin_.add([self.Thing(self, 2)])
        self.assertEqual([self.turn() for _ in range(3)], [[2], [0], []])
        del kept
        self.assertEqual(self.done, [9])
