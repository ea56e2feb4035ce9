"""The clients of a gateway: admission, rate limit, pushed messages, documents (spec: node 5.5 to 5.7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from katzentwist.errors import StoreError
from katzentwist.interfaces import SpoolEntry
from katzentwist.logger import ModuleLogger
from katzentwist.mix.drops import DropReason, drop
from katzentwist.mix.ends import IClients
from katzentwist.net.owner import ILink
from katzentwist.node.runtime import Repeating, Runtime
from katzentwist.pki.document import SignedDocument
from katzentwist.provider.mailbox import Mailbox
from katzentwist.provider.ratelimit import LimitSource, TokenBucket
from katzentwist.wire import Command, PeerCredentials, chunks
from katzentwist.wire.codes import ConsensusCode
from katzentwist.wire.commands import Consensus, GetConsensus, GetConsensus2, Message, MessageDelivered, NoOp

HEARTBEAT: Final = 10.0
ACK_TIMEOUT: Final = 60.0
RETRY: Final = 1.0
"""Seconds until a database that failed is asked again."""
SURB_ID_SIZE: Final = 16


class Pusher:
    """Delivers what waits for one client: one message at a time, deleted when it was acknowledged (spec: node 5.6)."""

    def __init__(self, runtime: Runtime, mailbox: Mailbox, link: ILink, user: bytes) -> None:
        self._runtime, self._mailbox, self._link, self.user = runtime, mailbox, link, user
        self.active = True
        """False while a newer session of the same queue exists: only the newest one delivers and deletes."""
        self._sequence = 0
        self._awake: Deferred[None] | None = None
        self._woken = False
        self._ack: Deferred[bool] | None = None
        self._loop = Deferred.fromCoroutine(self._run())
        self._loop.addErrback(self._ended)

    def wake(self) -> None:
        """Something new waits."""
        self._woken = True
        if self._awake is not None:
            awake, self._awake = self._awake, None
            awake.callback(None)

    def acknowledge(self, sequence: int) -> None:
        """MessageDelivered; any other sequence than the outstanding one is ignored."""
        if self._ack is not None and sequence == self._sequence:
            ack, self._ack = self._ack, None
            ack.callback(True)

    def close(self) -> None:
        """The client is gone."""
        self._loop.cancel()

    def _ended(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            ModuleLogger("incoming").failure("pushing failed because of an error of ours", failure=failure)
            self._link.close()

    async def _run(self) -> None:
        """Push, then wait for more; heartbeats while nothing happens."""
        advance = False
        while True:
            self._woken = False
            if not self.active:
                advance = False
                if not await self._wait(HEARTBEAT):
                    self._link.send(NoOp())
                continue
            try:
                entry, remaining = await self._mailbox.first(self.user, advance)
            except StoreError as e:
                self._mailbox.note_failure(e)
                await self._wait(RETRY)
                continue
            advance = False
            if entry is None:
                while not self._woken:
                    if not await self._wait(HEARTBEAT):
                        self._link.send(NoOp())
                continue
            self._runtime.metrics.observe("ingress_queue_size", remaining)
            if not self._fits(entry):
                ModuleLogger("incoming").error("an entry of the spool has a wrong size and is deleted")
                advance = True
                continue
            if not await self._push(entry):
                self._link.close()
                return
            advance = True

    async def _wait(self, seconds: float) -> bool:
        """Sleep; True when woken before the time was over."""
        awake = self._awake = Deferred()
        timer = self._runtime.reactor.callLater(seconds, self._time_over)
        try:
            await awake
        finally:
            self._awake = None
            if timer.active():
                timer.cancel()
        return self._woken

    def _time_over(self) -> None:
        if self._awake is not None:
            awake, self._awake = self._awake, None
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
        ack: Deferred[bool] = Deferred()
        self._ack = ack
        self._link.send(
            Message(
                sequence=self._sequence,
                surb_id=entry.surb_id or bytes(SURB_ID_SIZE),
                payload=entry.message.ljust(size, b"\0"),
            )
        )
        timer = self._runtime.reactor.callLater(ACK_TIMEOUT, self._no_ack)
        try:
            return await ack
        finally:
            self._ack = None
            if timer.active():
                timer.cancel()

    def _no_ack(self) -> None:
        if self._ack is not None:
            ack, self._ack = self._ack, None
            ack.callback(False)


class _Session:
    """One client's connection."""

    def __init__(self, link: ILink, user: bytes, bucket: TokenBucket, pusher: Pusher) -> None:
        self.link, self.user, self.bucket, self.pusher = link, user, bucket, pusher


