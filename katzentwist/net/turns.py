"""Long work takes turns with everything else that the reactor does: handshakes, documents, a look at each link.

When a gateway comes back, hundreds of clients are there in the same second, and each costs half a millisecond of the
reactor, and more of other threads and of its own processor; then each wants a document of megabytes. With each document
and each epoch every link is judged again, thousands perhaps. All that waits here, and a turn of the reactor does a
little of it. While packets flow that is less, and a millisecond apart: else it would take whatever time packets leave,
and more than there is for both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any, Final, Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall

from katzentwist.clock import MARK

T = TypeVar("T")
SLICE: Final = 0.001
"""Seconds of work in one turn of the reactor."""
BUSY_SLICE: Final = 0.00025
"""The same while packets flow, each :data:`katzentwist.clock.MARK`."""
PIECE: Final = BUSY_SLICE
"""Seconds that a :class:`Gradual` takes before it is the turn of others."""


class Turns:
    """A queue of small jobs, done in order.

    :param busy: says whether packets flow.
    """

    def __init__(self, reactor: Any, busy: Callable[[], bool] = lambda: False) -> None:
        self.reactor, self._busy = reactor, busy
        self._jobs: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()

    def add(self, job: Callable[..., None], *args: Any) -> None:
        """Do this when its turn has come. What it raises is logged by the reactor."""
        self._jobs.append((job, args))
        if len(self._jobs) == 1:
            self.reactor.callLater(0, self._slice)

    @property
    def pending(self) -> bool:
        """Whether something waits for its turn."""
        return bool(self._jobs)

    def _slice(self) -> None:
        busy = self._busy()
        end = self.reactor.seconds() + (BUSY_SLICE if busy else SLICE)
        try:
            while self._jobs:
                job, args = self._jobs[0]  # it stays until it is done, so that what it adds starts no second slice
                try:
                    job(*args)
                finally:
                    self._jobs.popleft()
                if self.reactor.seconds() >= end:
                    break
        finally:
            if self._jobs:
                self.reactor.callLater(MARK if busy else 0, self._slice)


class Gradual(Generic[T]):
    """Does something with each of many things, a piece in each of its turns.

    :param each: called with one thing after the other; what it raises ends the round and is logged by the reactor.
        What it returns is let go.
    :param breath: seconds of pause after each piece, for work that makes more work.
    """

    def __init__(self, turns: Turns, each: Callable[[T], object], breath: float = 0.0) -> None:
        self._turns, self._each, self._breath = turns, each, breath
        self._left: Iterator[T] = iter(())
        self._waiting = False
        """Whether a turn is to come."""
        self._timer: IDelayedCall | None = None

    def start(self, things: Iterable[T]) -> None:
        """Begin a round; the round before ends where it is."""
        self.stop()
        self._left = iter(things)
        self._go_on()

    def _go_on(self) -> None:
        self._timer = None
        if not self._waiting:
            self._waiting = True
            self._turns.add(self._piece)

    def _piece(self) -> None:
        self._waiting = False
        seconds = self._turns.reactor.seconds
        end = seconds() + PIECE
        for thing in self._left:
            self._each(thing)
            if seconds() >= end:
                if self._breath:
                    self._timer = self._turns.reactor.callLater(self._breath, self._go_on)
                else:
                    self._go_on()
                return

    def stop(self) -> None:
        """Leave the rest."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        self._left = iter(())


class Bin:
    """Frees many things a piece at a time: the ten thousand nodes of an old document take 4 ms.

    To whom else they belong they stay.
    """

    def __init__(self, turns: Turns) -> None:
        self._things: list[object] = []
        self._emptying: Gradual[list[object]] = Gradual(turns, list.pop)

    def add(self, things: Iterable[object]) -> None:
        """Hold these until their turn has come."""
        self._things.extend(things)
        self._emptying.start(repeat(self._things, len(self._things)))

    def stop(self) -> None:
        """Take no more turns."""
        self._emptying.stop()
