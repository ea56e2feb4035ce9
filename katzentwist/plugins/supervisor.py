"""A service that runs as MaxConcurrency plugin processes, kept alive (spec: node 7.7 to 7.9, provider 1.8).

All processes take from one bounded queue. The SURB of a request stays here: a response is matched by its ID, and what
it says of SURBs is not believed.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from katzentwist.clock import IClock
from katzentwist.config.services import Service
from katzentwist.errors import PluginError
from katzentwist.logger import ModuleLogger, notice
from katzentwist.mix.drops import DropReason
from katzentwist.plugins._core import Exchange, Ledger, Shape
from katzentwist.plugins.messages import PluginRequest, PluginResponse
from katzentwist.plugins.process import PluginProcess, environment
from katzentwist.plugins.registry import IService, Request
from katzentwist.status.metrics import Metrics

QUEUE: Final = 1000
"""Most requests that wait for one service."""
PENDING: Final = 4096
"""Most requests of one service that are remembered while a plugin has them; 20 MB of them."""
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
"""A process that lived so long begins anew with the shortest pause."""


@attrs.frozen(kw_only=True)
class Surroundings:
    """What plugins need of the node.

    :ivar patience: KaetzchenDelay in seconds.
    :ivar period: of epochs, in seconds.
    :ivar response_size: UserForwardPayloadLength.
    """

    reactor: Any
    clock: IClock
    metrics: Metrics
    patience: float
    period: float
    response_size: int
    environment: Mapping[str, str]


class _Worker:
    """One place for a process: it is started there, and started again when it ends."""

    def __init__(self, service: PluginService, number: int) -> None:
        self._service, self._number = service, number
        self._pause = FIRST_PAUSE
        self._began = 0.0
        self._restart: Any = None
        self._time_out: Any = None
        self._stopped = False
        self.process: PluginProcess | None = None
        self.exchange = Exchange(service.shape)

    @property
    def connected(self) -> bool:
        return self.process is not None

    @property
    def free(self) -> bool:
        """Whether it can take a request now."""
        return self.process is not None and self.process.writable and self.exchange.ready

    async def start(self) -> None:
        """:raises PluginError: the process can not be started."""
        around = self._service.around
        process = PluginProcess(
            around.reactor,
            self._service.config.command,
            self._service.arguments,
            environment(around.environment),
            received=self._received,
            drained=self._service.dispatch,
            ended=self._ended,
        )
        self._starting = process
        try:
            await process.start()
        finally:
            self._starting = None
        self._began = around.clock.monotonic()
        self.exchange = Exchange(self._service.shape)
        self.process = process

    _starting: PluginProcess | None = None

    # Requests ------------------------------------------------------------------------------------------------------

    def send(self, number: int, request: Request) -> None:
        """Hand a request over."""
        around = self._service.around
        now = around.clock.monotonic()
        message = PluginRequest(
            id=number,
            payload=request.payload,
            surb=request.surb,
            has_surb=request.surb is not None,
            request_at=int(around.clock.wallclock()),
            delay=max(0, round((request.delay - (now - request.arrived)) * 1e9)),
        )
        if self.process is not None:
            self.exchange.sent(number, now)
            self.process.write(self.exchange.encode(message, around.response_size))
            self._watch()

    def _watch(self) -> None:
        """Keep one timer for the outstanding request, if it holds up the next."""
        if self._time_out is not None and self._time_out.active():
            self._time_out.cancel()
        deadline = self.exchange.deadline()
        if deadline is not None:
            around = self._service.around
            wait = max(0.0, deadline - around.clock.monotonic())
            self._time_out = around.reactor.callLater(wait, self._too_late)

    def _too_late(self) -> None:
        try:
            self.exchange.time_out()
        except PluginError as e:
            if self.process is not None:
                self.process.kill(str(e))
            return
        self._service.dispatch()

    def _received(self, item: bytes) -> None:
        """:raises PluginError: the process is to be ended."""
        response = PluginResponse.parse(item)
        if response.is_parameters_response:  # never asked for
            self.exchange.useful(False)
            return
        number = self.exchange.received(response)
        self.exchange.useful(self._service.answered(number, response.payload or b""))
        self._watch()
        self._service.dispatch()

    # Life ----------------------------------------------------------------------------------------------------------

    def _ended(self, why: str) -> None:
        self.process = None
        if self._time_out is not None and self._time_out.active():
            self._time_out.cancel()
        if self._stopped:
            return
        if self._service.around.clock.monotonic() - self._began >= LONGEST_PAUSE:
            self._pause = FIRST_PAUSE
        self._later(why)
        self._service.changed()

    def _later(self, why: str) -> None:
        service = self._service
        service.log.error(
            "plugin '{name}', process {number}: {why}; next start in {pause:.0f} s",
            name=service.config.capability,
            number=self._number,
            why=why,
            pause=self._pause,
        )
        self._restart = service.around.reactor.callLater(self._pause, self._again)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _again(self) -> None:
        self._service.around.metrics.count("plugin_restarts_total")

        def failed(failure: Failure) -> None:
            if failure.check(PluginError) is None:
                self._service.log.failure("starting a plugin failed because of an error of ours", failure=failure)
            if not self._stopped:
                self._later(failure.getErrorMessage())

        Deferred.fromCoroutine(self.start()).addCallbacks(lambda _: self._service.changed(), failed)

    def stop(self) -> Deferred[None]:
        """End the process, for good."""
        self._stopped = True
        for timer in (self._restart, self._time_out):
            if timer is not None and timer.active():
                timer.cancel()
        process, self.process = self.process or self._starting, None
        return process.stop() if process is not None else succeed(None)


@implementer(IService)
class PluginService:
    """A service behind one or more processes.

    :param alive: told when the last process is gone, and when there is one again.
    """

    log = ModuleLogger("cbor_plugins")
    builtin = False
    _numbers = itertools.count(1)
    """IDs of requests, unique while the node runs."""

    def __init__(self, config: Service, around: Surroundings, alive: Callable[[bool], None]) -> None:
        self.config, self.around, self._alive = config, around, alive
        self.shape = Shape(config.protocol)
        self.arguments = [text for key, value in config.config.items() for text in (f"-{key}", str(value))]
        self.parameters: dict[str, Any] = {}
        self._workers: list[_Worker] = []
        self._waiting: deque[Request] = deque()
        self._ledger: Ledger[Request] = Ledger(2 * around.period, PENDING)
        self._was_alive = False
        self._expiry: Any = None
        around.metrics.gauge("plugin_processes", self._count, capability=config.capability)

    def _count(self) -> int:
        return sum(worker.connected for worker in self._workers)

    # Life ----------------------------------------------------------------------------------------------------------

    def start(self) -> Deferred[None]:
        """Start all processes."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        self._workers = [_Worker(self, i + 1) for i in range(self.config.max_concurrency)]
        starts = [Deferred.fromCoroutine(worker.start()) for worker in self._workers]
        results: list[tuple[bool, Any]] = await DeferredList(starts, consumeErrors=True)
        for _, result in results:
            if isinstance(result, Failure):
                await self._end()
                why = result.getErrorMessage()
                raise PluginError(
                    f"plugin '{self.config.capability}' ({self.config.command}) can not be started: {why}"
                )
        if not self._workers:
            raise PluginError(f"plugin '{self.config.capability}' was stopped while it started")
        self._was_alive = True
        notice(
            self.log,
            "plugin '{name}': {count} of {program} running",
            name=self.config.capability,
            count=len(self._workers),
            program=self.config.command,
        )

    def stop(self) -> Deferred[None]:
        """End all processes; what waits is dropped."""
        self._was_alive = False
        self._drop_waiting(DropReason.CBOR_KAETZCHEN_NO_HANDLER)
        return Deferred.fromCoroutine(self._end())

    async def _end(self) -> None:
        workers, self._workers = self._workers, []
        await DeferredList([worker.stop() for worker in workers])

    def changed(self) -> None:
        """A process came or went."""
        alive = self._count() > 0
        if alive != self._was_alive and self._workers:
            self._was_alive = alive
            if not alive:
                self._drop_waiting(DropReason.CBOR_KAETZCHEN_NO_HANDLER)
            self._alive(alive)
        self.dispatch()

    # Requests ------------------------------------------------------------------------------------------------------

    def handle(self, request: Request) -> None:
        """Hand the request to a process that is free, now or soon."""
        self._drop_late()
        if len(self._waiting) >= QUEUE:
            request.dropped(DropReason.CBOR_KAETZCHEN_DWELL_EXCEEDED)
            return
        self._waiting.append(request)
        self.dispatch()

    def dispatch(self) -> None:
        """Give what waits to free processes, the least busy one first."""
        self._drop_late()
        now = self.around.clock.monotonic()
        while self._waiting:
            free = [worker for worker in self._workers if worker.free]
            if not free:
                break
            request, number = self._waiting.popleft(), next(self._numbers)
            forgotten = self._ledger.add(number, request, now)
            awaited = sum(one.surb is not None for one in forgotten)  # nobody waits for an answer without a SURB
            if awaited:
                self.around.metrics.count("plugin_requests_forgotten_total", awaited)
            self.around.metrics.count("kaetzchen_requests_total")
            min(free, key=lambda worker: worker.exchange.load(now)).send(number, request)
        self._watch()

    def _watch(self) -> None:
        """What waits in vain is dropped and counted in time."""
        if self._expiry is not None and self._expiry.active():
            if self._waiting:
                return
            self._expiry.cancel()
        if self._waiting:
            left = self._waiting[0].began + self.around.patience - self.around.clock.monotonic()
            self._expiry = self.around.reactor.callLater(max(0.0, left) + 0.01, self.dispatch)

    def _drop_late(self) -> None:
        oldest = self.around.clock.monotonic() - self.around.patience
        while self._waiting and self._waiting[0].began < oldest:
            self._waiting.popleft().dropped(DropReason.CBOR_KAETZCHEN_DWELL_EXCEEDED)

    def _drop_waiting(self, reason: DropReason) -> None:
        while self._waiting:
            self._waiting.popleft().dropped(reason)
        self._watch()

    def answered(self, number: int, payload: bytes) -> bool:
        """Send a plugin's answer on its way; False if nothing is known of such a request."""
        now = self.around.clock.monotonic()
        request = self._ledger.take(number, now)
        if request is None:
            self.log.debug("plugin '{name}': a response to no request", name=self.config.capability)
            return False
        self.around.metrics.observe("kaetzchen_requests_duration_seconds", now - request.began)
        if len(payload) > self.around.response_size:
            request.dropped(DropReason.CBOR_KAETZCHEN_RESPONSE_TOO_LONG)
        elif request.surb is not None:
            request.reply(payload)
        return True