@implementer(IClients)
class Clients:
    """All clients of a gateway.

    :param document: the document of an epoch, or the code that says why there is none.
    """

    log = ModuleLogger("incoming")

    def __init__(
        self,
        runtime: Runtime,
        mailbox: Mailbox,
        limits: LimitSource,
        document: Callable[[int], SignedDocument | ConsensusCode],
    ) -> None:
        self._runtime, self._mailbox, self._document = runtime, mailbox, document
        self.limits = limits
        self._sessions: dict[ILink, _Session] = {}
        self._by_user: dict[bytes, list[_Session]] = {}
        mailbox.stored = self._stored
        self._garbage = Repeating(runtime.reactor, lambda: runtime.epochs.period, self._collect)

    def start(self) -> None:
        """Begin to collect garbage."""
        self._garbage.start()

    def stop(self) -> None:
        """No more garbage collection."""
        self._garbage.stop()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[bytes]:
        """The names of the connected users."""
        return iter(list(self._by_user))

    def _collect(self) -> None:
        collected = Deferred.fromCoroutine(self._mailbox.collect(self))
        collected.addErrback(lambda f: self.log.failure("collecting garbage failed", failure=f))

    # Sessions ------------------------------------------------------------------------------------------------------

    def admit(self, credentials: PeerCredentials) -> Deferred[bool]:
        """Whether to let the client in."""
        return Deferred.fromCoroutine(self._mailbox.admit(credentials.additional_data, credentials.link_key))

    def opened(self, link: ILink) -> None:
        """Begin to push."""
        user = self._mailbox.name(link.peer.additional_data) or b""
        bucket = TokenBucket()
        bucket.set_limit(self.limits.current(), self._runtime.clock.monotonic())
        older = self._by_user.setdefault(user, [])
        for other in older:
            other.pusher.active = False
        session = _Session(link, user, bucket, Pusher(self._runtime, self._mailbox, link, user))
        self._sessions[link] = session
        older.append(session)

    def closed(self, link: ILink) -> None:
        """Forget the session."""
        session = self._sessions.pop(link, None)
        if session is None:
            return
        session.pusher.close()
        same = self._by_user[session.user]
        same.remove(session)
        if same:
            same[-1].pusher.active = True
            same[-1].pusher.wake()
        else:
            del self._by_user[session.user]

    def recheck(self, link: ILink) -> None:
        """New limits, and whether the user may still be here."""
        session = self._sessions.get(link)
        if session is None:
            return
        session.bucket.set_limit(self.limits.current(), self._runtime.clock.monotonic())
        peer = link.peer
        checked = Deferred.fromCoroutine(self._mailbox.still_valid(peer.additional_data, peer.link_key))
        checked.addCallback(lambda valid: None if valid else link.close())
        checked.addErrback(lambda f: self.log.failure("checking a client failed", failure=f))

    def recheck_user(self, user: bytes) -> None:
        """A user was removed or changed: look at the running sessions at once."""
        for session in list(self._by_user.get(user, ())):
            self.recheck(session.link)

    def limits_changed(self) -> None:
        """Give every session the new limit."""
        now = self._runtime.clock.monotonic()
        for session in self._sessions.values():
            session.bucket.set_limit(self.limits.current(), now)

    def _stored(self, user: bytes) -> None:
        """Something waits for this user: the newest session gets it."""
        sessions = self._by_user.get(user)
        if sessions:
            sessions[-1].pusher.wake()

    # Commands ------------------------------------------------------------------------------------------------------

    def allow(self, link: ILink, packets: list[bytes]) -> list[bytes]:
        """The packets within the rate."""
        session = self._sessions.get(link)
        if session is None:
            return []
        now = self._runtime.clock.monotonic()
        allowed = [packet for packet in packets if session.bucket.allow(now)]
        if len(allowed) < len(packets):
            drop(self._runtime.metrics, DropReason.GATEWAY_RATE_LIMITED, len(packets) - len(allowed))
        return allowed

    def command(self, link: ILink, command: Command) -> None:
        """MessageDelivered, GetConsensus, GetConsensus2."""
        session = self._sessions.get(link)
        if session is None:
            return
        match command:
            case MessageDelivered():
                session.pusher.acknowledge(command.sequence)
            case GetConsensus():
                found = self._document(command.epoch)
                if isinstance(found, SignedDocument):
                    link.send(Consensus(error_code=ConsensusCode.OK, payload=found.raw))
                else:
                    link.send(Consensus(error_code=found, payload=b""))
            case GetConsensus2():
                self._send_document(link, self._document(command.epoch))

    def _send_document(self, link: ILink, found: SignedDocument | ConsensusCode) -> None:
        if not isinstance(found, SignedDocument):
            link.send(chunks.failure(found))
            return
        split = self._runtime.workers.run(chunks.split, found.raw, self._runtime.sizes.down)
        split.addCallback(self._send_chunks, link)
        split.addErrback(lambda f: self.log.failure("sending a document failed", failure=f))

    def _send_chunks(self, commands: list[Any], link: ILink) -> None:
        for command in commands:
            link.send(command)
