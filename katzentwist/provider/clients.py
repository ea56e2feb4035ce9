"""The clients of a gateway: admission, rate limit, pushed messages, documents (spec: node 5.5 to 5.7)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from katzentwist.logger import ModuleLogger
from katzentwist.mix.drops import DropReason, drop
from katzentwist.mix.ends import IClients
from katzentwist.net.owner import ILink
from katzentwist.node.runtime import Repeating, Runtime
from katzentwist.pki.document import SignedDocument
from katzentwist.provider.mailbox import Mailbox
from katzentwist.provider.pusher import Pusher
from katzentwist.provider.ratelimit import LimitSource, TokenBucket
from katzentwist.wire import Command, PeerCredentials, chunks
from katzentwist.wire.codes import ConsensusCode
from katzentwist.wire.commands import Consensus, GetConsensus, GetConsensus2, MessageDelivered

DOCUMENTS: Final = 8
"""Most requests for documents of one client that wait for its link; more end the session."""
KEPT: Final = 4
"""Documents that are kept compressed and cut."""


class _Session:
    """One client's connection."""

    def __init__(self, link: ILink, user: bytes, bucket: TokenBucket, pusher: Pusher) -> None:
        self.link, self.user, self.bucket, self.pusher = link, user, bucket, pusher
        self.documents: deque[Deferred[Sequence[Command]]] = deque()
        self.sending = False


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
        self._chunks: dict[int, tuple[bytes, Deferred[Sequence[Command]]]] = {}
        self._garbage = Repeating(runtime.reactor, lambda: runtime.epochs.period, self._collect)

    def start(self) -> None:
        """Begin to collect garbage."""
        self._garbage.start()

    def stop(self) -> None:
        """No more garbage collection."""
        self._garbage.stop()

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
                self._whole(session, self._document(command.epoch))
            case GetConsensus2():
                self._send_document(session, command.epoch)

    # Documents -----------------------------------------------------------------------------------------------------

    def _whole(self, session: _Session, found: SignedDocument | ConsensusCode) -> None:
        if isinstance(found, SignedDocument):
            answer = Consensus(error_code=ConsensusCode.OK, payload=found.raw)
        else:
            answer = Consensus(error_code=found, payload=b"")
        self._queue(session, succeed([answer]))

    def _send_document(self, session: _Session, epoch: int) -> None:
        found = self._document(epoch)
        if isinstance(found, SignedDocument):
            self._queue(session, self._cut(epoch, found.raw))
        else:
            self._queue(session, succeed([chunks.failure(found)]))

    def _cut(self, epoch: int, raw: bytes) -> Deferred[Sequence[Command]]:
        """The chunks of a document, made once; a Deferred of its own for everybody."""
        kept = self._chunks.get(epoch)
        if kept is None or kept[0] != raw:
            while len(self._chunks) >= KEPT:
                del self._chunks[min(self._chunks)]
            cut: Deferred[Any] = self._runtime.workers.run(chunks.split, raw, self._runtime.sizes.down)
            kept = self._chunks[epoch] = (raw, cut)
        mine: Deferred[Sequence[Command]] = Deferred()

        def share(commands: Sequence[Command]) -> Sequence[Command]:
            mine.callback(commands)
            return commands

        def fail(failure: Failure) -> None:
            self._chunks.pop(epoch, None)
            mine.errback(failure)

        kept[1].addCallbacks(share, fail)
        return mine

    def _queue(self, session: _Session, answer: Deferred[Sequence[Command]]) -> None:
        """Answers in turn, and none before the client has taken the one before it: a document is large."""
        if len(session.documents) >= DOCUMENTS:
            answer.addErrback(lambda _: None)
            self.log.debug("a client asks for documents and does not read them: closing")
            session.link.close()
            return
        session.documents.append(answer)
        self._answer(session)

    def _answer(self, session: _Session) -> None:
        if session.sending or not session.documents or not session.link.writable:
            return
        session.sending = True
        answer = session.documents.popleft()
        answer.addCallback(self._send_all, session)
        answer.addErrback(lambda f: self.log.failure("sending a document failed", failure=f))
        answer.addBoth(self._answered, session)

    def _send_all(self, commands: Sequence[Command], session: _Session) -> None:
        for command in commands:
            session.link.send(command)

    def _answered(self, _: object, session: _Session) -> None:
        session.sending = False
        self._answer(session)

    def writable(self, link: ILink) -> None:
        """The client reads again: go on with its documents."""
        session = self._sessions.get(link)
        if session is not None:
            self._answer(session)
