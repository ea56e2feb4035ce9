"""What the parts of one node process share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Final, Generic, TypeVar

import attrs
from twisted.internet.interfaces import IDelayedCall

from katzentwist.clock import ORIGIN, Epochs, IClock
from katzentwist.config.debug import Debug
from katzentwist.config.node import NodeConfig
from katzentwist.net import tcp
from katzentwist.net.limits import HandshakeLimits
from katzentwist.net.owner import Context
from katzentwist.net.workers import IWorkers
from katzentwist.pki.schedule import Schedule
from katzentwist.randomness import IRandom
from katzentwist.sphinx import Geometry
from katzentwist.status.metrics import Metrics
from katzentwist.wire import CommandSizes

T = TypeVar("T")
SLICE: Final = 0.001
"""Seconds of the reactor that one slice of long work may take."""
BREATH: Final = 0.004
"""Seconds between two slices: what else waits goes first, and the work takes a fifth of the time at most."""


@attrs.frozen(kw_only=True)
class Runtime:
    """One per process, or per half of a Provider. ``reactor.seconds`` is monotonic, as are all times but epochs.

    :ivar half: the name of the half, for its log; empty for what is of the whole process.
    """

    reactor: Any
    clock: IClock
    random: IRandom
    workers: IWorkers
    config: NodeConfig
    debug: Debug
    epochs: Epochs
    metrics: Metrics
    transports: tcp.Transports
    limits: HandshakeLimits = attrs.field(factory=HandshakeLimits)
    half: str = ""

    @property
    def geometry(self) -> Geometry:
        """The network's geometry."""
        return self.config.geometry

    @cached_property
    def context(self) -> Context:
        """What links need."""
        return Context(reactor=self.reactor, clock=self.clock, random=self.random, workers=self.workers)

    @cached_property
    def sizes(self) -> CommandSizes:
        """What the command codec needs."""
        g = self.geometry
        return CommandSizes(
            packet_length=g.packet_length, payload_length=g.payload_tag_length + g.forward_payload_length
        )

    @cached_property
    def schedule(self) -> Schedule:
        """The timers that follow the epoch."""
        return Schedule(self.epochs)

    def epoch(self) -> tuple[int, bool]:
        """(current epoch, whether less than P/8 of it is left); a clock before the first epoch counts as epoch 0."""
        now, _, till = self.epochs.now(max(ORIGIN, self.clock.wallclock()))
        return now, till < self.schedule.early_slack


class Repeating:
    """Calls a function again and again; each pause is asked for anew. Errors are the function's own business."""

    def __init__(self, reactor: Any, pause: Callable[[], float], function: Callable[[], None]) -> None:
        self._reactor, self._pause, self._function = reactor, pause, function
        self._timer: IDelayedCall | None = None

    def start(self, first: float | None = None) -> None:
        """Call it after *first* seconds, or after the usual pause."""
        self._timer = self._reactor.callLater(self._pause() if first is None else first, self._fire)

    def _fire(self) -> None:
        self.start()
        self._function()

    def stop(self) -> None:
        """Never again."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()


class Gradual(Generic[T]):
    """Does something with each of many things, in slices, so that no turn of the reactor is long.

    :param each: called with one thing after the other; what it raises ends the round and is logged by the reactor.
    :param breath: seconds between two slices.
    """

    def __init__(self, reactor: Any, each: Callable[[T], None], breath: float = BREATH) -> None:
        self._reactor, self._each, self._breath = reactor, each, breath
        self._left: Iterator[T] = iter(())
        self._timer: IDelayedCall | None = None

    def start(self, things: Iterable[T]) -> None:
        """Begin a round, now; the round before ends where it is."""
        self.stop()
        self._left = iter(things)
        self._slice()

    def _slice(self) -> None:
        self._timer = None
        end = self._reactor.seconds() + SLICE
        for thing in self._left:
            self._each(thing)
            if self._reactor.seconds() >= end:
                self._timer = self._reactor.callLater(self._breath, self._slice)
                return

    def stop(self) -> None:
        """Leave the rest."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        self._left = iter(())
