"""What the parts of one node process share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

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
