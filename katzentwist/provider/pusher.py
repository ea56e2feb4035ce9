"""Push delivery: what waits for a client is sent one by one, and deleted when it was acknowledged (spec: node 5.6)."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from katzentwist.errors import StoreError
from katzentwist.interfaces import SpoolEntry
from katzentwist.logger import ModuleLogger
from katzentwist.net.owner import ILink
from katzentwist.node.runtime import Runtime
from katzentwist.provider.mailbox import Mailbox
from katzentwist.wire.commands import Message, NoOp

HEARTBEAT: Final = 10.0
ACK_TIMEOUT: Final = 60.0
FIRST_RETRY: Final = 0.5
LAST_RETRY: Final = 5.0
"""Seconds until a database that failed is asked again: doubled each time, from one to the other."""
SURB_ID_SIZE: Final = 16


class Pusher:
    """Delivers to one client.

    Heartbeats have a timer of their own, so that clients stay while a database does not answer.
    """

    log = ModuleLogger("incoming")

    def __init__(self, runtime: Runtime, mailbox: Mailbox, link: ILink, user: bytes) -> None:
        self._runtime, self._mailbox, self._link, self.user = runtime, mailbox, link, user
        self.active = True
        """False while a newer session of the same queue exists: only the newest one delivers."""
        self._reactor: Any = runtime.reactor
        self._sequence = 0
        self._awake: Deferred[None] | None = None
        self._woken = False
        self._ack: Deferred[bool] | None = None
        self._heartbeat: IDelayedCall | None = None
        self._closed = False
        self._rest()
        self._loop = Deferred.fromCoroutine(self._run())
        self._loop.addErrback(self._ended)

    def wake(self) -> None:
        """Something new waits, or this session has become the newest."""
        self._woken = True
        self._rouse()

    def acknowledge(self, sequence: int) -> None:
        """MessageDelivered; any other sequence than the outstanding one is ignored."""
        if sequence == self._sequence:
            self._answered(True)

    def close(self) -> None:
        """The client is gone."""
        self._closed = True
        self._still()
        self._loop.cancel()

    def _ended(self, failure: Failure) -> None:
        self._still()
        if not failure.check(CancelledError):
            self.log.failure("pushing failed because of an error of ours", failure=failure)
            self._link.close()

    # Heartbeats ----------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Start the heartbeat's time anew."""
        self._still()
        if not self._closed:
            self._heartbeat = self._reactor.callLater(HEARTBEAT, self._beat)

    def _still(self) -> None:
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is not None and heartbeat.active():
            heartbeat.cancel()

    def _beat(self) -> None:
        if self._ack is None:
            self._link.send(NoOp())
        self._rest()

    # Delivery ------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        acknowledged: SpoolEntry | None = None
        retry = FIRST_RETRY
        while True:
            if acknowledged is None and not self.active:
                await self._wait(None)
                continue
            self._woken = False
            try:
                entry, remaining = await self._next(acknowledged)
            except StoreError:
                await self._wait(retry)
                retry = min(2 * retry, LAST_RETRY)
                continue
            acknowledged, retry = None, FIRST_RETRY
            if entry is None:
                if not self._woken:
                    await self._wait(None)
            elif not self.active:
                continue
            elif not self._fits(entry):
                self.log.error("an entry of the spool has a wrong size and is deleted")
                acknowledged = entry
            else:
                self._runtime.metrics.observe("ingress_queue_size", remaining)
                if not await self._push(entry):
                    self._link.close()
                    return
                acknowledged = entry

    async def _next(self, acknowledged: SpoolEntry | None) -> tuple[SpoolEntry | None, int]:
        if acknowledged is None:
            return await self._mailbox.first(self.user)
        return await self._mailbox.acknowledged(self.user, acknowledged)

    async def _wait(self, seconds: float | None) -> None:
        """Sleep until woken, or for so long (then waking is only noted)."""
        awake = self._awake = Deferred()
        timer = self._reactor.callLater(seconds, self._rouse) if seconds is not None else None
        try:
            await awake
        finally:
            self._awake = None
            if timer is not None and timer.active():
                timer.cancel()

    def _rouse(self) -> None:
        awake, self._awake = self._awake, None
        if awake is not None:
            awake.callback(None)

    def _fits(self, entry: SpoolEntry) -> bool:
        geometry = self._runtime.geometry
        if entry.surb_id is None:
            return len(entry.message) <= geometry.user_forward_payload_length
        size = geometry.payload_tag_length + geometry.forward_payload_length
        return len(entry.surb_id) == SURB_ID_SIZE and len(entry.message) == size

    async def _push(self, entry: SpoolEntry) -> bool:
        """Send one entry and wait for its acknowledgement; False if it does not come."""
        geometry = self._runtime.geometry
        size = geometry.payload_tag_length + geometry.forward_payload_length
        self._sequence = (self._sequence + 1) % 2**32
        ack = self._ack = Deferred()
        self._link.send(
            Message(
                sequence=self._sequence,
                surb_id=entry.surb_id or bytes(SURB_ID_SIZE),
                payload=entry.message.ljust(size, b"\0"),
            )
        )
        timer = self._reactor.callLater(ACK_TIMEOUT, self._answered, False)
        try:
            return await ack
        finally:
            self._ack = None
            if timer.active():
                timer.cancel()
            self._rest()

    def _answered(self, delivered: bool) -> None:
        ack, self._ack = self._ack, None
        if ack is not None:
            ack.callback(delivered)
