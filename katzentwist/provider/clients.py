"""The clients of a gateway: admission, rate limit, pushed messages, documents (spec: node 5.5 to 5.7)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred
from zope.interface import implementer

from katzentwist.logger import ModuleLogger
from katzentwist.mix.drops import DropReason, drop
from katzentwist.mix.ends import IClients
from katzentwist.net.owner import ILink
from katzentwist.node.runtime import Repeating, Runtime
from katzentwist.pki.document import SignedDocument
from katzentwist.provider.documents import DocumentDesk
from katzentwist.provider.mailbox import Mailbox
from katzentwist.provider.pusher import Pusher
from katzentwist.provider.ratelimit import LimitSource, TokenBucket
from katzentwist.wire import Command, PeerCredentials
from katzentwist.wire.codes import ConsensusCode
from katzentwist.wire.commands import GetConsensus, GetConsensus2, MessageDelivered

CHECKS: Final = 16
"""Questions to the user database that re-checks have under way at once: messages are not to wait behind thousands."""


class _Session:
    """One client's connection."""

    def __init__(self, link: ILink, user: bytes, bucket: TokenBucket, pusher: Pusher) -> None:
        self.link, self.user, self.bucket, self.pusher = link, user, bucket, pusher
        self.in_line = False
        """Whether it waits to be checked."""


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
        self._runtime, self._mailbox = runtime, mailbox
        self.limits = limits
        self._sessions: dict[ILink, _Session] = {}
        self._by_user: dict[bytes, list[_Session]] = {}
        self._to_check: deque[_Session] = deque()
        self._checking = 0
        mailbox.stored = self._stored
        self._desk = DocumentDesk(runtime, document)
        self._garbage = Repeating(runtime.reactor, lambda: runtime.epochs.period, self._collect)

    def start(self) -> None:
        """Begin to collect garbage."""
        self._garbage.start()

    def stop(self) -> None:
        """No more garbage collection, no more documents."""
        self._garbage.stop()
        self._desk.stop()

    def __len__(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    def __contains__(self, user: object) -> bool:
        """Whether this user is connected."""
        return user in self._by_user

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
        self._desk.closed(link)
        same = self._by_user[session.user]
        same.remove(session)
        if same:
            same[-1].pusher.active = True
            same[-1].pusher.wake()
        else:
            del self._by_user[session.user]

    def recheck(self, link: ILink) -> None:
        """New limits, and whether the user may still be here, when its turn has come."""
        session = self._sessions.get(link)
        if session is None:
            return
        session.bucket.set_limit(self.limits.current(), self._runtime.clock.monotonic())
        if session.in_line:
            return
        session.in_line = True
        self._to_check.append(session)
        if self._checking < CHECKS:
            self._checking += 1
            self._begin(self._check_in_turn())

    def recheck_user(self, user: bytes) -> None:
        """A user was removed or changed: look at the running sessions at once."""
        for session in list(self._by_user.get(user, ())):
            self._begin(self._check(session))

    def _begin(self, checking: Coroutine[Any, Any, None]) -> None:
        Deferred.fromCoroutine(checking).addErrback(lambda f: self.log.failure("checking a client failed", failure=f))

    async def _check_in_turn(self) -> None:
        try:
            while self._to_check:
                session = self._to_check.popleft()
                session.in_line = False
                await self._check(session)
        finally:
            self._checking -= 1

    async def _check(self, session: _Session) -> None:
        link = session.link
        if link in self._sessions and not await self._mailbox.still_valid(
            link.peer.additional_data, link.peer.link_key
        ):
            link.close()

    def limits_changed(self) -> None:
        """Give every session the new limit."""
        now, limit = self._runtime.clock.monotonic(), self.limits.current()
        for session in self._sessions.values():
            session.bucket.set_limit(limit, now)

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
            case GetConsensus() | GetConsensus2():
                self._desk.ask(link, command)

    def writable(self, link: ILink) -> None:
        """The client reads again: go on with its documents."""
        self._desk.writable(link)
