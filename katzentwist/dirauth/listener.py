"""The authority's side of its connections: who may do what, one command each (spec: pki 10.1, link 10.4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from twisted.internet.defer import Deferred

from katzentwist.errors import StoreError
from katzentwist.logger import ModuleLogger
from katzentwist.net.limits import HalfOpen, HandshakeLimits
from katzentwist.net.owner import ILink, LinkOwner
from katzentwist.status.metrics import Metrics
from katzentwist.wire import Command, PeerCredentials
from katzentwist.wire.commands import Consensus, GetConsensus, PostDescriptor, PostDescriptorStatus
from katzentwist.wire.legal import AUTHORITY_CLIENT, AUTHORITY_NODE

MAX_UPLOAD: Final = 1 << 20
"""Bytes of the largest command that is read. A descriptor has a few kB, its loop statistics up to some 100 kB."""
MAX_SILENT: Final = 1024
"""Connections past the handshake that have not asked yet; beyond, the oldest goes: an honest one asks at once."""
MAX_SILENT_PER_ADDRESS: Final = 512
MAX_REQUESTS: Final = 4096
"""Requests that are not answered yet; beyond, the newest is refused. A node asks again."""
MAX_POSTING: Final = 1 << 26
"""Bytes of uploads that are being looked at; beyond, the newest is refused."""
MAX_SENDING: Final = 64
"""Large documents on their way, each with some 150 kB of it sealed; beyond, requests for documents wait their turn."""
PATIENCE: Final = 30.0
"""Age of a connection whose peer has given up waiting; it goes if others wait for their turn (spec: link 11.2)."""

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
        self._silent = HandshakeLimits(MAX_SILENT, MAX_SILENT_PER_ADDRESS)
        self._open: dict[ILink, HalfOpen] = {}
        self._posting: dict[ILink, int] = {}
        self._waiting: dict[ILink, Consensus] = {}
        self._sending: dict[ILink, None] = {}
        self._slow: ILink | None = None
        """Who was ended for being slow, and is still there."""
        self._refused = 0
        self._idle: Deferred[None] | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """How many connections are open, how many requests wait, and how many of both were ended to make room."""
        waiting = len(self._posting) + len(self._waiting)
        return {"open": len(self._open), "waiting": waiting, "evicted": self._silent.evicted + self._refused}

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
        self._open[link] = self._silent.enter(link.remote_address, link.close)

    def commandReceived(self, link: ILink, command: Command) -> None:
        """The one command of this connection."""
        link.accepts = frozenset()
        self._silent.leave(self._open[link])
        if not self._has_room(command):
            self._refused += 1
            link.close()
        elif isinstance(command, GetConsensus):
            status, container = self._get(command.epoch)
            self._waiting[link] = Consensus(error_code=int(status), payload=container)
            self._serve()
        elif isinstance(command, PostDescriptor):
            self._posting[link] = len(command.payload)
            posting = Deferred.fromCoroutine(self._posted(link, command))
            posting.addErrback(lambda failure: failure.trap(StoreError))  # which was told, and ends the authority
            posting.addErrback(lambda failure: self.log.failure("an upload could not be handled", failure))

    def _has_room(self, command: Command) -> bool:
        if len(self._posting) + len(self._waiting) + len(self._sending) >= MAX_REQUESTS:
            return False
        size = len(command.payload) if isinstance(command, PostDescriptor) else 0
        return sum(self._posting.values()) + size <= MAX_POSTING

    async def _posted(self, link: ILink, command: PostDescriptor) -> None:
        try:
            status = await self._post(link.peer.additional_data, command.epoch, command.payload)
        except Exception:
            link.close()
            raise
        finally:
            self._posting.pop(link, None)
        link.send(PostDescriptorStatus(error_code=int(status)))
        link.close()

    def _serve(self) -> None:
        """Send documents, first come first served."""
        while self._waiting:
            link, reply = next(iter(self._waiting.items()))
            if len(self._sending) >= MAX_SENDING:
                oldest = next(iter(self._sending))
                if oldest.age > PATIENCE and oldest is not self._slow:
                    self._slow = oldest
                    self._refused += 1
                    oldest.close()
                return
            del self._waiting[link]
            if not link.send(reply):
                continue
            if link.writable:
                link.close()
            else:  # a large document gets the time that a slow peer needs for it
                self._sending[link] = None

    def writable(self, link: ILink) -> None:
        """The answer is out."""
        if link in self._sending:
            link.close()

    def closed(self, link: ILink, reason: Exception) -> None:
        """Forget the connection."""
        if not link.established:
            self._metrics.handshake("incoming", link.age, link.stage or "other")
        entry = self._open.pop(link, None)
        if entry is not None:
            self._silent.leave(entry)
        self._waiting.pop(link, None)
        if link is self._slow:
            self._slow = None
        if link in self._sending:
            del self._sending[link]
            self._serve()
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
