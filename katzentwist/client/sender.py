"""One worker that sends a packet at each tick, and nothing else ever sends one (spec: client 6)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from katzentwist.client.compose import ComposeError, Outgoing
from katzentwist.client.core import Client
from katzentwist.client.pacing import Pacer
from katzentwist.client.tickers import Ticker
from katzentwist.clock import IClock
from katzentwist.logger import ModuleLogger
from katzentwist.pki.document import Document
from katzentwist.randomness import IRandom

TICKS: Final = 64
"""Ticks that wait for the worker; a further one waits by itself, and its ticker with it."""
DECOY_SERVICE: Final = "echo"
SURB_ID: Final = 16
GATEWAY_LATER: Final = 0.5
"""Seconds by which a busy gateway may begin to count tokens later than we do."""
DECOY: Final = object()
"""The owner of the replies to decoys."""


class Sender:
    """The tickers and the worker.

    A gateway drops what is above its rate limit, and at the start of a session Poisson traffic often is. A tick
    for which there is no token sends a decoy, so that the intervals stay as they are and no message is lost.

    :param serve: sends the next request of an application and says whether a packet left; asked at each P tick.
    :ivar decoys: how many were sent.
    """

    log = ModuleLogger("client")

    def __init__(
        self,
        reactor: Any,
        random: IRandom,
        clock: IClock,
        client: Client,
        serve: Callable[[], Coroutine[Any, Any, bool]],
        *,
        decoys_off: bool,
    ) -> None:
        self.decoys = 0
        self._reactor, self._random, self._client, self._serve = reactor, random, client, serve
        self._decoys_off = decoys_off
        self._clock, self._pacer = clock, Pacer()
        self._tickers: dict[str, Ticker | None] = {"P": None, "L": None}
        self._timers: dict[str, IDelayedCall] = {}
        self._ticks: deque[str] = deque()
        self._late: set[str] = set()
        self._up = False
        self._working = False

    def use_rates(self, document: Document) -> None:
        """The rates of the document of a new epoch; a changed one draws a new interval."""
        self._pacer.use_rates(document.lambda_p, document.lambda_l)
        rates = {"P": document.lambda_p, "L": 0.0 if self._decoys_off else document.lambda_l}
        for name, rate in rates.items():
            ticker = Ticker.from_rate(rate)
            if ticker != self._tickers[name]:
                self._tickers[name] = ticker
                self._arm(name)

    def link_up(self) -> None:
        """A session is up: begin to tick."""
        self._up = True
        self._pacer.connected(self._clock.monotonic() + GATEWAY_LATER)
        for name in self._tickers:
            self._arm(name)

    def link_down(self) -> None:
        """No session: no ticks."""
        self._up = False
        self._ticks.clear()
        self._late.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _arm(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        ticker = self._tickers[name]
        if self._up and ticker is not None:
            self._timers[name] = self._reactor.callLater(ticker.interval(self._random), self._tick, name)

    def _tick(self, name: str) -> None:
        del self._timers[name]
        if len(self._ticks) >= TICKS:
            self._late.add(name)
            return
        self._take(name)

    def _take(self, name: str) -> None:
        """The worker takes a tick over; the next interval starts now."""
        self._ticks.append(name)
        self._arm(name)
        if not self._working:
            self._working = True
            work = Deferred.fromCoroutine(self._work())
            work.addErrback(lambda f: self.log.failure("sending failed because of an error of ours", failure=f))

    async def _work(self) -> None:
        try:
            while self._ticks:
                name = self._ticks.popleft()
                while self._late and len(self._ticks) < TICKS:
                    self._take(self._late.pop())
                if self._client.core.connected:
                    await self._send(name)
        finally:
            self._working = False

    async def _send(self, name: str) -> None:
        token = not self._pacer.wait(self._clock.monotonic())
        if name == "P" and token and await self._serve():
            return
        if not self._decoys_off:
            if not token:
                self._pacer.overdrawn(self._clock.monotonic())
            await self._decoy()

    async def _decoy(self) -> None:
        """A loop through an echo service, which nobody can tell from a message of an application."""
        document = self._client.core.document()
        if document is None:
            return
        services = [n for n in document.service_nodes if n.kaetzchen and DECOY_SERVICE in n.kaetzchen]
        if not services:
            self.log.debug("no decoy: the document lists no {service} service", service=DECOY_SERVICE)
            return
        node = services[self._random.below(len(services))]
        endpoint = str((node.kaetzchen or {})[DECOY_SERVICE].get("endpoint", "")).encode()
        size = self._client.core.config.geometry.user_forward_payload_length
        message = Outgoing(
            destination=node.id, recipient=endpoint, payload=bytes(size), surb_id=self._random.bytes(SURB_ID)
        )
        try:
            await self._client.send(message, owner=DECOY)
        except ComposeError as e:
            self.log.debug("no decoy: {why}", why=str(e))
        else:
            self.decoys += 1
