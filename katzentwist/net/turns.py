"""Handshakes and documents take turns with everything else that the reactor does.

When a gateway comes back, hundreds of clients are there in the same second, and each costs half a millisecond of the
reactor, and more of other threads and of its own processor; then each wants a document of megabytes. What belongs to
that waits here, and a turn of the reactor does a little of it. While packets flow that is less, and a millisecond
apart: else it would take whatever time packets leave, and more than there is for both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from katzentwist.clock import MARK

SLICE: Final = 0.001
"""Seconds of work in one turn of the reactor."""
BUSY_SLICE: Final = 0.00025
"""The same while packets flow, each :data:`katzentwist.clock.MARK`."""


class Turns:
    """A queue of small jobs, done in order.

    :param busy: says whether packets flow.
    """

    def __init__(self, reactor: Any, busy: Callable[[], bool] = lambda: False) -> None:
        self._reactor, self._busy = reactor, busy
        self._jobs: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()

    def add(self, job: Callable[..., None], *args: Any) -> None:
        """Do this when its turn has come. What it raises is logged by the reactor."""
        self._jobs.append((job, args))
        if len(self._jobs) == 1:
            self._reactor.callLater(0, self._slice)

    def _slice(self) -> None:
        busy = self._busy()
        end = self._reactor.seconds() + (BUSY_SLICE if busy else SLICE)
        try:
            while self._jobs:
                job, args = self._jobs[0]  # it stays until it is done, so that what it adds starts no second slice
                try:
                    job(*args)
                finally:
                    self._jobs.popleft()
                if self._reactor.seconds() >= end:
                    break
        finally:
            if self._jobs:
                self._reactor.callLater(MARK if busy else 0, self._slice)
