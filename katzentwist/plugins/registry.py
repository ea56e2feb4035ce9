"""The services of a node: who answers at which endpoint (spec: node 7).

Built-in services and plugin processes look alike here: a :class:`IService` takes a request and answers some time later,
or never. Dispatch is by the 32 bytes of the recipient, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList, succeed
from zope.interface import Attribute, Interface

from katzentwist.config.services import Service
from katzentwist.errors import PluginError
from katzentwist.logger import ModuleLogger, notice
from katzentwist.mix.drops import DropReason
from katzentwist.sphinx import recipient_id


@attrs.frozen(kw_only=True)
class Request:
    """One request to a service.

    :ivar payload: the user payload with its padding.
    :ivar surb: None when the sender wants no reply.
    :ivar began: monotonic seconds at which unwrapping began; KaetzchenDelay counts from here.
    :ivar reply: sends a reply; only with a SURB.
    :ivar dropped: counts a request that is not served.
    """

    payload: bytes = attrs.field(repr=False)
    surb: bytes | None = attrs.field(repr=False)
    arrived: float
    began: float
    delay: float
    reply: Callable[[bytes], None]
    dropped: Callable[[DropReason], None]


class IService(Interface):
    """A service that runs."""

    builtin = Attribute("Whether it runs in this process.")
    parameters = Attribute("What the descriptor says of it beside the endpoint.")

    def start() -> Deferred[None]:
        """Get ready; fails with PluginError if that is not possible."""

    def stop() -> Deferred[None]:
        """End; requests that wait are dropped."""

    def handle(request: Request) -> None:
        """Take a request; never raises."""


@attrs.define
class _Entry:
    config: Service
    service: Any
    running: bool = False
    starting: bool = False
    alive: bool = True


class Registry:
    """All configured services of a node.

    :param make: builds the service of a configuration entry; raises ConfigError for an unknown capability.
    """

    log = ModuleLogger("provider")

    def __init__(self, services: tuple[Service, ...], make: Callable[[Service], Any]) -> None:
        self._entries = {s.capability: _Entry(s, None if s.disable else make(s)) for s in services}
        self._by_recipient: dict[bytes, _Entry] = {}
        self._stopped = False

    async def start(self) -> None:
        """Start every service that is not disabled.

        :raises PluginError: one of them can not start.
        """
        for capability, entry in self._entries.items():
            if entry.service is None:
                notice(self.log, "skipping disabled service {capability}", capability=capability)
            else:
                await self._start(entry)

    async def _start(self, entry: _Entry) -> None:
        entry.starting = True
        try:
            await entry.service.start()
        finally:
            entry.starting = False
        if self._stopped:
            await entry.service.stop()
            raise PluginError(f"service {entry.config.capability!r} was stopped while it started")
        entry.running = entry.alive = True
        self._by_recipient[recipient_id(entry.config.endpoint)] = entry
        notice(
            self.log,
            "registered service '{endpoint}' -> '{capability}'",
            endpoint=entry.config.endpoint,
            capability=entry.config.capability,
        )

    def start_one(self, capability: str) -> Deferred[None]:
        """START_KAETZCHEN; a plugin that waits for its next start is started now.

        :raises PluginError: (in the Deferred) unknown, disabled, already running, or it can not start.
        """
        entry = self._entries.get(capability)

        async def start() -> None:
            if entry is None or entry.service is None or entry.starting or (entry.running and entry.alive):
                raise PluginError(f"service {capability!r} can not be started")
            if entry.running:
                entry.running = False
                await entry.service.stop()
            await self._start(entry)

        return Deferred.fromCoroutine(start())

    def stop_one(self, capability: str) -> Deferred[None]:
        """STOP_KAETZCHEN; the service is out of dispatch at once.

        :raises PluginError: (in the Deferred) unknown or not running.
        """
        entry = self._entries.get(capability)

        async def stop() -> None:
            if entry is None or not entry.running:
                raise PluginError(f"service {capability!r} is not running")
            self._unregister(entry)
            entry.service.stop().addErrback(lambda f: self.log.failure("stopping a service failed", failure=f))

        return Deferred.fromCoroutine(stop())

    def _unregister(self, entry: _Entry) -> None:
        entry.running = False
        self._by_recipient.pop(recipient_id(entry.config.endpoint), None)

    def set_alive(self, capability: str, alive: bool) -> None:
        """A plugin lost its last process, or has one again: dispatch and descriptor follow."""
        entry = self._entries.get(capability)
        if entry is None or not entry.running:
            return
        entry.alive = alive
        recipient = recipient_id(entry.config.endpoint)
        if alive:
            self._by_recipient[recipient] = entry
        else:
            self._by_recipient.pop(recipient, None)

    def find(self, recipient: bytes) -> Any:
        """The running service at this recipient (an IService), or None."""
        entry = self._by_recipient.get(recipient)
        return entry.service if entry is not None else None

    def __iter__(self) -> Iterator[Service]:
        """The configuration of the services that run."""
        return iter([e.config for e in self._by_recipient.values()])

    def advertised(self) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
        """``Kaetzchen`` and ``KaetzchenAdvertizedData`` of the descriptor (spec: node 7.6)."""
        kaetzchen = {
            e.config.capability: {**e.service.parameters, "endpoint": e.config.endpoint}
            for e in self._by_recipient.values()
        }
        data = {c: e.config.advertised_data for c, e in self._entries.items() if e.config.advertised_data is not None}
        return kaetzchen, data

    async def stop(self) -> None:
        """Stop everything that runs or is about to, all at once."""
        self._stopped = True
        stops = []
        for entry in self._entries.values():
            if entry.running or entry.starting:
                self._unregister(entry)
                stops.append(entry.service.stop())
        await DeferredList(stops)


def nothing_to_do() -> Deferred[None]:
    """A start or stop that needs no time."""
    return succeed(None)
