"""The authority's side of its connections: who may do what, one command each (spec: pki 10.1, link 10.4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from twisted.internet.defer import Deferred

from katzentwist.logger import ModuleLogger
from katzentwist.net.limits import HalfOpen, HandshakeLimits
from katzentwist.net.owner import ILink, LinkOwner
from katzentwist.status.metrics import Metrics
from katzentwist.wire import Command, PeerCredentials
from katzentwist.wire.commands import Consensus, GetConsensus, PostDescriptor, PostDescriptorStatus
from katzentwist.wire.legal import AUTHORITY_CLIENT, AUTHORITY_NODE

MAX_UPLOAD: Final = 1 << 20
"""Bytes of the largest command that is read. A descriptor has a few kB, its loop statistics up to some 100 kB."""
MAX_CONNECTIONS: Final = 512
"""Connections past the handshake; beyond, the oldest goes: an honest one is done in milliseconds."""
MAX_CONNECTIONS_PER_ADDRESS: Final = 128

Poster = Callable[[bytes, int, bytes], Awaitable[int]]
Getter = Callable[[int], tuple[int, bytes]]


class AuthorityListener(LinkOwner):
    """Lets clients and listed nodes in, answers one command, and closes.

    The identity that a node claims is proved by the signature of its descriptor only, so it grants nothing here but the
    right to be heard.

    :param is_member: whether an id is in the white list.
    :param post: (peer, epoch, payload) -> status.
    :param get: epoch -> (status, container).
    :param metrics: where handshakes are counted.
    """

    log = ModuleLogger(namespace="listener")

    def __init__(self, is_member: Callable[[bytes], bool], post: Poster, get: Getter, metrics: Metrics) -> None:
        self._is_member = is_member
        self._post = post
        self._get = get
        self._metrics = metrics
        self._limits = HandshakeLimits(MAX_CONNECTIONS, MAX_CONNECTIONS_PER_ADDRESS)
        self._open: dict[ILink, HalfOpen] = {}
        self._answered: set[ILink] = set()
        self._idle: Deferred[None] | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """How many connections are open, and how many were ended to make room."""
        return {"open": len(self._open), "evicted": self._limits.evicted}

    def authenticate(self, link: ILink, credentials: PeerCredentials) -> bool:
        """Nobody in particular, or a listed node."""
        if not credentials.additional_data:
            link.accepts = AUTHORITY_CLIENT
            return True
        if self._is_member(credentials.additional_data):
            link.accepts = AUTHORITY_NODE
            return True
        self.log.debug("a peer with an unknown identity was refused")
        return False

    def established(self, link: ILink) -> None:
        """Count the connection."""
        self._metrics.handshake("incoming", link.age)
        self._open[link] = self._limits.enter(link.remote_address, link.close)

    def commandReceived(self, link: ILink, command: Command) -> None:
        """The one command of this connection."""
        link.accepts = frozenset()
        if isinstance(command, GetConsensus):
            status, container = self._get(command.epoch)
            self._answer(link, Consensus(error_code=int(status), payload=container))
        elif isinstance(command, PostDescriptor):
            posting = Deferred.fromCoroutine(self._posted(link, command))
            posting.addErrback(lambda failure: self.log.failure("an upload could not be handled", failure))

    async def _posted(self, link: ILink, command: PostDescriptor) -> None:
        try:
            status = await self._post(link.peer.additional_data, command.epoch, command.payload)
        except Exception:
            link.close()
            raise
        self._answer(link, PostDescriptorStatus(error_code=int(status)))

    def _answer(self, link: ILink, reply: Command) -> None:
        """Send and close; a large document gets the time that a slow peer needs for it."""
        if not link.send(reply):
            return
        if link.writable:
            link.close()
        else:
            self._answered.add(link)

    def writable(self, link: ILink) -> None:
        """The answer is out."""
        if link in self._answered:
            link.close()

    def closed(self, link: ILink, reason: Exception) -> None:
        """Forget the connection."""
        if not link.established:
            self._metrics.handshake("incoming", link.age, link.stage or "other")
        self._answered.discard(link)
        entry = self._open.pop(link, None)
        if entry is not None:
            self._limits.leave(entry)
        if self._idle is not None and not self._open:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def close_all(self) -> Deferred[None]:
        """End all connections; fires when they are gone."""
        done: Deferred[None] = Deferred()
        if not self._open:
            done.callback(None)
            return done
        self._idle = done
        for link in list(self._open):
            link.close()
        return done
