"""Runs a built-in service: a bounded queue, and so many requests at once (spec: node 7.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure
from zope.interface import implementer

from katzentwist.interfaces import IKaetzchen
from katzentwist.logger import ModuleLogger
from katzentwist.mix.drops import DropReason
from katzentwist.plugins.registry import IService, Request, nothing_to_do
from katzentwist.status.metrics import Metrics

QUEUE: Final = 1000
"""Most requests that wait for one built-in service."""


@implementer(IService)
class InProcess:
    """One built-in service.

    :param workers: how many requests may be under way at once.
    :param patience: KaetzchenDelay in seconds.
    :param now: the monotonic clock.
    """

    log = ModuleLogger("kaetzchen_worker")
    builtin = True

    def __init__(
        self, kaetzchen: IKaetzchen, metrics: Metrics, workers: int, patience: float, now: Callable[[], float]
    ) -> None:
        self._kaetzchen, self._metrics = kaetzchen, metrics
        self._workers, self._patience, self._now = workers, patience, now
        self._waiting: deque[Request] = deque()
        self._busy = 0
        self._working = False
        self.parameters: dict[str, Any] = kaetzchen.parameters()

    def start(self) -> Deferred[None]:
        """Nothing to do."""
        return nothing_to_do()

    def stop(self) -> Deferred[None]:
        """Drop what waits."""
        while self._waiting:
            self._waiting.popleft().dropped(DropReason.KAETZCHEN_UNKNOWN_RECIPIENT)
        return nothing_to_do()

    def handle(self, request: Request) -> None:
        """Serve the request now or soon."""
        if len(self._waiting) >= QUEUE:
            request.dropped(DropReason.KAETZCHEN_DWELL_EXCEEDED)
            return
        self._waiting.append(request)
        self._work()

    def _work(self) -> None:
        """Give waiting requests to idle workers; a loop, since whole backlogs may be answered at once."""
        if self._working:
            return
        self._working = True
        try:
            while self._waiting and self._busy < self._workers:
                self._serve(self._waiting.popleft())
        finally:
            self._working = False

    def _serve(self, request: Request) -> None:
        if self._now() - request.began > self._patience:
            request.dropped(DropReason.KAETZCHEN_DWELL_EXCEEDED)
            return
        self._busy += 1
        self._metrics.count("kaetzchen_requests_total")
        answer = maybeDeferred(self._kaetzchen.handle, request.payload, request.surb is not None)
        answer.addCallback(self._answered, request, self._now())
        answer.addErrback(self._failed, request)
        answer.addBoth(self._idle)

    def _answered(self, reply: bytes | None, request: Request, began: float) -> None:
        self._metrics.observe("kaetzchen_requests_duration_seconds", self._now() - began)
        if reply is not None and request.surb is not None:
            request.reply(reply)

    def _failed(self, failure: Failure, request: Request) -> None:
        request.dropped(DropReason.KAETZCHEN_HANDLER_FAILED)
        self.log.error("a service failed on a request: {why}", why=failure.getErrorMessage())

    def _idle(self, _: Any) -> None:
        self._busy -= 1
        self._work()
